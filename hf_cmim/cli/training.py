"""Training settings and plan of an audit from the command line."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from transformers.hf_argparser import HfArgumentParser

from hf_cmim.audit.plan import AuditPlan
from hf_cmim.cli.audit_flags import AuditFlags
from hf_cmim.cli.extensions import composed_suite
from hf_cmim.cli.words import nearest
from hf_cmim.errors import HfCmimError
from hf_cmim.report import Attacker
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 20,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "warmup_steps": 0.1,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "remove_unused_columns": False,
    "report_to": "none",
    "save_strategy": "no",
}
"""Default settings for a small student with random initial weights; ours."""
FINE_TUNING = {"num_train_epochs": 5, "learning_rate": 5e-5}
"""Defaults that differ if every student starts from a checkpoint; ours."""
OWN = {
    "output_dir": "Give --output-dir.",
    "seed": "An audit chooses its seeds itself: for screening from 100000, for confirming from 0.",
    "data_seed": "An audit chooses its seeds itself: for screening from 100000, for confirming from 0.",
    "remove_unused_columns": "Choose columns with --image-column, --text-column and --label-column.",
}
"""Settings that an audit chooses itself, with the remedy for an error."""
SHORT_NAMES = {
    "accumulation": "gradient_accumulation_steps",
    "batch_size": "per_device_train_batch_size",
    "bs": "per_device_train_batch_size",
    "clip": "max_grad_norm",
    "cpu": "use_cpu",
    "decay": "weight_decay",
    "device": "use_cpu",
    "epoch": "num_train_epochs",
    "epochs": "num_train_epochs",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_clip": "max_grad_norm",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "steps": "max_steps",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "wd": "weight_decay",
    "workers": "dataloader_num_workers",
}
"""Common short names of settings, for suggestions; ours."""
SMALLEST_POINTS = 0.01
"""Smallest margin in points; a smaller number was probably meant as a fraction."""


def training_settings(
    names_and_values: Sequence[tuple[str, str]] | None, output_dir: str, *, from_checkpoint: bool
) -> DistillationConfig:
    """Return the training settings of every student.

    Args:
        names_and_values: settings by name; the last value of a name counts.
        output_dir: folder of the audit.
        from_checkpoint: True if students start from trained weights.

    Raises:
        HfCmimError: an unknown name, or a value that the setting does not accept.
    """
    defaults = DEFAULTS | (FINE_TUNING if from_checkpoint else {})
    settings = parsed_settings(DistillationConfig, names_and_values, defaults | {"output_dir": output_dir}, OWN)
    assert isinstance(settings, DistillationConfig)
    return settings


def parsed_settings(
    kind: type,
    names_and_values: Sequence[tuple[str, str]] | None,
    defaults: Mapping[str, Any],
    chosen: Mapping[str, str],
) -> Any:
    """Return settings of a dataclass of training arguments from the words after --set.

    Args:
        kind: dataclass of the settings.
        names_and_values: settings by name; the last value of a name counts.
        defaults: default settings of the command.
        chosen: settings that the command chooses itself, with the remedy for an error.

    Raises:
        HfCmimError: an unknown name, or a value that the setting does not accept.
    """
    values = dict(names_and_values or ())
    names = [field.name for field in fields(kind)]
    for name in values:
        if name not in names:
            raise HfCmimError(
                f"Expected settings of {kind.__name__} after --set, got {name!r}: it would have no effect."
                f" {_meant(name, names)}"
            )
        if name in chosen:
            raise HfCmimError(
                f"Expected no {name} after --set, got {values[name]!r}: it would have no effect. {chosen[name]}"
            )
    # A list, because the annotation of HfArgumentParser does not allow a single class.
    parser = HfArgumentParser([kind], exit_on_error=False)  # type: ignore[list-item]
    parser.set_defaults(**defaults)
    try:
        (settings,) = parser.parse_args_into_dataclasses(
            [f"--{name}={value}" for name, value in values.items()], look_for_args_file=False
        )
    except argparse.ArgumentError as error:
        raise HfCmimError(
            f"A setting after --set does not accept its value: {error}. --set NAME=VALUE takes the same values as"
            f" {kind.__name__}."
        ) from error
    # An HfCmimError is a ValueError too, and has good words already.
    except HfCmimError:
        raise
    # Raised by TrainingArguments.
    except ValueError as error:
        raise HfCmimError(f"The settings after --set do not fit together: {error}") from error
    return settings


def _meant(name: str, names: Sequence[str]) -> str:
    """Return a sentence with the setting that was probably meant, by short name or spelling."""
    short = name.lower().lstrip("-").replace("-", "_")
    return f"Did you mean {SHORT_NAMES[short]}?" if short in SHORT_NAMES else nearest(short, names)


def audit_plan(flags: AuditFlags) -> AuditPlan:
    """Return the plan for the flags.

    Raises:
        HfCmimError: a value outside its range.
    """
    names = ("suite", "criterion", "screening_seeds", "final_seeds", "null_families", "diagnosed")
    settings: Mapping[str, Any] = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    if flags.families is not None or flags.attack is not None:
        released_suite = AuditPlan(**settings).attacks
        settings = {**settings, "suite": composed_suite(released_suite, flags.families, flags.attack or ())}
    if flags.attacker is not None:
        settings = {**settings, "attackers": tuple(map(Attacker.parse, flags.attacker))}
    if flags.looks is not None:
        settings = {**settings, "looks": tuple(flags.looks)}
    if flags.margin_points is not None:
        points = flags.margin_points
        if not SMALLEST_POINTS <= points < 100:
            raise HfCmimError(
                f"Expected --margin-points in points of test accuracy, from {SMALLEST_POINTS} to less than 100, got"
                f" {points:g}: was a fraction meant? Half a point, a fraction of 0.005, is --margin-points 0.5."
            )
        settings = {**settings, "margin": points / 100}
    return AuditPlan(**settings)


def check_margin(plan: AuditPlan, num_test: int) -> None:
    """Raise an `HfCmimError` if a margin is finer than three test samples."""
    if plan.margin < 3 / num_test:
        raise HfCmimError(
            f"Expected --margin-points of at least {300 / num_test:.2g} on {num_test} test samples, three of them, got"
            f" {100 * plan.margin:g}: the audit would run to its end without a verdict. Use at least"
            f" {round(3 / plan.margin)} test samples, for instance with --rest-as-test, or a larger margin."
        )
