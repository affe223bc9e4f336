"""State of an attack in a checkpoint: its parameters, its survey, and the queries paid for."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from hf_cmim.attacks.composition import Composition
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.ledger import QueryLedger

logger = logging.get_logger(__name__)

STATE_NAME = "attack_state.safetensors"
"""Name of the file of the attack's tensors in a checkpoint."""
LEDGER_NAME = "query_ledger.json"
"""Name of the file of the ledger in a checkpoint."""
REPORT_NAME = "distillation.json"
"""Name of the file in output_dir that records attack, teacher and queries."""


def save_attack_state(folder: Path, attack: Composition, teacher: AbstractTeacher | None, ledger: QueryLedger) -> None:
    """Write the attack's state, the teacher's fingerprint and the ledger of all processes into a checkpoint folder."""
    tensors = {name: value.contiguous() for name, value in attack.state_dict().items()}
    metadata = {"attack": repr(attack), "teacher": _fingerprint(teacher)}
    save_file(tensors, folder / STATE_NAME, metadata=metadata)
    (folder / LEDGER_NAME).write_text(json.dumps(ledger.to_dict()), encoding="utf-8")


def load_attack_state(
    folder: Path, attack: Composition, teacher: AbstractTeacher | None, budget: int | None
) -> QueryLedger:
    """Read the attack's state from a checkpoint folder, and return its ledger with the current budget.

    Another teacher than that of the checkpoint is only warned about: stored answers of the same one have another
    fingerprint.

    Raises:
        HfCmimError: the folder has no attack state, or another attack wrote it.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise HfCmimError(
            f"The checkpoint has no attack state {path}: DistillationTrainer did not write it, and the attack would"
            " start anew in the middle of training. Load the weights with from_pretrained and train from the start."
        )
    with safe_open(path, framework="pt") as file:
        written = file.metadata()
    if written["attack"] != repr(attack):
        raise HfCmimError(
            f"Expected a checkpoint of {attack!r}, got one of {written['attack']}: the second half of training"
            " would run another attack. Resume with the attack that wrote the checkpoint."
        )
    # Checkpoints of earlier releases do not name the teacher.
    before, now = written.get("teacher", _fingerprint(teacher)), _fingerprint(teacher)
    if before != now:
        logger.warning(
            f"The checkpoint {folder} was written with another teacher (fingerprint {before[:16]}, now {now[:16]}): if"
            " its answers differ, the student learns from two teachers. Resume with the teacher of the beginning, or"
            " ignore this if only its answers were stored in between."
        )
    attack.load_state_dict(load_file(path))
    # The account goes on, but the budget may have been changed for the resumed run.
    values = json.loads((folder / LEDGER_NAME).read_text(encoding="utf-8"))
    return QueryLedger.from_dict({**values, "budget": budget})


def _fingerprint(teacher: AbstractTeacher | None) -> str:
    return "none" if teacher is None else teacher.fingerprint()


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the report completely or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{REPORT_NAME}.partial"
    partial.write_text(json.dumps(report, indent=1), encoding="utf-8")
    # Atomic: a reader sees the old report or the new one, never a part.
    os.replace(partial, folder / REPORT_NAME)
