"""`make demo`, with fewer images and epochs: its data, its configuration, and the way through both."""

import numpy as np
import pytest
from datasets import load_dataset
from safetensors import safe_open
from scripts import ROOT
from transformers import AutoModelForImageClassification

from hf_cmim import AuditReport
from hf_cmim.cli.harden import QUICK_FAMILIES
from hf_cmim.cli.main import main

DEMO = "recipes/configs/demo.yaml"
SMALL = ["--max-train-samples", "400", "--max-validation-samples", "200", "--set", "num_train_epochs=1", "--quiet"]


@pytest.fixture
def at_root(monkeypatch):
    """Run in the root of the repository, as `make demo` does: its paths and its student are found from there."""
    monkeypatch.chdir(ROOT)


def test_images_are_small_and_no_image_is_in_two_parts():
    """Catches a file that is too large for a repository, and test images that a model was trained on."""
    files = sorted((ROOT / "recipes/data").glob("*.parquet"))
    assert sum(path.stat().st_size for path in files) <= 6e6
    assert (ROOT / "recipes/data/LICENSE").read_text(encoding="utf-8").count("Zalando")
    data = load_dataset(str(ROOT / "recipes/data"))
    assert {name: len(rows) for name, rows in data.items()} == {"train": 20_000, "validation": 4_000, "test": 20_000}
    assert np.asarray(data["test"][0]["image"].convert("L")).shape == (14, 14)
    seen = {}
    for name in ("train", "validation"):
        for bytes_ in data[name].data.column("image").combine_chunks().field("bytes").to_pylist():
            seen.setdefault(bytes_, name)
    test = data["test"].data.column("image").combine_chunks().field("bytes").to_pylist()
    # Fashion-MNIST itself repeats a few images.
    assert sum(image in seen for image in test) < 20


def test_demo_trains_both_models_within_the_budget(at_root, tmp_path, capsys):
    """Catches a configuration that the command refuses, and models that need hf_cmim to load."""
    words = ["--no-quick-audit", "--accuracy-budget", "99", "--output-dir", str(tmp_path)]
    assert main(["harden", DEMO, *SMALL, *words]) == 0
    printed = capsys.readouterr().out
    assert f"Hardened model: {tmp_path / 'share-32'}. Its twin: {tmp_path / 'twin'}." in printed
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "share-32")
    assert model.config.id2label[9] == "Ankle boot"
    with safe_open(tmp_path / "twin" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(model.state_dict())


@pytest.mark.slow
def test_demo_ends_with_two_verdicts_and_the_page(at_root, tmp_path, capsys):
    """Catches a demo that trains and says nothing, or a page that is not there."""
    words = ["--student-training", "num_train_epochs=1", "--max-transfer-samples", "100", "--max-test-samples", "700"]
    words += ["--accuracy-budget", "99", "--output-dir", str(tmp_path)]
    assert main(["harden", DEMO, *SMALL, *words]) == 0
    *_, twin, hardened, where = capsys.readouterr().out.splitlines()
    assert twin.startswith("Cross-entropy twin: ")
    assert hardened.startswith("Hardened model:     ")
    assert where.endswith(f"Page: {tmp_path / 'audit' / 'audit.html'}")
    report = AuditReport.read(tmp_path / "audit")
    assert ("no verdict" in hardened) == any(check.severity == "fatal" for check in report.checks)
    assert {arm.family for arm in report.arms if arm.role == "knockoff"} == set(QUICK_FAMILIES)
    assert report.twin is not None
    assert report.scope.attacker.name == "training"
    assert (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["verify", str(tmp_path / "share-32")]) == 0
