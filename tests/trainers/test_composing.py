"""Settings and objects that users put together: names for objects, streams, balanced weights, plain modules."""

from itertools import count

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset as HubDataset
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import HfArgumentParser, PreTrainedConfig, ViTConfig

from hf_cmim import CMIMConfig, CMIMTrainer, Composition, DistillationConfig, DistillationTrainer
from hf_cmim.attacks import ATTACKS, DKD, KD, Averager, CrossEntropy, PartialBayes
from hf_cmim.teachers import ModelTeacher
from hf_cmim.trainers.hardening.class_weights import balanced_weights

DATA = tiny.images(32)


class TestAttackNames:
    def test_a_name_is_the_attack_with_its_defaults(self, tmp_path):
        """Catches names that are accepted by the command line alone."""
        trainer = tiny.distillation_trainer(tiny.vit(1), DATA, tmp_path, "dkd", tiny.vit(3).eval())
        assert repr(trainer.attack) == repr(Composition(DKD()))
        trainer.train()
        assert repr(Composition("dkd", "averager")) == repr(Composition(DKD(), Averager()))

    def test_every_name_works_or_says_what_it_lacks(self):
        """Catches a raw TypeError of a part without defaults."""
        for name, kind in ATTACKS.items():
            if name in ("partial-bayes", "restoration"):
                with pytest.raises(ValueError, match=rf"no default for perturbation.*{kind.__name__}\(perturbation="):
                    Composition(name)
            else:
                assert any(isinstance(part, kind) for part in Composition(name).active_parts)
        assert isinstance(Composition(PartialBayes(perturbation=lambda probs: probs)).transforms[0], PartialBayes)

    @pytest.mark.parametrize(("name", "meant"), [("DKD", "dkd"), ("logit_mse", "logit-mse"), ("kdd", "kd")])
    def test_a_mistyped_name(self, name, meant, tmp_path):
        """Catches an error that leaves the reader to search for the name."""
        with pytest.raises(ValueError, match=f"Unknown attack '{name}'. Did you mean '{meant}'.*hf-cmim attacks"):
            tiny.distillation_trainer(tiny.vit(1), DATA, tmp_path, name, tiny.vit(3).eval())
        with pytest.raises(ValueError, match="Unknown attack 'zzz'. List attacks"):
            Composition("zzz")


class TestModels:
    @pytest.mark.parametrize("build", [
        lambda model, folder: CMIMTrainer(model, CMIMConfig(str(folder)), train_dataset=DATA),
        lambda model, folder: DistillationTrainer(
            model, DistillationConfig(str(folder)), train_dataset=DATA, attack=KD(), teacher=tiny.vit(3).eval()
        ),
    ], ids=["harden", "distil"])  # fmt: skip
    def test_a_name_instead_of_a_model(self, build, tmp_path):
        """Catches an AttributeError of a string."""
        with pytest.raises(ValueError, match=r"AutoModelForSequenceClassification.from_pretrained\('owner/bert'"):
            build("owner/bert", tmp_path)
        with pytest.raises(ValueError, match="got function.*model_init"):
            build(tiny.vit, tmp_path)


class Plain(nn.Module):
    """A student without a config."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, tiny.NUM_LABELS)

    def forward(self, pixel_values, labels=None):
        return {"logits": self.layer(pixel_values.flatten(1))}


def named_teacher():
    names = dict(enumerate(("cat", "dog", "emu", "fox")))
    model = tiny.vit(3).eval()
    model.config = ViTConfig(
        **{**model.config.to_dict(), "id2label": names, "label2id": {n: i for i, n in names.items()}}
    )
    return ModelTeacher(model)


class TestPlainStudents:
    @pytest.mark.parametrize("attack", [KD(), CrossEntropy()], ids=repr)
    def test_learn_where_no_name_could_be_mixed_up(self, attack, tmp_path):
        """Catches a refusal of any student without a config: its classes are counted from teacher or first logits."""
        torch.manual_seed(0)
        teacher = tiny.vit(3).eval() if isinstance(attack, KD) else None
        trainer = tiny.distillation_trainer(Plain(), DATA, tmp_path, attack, teacher, eval_dataset=DATA)
        assert trainer.queries.num_classes == tiny.NUM_LABELS
        trainer.train()
        assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1

    def test_counting_classes_draws_nothing(self, tmp_path):
        """Catches random states moved by the look at the first batch."""
        torch.manual_seed(0)
        student = Plain()
        ends = []
        for config in (None, PreTrainedConfig(num_labels=tiny.NUM_LABELS)):
            torch.manual_seed(5)
            student.load_state_dict({name: value * 0 for name, value in student.state_dict().items()})
            if config is not None:
                student.config = config
            trainer = tiny.distillation_trainer(student, DATA, tmp_path, CrossEntropy())
            ends.append(torch.get_rng_state())
            assert trainer.queries.num_classes == tiny.NUM_LABELS
        assert torch.equal(*ends)

    def test_names_of_the_teacher_must_be_met(self, tmp_path):
        """Catches labels in another order than the teacher's answers; the line of the message is the remedy."""
        with pytest.raises(ValueError, match=r"student\.config = transformers\.PreTrainedConfig\(id2label=\{0: 'cat'"):
            tiny.distillation_trainer(Plain(), DATA, tmp_path, KD(), named_teacher())
        student = Plain()
        student.config = PreTrainedConfig(id2label={0: "dog", 1: "cat", 2: "emu", 3: "fox"})
        trainer = tiny.distillation_trainer(student, DATA, tmp_path, KD(), named_teacher())
        trainer.train()
        inputs = {"pixel_values": torch.stack([row["pixel_values"] for row in DATA])}
        straight = named_teacher()(inputs, None)
        torch.testing.assert_close(trainer.queries.answers(inputs, None, None), straight[:, [1, 0, 2, 3]])

    def test_nothing_to_count_from(self, tmp_path):
        """Catches a raw error where neither data nor a teacher were given."""
        with pytest.raises(ValueError, match="The number of classes is unknown"):
            tiny.distillation_trainer(Plain(), None, tmp_path, CrossEntropy())


class Endless(IterableDataset):
    def __init__(self):
        self.read = 0

    def __iter__(self):
        for position in count():
            self.read += 1
            yield DATA[position % len(DATA)]


class TestStreams:
    @pytest.mark.parametrize(
        ("changes", "steps"), [({"centroid_prefill": True}, 4), ({"centroids": "epoch"}, 5)], ids=str
    )
    def test_a_pass_over_endless_data_ends(self, changes, steps, tmp_path, caplog):
        """Catches a training that never begins; the pass takes as many samples as training reads."""
        stream = Endless()
        with caplog.at_level("WARNING"):
            trainer = tiny.cmim_trainer(tiny.vit(), stream, tmp_path, max_steps=steps, **changes)
            trainer.train()
        assert trainer.state.global_step == steps
        assert 16 * steps <= stream.read <= 16 * steps + 3 * 8, "a loader may prefetch a few batches"
        assert f"at most their first {8 * steps} samples" in caplog.text

    def test_the_centroids_are_those_of_the_first_samples(self, tmp_path):
        """Catches a bound that is off, or another order."""
        seen = []
        for data, changes in ((DATA, {"num_train_epochs": 1}), (Endless(), {"max_steps": 4})):
            trainer = tiny.cmim_trainer(
                tiny.vit(), data, tmp_path, centroid_prefill=True, learning_rate=0.0, optim="sgd", **changes
            )
            trainer.callback_handler.callbacks = [
                each for each in trainer.callback_handler.callbacks if type(each).__name__ == "CentroidRefresh"
            ]
            trainer.state.max_steps = 4
            trainer.callback_handler.callbacks[0].fill_bank()
            seen.append(trainer.bank.state_dict())
        assert tiny.largest_difference(*seen) == 0


LABELS = [0] * 20 + [1] * 5 + [2] * 6 + [3]


class MapStyle(Dataset):
    def __len__(self):
        return len(LABELS)

    def __getitem__(self, position):
        return DATA[position] | {"labels": LABELS[position]}


class TestBalancedWeights:
    EXPECTED = compute_class_weight("balanced", classes=np.arange(4), y=LABELS).tolist()

    @pytest.mark.parametrize("data", [
        [{"label": label} for label in LABELS], HubDataset.from_dict({"label": LABELS}), MapStyle(),
        [{"labels": [label, -100]} for label in LABELS], HubDataset.from_dict({"labels": [[n, -100] for n in LABELS]}),
    ], ids=["list", "datasets", "map style", "tokens", "tokens in datasets"])  # fmt: skip
    def test_equal_those_of_scikit_learn(self, data):
        """Catches another formula, ignored labels counted, and a kind of data that is not read."""
        assert balanced_weights(data, 4) == pytest.approx(self.EXPECTED)

    def test_train_as_the_numbers_do(self, tmp_path):
        """Catches weights that do not reach the loss, or that are not recorded."""
        ends = []
        for weights in ("balanced", self.EXPECTED):
            trainer = tiny.cmim_trainer(tiny.vit(), MapStyle(), tmp_path, class_weights=weights)
            trainer.train()
            ends.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*ends) == 0

    def test_a_class_without_samples_has_weight_0(self):
        """Catches a division by zero."""
        assert balanced_weights([{"label": 0}, {"label": 2}], 3) == pytest.approx([2 / 3, 0, 2 / 3])

    @pytest.mark.parametrize(("data", "message"), [
        (Endless(), "Endless has no length"), ([{"x": 1}], "train_dataset, which has none"),
        ([{"label": 7}], r"Expected labels in \[0, 4\)"), ([{"label": "cat"}], "are strings"),
    ], ids=["stream", "no labels", "another class", "strings"])  # fmt: skip
    def test_refused(self, data, message):
        """Catches raw errors of NumPy."""
        with pytest.raises(ValueError, match=message):
            balanced_weights(data, 4)

    def test_other_words_and_the_command_line(self, tmp_path):
        """Catches a list that the command line can no longer say."""
        with pytest.raises(ValueError, match="class_weights \"balanced\" or one factor per class, got 'even'"):
            CMIMConfig(str(tmp_path), class_weights="even")
        parser = HfArgumentParser(CMIMConfig)
        for words, expected in {"balanced": "balanced", "1 2.5": [1.0, 2.5]}.items():
            (config,) = parser.parse_args_into_dataclasses(["--class_weights", *words.split()])
            assert config.class_weights == expected
        with pytest.raises(ValueError, match="got \\['a', '1'\\]"):
            CMIMConfig(str(tmp_path), class_weights=["a", "1"])
