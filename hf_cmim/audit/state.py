"""What an audit keeps on disk, so that it survives being killed: every finished student, whole or not at all."""

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

from hf_cmim.audit.pooled import StudentResult
from hf_cmim.errors import HfCmimError
from hf_cmim.plain_data import read_json, read_mapping
from hf_cmim.whole_files import write_whole

MANIFEST_NAME = "manifest.json"
"""What the folder's students were trained on and with."""
SITTINGS_NAME = "sittings.json"
"""When, where and with what the audit was started or continued."""
STUDENTS_NAME = "students"
"""Folder of finished students, a file each."""
LOCK_NAME = "lock"
CONTROL = "control, "
"""How the manifest's entries of control teachers begin."""


@final
class AuditFolder:
    """A folder of finished students that only one audit at a time writes to.

    Args:
        path: the folder; made where it is not there.
        manifest: what determines the students: fingerprints of data, student, settings and teachers, and the plan.
        is_main: whether this process writes manifest and lock; the others of one launch follow.

    Raises:
        HfCmimError: another audit runs there, or the folder belongs to another one; the differences are named.
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
                f"Expected a folder that no other audit uses, got {self.path}: a second one would train the same"
                " students again, and both would write them. Wait for it, or choose another output_dir."
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
        known = read_mapping(path, f"the audit's {path}")
        # Controls may come later or stay away: a student is kept under the fingerprint of the teacher it knows.
        controls = {name for name in {*known} ^ {*manifest} if name.startswith(CONTROL)}
        different = [
            f"{name}: {_short(known.get(name))} there, {_short(manifest.get(name))} now"
            for name in sorted({*known, *manifest} - controls)
            if known.get(name) != manifest.get(name)
        ]
        if different:
            raise HfCmimError(
                f"Expected the audit that {self.path} was made by, got another: {'; '.join(different)}. Its students"
                " would be compared with ones trained on or with something else. Use what it was made with, or"
                " another output_dir."
            )
        write_whole(path, json.dumps({**known, **manifest}, indent=1))

    def close(self) -> None:
        """Let others use the folder."""
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
        """Keep a finished student.

        Args:
            key: of its arm.
            data: name of the split it was evaluated on.
            result: how it ended.
        """
        path = self._student_path(key, result.seed, data)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        facts = {name: value for name, value in asdict(result).items() if name != "predictions"}
        save_file({"predictions": result.predictions}, partial, metadata={"facts": json.dumps(facts)})
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)

    def has(self, key: str, data: str, seed: int) -> bool:
        """Return whether a student was finished."""
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
                f"Expected a finished student in {path}, got a damaged file ({error}): its result is lost. Delete the"
                " file, and the audit trains this student again."
            ) from error

    # Sittings

    def begin_sitting(self, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Note that the audit was started or continued, and return all sittings."""
        path = self.path / SITTINGS_NAME
        sittings: list[dict[str, Any]] = _sittings(path) if path.is_file() else []
        sittings.append(dict(facts))
        write_whole(path, json.dumps(sittings, indent=1))
        return sittings


def _sittings(path: Path) -> list[dict[str, Any]]:
    sittings = read_json(path, f"the audit's {path}")
    if not isinstance(sittings, list):
        raise HfCmimError(f"{path} lists no sittings: it was changed by hand. Delete it; the students stay.")
    return sittings


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
