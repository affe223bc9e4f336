"""The strongest hardened model within a budget of accuracy."""

import dataclasses
import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from trainers.killing import lives

from hf_cmim import CMIMConfig, HfCmimError, harden_within
from hf_cmim.functional.calibration import Calibration
from hf_cmim.measurement import Measurement
from hf_cmim.trainers.hardening import harden_within as module
from hf_cmim.trainers.hardening.budget_report import Hardened, TrainedModel
from hf_cmim.trainers.hardening.harden_within import LADDER, Rung, strongest_within

MEASUREMENT = Measurement(
    num_samples=8, accuracy=0.5, top5_accuracy=1.0, calibration=Calibration(0.2, 0.02, 1.0, 0.2, 0.02, 0.01),
    temperatures=(1.0,), cmi=(0.4,), cmi_correct=(0.03,), ncmi=0.1, separation=4.0, prediction_entropy=0.5,
    within_class_variance=2.0, within_total_ratio=0.2, logit_scale=1.0, labels_fingerprint="7e" * 32,
)  # fmt: skip


def record(is_correct, weight=0.0):
    return TrainedModel.of(f"share-{weight:g}" if weight else "twin", "share", weight, MEASUREMENT, is_correct)


# The choice


@pytest.mark.parametrize("count", range(1, 9))
def test_bisection_finds_the_first_rung_within(count):
    """Catches a rung skipped at an end, and a search that trains every rung."""
    for first in range(count + 1):
        asked = []

        def is_within(position, first=first, asked=asked):
            asked.append(position)
            return position >= first

        assert strongest_within(count, is_within) == (first if first < count else None)
        assert len(asked) == len(set(asked)) <= 1 + int(np.ceil(np.log2(count))) + (count == 1)


def test_noise_is_that_of_the_samples_which_only_one_model_gets_right():
    """Catches the error of two independent accuracies, which is far too large for models that agree."""
    generator = np.random.default_rng(0)
    twin, model = (generator.random(1_003) < share for share in (0.9, 0.85))
    gained, lost = int((model & ~twin).sum()), int((twin & ~model).sum())
    mean = (lost - gained) / 1_003
    error = ((lost + gained) / 1_003 - mean**2) ** 0.5 / 1_003**0.5
    first, second = record(twin.tolist()), record(model.tolist(), 2.0)
    assert second.points_below(first) == pytest.approx(100 * mean)
    assert second.standard_error(first) == pytest.approx(100 * error)
    assert first.accuracy == pytest.approx(twin.mean())


def test_words_name_the_choice_and_the_noise():
    """Catches a budget below the noise that goes unsaid, and a model called chosen that is not."""
    twin, strong, weak = [True] * 90 + [False] * 10, [True] * 85 + [False] * 15, [False] + [True] * 90 + [False] * 9
    result = Hardened(Path("folder"), "share-8", 0.0, record(twin), (record(strong, 32.0), record(weak, 8.0)))
    lines = str(result).splitlines()
    assert (result.model, result.twin) == ("folder/share-8", "folder/twin")
    assert lines[1].split()[:3] == ["cross-entropy", "twin", "90.00%"]
    assert "-5.00 ± 2.18 points" in lines[2]
    assert lines[2].endswith("too costly")
    assert "+0.00 ± 1.41 points" in lines[3]
    assert lines[3].endswith("chosen")
    assert "100 validation samples, one training each" in lines[4]
    assert "budget of 0 points is below this noise" in lines[5]
    assert "below this noise" not in str(dataclasses.replace(result, accuracy_budget=0.03))
    quiet = dataclasses.replace(result, tried=result.tried[1:])
    assert "a budget of about 1.4 points." in str(quiet)
    # Its noise is 1.4142 points. The budget that was advised is no reason to advise it again.
    assert "below this noise" not in str(dataclasses.replace(quiet, accuracy_budget=0.014))


# Whole searches


def settings(folder, **changes):
    values = {"num_train_epochs": 6, "learning_rate": 3e-3, "per_device_train_batch_size": 16, "use_cpu": True}
    values |= {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    return CMIMConfig(str(folder), **(values | changes))


def search(folder, budget=0.0, lines=None, **changes):
    data = tiny.images(96)
    say = (lambda line: None) if lines is None else lines.append
    return harden_within(tiny.vit, settings(folder, **changes), data, tiny.images(40, seed=1), budget, say=say)


@pytest.fixture
def short_ladder(monkeypatch):
    monkeypatch.setattr(module, "LADDER", (Rung("share", 4.0, correct_only=True, from_twin=True), Rung("scaled", 1.0)))


def test_ladder_goes_from_strong_to_weak():
    """Catches a form or weight that the configuration refuses, two rungs in one folder, and a wrong order."""
    assert len({rung.name for rung in LADDER}) == len(LADDER)
    for strong, weak in itertools.pairwise(LADDER):
        assert strong.form != weak.form or strong.weight > weak.weight
    for rung in LADDER:
        CMIMConfig("folder", use_cpu=True, **rung.settings)


def test_search_trains_twin_and_strongest_and_goes_on_with_another_budget(short_ladder, tmp_path):
    """Catches a finished model that is trained again, a model that starts afresh, and a twin that is hardened."""
    lines = []
    result = search(tmp_path, budget=0.99, lines=lines)
    assert result.model == str(tmp_path / "share-4")
    assert [line.partition(":")[0] for line in lines] == ["cross-entropy twin", "share, weight 4"]
    for folder in (result.model, result.twin):
        assert {"config.json", "model.safetensors"} <= set(os.listdir(folder))
        assert Path(f"{folder}.json").is_file()
    assert result.chosen.cmi_weight == 4
    assert result.twin_record.cmi_weight == 0
    assert result.tried[0].within_total_ratio < result.twin_record.within_total_ratio
    again = []
    assert search(tmp_path, budget=0.98, lines=again).tried == result.tried
    assert all("trained before" in line for line in again)


@pytest.fixture
def starts(monkeypatch):
    """Weights from which each training starts; a training only raises the bias of the head by 1."""
    starts = []

    def train(trainer, **arguments):
        starts.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        with torch.no_grad():
            trainer.model.classifier.bias += 1.0

    monkeypatch.setattr(module.CMIMTrainer, "train", train)
    return starts


def test_models_with_the_share_start_from_the_twin(short_ladder, tmp_path, starts):
    """Catches a warm start that loads nothing, as Trainer does for a ViT: its names on disk are older."""
    search(tmp_path, budget=0.99)
    built, warm = starts
    assert torch.equal(warm["classifier.bias"], built["classifier.bias"] + 1.0)
    assert all(torch.equal(warm[name], built[name]) for name in built if name != "classifier.bias")
    assert any("layer.0." in name or "layers.0." in name for name in built)


def test_the_default_form_is_trained_from_the_start(tmp_path, monkeypatch, starts):
    """Catches a model that pays for a training twice as long."""
    monkeypatch.setattr(module, "LADDER", (Rung("scaled", 1.0),))
    search(tmp_path, budget=0.99)
    built, fresh = starts
    assert all(torch.equal(fresh[name], built[name]) for name in built)
    assert Rung("scaled", 1.0).settings.keys() == {"cmi_form", "cmi_weight", "cmi_correct_only"}


def test_no_model_within_the_budget_is_an_error_that_tells_the_budget_to_allow(short_ladder, tmp_path, monkeypatch):
    """Catches a model that costs more than was allowed, or a twin, handed out as hardened."""
    monkeypatch.setattr(TrainedModel, "points_below", lambda self, twin: self.cmi_weight + 2.0)
    with pytest.raises(HfCmimError, match=r"(?s)too costly.*within the budget of 0.5 points.*Allow 3.00 points"):
        search(tmp_path, budget=0.005, num_train_epochs=1)


@pytest.mark.parametrize(
    ("changes", "budget", "message"),
    [
        ({"cmi_weight": 8.0}, 0.0, r"Expected cmi_weight at the default, got 8.0"),
        ({"cmi_correct_only": True}, 0.0, r"Expected cmi_correct_only at the default"),
        ({}, 0.5 * 100, r"accuracy_budget in \[0, 1\), a fraction, got 50.0"),
        ({}, -0.1, r"accuracy_budget in \[0, 1\)"),
    ],
)
def test_settings_that_would_be_overridden_are_refused(changes, budget, message, tmp_path):
    """Catches an objective that the user chose and the ladder silently replaces."""
    with pytest.raises(HfCmimError, match=message):
        search(tmp_path, budget, **changes)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_settings_is_refused(short_ladder, tmp_path):
    """Catches models of different schedules compared as if only the weight differed."""
    search(tmp_path, 0.99, num_train_epochs=1)
    with pytest.raises(HfCmimError, match=r"num_train_epochs, seed was \{'num_train_epochs': 1, 'seed': 42\}"):
        search(tmp_path, 0.99, num_train_epochs=2, seed=7)


@pytest.mark.parametrize("save_strategy", ["no", "epoch"])
def test_search_that_was_killed_goes_on(save_strategy, short_ladder, tmp_path):
    """Catches a finished model that is trained again, and a half-trained one that counts as finished."""
    whole = search(tmp_path / "whole", 0.99, save_strategy=save_strategy)

    def die_in_second_training():
        count = itertools.count()
        original = module.CMIMTrainer.training_step

        def step(trainer, *arguments):
            if next(count) == 36 + 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(trainer, *arguments)

        module.CMIMTrainer.training_step = step
        search(tmp_path / "killed", 0.99, save_strategy=save_strategy)

    assert lives(die_in_second_training) == -signal.SIGKILL
    twin = tmp_path / "killed" / "twin" / "model.safetensors"
    written = twin.stat().st_mtime_ns
    assert not (tmp_path / "killed" / "share-4.json").exists()
    result = search(tmp_path / "killed", 0.99, save_strategy=save_strategy)
    assert twin.stat().st_mtime_ns == written
    assert (result.twin_record, result.tried) == (whole.twin_record, whole.tried)
    ended, expected = (load_file(f"{each.model}/model.safetensors") for each in (result, whole))
    assert all(torch.equal(ended[name], expected[name]) for name in expected)
