"""A distillation on augmented data whose teacher remembers what it was shown; also a job for `torchrun`.

torchrun --nproc_per_node 2 epoch_job.py FOLDER '{"num_train_epochs": 2}'
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny
from accelerate.utils import gather_object

from hf_cmim import DistillationTrainer
from hf_cmim.attacks import KD
from hf_cmim.teachers.function import FunctionTeacher
from hf_cmim.trainers.distillation.transfer_data import Repeatable

SIZE = 24
View = tuple[int, tuple[float, ...]]


class Augmented(torch.utils.data.Dataset):
    """Images that are noise from the generators of Python, NumPy and torch, one number each, behind their position."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> dict[str, Any]:
        if not 0 <= position < self.size:
            torch.rand(())
            raise IndexError(position)
        noise = torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))])
        pixels = torch.zeros(1, 8, 8)
        pixels[0, 0, :4] = torch.cat([torch.tensor([float(position)]), noise])
        return {"pixel_values": pixels, "noise": noise, "labels": int(position) % tiny.NUM_LABELS}


class Recorder:
    """A teacher's function that remembers each view, in the order in which it was asked.

    Args:
        size: samples that it is shown in an epoch.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.views: list[View] = []

    def __call__(self, inputs: Any) -> torch.Tensor:
        rows = inputs["pixel_values"][:, 0, 0, :4].tolist()
        self.views += [(int(position), tuple(noise)) for position, *noise in rows]
        return torch.zeros(len(rows), tiny.NUM_LABELS).log_softmax(-1)

    def epochs(self) -> list[dict[int, tuple[float, ...]]]:
        starts = range(0, len(self.views), self.size)
        return [dict(self.views[start : start + self.size]) for start in starts]


def train(
    folder: Path, samples: Any, recorder: Recorder, *, resume: bool = False, **changes: Any
) -> DistillationTrainer:
    student = tiny.vit(1)
    names = [student.config.id2label[number] for number in range(tiny.NUM_LABELS)]
    trainer = tiny.distillation_trainer(
        student, Repeatable(samples, 7), folder, KD(), FunctionTeacher(recorder, class_names=names), **changes
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    recorder = Recorder(SIZE // 2)
    trainer = train(folder, Augmented(SIZE), recorder, per_device_train_batch_size=4, **settings)
    of_each = gather_object([recorder.epochs()])
    if trainer.is_world_process_zero():
        torch.save({"epochs": of_each, "world_size": trainer.accelerator.num_processes}, folder / "result.pt")
    trainer.accelerator.wait_for_everyone()  # a rank that leaves early can leave the other hanging at exit
    (trainer.model_wrapped,) = trainer.accelerator.free_memory(trainer.model_wrapped)  # or frees DDP after the group
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
