"""recipes/audit.py as users start it: small images and classifiers made here, no network."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from test_recipes import COLOURS, ROOT, load_recipe, picture
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, set_seed

from hf_cmim import DataArguments, HfCmimError
from hf_cmim.pages.html import audit_page
from hf_cmim.report import AuditReport

pytestmark = pytest.mark.slow

ORDER = ("blue", "red", "green")
SMALL = ["--suite", "quick-v2", "--looks", "3", "--screening_seeds", "1", "--null_families", "1", "--diagnosed", "1"]
SMALL += ["--num_train_epochs", "2", "--width", "4", "--disable_tqdm", "true", "--use_cpu"]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("audit")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """train.parquet with 90 rows and test.parquet with 640."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    features = Features({"picture": Image(), "colour": ClassLabel(names=list(COLOURS))})
    for split, size in (("train", 90), ("test", 640)):
        labels = generator.integers(0, 3, size).tolist()
        rows = {"picture": [picture(label, generator) for label in labels], "colour": labels}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory) -> dict[str, Path]:
    """Untrained classifiers with a loud head, and their processor, by the seed of their weights."""
    folders = {}
    for seed, name in enumerate(("teacher", "twin", "control")):
        set_seed(seed)
        config = ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=12,
            patch_size=4, id2label=dict(enumerate(ORDER)), label2id={name: n for n, name in enumerate(ORDER)},
        )  # fmt: skip
        model = ViTForImageClassification(config)
        torch.nn.init.normal_(model.classifier.weight, std=3.0)
        folders[name] = tmp_path_factory.mktemp("classifiers") / name
        model.save_pretrained(folders[name])
        ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(folders[name])
    return folders


@pytest.fixture
def run(recipe, data, classifiers, monkeypatch):
    def main(*words):
        flags = ["--teacher", classifiers["teacher"], "--dataset_name", data, *SMALL, *words]
        monkeypatch.setattr(sys, "argv", ["audit.py", *map(str, flags)])
        recipe.main()

    return main


def test_audit_is_of_what_was_named(run, data, classifiers, tmp_path, capsys):
    """Answers taken by their position, the twin in the teacher's place, or a page of something else."""
    words = ["--twin", classifiers["twin"], "--control", f"other={classifiers['control']}", "--output_dir", tmp_path]
    run(*words, "--max_train_samples", "60", "--rest_as_test")
    report = AuditReport.read(tmp_path)
    scope = report.scope
    assert (scope.num_transfer, scope.num_validation, scope.num_test) == (60, 9, 640 + 21)
    assert (scope.suite, scope.student, report.looks) == ("quick-v2", "convnet of width 4", (3,))
    assert [control.name for control in report.controls] == ["CE twin", "other"]
    found = {report.teacher.path, report.twin.path, report.controls[1].facts.path}
    assert found == {f"…/{folder.name}" for folder in classifiers.values()}
    assert report.teacher.path == f"…/{classifiers['teacher'].name}"
    processor = ViTImageProcessorPil(size={"height": 12, "width": 12})
    model = ViTForImageClassification.from_pretrained(classifiers["teacher"])
    train = Dataset.from_parquet(str(data / "train.parquet")).train_test_split(test_size=0.1, seed=0)["train"]
    right = 0
    for rows in (train.select(range(60, 81)), Dataset.from_parquet(str(data / "test.parquet"))):
        with torch.no_grad():
            named = model(**processor(list(rows["picture"]), return_tensors="pt")).logits.argmax(dim=-1)
        right += sum(ORDER[int(each)] == COLOURS[label] for each, label in zip(named, rows["colour"], strict=True))
    assert report.teacher.accuracy == pytest.approx(right / 661)
    assert (tmp_path / "audit.html").read_text() == audit_page(report)
    assert (tmp_path / "audit.md").exists()
    assert str(tmp_path / "audit.html") in capsys.readouterr().out


def test_student_of_the_recipe_can_be_attacked(recipe):
    """A student without hidden states, or without names of its classes, stops a standard audit in its midst."""
    set_seed(0)
    student = recipe.ConvNet(list(COLOURS), 4)
    outputs = student(pixel_values=torch.randn(2, 3, 12, 12), output_hidden_states=True)
    assert outputs["logits"].shape == (2, 3)
    assert len(outputs["hidden_states"]) >= 4
    assert student.config.id2label == dict(enumerate(COLOURS))
    set_seed(1)
    second = recipe.ConvNet(list(COLOURS), 4).state_dict()
    assert any(not torch.equal(value, second[name]) for name, value in student.state_dict().items())


def test_classifier_of_other_classes_or_another_view_is_refused(run, classifiers, tmp_path):
    """Classes would be paired by chance; a twin shown another's pixels would look weak."""
    model = ViTForImageClassification.from_pretrained(classifiers["twin"])
    model.config.id2label = {0: "blue", 1: "red", 2: "cyan"}
    model.config.label2id = {"blue": 0, "red": 1, "cyan": 2}
    model.save_pretrained(tmp_path / "cyan")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(tmp_path / "cyan")
    with pytest.raises(ValueError, match="Only the teacher has 'cyan'"):
        run("--twin", tmp_path / "cyan", "--output_dir", tmp_path / "audit")
    ViTForImageClassification.from_pretrained(classifiers["twin"]).save_pretrained(tmp_path / "large")
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(tmp_path / "large")
    with pytest.raises(HfCmimError, match="large has another processor"):
        run("--twin", tmp_path / "large", "--output_dir", tmp_path / "audit")


def test_config_parses_and_flags_override_it(recipe):
    """A key that was renamed in the code would be found by the user; the figures are those the file promises."""
    path = ROOT / "recipes/configs/audit_fashion_mnist.yaml"
    data, settings, args, plan = recipe.parse_arguments([str(path)])
    assert (data.max_train_samples, data.rest_as_test) == (10_000, True)
    assert (settings.teacher, settings.twin) == ("outputs/cmim", "outputs/ce")
    assert (args.num_train_epochs, args.learning_rate) == (5, 4e-3)
    assert (plan.suite, plan.looks, plan.margin, plan.screening_seeds) == ("standard-v2", (3, 5, 8, 12), 0.005, 1)
    words = [str(path), "--margin_points", "0.3", "--looks", "4", "--criterion", "paper", "--width", "3"]
    _, settings, _, plan = recipe.parse_arguments(words)
    assert (plan.margin, plan.looks, plan.criterion, settings.width) == (0.003, (4,), "paper", 3)


def test_rows_are_those_that_a_model_of_vit_cifar_was_trained_on(recipe, data):
    """Settings chosen, or verdicts given, on images that the teacher knows by heart."""
    known = DataArguments(dataset_name=str(data), max_train_samples=50).open("image")
    words = ["--teacher", "t", "--dataset_name", str(data), "--max_train_samples", "50", "--rest_as_test"]
    rows = recipe.parse_arguments(words)[0].open("image")
    pictures = [[image.tobytes() for image in part["picture"]] for part in (rows.train, rows.validation, rows.test)]
    assert pictures[0] == [image.tobytes() for image in known.train["picture"]]
    assert pictures[1] == [image.tobytes() for image in known.validation["picture"]]
    assert len({each for part in pictures for each in part}) == 90 + 640
    assert list(map(len, pictures)) == [50, 9, 640 + 31]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset_name", "d"], "Missing --teacher"),
        (["--teacher", "t", "--margin_points", "-1"], "margin"),
    ],
)
def test_what_cannot_run_is_refused(words, message, recipe):
    """An audit of nothing, or of a student that nobody named."""
    with pytest.raises(HfCmimError, match=message):
        recipe.parse_arguments(words)


def test_unknown_setting_or_split_is_refused(recipe, data, tmp_path):
    """A misspelt key would be dropped in silence."""
    (tmp_path / "run.yaml").write_text("margin: 0.3\n")
    with pytest.raises(HfCmimError, match="margin"):
        recipe.parse_arguments([str(tmp_path / "run.yaml")])
    words = ["--teacher", "t", "--dataset_name", str(data), "--test_split", "final"]
    with pytest.raises(HfCmimError, match=r"no split 'final' for --test-split"):
        recipe.parse_arguments(words)[0].open("image")
