"""What a checkpoint keeps of an attack: its own parameters and survey, and what was paid for so far."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from hf_cmim.attacks.composition import Composition
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.ledger import QueryLedger

STATE_NAME = "attack_state.safetensors"
"""File of the attack's tensors in a checkpoint."""
LEDGER_NAME = "query_ledger.json"
"""File of the queries in a checkpoint."""
REPORT_NAME = "distillation.json"
"""File in output_dir that says what was run and asked."""


def save_attack_state(folder: Path, attack: Composition, ledger: QueryLedger) -> None:
    """Write the attack's state and the account of all processes into a checkpoint folder."""
    tensors = {name: value.contiguous() for name, value in attack.state_dict().items()}
    save_file(tensors, folder / STATE_NAME, metadata={"attack": repr(attack)})
    (folder / LEDGER_NAME).write_text(json.dumps(ledger.to_dict()), encoding="utf-8")


def load_attack_state(folder: Path, attack: Composition, budget: int | None) -> QueryLedger:
    """Read the attack's state from a checkpoint folder, and return the account with the budget that holds now.

    Raises:
        HfCmimError: there is none, or it was written by another attack.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise HfCmimError(
            f"Expected the attack's state {path}, got nothing: DistillationTrainer did not write this checkpoint, and"
            " the attack would start anew in the middle. Load its weights with from_pretrained and train anew."
        )
    with safe_open(path, framework="pt") as file:
        written = file.metadata()["attack"]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    if written != repr(attack):
        raise HfCmimError(
            f"Expected a checkpoint of {attack!r}, got one of {written}: the second half of training would be another"
            " attack. Resume with the attack it was written with."
        )
    attack.load_state_dict(tensors)
    values = json.loads((folder / LEDGER_NAME).read_text(encoding="utf-8"))
    return QueryLedger.from_dict({**values, "budget": budget})


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the report, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{REPORT_NAME}.partial"
    partial.write_text(json.dumps(report, indent=1), encoding="utf-8")
    os.replace(partial, folder / REPORT_NAME)
