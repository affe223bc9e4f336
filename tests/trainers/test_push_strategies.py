"""Every strategy of pushing, for a classifier and for an adapter, against a Hub on loopback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub.running_hub import RunningHub

JOB = Path(__file__).with_name("strategies_job.py")
FILES = {
    "model": ["README.md", "cmim_certificate.json", "config.json", "model.safetensors"],
    "adapter": ["README.md", "adapter_config.json", "adapter_model.safetensors"],
}
CHECKPOINTS = {
    "end": [],
    "every_save": [],
    "checkpoint": ["last-checkpoint"],
    "all_checkpoints": ["checkpoint-2", "checkpoint-4"],
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    hub = RunningHub(tmp_path_factory.mktemp("hub"))
    folder = tmp_path_factory.mktemp("job")
    try:
        environment = hub.environment(home=folder / "home") | {"PYTHONPATH": f"{JOB.parents[1]}:{JOB.parents[2]}"}
        done = subprocess.run([sys.executable, JOB, folder], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
    finally:
        hub.kill()
    return json.loads((folder / "seen.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("strategy", CHECKPOINTS)
@pytest.mark.parametrize("kind", FILES)
def test_every_strategy_sends_what_a_stranger_can_load(seen, kind, strategy):
    """Catches a run that dies in its first push, a push without the model, and one of other weights."""
    pushed = seen[f"{kind} {strategy}"]
    assert pushed["files"] == FILES[kind]
    assert pushed["before the end"] == ([] if strategy == "end" else FILES[kind])
    assert pushed["checkpoints"] == CHECKPOINTS[strategy]
    assert pushed["faults"] == [None] * len(pushed["checkpoints"])
    assert pushed["difference"] == 0
    assert pushed["holds"]


def test_the_card_of_an_adapter_names_its_base(seen):
    """Catches a card by which the Hub could not tell that this is an adapter, and of what."""
    card = seen["adapter end"]["card"]
    assert (card["library_name"], card["base_model"]) == ("peft", "owner/base")
    assert card["tags"] == ["hf_cmim", "cmim", "arxiv:2507.00012"]


def test_an_adapter_goes_on_pushing_and_another_is_refused(seen):
    """Catches an adapter that a resumed training takes for another's, and one that overwrites another's."""
    assert seen["resumed"]
    assert "already holds another model (adapter_model.safetensors)" in seen["another"]


def test_a_model_with_code_is_published_without_a_certificate(seen):
    """Catches a class left behind, without which the weights are useless, and a certificate of code."""
    assert seen["code"] == ["README.md", "config.json", "model.safetensors", "public_vit.py"]
    assert seen["code difference"] == 0
    assert "It has no certificate" in seen["code card"]
    assert "trust_remote_code=True" in seen["code card"]


def test_a_student_with_an_adapter_is_published(seen):
    """Catches the sibling trainer left behind."""
    assert seen["student"] == FILES["adapter"]
