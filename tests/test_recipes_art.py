"""recipes/art_extraction.py with stand-ins for ART, tiny models, and data made here."""

import json

import numpy as np
import pytest
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from robustness_toolbox import KnockoffNets, PyTorchClassifier, load_art_recipe
from transformers import ViTImageProcessorPil

from hf_cmim import DistillationConfig, HfCmimError
from hf_cmim.attacks.kd import KD

NAMES = {"id2label": dict(enumerate("abcd")), "label2id": {name: number for number, name in enumerate("abcd")}}
IMAGES = torch.stack([row["pixel_values"] for row in tiny.images(16)]).numpy()
LABELS_ALONE = KD(ce_weight=1.0, kd_weight=0.0)


class Constant(torch.nn.Module):
    """The same answer to every image."""

    def __init__(self, answer):
        super().__init__()
        self.answer = torch.tensor(answer)

    def forward(self, pixels):
        """Return the answer for each image."""
        return self.answer.expand(len(pixels), -1)


def victim_of(answer):
    return PyTorchClassifier(Constant(answer), torch.nn.CrossEntropyLoss(), (1, 8, 8), len(answer))


@pytest.fixture
def recipe(monkeypatch):
    return load_art_recipe(monkeypatch)


@pytest.fixture
def args(tmp_path):
    return DistillationConfig(**tiny.settings(tmp_path, num_train_epochs=5))


@pytest.mark.parametrize("order", ["abcd", "dcba"])
def test_a_stolen_model_has_the_victims_classes_in_the_students_order(order, recipe, args):
    """Names in the order in which a dictionary holds them, not by their numbers, would teach the wrong class."""
    names = {"abcd".index(name): name for name in order}
    student = tiny.vit(1, id2label=names, label2id={name: number for number, name in names.items()})
    victim = victim_of([0.0, 0.0, 8.0, 0.0])
    stolen = recipe.Distillation(victim, student, args).extract(IMAGES)
    answers = stolen.predict(IMAGES)
    assert stolen.nb_classes == victim.nb_classes == answers.shape[1]
    assert set(answers.argmax(axis=1)) == {2}
    with torch.no_grad():
        logits = student(pixel_values=torch.from_numpy(IMAGES))["logits"]
    np.testing.assert_allclose(answers, logits.numpy(), rtol=1e-6)


def test_a_student_with_other_classes_is_refused(recipe, args):
    """It would learn from the columns that are there."""
    student = tiny.vit(1, num_labels=3)
    with pytest.raises(HfCmimError, match="the 3 classes, got .*, 4"):
        recipe.Distillation(victim_of([0.0, 0.0, 8.0, 0.0]), student, args).extract(IMAGES)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(None, 2), (np.full(16, 1), 1), (np.eye(4)[np.full(16, 1)], 1)],
    ids=["none", "numbers", "one-hot"],
)
def test_labels_are_those_given_or_the_victims(labels, expected, recipe, args):
    """Labels that were dropped, or read as another class, would be another attacker."""
    attack = recipe.Distillation(victim_of([0.0, 0.0, 8.0, 0.0]), tiny.vit(1, **NAMES), args, LABELS_ALONE)
    assert set(attack.extract(IMAGES, labels).predict(IMAGES).argmax(axis=1)) == {expected}


@pytest.mark.parametrize(("returns", "answer"), [("probs", [0.1, 0.2, 0.6, 0.1]), ("logits", [0.0, 1.0, 3.0, 0.0])])
def test_predictions_are_read_as_probabilities_or_logits(returns, answer, recipe, args):
    """The softmax of probabilities is nearly flat, and teaches little."""
    attack = recipe.Distillation(victim_of(answer), tiny.vit(1, **NAMES), args, returns=returns)
    read = attack.teacher({"pixel_values": torch.from_numpy(IMAGES)}).exp()[0]
    expected = torch.tensor(answer) if returns == "probs" else torch.tensor(answer).softmax(dim=-1)
    torch.testing.assert_close(read, expected)


def test_without_art_a_sentence_says_what_to_install(monkeypatch, args, capsys):
    """An ImportError would not say which of the packages with such names is meant; --help needs none."""
    recipe = load_art_recipe(monkeypatch, is_installed=False)
    sentence = r"No ART \(.+\)\. Install it: pip install adversarial-robustness-toolbox==1\.20\.1"
    with pytest.raises(HfCmimError, match=sentence):
        recipe.main(["--teacher", "t"])
    with pytest.raises(HfCmimError, match=sentence):
        recipe.Distillation(victim_of([0.0, 1.0]), tiny.vit(), args)
    with pytest.raises(SystemExit, match="0"):
        recipe.main(["--help"])
    assert "KnockoffNets asks once" in capsys.readouterr().out


@pytest.fixture
def folders(tmp_path):
    """A teacher, a student's configuration, and images whose classes are numbered the other way round."""
    tiny.vit(0, num_channels=3, **NAMES).save_pretrained(tmp_path / "teacher")
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor.save_pretrained(tmp_path / "teacher")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    (tmp_path / "student.json").write_text(json.dumps({"model_type": "vit", "patch_size": 4, **shape}))
    generator = np.random.default_rng(0)
    features = Features({"image": Image(), "label": ClassLabel(names=list("dcba"))})
    (tmp_path / "data").mkdir()
    for split, size in (("train", 30), ("test", 20)):
        pixels = generator.integers(0, 255, (size, 8, 8, 3), dtype=np.uint8)
        rows = {"image": list(map(PILImage.fromarray, pixels)), "label": [0, 1, 0, 3, 0] * (size // 5)}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / f"{split}.parquet")
    flags = {"teacher": "teacher", "student_config": "student.json", "dataset_name": "data", "output_dir": "output"}
    return [word for name, value in flags.items() for word in (f"--{name}", str(tmp_path / value))]


def test_both_attacks_start_alike_and_ask_alike(folders, recipe, monkeypatch, capsys):
    """Other images or other first weights would be compared, not the two attacks."""
    started = []

    def recorded(kind, model_of):
        extract = kind.extract

        def wrapper(self, x, y=None, **others):
            started.append((x, y, tiny.weights(model_of(self, others))))
            return extract(self, x, **others) if kind is KnockoffNets else extract(self, x, y, **others)

        monkeypatch.setattr(kind, "extract", wrapper)

    recorded(KnockoffNets, lambda attack, others: others["thieved_classifier"].model.model)
    recorded(recipe.Distillation, lambda attack, others: attack.student)
    recipe.main([*folders, "--use_cpu", "--disable_tqdm", "true", "--num_train_epochs", "1", "--labelled"])
    (first, _, weights), (second, labels, other_weights) = started
    np.testing.assert_array_equal(first, second)
    assert tiny.largest_difference(weights, other_weights) == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines[0].split() == ["27", "queries,", "20", "tests", "accuracy", "agreement"]
    assert [line.split()[0] for line in lines[1:]] == ["victim", "KnockoffNets", "Distillation"]
    assert lines[1].split()[-1] == "1.0000"
    assert np.bincount(labels).argmax() == 3  # half of the images are of class d, number 0 in the data


@pytest.mark.parametrize("flags", [[], ["--attack", "kd"]])
def test_a_missing_teacher_is_named(flags, recipe):
    """The refusal would come from a library that looks for a folder without a name."""
    with pytest.raises(HfCmimError, match="Give --teacher, a classifier of images"):
        recipe.main(flags)
