"""Checks of folders given by a user, with suggestions for the folder that was meant."""

import difflib
import json
import re
from pathlib import Path

from hf_cmim.errors import HfCmimError, abbreviated
from hf_cmim.report import CERTIFICATE_NAME, REPORT_NAME

MODEL_CONFIG = "config.json"
TRAINER_STATE = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def check_model_folder(path: str, flag: str) -> None:
    """Raise an `HfCmimError` for a folder without a model, or for a path that resembles an existing folder.

    Hub ids and folders with a model pass.

    Args:
        path: folder or Hub id.
        flag: flag of the path, for errors.
    """
    folder = Path(path)
    if folder.is_dir():
        if not (folder / MODEL_CONFIG).is_file():
            raise HfCmimError(f"{flag} {path} contains no model (no {MODEL_CONFIG}): {_inside(folder)}")
        return
    # Any other text may be a Hub id, unless a folder of nearly this name shows that it was mistyped.
    if folder.is_file():
        raise HfCmimError(f"{flag} {path} is a file. Give the folder of a model, for instance {folder.parent}.")
    if similar := similar_paths(folder):
        raise HfCmimError(f"{flag} {path}: no such folder. Did you mean {similar}?")


def _inside(folder: Path) -> str:
    """Return a sentence about the models in a folder's subfolders and the one to use."""
    models = [subfolder for subfolder in folder.iterdir() if (subfolder / MODEL_CONFIG).is_file()]
    if not models:
        return "nor does a folder in it. Save one there with trainer.save_model or model.save_pretrained."
    checkpoints = sorted((model for model in models if CHECKPOINT.fullmatch(model.name)), key=_step)
    if not checkpoints:
        return f"it contains the models {abbreviated(sorted(models))}. Choose one of them."
    choice = f"it contains {len(checkpoints)} checkpoints: {abbreviated(checkpoints)}. Choose one of them:"
    best = _best(checkpoints)
    if best is not None:
        return f"{choice} the best by its trainer is {best}, the last is {checkpoints[-1]}."
    return f"{choice} the last is {checkpoints[-1]}."


def _step(checkpoint: Path) -> int:
    match = CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else 0


def _best(checkpoints: list[Path]) -> Path | None:
    """Return the best checkpoint by the trainer state of the last one; None if it was deleted."""
    # The trainer stores the path at the time of training; the folder may have moved since, so only its name counts.
    try:
        state = json.loads((checkpoints[-1] / TRAINER_STATE).read_text(encoding="utf-8"))
        name = Path(str(state["best_model_checkpoint"])).name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((checkpoint for checkpoint in checkpoints if checkpoint.name == name), None)


def check_audit_folder(path: Path) -> None:
    """Raise an `HfCmimError` for a missing path, or for a folder with audits only in its subfolders."""
    if not path.exists():
        similar = similar_paths(path)
        raise HfCmimError(
            f"No such file or folder {path}: no audit can be read from it."
            f" {f'Did you mean {similar}?' if similar else 'Give the folder of an audit, or its audit.json.'}"
        )
    audits = sorted(report.parent for report in path.glob(f"*/{REPORT_NAME}")) if path.is_dir() else []
    if audits and not any((path / name).is_file() for name in (REPORT_NAME, CERTIFICATE_NAME)):
        raise HfCmimError(
            f"{path} is no audit, but contains {len(audits)}: {abbreviated(audits)}. Choose one or more of them."
        )


def similar_paths(path: Path) -> str:
    """Return the paths beside a missing path with the most similar names, or ""."""
    if not path.parent.is_dir():
        return ""
    names = [neighbour.name for neighbour in path.parent.iterdir()]
    similar = difflib.get_close_matches(path.name, names, n=2, cutoff=0.6)
    return " or ".join(str(path.parent / name) for name in similar)
