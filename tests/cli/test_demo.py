"""The audit at the end of `make demo`."""

import pytest
import tiny

from hf_cmim import AuditReport
from hf_cmim.attacks.suites import QUICK_V1
from hf_cmim.cli.main import main

NAMES = {digit: str(digit) for digit in range(10)}


@pytest.fixture
def models(tmp_path):
    """Two classifiers of digits that learned nothing."""
    for seed, name in enumerate(("hardened", "plain")):
        model = tiny.vit(seed=seed, num_labels=10)
        model.config.id2label, model.config.label2id = NAMES, {name: digit for digit, name in NAMES.items()}
        model.save_pretrained(tmp_path / name)
    return tmp_path


def test_models_that_are_not_there_are_named(tmp_path, capsys):
    """Catches a demo that trains for minutes before it looks for what it audits."""
    assert main(["demo", "--models", str(tmp_path)]) == 2
    assert "got no hardened and no plain" in capsys.readouterr().err


@pytest.mark.slow
def test_450_digits_decide_nothing(models, capsys):
    """Catches a demo that claims something at the default margin, and one that leaves no page."""
    folder = models / "audit"
    words = ["demo", "--models", str(models), "--output-dir", str(folder), "--epochs", "1", "--looks", "2"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "450 test samples cannot resolve a margin of 0.50 points" in printed
    assert "No verdict, because" in printed
    report = AuditReport.read(folder)
    assert report.primary.verdict == "inconclusive"
    assert {arm.family for arm in report.arms if arm.role == "knockoff"} == set(QUICK_V1.families)
    assert (folder / "audit.html").read_text(encoding="utf-8").startswith("<!doctype html>")
