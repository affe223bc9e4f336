"""Folders that a user named and that are not what a flag takes: what was meant."""

import difflib
import json
import re
from pathlib import Path

from hf_cmim.errors import HfCmimError
from hf_cmim.report import CERTIFICATE_NAME, REPORT_NAME

MODEL_CONFIG = "config.json"
TRAINER_STATE = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
SHOWN = 8


def check_model_folder(path: str, flag: str) -> None:
    """Raise an `HfCmimError` for a folder that holds no model, or for a path that looks like a folder and is none.

    An id of the Hub passes, and so does a folder with a model.

    Args:
        path: folder or Hub id.
        flag: flag that it was given to.
    """
    folder = Path(path)
    if folder.is_dir():
        if not (folder / MODEL_CONFIG).is_file():
            raise HfCmimError(f"{flag} {path} holds no model (no {MODEL_CONFIG}): {_inside(folder)}")
        return
    if folder.is_file():
        raise HfCmimError(f"{flag} {path} is a file: the folder of a model is needed, for instance {folder.parent}.")
    if similar := similar_paths(folder):
        raise HfCmimError(f"{flag} {path}: there is no such folder. Did you mean {similar}?")


def _inside(folder: Path) -> str:
    """Return which models are in a folder's subfolders, and which one to take."""
    models = [each for each in folder.iterdir() if (each / MODEL_CONFIG).is_file()]
    if not models:
        return "nor does a folder in it. Save one there with trainer.save_model or model.save_pretrained."
    checkpoints = sorted((each for each in models if CHECKPOINT.fullmatch(each.name)), key=_step)
    if not checkpoints:
        return f"it holds the models {_listed(sorted(models))}. Name one of them."
    said = f"it holds {len(checkpoints)} checkpoints: {_listed(checkpoints)}. Name one of them:"
    best = _best(checkpoints)
    if best is not None:
        return f"{said} the best by its trainer is {best}, the last is {checkpoints[-1]}."
    return f"{said} the last is {checkpoints[-1]}."


def _step(checkpoint: Path) -> int:
    matched = CHECKPOINT.fullmatch(checkpoint.name)
    return int(matched[1]) if matched else 0


def _best(checkpoints: list[Path]) -> Path | None:
    """Return the checkpoint that the last one's trainer state calls the best, where it is still there."""
    try:
        state = json.loads((checkpoints[-1] / TRAINER_STATE).read_text(encoding="utf-8"))
        name = Path(str(state["best_model_checkpoint"])).name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((each for each in checkpoints if each.name == name), None)


def check_audit_folder(path: Path) -> None:
    """Raise an `HfCmimError` for a path that is not there, or that holds audits in its subfolders only."""
    if not path.exists():
        similar = similar_paths(path)
        raise HfCmimError(
            f"There is no {path}: no audit can be read from it."
            f" {f'Did you mean {similar}?' if similar else 'Name the folder of an audit, or its audit.json.'}"
        )
    inside = sorted(each.parent for each in path.glob(f"*/{REPORT_NAME}")) if path.is_dir() else []
    if inside and not any((path / name).is_file() for name in (REPORT_NAME, CERTIFICATE_NAME)):
        raise HfCmimError(f"{path} is no audit, but holds {len(inside)}: {_listed(inside)}. Name one or more of them.")


def similar_paths(path: Path) -> str:
    """Return the paths beside a path that is not there whose names are spelt most like its own, or nothing."""
    if not path.parent.is_dir():
        return ""
    names = [each.name for each in path.parent.iterdir()]
    similar = difflib.get_close_matches(path.name, names, n=2, cutoff=0.6)
    return " or ".join(str(path.parent / name) for name in similar)


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths[:SHOWN])) + (", ..." if len(paths) > SHOWN else "")
