"""Checks of a distillation before any query or training step."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_cmim.attacks.composition import Composition
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.model import ModelTeacher
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig


def check_distillation_arguments(args: object, keywords: Mapping[str, Any]) -> None:
    """Check the arguments before a Trainer exists.

    Raises:
        HfCmimError: settings of another class, or a loss beside the attack's.
    """
    if not isinstance(args, DistillationConfig):
        raise HfCmimError(
            f"Expected args of class DistillationConfig, got {type(args).__name__}: the attacker's settings would be"
            " missing. DistillationConfig takes every argument of TrainingArguments and adds its own."
        )
    if keywords.get("compute_loss_func") is not None:
        raise HfCmimError(
            f"Expected no compute_loss_func, got {keywords['compute_loss_func']!r}: it would be ignored, because the"
            " attack is the loss. Derive a loss from hf_cmim.attacks.base.AbstractAttack instead."
        )


def check_workers(args: DistillationConfig, transfer_set: Any) -> None:
    """Raise an `HfCmimError` if persistent workers would miss the epochs that the transfer set must be told."""
    if args.dataloader_persistent_workers and hasattr(transfer_set, "set_epoch"):
        raise HfCmimError(
            "Expected dataloader_persistent_workers=False with a transfer set that has set_epoch, got True: the"
            " workers would repeat the views of the first epoch in every epoch. Leave it out."
        )


def as_teacher(teacher: AbstractTeacher | nn.Module | str | None) -> AbstractTeacher | None:
    """Wrap a model or a path in `ModelTeacher`; leave teachers and None as they are.

    Raises:
        HfCmimError: any other type.
    """
    if teacher is None or isinstance(teacher, AbstractTeacher):
        return teacher
    if isinstance(teacher, nn.Module | str):
        return ModelTeacher(teacher)
    raise HfCmimError(
        f"Expected a teacher of hf_cmim.teachers, a model or the path of one, got {type(teacher).__name__}, whose"
        " answers have no known format. For a function use FunctionTeacher(function, class_names=..., returns=...)."
    )


def planned_epochs(args: DistillationConfig, samples: int) -> float:
    """Return the number of passes over a transfer set of that many samples."""
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return float(args.max_steps * batch / samples)


def check_attack(attack: Composition, args: DistillationConfig, samples: int, *, given_optimizer: bool) -> None:
    """Check the attack against the settings of training.

    Args:
        attack: attack to run.
        args: settings of the training.
        samples: size of the transfer set.
        given_optimizer: True if the user built the optimizer.

    Raises:
        HfCmimError: batches too small for a loss that compares samples, or an optimizer or a precision that the attack
            cannot use.
    """
    smallest, batch = attack.loss.smallest_batch, args.per_device_train_batch_size
    # With several processes Accelerate fills up the last batch; with one it stays small.
    last = samples % batch if args.world_size == 1 and not args.dataloader_drop_last else 0
    if batch < smallest or 0 < last < smallest:
        where = "a batch" if batch < smallest else f"the last batch of {samples} samples in batches of {batch}"
        raise HfCmimError(
            f"Expected at least {smallest} samples in each batch, got"
            f" {batch if batch < smallest else last} in {where}: {attack.loss!r} compares the samples of a batch with"
            " each other, and the student would learn nothing. Use another per_device_train_batch_size, or"
            " dataloader_drop_last=True."
        )
    if attack.optimizer_protocol is not None and args.fp16:
        raise HfCmimError(
            f"Expected bf16 or full precision, got fp16=True: {attack.optimizer_protocol!r} would mix scaled and"
            " unscaled gradients. Use bf16=True."
        )
    if given_optimizer and attack.owns_training:
        raise HfCmimError(
            f"Expected no optimizer of your own beside {attack!r}, got one: it would never train the attack's own"
            " parameters. Leave optimizers out, and choose with args.optim."
        )
