"""What people do with `Trainer` around training works with both trainers as it does there."""

import pytest
import tiny
import torch
from trainers.adapters import text_adapter
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from hf_cmim import CMIMConfig, CMIMTrainer, DistillationConfig, DistillationTrainer
from hf_cmim.attacks import KD, CrossEntropy

DATA, EVALUATION = tiny.images(32), tiny.images(20, seed=1)
BEST = {
    "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "optim": "adamw_torch",
    "learning_rate": 1e-2,
}  # fmt: skip


def stock(model, folder, data=DATA, evaluation=EVALUATION, **options):
    others = {name: options.pop(name) for name in ("callbacks", "compute_metrics") if name in options}
    args = TrainingArguments(**tiny.settings(folder, **options))
    return Trainer(model, args, train_dataset=data, eval_dataset=evaluation, **others)


def hardener(model, folder, data=DATA, evaluation=EVALUATION, **options):
    others = {name: options.pop(name) for name in ("callbacks", "compute_metrics") if name in options}
    args = CMIMConfig(**tiny.settings(folder, **({"cmi_warmup": 0.0, "cmi_ramp": 0.0, "cmi_weight": 0.0} | options)))
    return CMIMTrainer(model, args, train_dataset=data, eval_dataset=evaluation, **others)


def distiller(model, folder, data=DATA, evaluation=EVALUATION, attack=None, teacher=None, **options):
    others = {name: options.pop(name) for name in ("callbacks", "compute_metrics") if name in options}
    args = DistillationConfig(**tiny.settings(folder, **options))
    return DistillationTrainer(
        model, args, train_dataset=data, eval_dataset=evaluation, attack=attack or CrossEntropy(), teacher=teacher,
        **others,
    )  # fmt: skip


BOTH = pytest.mark.parametrize("build", [hardener, distiller])


class Snapshots(TrainerCallback):
    """Remembers the trained weights at each evaluation."""

    def __init__(self):
        self.weights = {}

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = tiny.weights(model)


class TestSelection:
    @BOTH
    @pytest.mark.parametrize("sets", [False, True], ids=["one set", "several sets"])
    def test_early_stopping_and_the_best_model(self, build, sets, tmp_path):
        """Catches patience that looks at another metric, and weights of another evaluation."""
        evaluation = {"a": EVALUATION, "b": EVALUATION} if sets else EVALUATION
        scores = [0.9, 0.5, 0.7, 0.8, 0.1]
        calls = []

        def score(_):
            calls.append(None)
            return {"distance": scores[(len(calls) - 1) // (2 if sets else 1)]}

        snapshots = Snapshots()
        trainer = build(
            tiny.vit(), tmp_path, evaluation=evaluation, callbacks=[EarlyStoppingCallback(2), snapshots],
            compute_metrics=score, num_train_epochs=5, greater_is_better=False,
            metric_for_best_model="b_distance" if sets else "distance", **BEST,
        )  # fmt: skip
        trainer.train()
        assert (trainer.state.global_step, trainer.state.best_global_step) == (16, 8)
        assert tiny.largest_difference(snapshots.weights[8], tiny.weights(trainer.model)) == 0
        assert tiny.largest_difference(snapshots.weights[8], snapshots.weights[16]) > 0

    @BOTH
    def test_each_of_several_sets_is_measured(self, build, tmp_path):
        """Catches metrics of one set under the name of another."""
        sets = {"small": EVALUATION[:7], "all": EVALUATION}
        trainer = build(tiny.vit(), tmp_path, evaluation=sets)
        trainer.train()
        together = trainer.evaluate()
        for name, data in sets.items():
            alone = trainer.evaluate(data)
            for metric in ("loss", "accuracy"):
                assert together[f"eval_{name}_{metric}"] == alone[f"eval_{metric}"]


class TestUsersMetrics:
    @BOTH
    @pytest.mark.parametrize("options", [{}, {"eval_do_concat_batches": False}], ids=["joined", "batches"])
    def test_predictions_arrive_as_with_trainer(self, build, options, tmp_path):
        """Catches other arrays, lengths or types than those of stock Trainer."""

        def run(builder, folder):
            arrived = []

            def metrics(prediction):
                arrived.append(prediction)
                return {"mine": 1.0}

            trainer = builder(tiny.vit(), folder, compute_metrics=metrics, per_device_eval_batch_size=8, **options)
            assert trainer.evaluate()["eval_mine"] == 1.0
            return arrived[0]

        ours, plain = run(build, tmp_path / "ours"), run(stock, tmp_path / "stock")
        for name in ("predictions", "label_ids"):
            first, second = getattr(ours, name), getattr(plain, name)
            assert type(first) is type(second)
            pairs = zip(first, second, strict=True) if isinstance(first, list) else [(first, second)]
            for one, other in pairs:
                torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other))

    @BOTH
    def test_metrics_of_batches(self, build, tmp_path):
        """Catches batch_eval_metrics that never gets its last batch."""
        seen = []

        def metrics(prediction, compute_result):
            seen.append((len(prediction.predictions), compute_result))
            return {"count": sum(size for size, _ in seen)} if compute_result else {}

        trainer = build(
            tiny.vit(), tmp_path, compute_metrics=metrics, batch_eval_metrics=True, per_device_eval_batch_size=8
        )
        assert trainer.evaluate()["eval_count"] == 20
        assert [last for _, last in seen] == [False, False, True]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 reads it
@pytest.mark.filterwarnings("ignore:Could not find a config file in owner/base")  # there is no Hub here
class TestAdapters:
    """A LoRA student is selected and resumed as the hardened one of test_peft.py is."""

    SETTINGS = {"data": tiny.sentences(32), "evaluation": tiny.sentences(16), "attack": KD()}

    def test_the_best_adapter_comes_back(self, tmp_path):
        """Catches weights of the base model sought in a folder that holds an adapter."""
        scores = iter([0.1, 0.9, 0.5])
        snapshots = Snapshots()
        trainer = distiller(
            text_adapter(), tmp_path, callbacks=[snapshots], compute_metrics=lambda _: {"score": next(scores)},
            num_train_epochs=3, metric_for_best_model="score", teacher=tiny.bert(3).eval(), **self.SETTINGS, **BEST,
        )  # fmt: skip
        trainer.train()
        assert trainer.state.best_global_step == 8
        assert tiny.largest_difference(snapshots.weights[8], snapshots.weights[12]) > 0
        assert tiny.largest_difference(snapshots.weights[8], tiny.weights(trainer.model)) == 0

    def test_resuming_equals_the_uninterrupted_run(self, tmp_path):
        """Catches an adapter or an optimizer that starts anew."""
        changes = self.SETTINGS | {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
        straight = distiller(text_adapter(), tmp_path / "straight", teacher=tiny.bert(3).eval(), **changes)
        straight.train()
        resumed = distiller(text_adapter(), tmp_path / "resumed", teacher=tiny.bert(3).eval(), **changes)
        torch.nn.init.normal_(next(value for name, value in resumed.model.named_parameters() if "lora_B" in name))
        resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
        assert tiny.largest_difference(tiny.weights(straight.model), tiny.weights(resumed.model)) == 0
