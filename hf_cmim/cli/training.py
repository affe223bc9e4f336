"""The students' training from the command line: settings of `DistillationConfig`, and the plan of the audit."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from transformers.hf_argparser import HfArgumentParser

from hf_cmim.audit.plan import AuditPlan
from hf_cmim.cli.extensions import composed_suite
from hf_cmim.cli.words import nearest
from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.distillation_config import DistillationConfig

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 20, "learning_rate": 1e-3, "weight_decay": 0.05, "warmup_steps": 0.1,
    "per_device_train_batch_size": 64, "per_device_eval_batch_size": 256, "remove_unused_columns": False,
    "report_to": "none", "save_strategy": "no",
}  # fmt: skip
"""What suits a small student trained from nothing; ours."""
FINE_TUNING = {"num_train_epochs": 5, "learning_rate": 5e-5}
"""Instead, where every student starts from a checkpoint; ours."""
OWN = {
    "output_dir": "Give --output-dir.",
    "seed": "An audit numbers its seeds itself: screening ones from 100000, confirming ones from 0.",
    "data_seed": "An audit numbers its seeds itself: screening ones from 100000, confirming ones from 0.",
    "remove_unused_columns": "Choose columns with --image-column, --text-column and --label-column.",
}
"""Settings that are the audit's own."""
SHORT_NAMES = {
    "lr": "learning_rate", "epochs": "num_train_epochs", "epoch": "num_train_epochs", "steps": "max_steps",
    "batch_size": "per_device_train_batch_size", "bs": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size", "wd": "weight_decay", "decay": "weight_decay",
    "warmup": "warmup_steps", "warmup_ratio": "warmup_steps", "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type", "optimizer": "optim", "clip": "max_grad_norm", "grad_clip": "max_grad_norm",
    "accumulation": "gradient_accumulation_steps", "workers": "dataloader_num_workers", "cpu": "use_cpu",
    "device": "use_cpu",
}  # fmt: skip
"""Names by which people call settings, with the settings' own; ours."""
SMALLEST_POINTS = 0.01
"""A margin below this many points is taken for a fraction."""


def training_settings(
    given: Sequence[tuple[str, str]] | None, output_dir: str, *, from_checkpoint: bool
) -> DistillationConfig:
    """Return the settings of every student.

    Args:
        given: names with their values; the last one counts.
        output_dir: of the audit.
        from_checkpoint: whether students start from trained weights.

    Raises:
        HfCmimError: a name that is no setting, or a value it cannot have.
    """
    values = dict(given or ())
    names = [field.name for field in fields(DistillationConfig)]
    for name in values:
        if name not in names:
            raise HfCmimError(
                f"Expected settings of DistillationConfig after --set, got {name!r}: nothing would read it."
                f" {_meant(name, names)}"
            )
        if name in OWN:
            raise HfCmimError(
                f"Expected no {name} after --set, got {values[name]!r}: it would do nothing. {OWN[name]}"
            )
    # Mappings come in a sequence, because the annotation of Hugging Face's parser knows no single class.
    parser = HfArgumentParser([DistillationConfig], exit_on_error=False)  # type: ignore[list-item]
    parser.set_defaults(**DEFAULTS, output_dir=output_dir)
    if from_checkpoint:
        parser.set_defaults(**FINE_TUNING)
    try:
        (settings,) = parser.parse_args_into_dataclasses(
            [f"--{name}={value}" for name, value in values.items()], look_for_args_file=False
        )
    except argparse.ArgumentError as error:
        raise HfCmimError(
            f"Expected values that the settings after --set can have, got another: {error}. --set NAME=VALUE takes"
            " them as DistillationConfig does."
        ) from error
    except HfCmimError:
        raise
    except ValueError as error:  # of TrainingArguments itself
        raise HfCmimError(f"Expected settings after --set that go together, got others: {error}") from error
    assert isinstance(settings, DistillationConfig)
    return settings


def _meant(name: str, names: Sequence[str]) -> str:
    """Return which setting was meant, by its usual short name or else by its spelling."""
    short = name.lower().lstrip("-").replace("-", "_")
    return f"Did you mean {SHORT_NAMES[short]}?" if short in SHORT_NAMES else nearest(short, names)


def audit_plan(options: argparse.Namespace) -> AuditPlan:
    """Return the plan that the flags describe.

    Raises:
        HfCmimError: a value out of its range.
    """
    names = ("suite", "criterion", "screening_seeds", "final_seeds", "null_families", "diagnosed")
    settings: Mapping[str, Any] = {
        name: getattr(options, name) for name in names if getattr(options, name) is not None
    }
    if options.families is not None or options.attack is not None:
        plain = AuditPlan(**settings)
        settings = {**settings, "suite": composed_suite(plain.attacks, options.families, options.attack or ())}
    if options.looks is not None:
        settings = {**settings, "looks": tuple(options.looks)}
    if options.margin_points is not None:
        points = options.margin_points
        if not SMALLEST_POINTS <= points < 100:
            raise HfCmimError(
                f"Expected --margin-points in points of test accuracy, from {SMALLEST_POINTS} to less than 100, got"
                f" {points:g}: was a fraction meant? Half a point, a fraction of 0.005, is --margin-points 0.5."
            )
        settings = {**settings, "margin": points / 100}
    return AuditPlan(**settings)


def check_margin(plan: AuditPlan, num_test: int) -> None:
    """Raise an `HfCmimError` if a margin is finer than a test set can tell."""
    if plan.margin < 3 / num_test:
        raise HfCmimError(
            f"Expected --margin-points of at least {300 / num_test:.2g} on {num_test} test samples, three of them, got"
            f" {100 * plan.margin:g}: the audit would run to its end and could not decide. Test on at least"
            f" {round(3 / plan.margin)} samples, for instance with --rest-as-test, or ask for a wider margin."
        )
