"""Checkpoints that say when they are whole.

`Trainer` writes straight into `checkpoint-N`. A write that was cut is later taken as the newest checkpoint, and one
without optimizer state resumes silently with a fresh optimizer. A marker, written last, lists every file with its
size; a folder without it, or that differs from it, is not resumed from.
"""

import json
import os
import re
from pathlib import Path

MARKER_NAME = "checkpoint_complete.json"
"""File written last into a checkpoint folder."""


def clear_marker(folder: Path) -> None:
    """Remove the marker before a folder is written again, so that a cut write cannot hide behind it."""
    (folder / MARKER_NAME).unlink(missing_ok=True)


def write_marker(folder: Path, global_step: int, resumable: bool) -> None:
    """Declare the folder whole.

    Args:
        folder: checkpoint folder whose files are all written.
        global_step: optimizer steps done.
        resumable: whether it holds the training state and not the model alone.
    """
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER_NAME
    }
    content = {"format": 1, "global_step": global_step, "resumable": resumable, "files": sizes}
    partial = folder / f"{MARKER_NAME}.partial"
    with partial.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MARKER_NAME)


def find_fault(folder: Path) -> str | None:
    """Return why training cannot resume from the folder, or None when it can."""
    marker = folder / MARKER_NAME
    if not folder.is_dir():
        return "there is no such folder"
    if not marker.is_file():
        return f"it has no {MARKER_NAME}: the write was cut, or a trainer without markers wrote it"
    content = json.loads(marker.read_text())
    for name, size in content["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    if not content["resumable"]:
        return "it was written with save_only_model=True and has no optimizer state"
    return None


def last_complete_checkpoint(output_dir: Path) -> tuple[Path | None, dict[str, str]]:
    """Return the newest folder that can be resumed from, and the newer ones passed over with the reason."""
    skipped: dict[str, str] = {}
    numbered = [
        (int(match.group(1)), path)
        for path in (output_dir.iterdir() if output_dir.is_dir() else ())
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and path.is_dir()
    ]
    for _, path in sorted(numbered, reverse=True):
        fault = find_fault(path)
        if fault is None:
            return path, skipped
        skipped[path.name] = fault
    return None, skipped
