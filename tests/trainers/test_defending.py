"""The trainer of defences: the same training however it is cut, on real images, and truthful about what it did."""

import copy

import pytest
import tiny
import torch
from sklearn.datasets import load_digits
from transformers import AutoModelForImageClassification, TrainingArguments, ViTModel

from hf_cmim import DefenseConfig, DefenseTrainer
from hf_cmim.defenses import MaximizedCMI, NastyTeacher, SquaredError
from hf_cmim.functional import class_centroids
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.verification import check_certificate
from hf_cmim.teachers import ModelTeacher
from hf_cmim.trainers.defending.defense_state import STATE_NAME, load_defense_state, save_defense_state

DEFENSES = [NastyTeacher(), MaximizedCMI(), SquaredError()]
each_defense = pytest.mark.parametrize("defense", DEFENSES, ids=lambda defense: type(defense).__name__)


def digits(size=128, start=0):
    """Real images of handwritten digits."""
    data = load_digits()
    pixels = torch.tensor(data.images[start : start + size], dtype=torch.float32).unsqueeze(1) / 8 - 1
    return [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(pixels, data.target[start : start + size], strict=True)
    ]


def digit_model(seed=0, **changes):
    return tiny.vit(seed, num_labels=10, **changes)


@pytest.fixture(scope="module")
def twin():
    """The same model, trained with cross-entropy."""
    trainer = tiny.plain_trainer(
        digit_model(1),
        digits(),
        "unused",
        num_train_epochs=20,
        optim="adamw_torch",
        learning_rate=5e-3,
        per_device_train_batch_size=32,
    )
    trainer.train()
    return trainer.model


def defense_trainer(model, data, folder, defense, reference=None, **changes):
    others = {name: changes.pop(name) for name in ("eval_dataset",) if name in changes}
    args = DefenseConfig(**tiny.settings(folder, **changes))
    return DefenseTrainer(model, args, train_dataset=data, defense=defense, reference=reference, **others)


def logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@each_defense
def test_digits_are_learned_and_the_parts_add_up(defense, twin, tmp_path):
    """Catches a loss that trains nothing, components that do not explain it, and a reference that learns along."""
    before = tiny.weights(twin)
    trainer = defense_trainer(
        copy.deepcopy(twin), digits(), tmp_path, defense, twin, optim="adamw_torch", learning_rate=3e-3,
        num_train_epochs=8, per_device_train_batch_size=32, eval_dataset=digits(64, 128),
    )  # fmt: skip
    trainer.train()
    entries = logs(trainer)
    assert entries[-1]["loss"] < entries[0]["loss"]
    names = set(defense_names(trainer))
    for entry in entries:
        assert sum(entry[name] for name in names) == pytest.approx(entry["loss"], rel=1e-5)
    metrics = trainer.evaluate()
    assert sum(metrics[f"eval_{name}"] for name in names) == pytest.approx(metrics["eval_loss"], rel=1e-6)
    assert metrics["eval_accuracy"] > 0.3
    assert {"eval_ece", "eval_cmi_sup"} <= metrics.keys()
    assert tiny.largest_difference(before, tiny.weights(twin)) == 0


def defense_names(trainer):
    """Names of the components in the logs."""
    return logs(trainer)[0].keys() - {"loss", "grad_norm", "learning_rate", "epoch", "step"}


@each_defense
def test_accumulation_changes_nothing(defense, twin, tmp_path):
    """Catches means of means and gradients scaled by accumulation, with a ragged last batch."""
    results = []
    for batch, accumulation in ((16, 1), (8, 2)):
        trainer = defense_trainer(
            copy.deepcopy(twin), digits(42), tmp_path, defense, twin, per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation, learning_rate=0.02,
        )  # fmt: skip
        trainer.train()
        results.append(trainer)
    first, second = results
    assert tiny.largest_difference(tiny.weights(first.model), tiny.weights(second.model)) < 5e-6
    one, other = ([entry["loss"] for entry in logs(trainer)] for trainer in results)
    assert other == pytest.approx(one, rel=1e-4)


def test_unequal_numbers_of_ignored_tokens(tmp_path):
    """Catches answers of the reference that are paired with other tokens, and a divisor of each micro-batch."""
    results = []
    for batch, accumulation in ((16, 1), (4, 4)):
        trainer = defense_trainer(
            tiny.token_bert(1), tiny.tagged_sentences(30), tmp_path, NastyTeacher(weight=0.5), tiny.token_bert(5),
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, learning_rate=0.02,
            eval_dataset=tiny.tagged_sentences(20, seed=3), per_device_eval_batch_size=batch,
        )  # fmt: skip
        trainer.train()
        results.append((tiny.weights(trainer.model), trainer.evaluate()))
    (first, one), (second, other) = results
    assert tiny.largest_difference(first, second) < 5e-6
    assert one["eval_undermining"] == pytest.approx(other["eval_undermining"], rel=1e-4)
    assert one["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-4)


def test_weight_zero_is_plain_cross_entropy(twin, tmp_path):
    """Catches a loss or a reference that reaches the weights, or draws random numbers, by itself."""
    changes = {"num_train_epochs": 2, "learning_rate": 0.02}
    plain = tiny.plain_trainer(digit_model(2, dropout=0.1), digits(30), tmp_path, **changes)
    plain.train()
    defended = defense_trainer(
        digit_model(2, dropout=0.1), digits(30), tmp_path, NastyTeacher(weight=0), twin, **changes
    )
    defended.train()
    assert tiny.largest_difference(tiny.weights(plain.model), tiny.weights(defended.model)) < 1e-7


@pytest.mark.parametrize("defense", [NastyTeacher(), MaximizedCMI()], ids=lambda defense: type(defense).__name__)
def test_a_resumed_run_equals_an_uninterrupted_one(defense, tmp_path):
    """Catches a reference in the checkpoint or in train mode, and class means of the model at the kill."""
    run = {
        "save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2, "optim": "adamw_torch",
        "learning_rate": 1e-3, "lr_scheduler_type": "linear",
    }  # fmt: skip
    reference = digit_model(3, dropout=0.1).train()
    straight = defense_trainer(digit_model(4, dropout=0.1), digits(24), tmp_path, defense, reference, **run)
    straight.train()
    resumed = defense_trainer(digit_model(5, dropout=0.1), digits(24), tmp_path, defense, reference, **run)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert tiny.largest_difference(tiny.weights(straight.model), tiny.weights(resumed.model)) == 0
    assert reference.training is not defense.needs_reference
    assert sorted(path.name for path in (tmp_path / "checkpoint-2").glob("*.safetensors")) == [
        STATE_NAME, "model.safetensors"
    ]  # fmt: skip


@pytest.mark.parametrize(("defense", "reference", "message"), [
    (NastyTeacher(weight=0.1), "first", r"checkpoint of NastyTeacher\(weight=0.1.*got one of .*weight=0.04"),
    (NastyTeacher(), "second", "was written with another reference"),
    (NastyTeacher(), None, "DefenseTrainer did not write this checkpoint"),
])  # fmt: skip
def test_another_defence_or_reference_is_not_resumed(defense, reference, message, tmp_path):
    """Catches two halves of a training with different losses."""
    first, second = digit_model(3), digit_model(4)
    if reference is not None:
        save_defense_state(tmp_path, NastyTeacher(), ModelTeacher(first.eval()).fingerprint(), None)
    asked = ModelTeacher((second if reference == "second" else first).eval()).fingerprint()
    with pytest.raises(ValueError, match=message):
        load_defense_state(tmp_path, defense, asked, torch.device("cpu"))


def test_class_means_are_those_before_training(twin, tmp_path, caplog):
    """Catches means that move with the model, of train mode, or of other samples; and an untrained model."""
    data = digits(48)
    model = digit_model(1, dropout=0.3)
    model.load_state_dict(twin.state_dict())
    trainer = defense_trainer(
        model, data, tmp_path, MaximizedCMI(), optim="adamw_torch", learning_rate=1e-3, eval_dataset=digits(16, 100)
    )
    twin.eval()
    with torch.no_grad():
        logits = twin(torch.stack([row["pixel_values"] for row in data])).logits
    expected = class_centroids(logits, torch.tensor([row["labels"] for row in data]), (1.0,))[0]
    before = trainer.evaluate()
    trainer.model.train()  # evaluation leaves it in its own mode
    trainer.train()
    torch.testing.assert_close(trainer.class_means(), expected, rtol=1e-5, atol=1e-7, check_dtype=False)
    assert before["eval_spread"] < 0
    assert not caplog.text
    assert trainer.training_record().settings["purpose"] == "positive control, meant to leak more"
    defense_trainer(digit_model(0), data, tmp_path, MaximizedCMI(), max_steps=1).train()
    assert "it has not learned the task yet" in caplog.text


def test_a_saved_model_loads_alone_and_claims_no_cmim(twin, tmp_path):
    """Catches a card that calls a rival hardened, tags that a search for CMIM finds, and a record without its loss."""
    trainer = defense_trainer(digit_model(2), digits(40), tmp_path, NastyTeacher(), twin, eval_dataset=digits(40, 100))
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card(model_name="owner/model", license="mit")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert tiny.largest_difference(tiny.weights(trainer.model), tiny.weights(loaded)) == 0
    training = Certificate.read(tmp_path).training
    assert (training.trainer, training.objective) == ("DefenseTrainer", "NastyTeacher(weight=0.04, temperature=4.0)")
    assert (training.is_hardened, training.is_knockoff) == (False, False)
    assert training.settings["reference"] == ModelTeacher(twin).fingerprint()
    assert "cmi_weight" not in training.settings
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Its training did not minimise the conditional mutual information" in card
    assert "arXiv 2105.07381" in card
    assert not [words for words in ("was hardened", "2507.00012", "- cmim") if words in card]
    assert all(finding.holds for finding in check_certificate(tmp_path))


@pytest.mark.parametrize(("changes", "message"), [
    ({}, r"Expected a reference for NastyTeacher\(.*\), got None"),
    ({"reference": tiny.vit()}, "Expected a reference of 10 classes like the model, got one of 4"),
    ({"reference": digit_model(id2label=dict(enumerate("abcdefghij")))}, "class 0 of the model is 'LABEL_0', .* 'a'"),
    ({"defense": NastyTeacher}, "A class needs its parentheses"),
    ({"defense": NastyTeacher(), "reference": "same"}, "Expected a reference with weights of its own"),
    ({"model": "headless"}, "Use an AutoModelFor...Classification class"),
    ({"args": "plain"}, "Expected args of class DefenseConfig, got TrainingArguments"),
    ({"compute_loss_func": print}, "Expected no compute_loss_func, got"),
])  # fmt: skip
def test_refused_before_training(changes, message, tmp_path):
    """Catches hours of training towards a model that is not what was asked for."""
    model = ViTModel(tiny.vit().config) if changes.get("model") else digit_model()
    given = {"defense": NastyTeacher()} | changes
    given.pop("model", None)
    if given.get("reference") == "same":
        given["reference"] = model
    plain = given.pop("args", None)
    args = (TrainingArguments if plain else DefenseConfig)(**tiny.settings(tmp_path / "run"))
    with pytest.raises(ValueError, match=message):
        DefenseTrainer(model, args, train_dataset=digits(8), **given)
    assert not list((tmp_path / "run").glob("*"))


def test_label_smoothing_is_refused(tmp_path):
    """Catches a defence that is no longer that of its paper."""
    with pytest.raises(ValueError, match=r"Expected no label_smoothing_factor, got 0.1"):
        DefenseConfig(str(tmp_path), label_smoothing_factor=0.1)


def test_a_module_without_a_configuration_is_compared_by_its_width(tmp_path):
    """Catches answers of a reference that are broadcast over the model's classes."""
    reference = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Expected class_names for a Linear"):
        defense_trainer(Bare(4), digits(8), tmp_path, NastyTeacher(), reference)
    named = ModelTeacher(Bare(3).eval(), class_names=("a", "b", "c"))
    trainer = defense_trainer(Bare(4), [row | {"labels": 0} for row in digits(8)], tmp_path, NastyTeacher(), named)
    with pytest.raises(ValueError, match=r"reference_log_probs of the shape \(8, 4\), got \(8, 3\)"):
        trainer.train()


class Bare(torch.nn.Module):
    """A classifier outside transformers."""

    def __init__(self, classes):
        super().__init__()
        self.head = torch.nn.Linear(64, classes)

    def forward(self, pixel_values, labels=None):
        return {"logits": self.head(pixel_values.flatten(1))}
