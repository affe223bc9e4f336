"""Files of an audit that survive a kill: every finished student is stored completely or not at all."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hf_cmim.audit.engine.pooled import StudentResult
from hf_cmim.errors import HfCmimError
from hf_cmim.plain_data import read_json, read_mapping
from hf_cmim.whole_files import write_whole

MANIFEST_NAME = "manifest.json"
"""File of everything that determines the folder's students."""
SITTINGS_NAME = "sittings.json"
"""File with date, device and versions of each start or continuation."""
STUDENTS_NAME = "students"
"""Folder of finished students, one file each."""
LOCK_NAME = "lock"
CONTROL = "control, "
"""Prefix of the manifest's entries for control teachers."""
ATTACKER = "attacker, "
"""Prefix of the manifest's entries for the samples of attackers."""


@final
class AuditFolder:
    """A folder of finished students, which one audit at a time may use.

    Args:
        path: path of the folder, which is created if missing.
        manifest: everything that determines the students: fingerprints of data, student and teachers, settings, plan.
        is_main: True in the process that writes manifest and lock, False in the other processes of a launch.

    Raises:
        HfCmimError: a folder in use by another audit, or one that was made by another audit.
    """

    def __init__(self, path: str | Path, manifest: Mapping[str, Any], *, is_main: bool = True) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / LOCK_NAME) if is_main else None
        if self._lock is None:
            return
        (self.path / STUDENTS_NAME).mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise HfCmimError(
                f"Another audit is running in {self.path}: both would train and write the same students. Wait for it"
                " to end, or choose another output_dir."
            ) from None
        try:
            self._check_manifest(json.loads(json.dumps(manifest)))
        except BaseException:
            self.close()
            raise

    def _check_manifest(self, manifest: dict[str, Any]) -> None:
        path = self.path / MANIFEST_NAME
        if not path.is_file():
            write_whole(path, json.dumps(manifest, indent=1))
            return
        stored = read_mapping(path, f"the audit's {path}")
        # Controls and attackers may be added or left out: students are stored under the fingerprint of the teacher
        # they know, and of the samples they learn from.
        optional = {name for name in {*stored} ^ {*manifest} if name.startswith((CONTROL, ATTACKER))}
        differences = [
            f"{name}: {_short(stored.get(name))} there, {_short(manifest.get(name))} now"
            for name in sorted({*stored, *manifest} - optional)
            if stored.get(name) != manifest.get(name)
        ]
        if differences:
            raise HfCmimError(
                f"{self.path} belongs to another audit: {'; '.join(differences)}. Its students cannot be compared with"
                " those of this audit. Use the settings of the first audit, or another output_dir."
            )
        write_whole(path, json.dumps({**stored, **manifest}, indent=1))

    def close(self) -> None:
        """Release the folder for other audits."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Students

    def _student_path(self, key: str, seed: int, data: str) -> Path:
        return self.path / STUDENTS_NAME / f"{key}-{data}-{seed}.safetensors"

    def write(self, key: str, data: str, result: StudentResult) -> None:
        """Store a finished student.

        Args:
            key: key of its arm.
            data: name of the split on which it was evaluated.
            result: result of the student.
        """
        path = self._student_path(key, result.seed, data)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        facts = {name: value for name, value in asdict(result).items() if name != "predictions"}
        save_file({"predictions": result.predictions}, partial, metadata={"facts": json.dumps(facts)})
        # After the sync, the rename is atomic: a kill leaves the whole file or none.
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)

    def has(self, key: str, data: str, seed: int) -> bool:
        """Return True if a student is finished."""
        return self._student_path(key, seed, data).is_file()

    def read(self, key: str, data: str, seed: int) -> StudentResult:
        """Return a finished student.

        Raises:
            HfCmimError: the file is damaged.
        """
        path = self._student_path(key, seed, data)
        try:
            with safe_open(path, framework="np") as file:
                facts = json.loads(file.metadata()["facts"])
                predictions = file.get_tensor("predictions")
            return StudentResult(predictions=predictions.astype(np.int32), **facts)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise HfCmimError(
                f"{path} is damaged ({error}): the result of this student is lost. Delete the file, and the audit"
                " trains the student again."
            ) from error

    # Sittings

    def begin_sitting(self, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Record a start or continuation of the audit, and return all sittings."""
        path = self.path / SITTINGS_NAME
        sittings: list[dict[str, Any]] = _sittings(path) if path.is_file() else []
        sittings.append(dict(facts))
        write_whole(path, json.dumps(sittings, indent=1))
        return sittings


def _sittings(path: Path) -> list[dict[str, Any]]:
    sittings = read_json(path, f"the audit's {path}")
    if not isinstance(sittings, list):
        raise HfCmimError(
            f"{path} is no list of sittings: it was changed by hand. Delete it; finished students are not lost."
        )
    return sittings


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
