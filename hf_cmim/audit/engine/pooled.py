"""Inputs and results of a pool of students: arms, settings, results."""

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_cmim.attacks.composition import Composition
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig

UNPOOLED = {
    "auto_find_batch_size": False,
    "gradient_checkpointing": False,
    "neftune_noise_alpha": None,
    "deepspeed": None,
    "fsdp": None,
    "dataloader_persistent_workers": False,
    "load_best_model_at_end": False,
    "group_by_length": False,
    "max_grad_value": None,
}
"""Settings of Trainer that the pool does not implement, with the values that turn them off."""


@dataclass(frozen=True)
class PooledArm:
    """One kind of student for the pool.

    Attributes:
        name: name of the result.
        attack: composition of the attack; each student gets a copy.
        teacher: teacher that answers, or None for an arm without one.
    """

    name: str
    attack: Composition
    teacher: AbstractTeacher | None


@dataclass(frozen=True)
class StudentResult:
    """The result of one student.

    Attributes:
        name: name of the arm.
        seed: seed of initialisation, order of the data and augmentation.
        predictions: `(N,)` predicted classes for the valid labels of the evaluation set, in its order.
        steps: optimizer steps taken.
        queries: answers that an attacker would pay for.
        has_diverged: True if a loss was not finite.
        seconds: the student's share of the pool's time.
    """

    name: str
    seed: int
    predictions: NDArray[np.int32]
    steps: int
    queries: int
    has_diverged: bool
    seconds: float


def pooled_arguments(args: DistillationConfig, seed: int) -> DistillationConfig:
    """Return the settings of one student: a copy with its seed, without reports, for one process."""
    student_args = copy.copy(args)
    student_args.seed, student_args.data_seed = seed, None
    student_args.report_to, student_args.disable_tqdm = [], True
    student_args.average_tokens_across_devices = False  # no other process trains this student
    student_args._n_gpu = min(student_args.n_gpu, 1)
    return student_args


def check_can_be_pooled(args: DistillationConfig) -> None:
    """Raise an `HfCmimError` if a setting needs a whole Trainer."""
    unsupported = {
        name: getattr(args, name)
        for name, off in UNPOOLED.items()
        if hasattr(args, name) and getattr(args, name) not in (off, [], {})
    }
    schedules = {"reduce_lr_on_plateau", "greedy"}
    if str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)) in schedules:
        unsupported["lr_scheduler_type"] = args.lr_scheduler_type
    if args.train_sampling_strategy != "random":
        unsupported["train_sampling_strategy"] = args.train_sampling_strategy
    if unsupported:
        raise HfCmimError(
            f"An audit's students do not support {unsupported}: these settings would be ignored, and the students"
            " would differ from those that DistillationTrainer trains. Remove these settings."
        )
