"""What the trainers certify, say and upload: in this process without a Hub, in one of its own with one."""

import json
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import tiny
import torch
from hub.running_hub import RunningHub
from trainers.publishing_job import SETTINGS, trainer_in
from transformers.utils.hub import PushInProgress

from hf_cmim import CMIMConfig, DistillationConfig
from hf_cmim.attacks import KD
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.verification import check_certificate
from hf_cmim.trainers.shared import publishing
from hf_cmim.trainers.shared.checkpoints import find_fault

JOB = Path(__file__).with_name("publishing_job.py")


def test_a_saved_model_is_certified_with_its_settings(tmp_path):
    """Catches a certificate without the objective, and one that calls half a hardening a hardening."""
    trainer = trainer_in(tmp_path, cmi_weight=2.0)
    trainer.save_model()
    assert not Certificate.read(tmp_path).training.is_hardened, "nothing was trained yet"
    trainer.train()
    trainer.save_model()
    training = Certificate.read(tmp_path).training
    assert training.is_hardened
    assert not training.is_knockoff
    assert (training.settings["cmi_weight"], training.settings["steps"]) == (2.0, 4)
    assert training.objective.startswith("ObjectiveSpec(form='scaled', temperatures=(1.0, 2.0, 4.0, 8.0, 16.0)")
    assert all(finding.holds for finding in check_certificate(tmp_path))


def test_only_a_measurement_of_these_weights_is_certified(tmp_path):
    """Catches the accuracy of a model before its last steps, or before other weights were loaded."""
    trainer = trainer_in(tmp_path)
    trainer.train()
    trainer.save_model()
    assert Certificate.read(tmp_path).evaluation is None
    metrics = trainer.evaluate()
    trainer.save_model()
    evaluation = Certificate.read(tmp_path).evaluation
    assert evaluation.measurement.accuracy == metrics["eval_accuracy"]
    with torch.no_grad():
        next(trainer.model.parameters()).add_(1)
    trainer.save_model()
    assert Certificate.read(tmp_path).evaluation is None


def test_checkpoints_have_no_certificate_and_the_folder_one(tmp_path):
    """Catches hashing at each checkpoint, which would cost time in training."""
    trainer = trainer_in(tmp_path, save_steps=2)
    trainer.train()
    assert not list(tmp_path.rglob("cmim_certificate.json"))


def test_no_file_holds_the_token(tmp_path):
    """Catches a secret in a pickle that is uploaded or copied with a checkpoint."""
    trainer = trainer_in(tmp_path, save_steps=2, hub_token="hf_secretsecret")
    trainer.train()
    trainer.save_model()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert not [path for path in files if b"hf_secretsecret" in path.read_bytes()]
    assert trainer.args.hub_token == "hf_secretsecret"


@pytest.mark.parametrize("is_relative", [False, True])
def test_whole_checkpoints_name_no_folder_but_that_of_the_best(is_relative, tmp_path, monkeypatch):
    """Catches a user's name in settings that are uploaded, and settings of a running training that change."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = "outputs" if is_relative else str(tmp_path / "jane.doe" / "my outputs")
    settings = {"save_steps": 4, "eval_strategy": "steps", "eval_steps": 4, "metric_for_best_model": "accuracy"}
    trainer = trainer_in(folder, hub_whole_checkpoints=True, hub_model_id="owner/name", **settings)
    trainer.args.push_to_hub = True
    monkeypatch.setattr(trainer, "_push_from_checkpoint", lambda checkpoint: None)
    trainer.train()
    assert trainer.args.output_dir == folder
    checkpoint = Path(folder) / "checkpoint-4"
    assert find_fault(checkpoint) is None
    private = "jane.doe" if not is_relative else str(tmp_path)
    names = [path.name for path in checkpoint.iterdir() if private.encode() in path.read_bytes()]
    assert names == ([] if is_relative else ["trainer_state.json"])
    written = torch.load(checkpoint / "training_args.bin", weights_only=False)
    assert (written.hub_model_id, written.hub_strategy) == ("owner/name", trainer.args.hub_strategy)


def test_a_knockoff_is_called_one(tmp_path):
    """Catches a stolen model published as if it were its owner's."""
    args = DistillationConfig(str(tmp_path), **SETTINGS)
    trainer = tiny.DistillationTrainer(
        tiny.vit(1), args, train_dataset=tiny.images(32), teacher=tiny.vit().eval(), attack=KD()
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    training = Certificate.read(tmp_path).training
    assert training.is_knockoff
    assert training.settings["taught by"]["fingerprint"] == trainer.queries.teacher.fingerprint()
    assert "This is a knockoff student" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_whole_checkpoints_need_their_opt_in(tmp_path, strategy):
    """Catches optimizer states and centroids published by a habit."""
    with pytest.raises(ValueError, match=f"Expected hub_whole_checkpoints=True beside hub_strategy='{strategy}'"):
        CMIMConfig(str(tmp_path), push_to_hub=True, hub_strategy=strategy)
    CMIMConfig(str(tmp_path), push_to_hub=True, hub_strategy=strategy, hub_whole_checkpoints=True)
    CMIMConfig(str(tmp_path), hub_strategy=strategy)


# With a Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    running = RunningHub(tmp_path_factory.mktemp("hub"))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def seen(hub, tmp_path_factory):
    """What a process with a token saw and did."""
    folder = tmp_path_factory.mktemp("job")
    environment = hub.environment(home=folder / "home") | {"PYTHONPATH": f"{JOB.parents[1]}:{JOB.parents[2]}"}
    done = subprocess.run([sys.executable, JOB, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "seen.json").read_text(encoding="utf-8"))


PUBLISHED = ["README.md", "cmi_curve.png", "cmim_certificate.json", "config.json", "model.safetensors"]


def test_a_push_sends_the_model_and_its_documents(seen):
    """Catches training_args.bin, results and checkpoints on the Hub."""
    assert seen["pushed"] == PUBLISHED
    assert seen["card"]["tags"] == ["hf_cmim", "cmim", "arxiv:2507.00012", "mine"]
    assert seen["card"]["license"] == "mit"
    assert "hf-cmim verify owner/pushed" in seen["text"]


def test_every_save_sends_what_can_be_verified(seen):
    """Catches a certificate of the weights before, and a push that waits for nothing."""
    assert seen["every_save"] == PUBLISHED
    assert seen["messages"] >= 2  # on a slow machine the first push is still reading when the last save is written
    assert seen["holds"]


def test_whole_checkpoints_go_where_they_were_asked_for_without_the_token(seen):
    """Catches an opt-in that does nothing, one that sends the token, and one that sends a folder not yet whole."""
    assert seen["fault"] is None
    assert "last-checkpoint/cmim_state.safetensors" in seen["whole"]
    assert "last-checkpoint/optimizer.pt" in seen["whole"]
    assert not seen["token_published"]


def test_an_upload_that_failed_is_named(tmp_path, monkeypatch):
    """Catches an upload in the background that fails without a word, as upstream's do."""
    trainer, said = trainer_in(tmp_path), []
    monkeypatch.setattr(publishing.logger, "warning", said.append)
    trainer._finish_current_push()  # nothing was ever pushed
    failed, went_well = Future(), Future()
    failed.set_exception(OSError("the line was cut"))
    went_well.set_result(None)
    trainer.hub_model_id, trainer.push_in_progress = "owner/name", PushInProgress([went_well, failed])
    trainer._finish_current_push()
    trainer._finish_current_push()
    (sentence,) = said
    assert "owner/name failed" in sentence
    assert "the line was cut" in sentence


def test_another_model_is_refused_before_training(seen):
    """Catches hours of training that end with nowhere to go, or on top of someone's model."""
    assert "owner/pushed already holds another model" in seen["refused"]
    assert seen["overwritten"]


def test_the_same_folder_goes_on_pushing(seen):
    """Catches a resumed training that is taken for another model."""
    assert seen["resumed"]
