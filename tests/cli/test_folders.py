"""A folder that is not what a flag takes ends in a sentence that names what was meant."""

import json
from dataclasses import replace

import pytest
from pages.reports import report

from hf_cmim.cli.main import main
from hf_cmim.cli.measuring_again import _suite_of
from hf_cmim.errors import HfCmimError


@pytest.fixture
def parent(tmp_path):
    """A trainer's output folder with three checkpoints, of which the second is the best."""
    folder = tmp_path / "outputs" / "cmim"
    for step in (50, 100, 1000):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "config.json").write_text("{}")
    state = {"best_model_checkpoint": "/home/somebody/outputs/cmim/checkpoint-100"}
    (folder / "checkpoint-1000" / "trainer_state.json").write_text(json.dumps(state))
    return folder


def audit(capsys, *words):
    flags = {"--teacher": "t", "--dataset": "d", "--student-config": "s.json", "--set": "use_cpu=true"}
    flags |= dict(zip(words[::2], words[1::2], strict=True))
    assert main(["audit", *[str(word) for pair in flags.items() for word in pair]]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--teacher", "--twin", "--control"])
def test_a_parent_of_checkpoints_says_which_are_inside(flag, parent, teacher, capsys):
    """Catches "there is none, or it cannot be reached" for a folder that is there."""
    value = f"other={parent}" if flag == "--control" else parent
    printed = audit(capsys, "--teacher", teacher, flag, value)
    assert (
        f"{parent} contains no model (no config.json): it contains 3 checkpoints: {parent}/checkpoint-50, " in printed
    )
    assert f"the best by its trainer is {parent}/checkpoint-100, the last is {parent}/checkpoint-1000." in printed


def test_without_a_best_checkpoint_the_last_is_named(parent, capsys):
    """Catches checkpoints sorted as text, and a best one that was deleted."""
    (parent / "checkpoint-100" / "config.json").unlink()
    printed = audit(capsys, "--teacher", parent)
    assert f"it contains 2 checkpoints: {parent}/checkpoint-50, {parent}/checkpoint-1000." in printed
    assert f"Choose one of them: the last is {parent}/checkpoint-1000." in printed


def test_a_mistyped_folder_of_a_model_says_its_neighbour(parent, capsys, tmp_path):
    """Catches a mistyped path that is asked for on the Hub."""
    printed = audit(capsys, "--teacher", tmp_path / "outputs" / "cmmi")
    assert f"no such folder. Did you mean {parent}?" in printed
    (tmp_path / "empty").mkdir()
    assert "nor does a folder in it" in audit(capsys, "--teacher", tmp_path / "empty")
    (tmp_path / "model.safetensors").write_text("")
    assert "is a file. Give the folder of a model" in audit(capsys, "--teacher", tmp_path / "model.safetensors")


def test_report_of_a_mistyped_folder_names_its_neighbour(tmp_path, capsys):
    """Catches "run the same audit again; it goes on where it was" for a folder that never was."""
    (tmp_path / "audit-ce").mkdir()
    (tmp_path / "audit-ce" / "audit.json").write_text("{}")
    assert main(["report", str(tmp_path / "audt-ce")]) == 2
    printed = capsys.readouterr().err
    assert f"No such file or folder {tmp_path}/audt-ce" in printed
    assert f"Did you mean {tmp_path}/audit-ce?" in printed
    assert main(["report", str(tmp_path)]) == 2
    assert f"{tmp_path} is no audit, but contains 1: {tmp_path}/audit-ce." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "meant"),
    [("lr", "learning_rate"), ("epochs", "num_train_epochs"), ("batch_size", "per_device_train_batch_size"),
     ("wd", "weight_decay"), ("warmup", "warmup_steps"), ("scheduler", "lr_scheduler_type"),
     ("optimizer", "optim"), ("learningrate", "learning_rate")],
)  # fmt: skip
def test_a_setting_by_its_short_name_is_understood(setting, meant, capsys):
    """Catches "Did you mean lr_scheduler_type?" for lr."""
    printed = audit(capsys, "--set", f"{setting}=0.1")
    assert f"'{setting}'" in printed
    assert f"Did you mean {meant}?" in printed or f"Did you mean {meant} or" in printed


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ("standard-v2", ("standard-v2", None)),
        ("quick-v2", ("quick-v2", None)),
        ("standard-v2, 2 of 31 families", ("standard-v2", ["kd", "dkd"])),
    ],
)
def test_a_part_of_a_suite_is_trained_again_as_that_part(suite, expected):
    """Catches an audit within a budget that nobody could spot-check."""
    audit = report(attacks=2, names=("kd", "dkd"))
    assert _suite_of(replace(audit, scope=replace(audit.scope, suite=suite))) == expected


def test_attacks_of_the_authors_own_are_named_as_missing():
    """Catches "Expected a suite among standard-v2, quick-v2" for an audit that holds other attacks."""
    audit = report(attacks=2)
    own = replace(audit, scope=replace(audit.scope, suite="standard-v2, 2 of 32 families + own"))
    with pytest.raises(HfCmimError, match="its author's own attacks"):
        _suite_of(own)
