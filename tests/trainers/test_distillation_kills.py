"""kill -9 inside each write of a distillation's checkpoint, then resume: attack and account of queries included."""

import json
import signal
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from trainers.killing import assert_a_cut_checkpoint_is_passed_over, die_in_write, lives

from hf_cmim import Composition, Relative
from hf_cmim.attacks import KD, MarkovKD
from hf_cmim.trainers.distillation.attack_state import REPORT_NAME
from hf_cmim.trainers.shared.checkpoints import find_fault, last_complete_checkpoint

pytestmark = pytest.mark.slow
WRITES_OF_A_CHECKPOINT = 10
"""Weights, arguments, optimizer, scheduler, attack, queries, random states, trainer state, arguments again, marker."""
ATTACKS = {
    "without state": KD(),
    "with a survey and parameters": Composition(KD(temperature=Relative(1.0)), MarkovKD(learning_rate_factor=1.0)),
}
by_attack = pytest.mark.parametrize("name", ATTACKS)


def train(name: str, folder: Path, after: int | None) -> None:
    """Train for 6 steps with a checkpoint every 2, resuming where that is possible; die in write number `after`."""
    if after is not None:
        die_in_write(after)
    trainer = tiny.distillation_trainer(
        tiny.vit(dropout=0.1), tiny.images(48), folder, ATTACKS[name], tiny.vit(5).eval(), optim="adamw_torch",
        learning_rate=3e-3, save_strategy="steps", save_steps=2, save_total_limit=1, logging_strategy="no",
    )  # fmt: skip
    found, _ = last_complete_checkpoint(folder)
    trainer.train(resume_from_checkpoint=found is not None)
    torch.save((tiny.weights(trainer.model), dict(trainer.attack.state_dict())), folder / "result.pt")


def what_came_out(folder: Path):
    weights, attack = torch.load(folder / "result.pt")
    return weights, attack, json.loads((folder / REPORT_NAME).read_text())["queries"]["paid"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    tiny.vit().save_pretrained(tmp_path_factory.mktemp("once"))  # builds here what each life would build anew
    results = {}
    for name in ATTACKS:
        folder = tmp_path_factory.mktemp("uninterrupted")
        assert lives(train, name, folder, None) == 0
        results[name] = what_came_out(folder)
    return results


@by_attack
@pytest.mark.parametrize("write", range(1, WRITES_OF_A_CHECKPOINT + 1))
def test_killed_inside_a_save(name, write, uninterrupted, tmp_path):
    """Catches each file that, cut in the middle, would still be resumed from, and a state that starts anew."""
    assert_a_cut_checkpoint_is_passed_over(tmp_path, partial(train, name), 2 * WRITES_OF_A_CHECKPOINT + write)
    for expected, found in zip(uninterrupted[name][:2], what_came_out(tmp_path)[:2], strict=True):
        assert all(torch.allclose(expected[key], found[key], rtol=0, atol=0, equal_nan=True) for key in expected)
    assert what_came_out(tmp_path)[2] == uninterrupted[name][2]


@by_attack
def test_the_writes_are_counted_right(name, tmp_path):
    """Shows that the cases above end with the marker: one write later the third checkpoint is whole."""
    assert lives(train, name, tmp_path, 3 * WRITES_OF_A_CHECKPOINT + 1) == -signal.SIGKILL
    assert find_fault(tmp_path / "checkpoint-6") is None
