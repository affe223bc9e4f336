"""The distillation trainer: the same training however it is cut, whatever stops it, and whoever answers."""

import copy
import json

import attack_reference as twins
import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from hf_cmim import Composition, Fraction, Relative, Unlabelled
from hf_cmim.attacks import (
    ATTACKS,
    CTKD,
    DKD,
    DOT,
    KD,
    Averager,
    CrossEntropy,
    FunctionMatching,
    LabelSmoothing,
    LogitStandardization,
    MarkovKD,
    MixupQueries,
    PerturbedQueries,
    ShiftedViews,
    Skeptical,
)
from hf_cmim.attacks.base import AbstractAttack
from hf_cmim.teachers import LabelOnlyTeacher, ModelTeacher, TableTeacher
from hf_cmim.trainers.distillation import attack_state

NAMES = tuple(f"LABEL_{number}" for number in range(tiny.NUM_LABELS))
LOSSES = [kind for kind in ATTACKS.values() if issubclass(kind, AbstractAttack)]
PER_SAMPLE = [kind for kind in LOSSES if not kind.batch_level]
SMALL_STEPS = {"learning_rate": 0.02, "num_train_epochs": 2}  # so that roundings are not amplified from step to step


@pytest.fixture(scope="module")
def teacher():
    """A ViT that has learned something."""
    trainer = tiny.plain_trainer(tiny.vit(9), tiny.images(200), "unused", num_train_epochs=6, learning_rate=0.05)
    trainer.train()
    return trainer.model.eval()


def table(teacher, data):
    """The teacher's answers, precomputed."""
    with torch.no_grad():
        logits = teacher(torch.stack([sample["pixel_values"] for sample in data])).logits
    return TableTeacher(logits.log_softmax(-1), class_names=NAMES)


def noise_teacher(model):
    """Answers for texts and tokens: those of a model that was not trained."""
    return ModelTeacher(model.eval())


def same_state(first, second):
    """Equal bit for bit; the scale of a teacher that was not surveyed is nan."""
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], rtol=0, atol=0, equal_nan=True) for name in first
    )


class TestSplitsOfABatch:
    @pytest.mark.parametrize("kind", PER_SAMPLE, ids=lambda kind: kind.__name__)
    def test_accumulation_changes_no_per_sample_attack(self, kind, teacher, tmp_path):
        """Catches means of means, and gradients scaled by accumulation, with a ragged last batch."""
        results = []
        for batch, accumulation in ((16, 1), (4, 4)):
            trainer = tiny.distillation_trainer(
                tiny.vit(1), tiny.images(58), tmp_path, kind(), teacher, per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation, **SMALL_STEPS,
            )  # fmt: skip
            before = tiny.weights(trainer.model)
            trainer.train()
            assert tiny.largest_difference(before, tiny.weights(trainer.model)) > 1e-4, "nothing was learned"
            results.append(trainer)
        # WTTM and others weigh a sample by hundreds: roundings of fp32 scale with the loss.
        assert tiny.largest_difference(*(tiny.weights(each.model) for each in results)) < 2e-5
        first, second = ([entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in results)
        assert second == pytest.approx(first, rel=1e-4, abs=1e-5)

    @pytest.mark.parametrize("attack", [KD(), Composition(DKD(), MarkovKD()), Skeptical(), CTKD()], ids=repr)
    def test_accumulation_with_unequal_numbers_of_ignored_tokens(self, attack, tmp_path):
        """Catches a mean over each micro-batch's own labels, and a transform or head that divides otherwise."""
        results = []
        for batch, accumulation in ((16, 1), (4, 4)):
            trainer = tiny.distillation_trainer(
                tiny.token_bert(1), tiny.tagged_sentences(58), tmp_path, attack, noise_teacher(tiny.token_bert(5)),
                per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **SMALL_STEPS,
            )  # fmt: skip
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*results) < 5e-6

    def test_a_batch_level_attack_depends_on_the_split(self, teacher, tmp_path):
        """Shows that the equality can fail."""
        results = []
        for batch, accumulation in ((16, 1), (4, 4)):
            trainer = tiny.distillation_trainer(
                tiny.vit(1), tiny.images(64), tmp_path, ATTACKS["dist"](), teacher,
                per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
            )  # fmt: skip
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*results) > 1e-4

    def test_components_add_up_to_the_logged_loss(self, teacher, tmp_path):
        """Catches components scaled or averaged otherwise than the loss they explain."""
        trainer = tiny.distillation_trainer(
            tiny.vit(1), tiny.images(60), tmp_path, Composition(DKD(), Skeptical(), ShiftedViews()), teacher,
            gradient_accumulation_steps=3, per_device_train_batch_size=4, logging_steps=2,
        )  # fmt: skip
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        names = ("ce", "target_kd", "rest_kd", "final_ce", "second_ce", "second_hint")
        for entry in entries:
            assert sum(entry[name] for name in names) == pytest.approx(entry["loss"], rel=1e-5)


class TestAgainstWhatIsKnown:
    def test_cross_entropy_is_plain_trainer(self, tmp_path):
        """Catches a loss scaled otherwise than Trainer's, or an arm without a teacher that asks one."""
        plain = tiny.plain_trainer(tiny.vit(1), tiny.images(60), tmp_path, **SMALL_STEPS)
        arm = tiny.distillation_trainer(tiny.vit(1), tiny.images(60), tmp_path, CrossEntropy(), **SMALL_STEPS)
        plain.train()
        arm.train()
        assert tiny.largest_difference(tiny.weights(plain.model), tiny.weights(arm.model)) < 1e-6

    def test_kd_is_the_trainer_everybody_writes(self, teacher, tmp_path):
        """Catches a divergence averaged over classes, a missing T^2, or the two distributions exchanged."""

        class Handwritten(Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                labels = inputs.pop("labels")
                logits = model(**inputs).logits
                with torch.no_grad():
                    answers = teacher(**inputs).logits
                soft = functional.kl_div(
                    (logits / 3).log_softmax(-1), (answers / 3).log_softmax(-1), log_target=True,
                    reduction="batchmean",
                )  # fmt: skip
                return 0.3 * functional.cross_entropy(logits, labels) + 0.7 * 9 * soft

        known = Handwritten(tiny.vit(1), TrainingArguments(**tiny.settings(tmp_path)), train_dataset=tiny.images(64))
        attack = KD(temperature=3.0, ce_weight=0.3, kd_weight=0.7)
        ours = tiny.distillation_trainer(tiny.vit(1), tiny.images(64), tmp_path, attack, teacher)
        known.train()
        ours.train()
        assert tiny.largest_difference(tiny.weights(known.model), tiny.weights(ours.model)) < 1e-6

    def test_a_table_of_answers_is_the_live_teacher(self, teacher, tmp_path):
        """Catches answers looked up at another sample's position once the data are shuffled."""
        data = tiny.images(60)
        results = []
        for who in (teacher, table(teacher, data)):
            trainer = tiny.distillation_trainer(tiny.vit(1), data, tmp_path, KD(), who, **SMALL_STEPS)
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*results) < 1e-6

    def test_dot_without_a_difference_is_momentum(self, teacher, tmp_path):
        """Catches gradients split or clipped unevenly, weight decay lost, or momenta exchanged."""
        results = []
        for attack, optimizer in ((KD(), {"optim": "sgd", "optim_args": "momentum=0.9"}), (DOT(delta=0.0), {})):
            trainer = tiny.distillation_trainer(
                tiny.vit(1), tiny.images(60), tmp_path, attack, teacher, gradient_accumulation_steps=2,
                max_grad_norm=0.05, weight_decay=0.01, **(SMALL_STEPS | optimizer),
            )  # fmt: skip
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*results) < 1e-6

    @pytest.mark.parametrize("task_reaches_it", [True, False])
    def test_dot_moves_as_its_paper_says(self, task_reaches_it):
        """Catches the larger momentum on the wrong gradient, or on a weight that only distillation trains."""
        weight, other = (torch.nn.Parameter(torch.tensor([1.0])) for _ in range(2))
        protocol = DOT(delta=0.05, momentum=0.8)
        optimizer = protocol.build_optimizer([{"params": [weight]}], 0.1)
        tasks, distillations = (0.5, -0.3, 0.1) if task_reaches_it else (None, None, None), (0.2, 0.4, 0.1)
        steps = list(zip(tasks, distillations, strict=True))
        expected = twins.two_momenta(1.0, steps, rate=0.1, momentum=0.8, delta=0.05)
        for (task, distillation), after in zip(steps, expected, strict=True):
            weight.grad = None
            task_loss = other.sum() if task is None else task * weight.sum()
            protocol.collect(task_loss, [weight, other])
            (task_loss + distillation * weight.sum()).backward()
            optimizer.step()
            assert weight.item() == pytest.approx(after, rel=1e-6)

    def test_relative_temperature_is_the_surveyed_scale(self, teacher, tmp_path):
        """Catches a scale of some batches alone, or of logits that are not centred."""
        data = tiny.images(60)
        answers = table(teacher, data)({"sample_index": torch.arange(60)})
        scale = (answers - answers.mean(-1, keepdim=True)).square().mean().sqrt().item()
        results = []
        for temperature in (Relative(2.0), 2 * scale):
            trainer = tiny.distillation_trainer(
                tiny.vit(1), data, tmp_path, KD(temperature=temperature), teacher, **SMALL_STEPS
            )
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*results) < 1e-6

    def test_mixup_with_one_share_is_the_sample_itself(self):
        """Catches shares given to the wrong partner."""
        from hf_cmim.attacks.protocols import Query

        inputs = {"pixel_values": torch.randn(6, 1, 4, 4)}
        labels = torch.arange(6)
        (query,) = MixupQueries()(Query(inputs, inputs, labels))
        partners = query.partner_labels
        expected = query.share * inputs["pixel_values"] + (1 - query.share) * inputs["pixel_values"][partners]
        assert torch.equal(query.student_inputs["pixel_values"], expected)
        assert query.teacher_inputs is query.student_inputs


RESUMED = [
    KD(temperature=Relative(1.0)), CTKD(), Composition(KD(), Averager()), Composition(DKD(), MarkovKD()), Skeptical(),
    Composition(KD(), DOT()), Composition(FunctionMatching(), MixupQueries()), PerturbedQueries(queries_per_sample=2),
]  # fmt: skip


class TestResume:
    @pytest.mark.parametrize("attack", RESUMED, ids=repr)
    def test_equals_the_uninterrupted_run_bit_for_bit(self, attack, teacher, tmp_path):
        """Catches an attack's parameters, survey, optimizer state or random numbers that start anew."""
        changes = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 2, "optim": "adamw_torch",
                   "learning_rate": 3e-3, "max_grad_norm": 1.0}  # fmt: skip
        data = tiny.images(60)
        straight = tiny.distillation_trainer(tiny.vit(1, 0.1), data, tmp_path / "a", attack, teacher, **changes)
        straight.train()
        resumed = tiny.distillation_trainer(tiny.vit(1, 0.1), data, tmp_path / "b", attack, teacher, **changes)
        resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-5"))
        assert tiny.largest_difference(tiny.weights(straight.model), tiny.weights(resumed.model)) == 0
        assert same_state(straight.attack.state_dict(), resumed.attack.state_dict())
        assert resumed.query_report()["queries"]["paid"] == straight.query_report()["queries"]["paid"]

    def test_another_attack_is_refused(self, teacher, tmp_path):
        """Catches half a training by one attack and half by another."""
        changes = {"save_strategy": "epoch"}
        tiny.distillation_trainer(tiny.vit(1), tiny.images(30), tmp_path, KD(), teacher, **changes).train()
        other = tiny.distillation_trainer(tiny.vit(1), tiny.images(30), tmp_path, DKD(), teacher, **changes)
        with pytest.raises(ValueError, match="Expected a checkpoint of Composition.DKD.*got one of Composition.KD"):
            other.train(resume_from_checkpoint=True)

    def test_another_teacher_is_told(self, teacher, tmp_path, monkeypatch, caplog):
        """Catches a student of two teachers of which nothing says so, and a warning about the same teacher."""
        monkeypatch.setattr(attack_state.logger, "propagate", True)
        changes = {"save_strategy": "epoch", "num_train_epochs": 2}
        tiny.distillation_trainer(tiny.vit(1), tiny.images(30), tmp_path, KD(), teacher, **changes).train()
        checkpoint = str(min(tmp_path.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime))
        told = []
        for each in (teacher, ModelTeacher(tiny.vit(2).eval())):
            caplog.clear()
            again = tiny.distillation_trainer(tiny.vit(1), tiny.images(30), tmp_path, KD(), each, **changes)
            again.train(resume_from_checkpoint=checkpoint)
            told.append("another teacher" in caplog.text)
        assert told == [False, True]


class TestParametersOfTheAttack:
    @pytest.mark.parametrize("attack", [CTKD(), Composition(KD(), MarkovKD()), Skeptical()], ids=repr)
    def test_are_trained_and_the_callers_object_is_not(self, attack, teacher, tmp_path):
        """Catches parameters left out of the optimizer, gradients that pile up, and state that leaks between runs."""
        before = copy.deepcopy(attack.state_dict())
        trainer = tiny.distillation_trainer(
            tiny.vit(1), tiny.images(60), tmp_path, attack, teacher, optim="adamw_torch", learning_rate=1e-2
        )
        names = [name for name, _ in trainer.attack.named_parameters()]
        fresh = {name: value.detach().clone() for name, value in trainer.attack.named_parameters()}
        trainer.train()
        names = names or [name for name, _ in trainer.attack.named_parameters()]
        moved = dict(trainer.attack.named_parameters())
        assert names
        assert all(not torch.equal(moved[name], fresh[name]) for name in fresh)
        assert same_state(before, attack.state_dict())

    def test_learning_rate_factor_is_heeded(self, teacher, tmp_path):
        """Catches a Markov map that learns at the student's rate."""
        attack = MarkovKD(learning_rate_factor=0.25)
        trainer = tiny.distillation_trainer(tiny.vit(1), tiny.images(60), tmp_path, attack, teacher)
        optimizer = trainer.create_optimizer()
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.1, 0.1, 0.025])


class TestTeacher:
    def test_is_never_changed(self, teacher, tmp_path):
        """Catches gradients, training mode or batch statistics that reach the teacher."""
        before = tiny.weights(teacher)
        tiny.distillation_trainer(tiny.vit(1), tiny.images(60), tmp_path, KD(), teacher).train()
        assert tiny.largest_difference(before, tiny.weights(teacher)) == 0
        assert not teacher.training
        assert all(parameter.grad is None for parameter in teacher.parameters())

    def test_classes_in_another_order_are_permuted(self, teacher, tmp_path):
        """Catches answers taken by position."""
        data = tiny.images(60)
        order = [2, 0, 3, 1]
        shuffled = TableTeacher(
            table(teacher, data)({"sample_index": torch.arange(60)})[:, order],
            class_names=[NAMES[number] for number in order],
        )
        results = []
        for who in (table(teacher, data), shuffled):
            trainer = tiny.distillation_trainer(tiny.vit(1), data, tmp_path, KD(), who)
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*results) == 0

    def test_sees_its_own_view_of_the_same_sample(self, teacher, tmp_path):
        """Catches a teacher asked with the student's view, or about other samples."""
        small = [{"pixel_values": sample["pixel_values"][:, ::2, ::2], "labels": sample["labels"],
                  "large": sample["pixel_values"]} for sample in tiny.images(60)]  # fmt: skip

        def large(samples):
            return {"pixel_values": torch.stack([sample["large"] for sample in samples])}

        results = []
        for who, collator in ((teacher, large), (table(teacher, tiny.images(60)), None)):
            student = tiny.vit(1, image_size=4)
            trainer = tiny.distillation_trainer(student, small, tmp_path, KD(), who, teacher_collator=collator)
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*results) < 1e-6

    def test_labels_are_not_needed(self, teacher, tmp_path):
        """Catches true labels that leak into an attack without them, and gradients not divided by the samples."""
        pseudo = [sample | {"labels": int(teacher(sample["pixel_values"][None]).logits.argmax())}
                  for sample in tiny.images(58)]  # fmt: skip
        results = []
        for data, batch in ((pseudo, 16), (Unlabelled(tiny.images(58)), 16), (Unlabelled(tiny.images(58)), 4)):
            trainer = tiny.distillation_trainer(
                tiny.vit(1), data, tmp_path, DKD(), teacher, per_device_train_batch_size=batch,
                gradient_accumulation_steps=16 // batch, **SMALL_STEPS,
            )  # fmt: skip
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(results[0], results[1]) == 0
        assert tiny.largest_difference(results[0], results[2]) < 5e-6

    def test_the_label_only_null_through_kd_is_label_smoothing(self, tmp_path):
        """Catches a null whose confidence is not that of the smoothed label."""
        confidence = 1 - 0.2 * (tiny.NUM_LABELS - 1) / tiny.NUM_LABELS
        results = []
        for attack, who in (
            (LabelSmoothing(smoothing=0.2), None),
            (KD(temperature=1.0, ce_weight=0.0, kd_weight=1.0), LabelOnlyTeacher(4, confidence=confidence)),
        ):
            trainer = tiny.distillation_trainer(tiny.vit(1), tiny.images(60), tmp_path, attack, who, **SMALL_STEPS)
            trainer.train()
            results.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*results) < 1e-6


class TestQueries:
    @pytest.mark.parametrize(("attack", "live", "paid"), [
        (KD(), True, 120), (KD(), False, 60), (KD(temperature=Relative(1.0)), True, 180),
        (KD(temperature=Relative(1.0)), False, 60), (ShiftedViews(), True, 240), (LabelSmoothing(), True, 0),
    ], ids=str)  # fmt: skip
    def test_cost_is_what_was_planned(self, attack, live, paid, teacher, tmp_path):
        """Catches a budget check that plans otherwise than training pays: one below is refused, enough is not."""
        data = tiny.images(60)
        who = teacher if live else table(teacher, data)
        if paid:
            with pytest.raises(ValueError, match="Expected a budget that covers .*got"):
                tiny.distillation_trainer(
                    tiny.vit(1), data, tmp_path, attack, who, num_train_epochs=2, query_budget=paid - 1
                )
        trainer = tiny.distillation_trainer(
            tiny.vit(1), data, tmp_path, attack, who, num_train_epochs=2, query_budget=max(paid, 1)
        )
        trainer.train()
        assert json.loads((tmp_path / "distillation.json").read_text())["queries"]["paid"] == paid

    def test_fraction_is_the_same_for_the_same_seed(self):
        """Catches a choice that changes from run to run, or from seed to seed not at all."""
        data = list(range(100))
        first, again, other = (Fraction(data, 0.3, seed=seed) for seed in (0, 0, 1))
        assert [first[i] for i in range(len(first))] == [again[i] for i in range(len(again))]
        assert first.positions != other.positions
        assert len(first) == 30


def test_evaluation_is_what_the_models_say(teacher, tmp_path):
    """Catches agreement with the labels instead of the teacher, KL the other way round, or padding counted."""
    data = tiny.images(37, seed=4)
    trainer = tiny.distillation_trainer(
        tiny.vit(1), tiny.images(60), tmp_path, KD(), teacher, save_correctness=True, per_device_eval_batch_size=8
    )
    trainer.train()
    metrics = trainer.evaluate(data)
    pixels = torch.stack([sample["pixel_values"] for sample in data])
    labels = torch.tensor([sample["labels"] for sample in data])
    with torch.no_grad():
        student, answers = trainer.model(pixels).logits, teacher(pixels).logits
    right = student.argmax(-1) == labels
    assert metrics["eval_accuracy"] == pytest.approx(right.float().mean().item())
    assert metrics["eval_agreement"] == pytest.approx((student.argmax(-1) == answers.argmax(-1)).float().mean().item())
    expected = functional.kl_div(student.log_softmax(-1), answers.softmax(-1), reduction="batchmean").item()
    assert metrics["eval_teacher_kl"] == pytest.approx(expected, rel=1e-4)
    assert metrics["eval_loss"] == pytest.approx(functional.cross_entropy(student, labels).item(), rel=1e-5)
    assert np.array_equal(np.load(tmp_path / "eval_correctness.npy"), right.numpy())


@pytest.mark.parametrize("changes", [{"bf16": True}, {"dataloader_num_workers": 1}], ids=str)
def test_trains_with_options(changes, teacher, tmp_path):
    """Catches answers or losses in half precision, and a collator that cannot travel to a worker."""
    trainer = tiny.distillation_trainer(
        tiny.vit(1), tiny.images(60), tmp_path, LogitStandardization(), teacher, **changes
    )
    trainer.train()
    entries = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(np.isfinite(entries))


@pytest.mark.slow
def test_torch_compile_trains_the_same(teacher, tmp_path):
    """Catches a loss, a teacher or a logged component that breaks or changes once the student is compiled."""
    curves, students = [], []
    for compiled in (False, True):
        trainer = tiny.distillation_trainer(
            tiny.vit(1), tiny.images(64), tmp_path, KD(), teacher, torch_compile=compiled, learning_rate=0.02
        )
        trainer.train()
        wrapped = type(trainer.model_wrapped).__name__
        assert (wrapped == "OptimizedModule") == compiled
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        curves.append([value for entry in entries for value in (entry["loss"], entry["ce"], entry["kd"])])
        students.append(tiny.weights(trainer.accelerator.unwrap_model(trainer.model)))
    assert len(curves[0]) == 3 * 8
    assert curves[1] == pytest.approx(curves[0], rel=1e-5, abs=1e-6)
    assert tiny.largest_difference(*students) < 1e-5
