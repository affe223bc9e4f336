"""kill -9 at any moment, inside a save too, then resume: the run ends as if nothing had happened."""

import os
import random
import signal
import threading
from pathlib import Path

import pytest
import tiny
import torch
from trainers.killing import assert_a_cut_checkpoint_is_passed_over, die_in_write, lives
from transformers import TrainerCallback

from hf_cmim.trainers.shared.checkpoints import find_fault, last_complete_checkpoint

pytestmark = pytest.mark.slow
WRITES_OF_A_CHECKPOINT = 9
"""Weights, arguments, optimizer, bank, scheduler, random states, trainer state, arguments again, marker."""


def train(folder: Path, after: int | None = None, later: tuple[int, float] | None = None) -> None:
    """Train for 24 steps with a checkpoint every 2, resuming where that is possible.

    Die in write number `after`, or so many steps and seconds `later`.
    """
    if after is not None:
        die_in_write(after)
    trainer = tiny.cmim_trainer(
        tiny.vit(dropout=0.1), tiny.images(64), folder, optim="adamw_torch", learning_rate=3e-3, num_train_epochs=3,
        save_strategy="steps", save_steps=2, save_total_limit=1, cmi_warmup=0.1, cmi_ramp=0.3, logging_strategy="no",
    )  # fmt: skip
    if later is not None:
        trainer.add_callback(DieLater(*later))
    found, _ = last_complete_checkpoint(folder)
    trainer.train(resume_from_checkpoint=found is not None)
    torch.save((tiny.weights(trainer.model), trainer.bank.state_dict()), folder / "result.pt")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert lives(train, folder) == 0
    return torch.load(folder / "result.pt")


def assert_as_if_nothing_happened(folder: Path, expected) -> None:
    weights, bank = torch.load(folder / "result.pt")
    assert tiny.largest_difference(expected[0], weights) == 0
    assert tiny.largest_difference(expected[1], bank) == 0


@pytest.mark.parametrize("write", range(1, WRITES_OF_A_CHECKPOINT + 1))
def test_killed_inside_a_save(write: int, uninterrupted, tmp_path):
    """Catches each file of a checkpoint that, cut in the middle, would still be resumed from."""
    assert_a_cut_checkpoint_is_passed_over(tmp_path, train, 2 * WRITES_OF_A_CHECKPOINT + write)
    assert_as_if_nothing_happened(tmp_path, uninterrupted)


def test_the_writes_are_counted_right(tmp_path):
    """Shows that the cases above end with the marker: one write later the third checkpoint is whole."""
    assert lives(train, tmp_path, 3 * WRITES_OF_A_CHECKPOINT + 1) == -signal.SIGKILL
    assert find_fault(tmp_path / "checkpoint-6") is None


class DieLater(TrainerCallback):
    """Kill the process some time after its n-th step, or after its start, whatever it does then.

    Steps, not seconds of a whole run: on a busy machine any delay is too long or too short.
    """

    def __init__(self, steps: int, seconds: float) -> None:
        self.steps_left = steps
        self.timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))

    def on_train_begin(self, *_, **__) -> None:
        if self.steps_left == 0:
            self.timer.start()

    def on_step_end(self, *_, **__) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            self.timer.start()


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(seed: int, uninterrupted, tmp_path):
    """Catches what the cases above forgot: the process dies again and again, anywhere."""
    delays = random.Random(seed)
    codes = [lives(train, tmp_path, None, (delays.randint(1, 6), delays.uniform(0, 0.02)))]
    while codes[-1] != 0 and len(codes) < 20:
        codes.append(lives(train, tmp_path, None, (delays.randint(0, 6), delays.uniform(0, 0.02))))
    if codes[-1] != 0:
        assert lives(train, tmp_path) == 0
    assert codes[0] == -signal.SIGKILL, "it was never killed"
    assert_as_if_nothing_happened(tmp_path, uninterrupted)
