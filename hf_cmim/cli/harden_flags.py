"""Flags of `hf-cmim harden`."""

import argparse
from dataclasses import dataclass

from hf_cmim.cli.audit_flags import ProcessFlags, SplitFlags, StudentFlags
from hf_cmim.cli.flags import flag
from hf_cmim.cli.words import name_and_value

TRANSFER_SAMPLES = 2_000
"""Number of training samples that the attacker of the quick audit has; ours."""


@dataclass(frozen=True)
class ModelFlags:
    """The model to harden, and its budget."""

    model: str | None = flag(
        "checkpoint to start from (folder or Hub id), or a transformers configuration (.json) for random weights",
        metavar="PATH",
    )
    processor: str | None = flag("image processor, tokenizer or feature extractor (that of --model)", metavar="PATH")
    accuracy_budget: float | None = flag(
        "largest loss of validation accuracy against the twin, in points (0)", metavar="POINTS", type=float
    )


@dataclass(frozen=True)
class TrainingRowsFlags:
    """Rows to train on."""

    max_train_samples: int | None = flag("largest number of samples to train on", metavar="N", type=int)


@dataclass(frozen=True)
class QuickAuditFlags:
    """Switch of the quick audit."""

    quick_audit: bool | None = flag("audit twin and hardened model (on)", action=argparse.BooleanOptionalAction)


@dataclass(frozen=True)
class AttackFlags:
    """Attackers of the quick audit."""

    max_transfer_samples: int | None = flag(
        f"training samples that the attacker has ({TRANSFER_SAMPLES:,})", metavar="N", type=int
    )
    student_training: list[tuple[str, str]] | None = flag(
        "settings of DistillationConfig for every student",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        type=name_and_value,
    )


@dataclass(frozen=True)
class HardeningRunFlags:
    """Training and files of the search."""

    training: list[tuple[str, str]] | None = flag(
        "settings of CMIMConfig for every training: learning_rate=1e-3 num_train_epochs=10",
        name="--set",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        type=name_and_value,
    )
    output_dir: str | None = flag("folder of models and audit (outputs/hardened)", metavar="DIR")
    quiet: bool | None = flag("show no progress bar", action=argparse.BooleanOptionalAction)


@dataclass(frozen=True)
class HardenFlags(
    ModelFlags,
    SplitFlags,
    TrainingRowsFlags,
    QuickAuditFlags,
    StudentFlags,
    AttackFlags,
    ProcessFlags,
    HardeningRunFlags,
):
    """All flags of a hardening, from the command line and a file."""


GROUPS = {
    "model": (ModelFlags,),
    "data": (SplitFlags, TrainingRowsFlags),
    "quick audit": (QuickAuditFlags, StudentFlags, AttackFlags, ProcessFlags),
    "run": (HardeningRunFlags,),
}
"""Flags by their title in the help."""
