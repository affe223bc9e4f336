"""Trainings in processes of their own that die by kill -9 inside a write, and what must hold of what they leave."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forked import ended, start

from hf_cmim.trainers.distillation import attack_state
from hf_cmim.trainers.hardening import hardening_state
from hf_cmim.trainers.shared import checkpoints
from hf_cmim.trainers.shared.checkpoints import find_fault


def lives(train: Callable[..., None], *args: Any) -> int:
    """Return how a training in a process of its own ended."""
    (exit_code,) = ended(start(train, *args))
    return exit_code


def die_in_write(number: int) -> None:
    """Make the `number`-th file written for checkpoints end half-way, with the process."""
    import transformers.modeling_utils
    from transformers import TrainerState

    writes = 0

    def counted(original, path_of):
        def write(*args, **kwargs):
            nonlocal writes
            writes += 1
            result = original(*args, **kwargs)
            if writes == number:
                path = path_of(*args)
                if path is not None:
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return write

    def second(_, path, *args):
        return Path(path)

    transformers.modeling_utils.safe_save_file = counted(transformers.modeling_utils.safe_save_file, second)
    torch.save = counted(torch.save, second)
    hardening_state.save_file = counted(hardening_state.save_file, second)
    attack_state.save_file = counted(attack_state.save_file, second)
    Path.write_text = counted(Path.write_text, lambda path, *_: path)
    TrainerState.save_to_json = counted(TrainerState.save_to_json, second)
    # The marker: its temporary file is complete, its name is not there yet.
    checkpoints.os.fsync = counted(checkpoints.os.fsync, lambda _: None)


def assert_a_cut_checkpoint_is_passed_over(
    folder: Path, train: Callable[[Path, int | None], None], write: int
) -> None:
    """Kill a training that saves every 2 steps in a write of its checkpoint at step 6, then let another finish.

    Only the checkpoint before is left when the third is cut: rotating before the marker would lose both.

    Args:
        folder: output_dir of both.
        train: trains in a folder, dying in the write whose number is given.
        write: number of the write, counted from the start of training.
    """
    assert lives(train, folder, write) == -signal.SIGKILL
    folders = {path.name: find_fault(path) for path in folder.glob("checkpoint-*")}
    assert folders.pop("checkpoint-4") is None
    assert folders["checkpoint-6"] is not None, "the cut was not inside the third checkpoint"
    assert lives(train, folder, None) == 0
