"""Markers that tell complete checkpoints from cut ones.

`Trainer` writes directly into `checkpoint-N`. After an interrupted write it takes the folder as the newest checkpoint,
and without an optimizer state it resumes silently with a fresh optimizer. So we write a marker last, which lists every
file with its size. Training resumes only from a folder that matches its marker.
"""

import json
import os
import re
from pathlib import Path

MARKER_NAME = "checkpoint_complete.json"
"""Name of the file written last into a checkpoint folder."""


def clear_marker(folder: Path) -> None:
    """Remove the marker before a folder is written again, so that a cut write cannot hide behind it."""
    (folder / MARKER_NAME).unlink(missing_ok=True)


def write_marker(folder: Path, global_step: int, resumable: bool) -> None:
    """Mark the folder as complete.

    Args:
        folder: checkpoint folder whose files are all written.
        global_step: optimizer steps done.
        resumable: True if the folder holds the training state, not only the model.
    """
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER_NAME
    }
    content = {"format": 1, "global_step": global_step, "resumable": resumable, "files": sizes}
    # Synced before it gets its name: even after a power cut a marker is complete or absent.
    partial = folder / f"{MARKER_NAME}.partial"
    with partial.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / MARKER_NAME)


def find_fault(folder: Path) -> str | None:
    """Return the reason why training cannot resume from the folder, or None if it can."""
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
    """Return the newest folder to resume from, and the newer folders that were skipped, with the reasons."""
    skipped: dict[str, str] = {}
    checkpoints: list[tuple[int, Path]] = []
    for path in output_dir.iterdir() if output_dir.is_dir() else ():
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            checkpoints.append((int(match.group(1)), path))
    # By number: in the order of the names, checkpoint-9 would be newer than checkpoint-10.
    for _, path in sorted(checkpoints, reverse=True):
        fault = find_fault(path)
        if fault is None:
            return path, skipped
        skipped[path.name] = fault
    return None, skipped
