"""What goes into a pool and what comes out: arms, settings, results."""

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_cmim.attacks.composition import Composition
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.trainers.distillation_config import DistillationConfig

UNPOOLED = {
    "auto_find_batch_size": False, "gradient_checkpointing": False, "neftune_noise_alpha": None, "deepspeed": None,
    "fsdp": None, "dataloader_persistent_workers": False,
    "load_best_model_at_end": False, "group_by_length": False, "max_grad_value": None,
}  # fmt: skip
"""Settings of Trainer that the pool has no step for, with the values at which they do nothing."""


@dataclass(frozen=True)
class PooledArm:
    """What one student is trained by.

    Attributes:
        name: of the result.
        attack: the composition; each student gets a copy.
        teacher: who answers, or None for an arm without a teacher.
    """

    name: str
    attack: Composition
    teacher: AbstractTeacher | None


@dataclass(frozen=True)
class StudentResult:
    """How one student ended.

    Attributes:
        name: of the arm.
        seed: of initialisation, order, augmentation.
        predictions: `(N,)` classes named for the valid labels of the evaluation set, in its order.
        steps: optimizer steps taken.
        queries: answers an attacker would have paid for.
        has_diverged: whether a loss was not finite.
        seconds: its share of the pool's time.
    """

    name: str
    seed: int
    predictions: NDArray[np.int32]
    steps: int
    queries: int
    has_diverged: bool
    seconds: float


def pooled_arguments(args: DistillationConfig, seed: int) -> DistillationConfig:
    """Return the settings of one student: the same but for its seed, silent, and of one process."""
    own = copy.copy(args)
    own.seed, own.data_seed = seed, None
    own.report_to, own.disable_tqdm = [], True
    own.average_tokens_across_devices = False  # no other process knows this student
    own._n_gpu = min(own.n_gpu, 1)
    return own


def check_can_be_pooled(args: DistillationConfig) -> None:
    """Raise an `HfCmimError` if settings ask for what only a whole Trainer does."""
    asked = {
        name: getattr(args, name)
        for name, idle in UNPOOLED.items()
        if hasattr(args, name) and getattr(args, name) not in (idle, [], {})
    }
    schedules = {"reduce_lr_on_plateau", "greedy"}
    if str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)) in schedules:
        asked["lr_scheduler_type"] = args.lr_scheduler_type
    if args.train_sampling_strategy != "random":
        asked["train_sampling_strategy"] = args.train_sampling_strategy
    if asked:
        raise HfCmimError(
            f"Expected settings that students in lockstep can share, got {asked}: they would be ignored, and the"
            " students would not be those that DistillationTrainer trains. Leave them out."
        )
