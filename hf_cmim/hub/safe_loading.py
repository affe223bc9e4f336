"""Fingerprint of the model that transformers loads from the certified files, with no other file in reach."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.model import ModelTeacher


@contextmanager
def certified_copy(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Give a temporary folder of links to the certified files, so that a loader can find no other file."""
    with TemporaryDirectory(prefix="hf_cmim-") as temporary:
        # transformers prefers files by name, and one that it prefers may lie beside the certified ones.
        copy = Path(temporary) / "model"
        copy.mkdir()
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).symlink_to((folder / name).resolve())
        yield copy


def loaded_fingerprint(folder: Path, names: Collection[str]) -> str:
    """Return the fingerprint of the model that transformers loads from the certified files of a folder.

    Raises:
        HfCmimError: transformers cannot load it from these files.
    """
    with certified_copy(folder, names) as copy:
        try:
            return ModelTeacher(copy).fingerprint()
        except HfCmimError as error:
            raise HfCmimError(str(error).replace(str(copy), str(folder))) from error
