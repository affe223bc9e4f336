"""Files that are whole or not there, read with a bound, written through no link."""

import errno
import os
import re
import stat
from pathlib import Path

from hf_cmim.errors import HfCmimError

MOST_BYTES = 64_000_000
"""Largest file that is read into memory at once: 100 times a certificate with an audit."""
PARTIAL = re.compile(r"(?P<name>.+)\.(?P<process>\d+)\.partial")
"""Name of a file that a process was still writing when it was killed."""


def read_bounded(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file.

    Args:
        path: of the file.
        most_bytes: size above which it is not read.

    Raises:
        HfCmimError: no such file, a device or a pipe, a file that is too large, or no right to read it.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise HfCmimError(f"{path} is no file but a folder, a device or a pipe: nothing is read from it.")
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise HfCmimError(f"{path} cannot be read: {error.strerror}. Check its name and its rights.") from error
    if len(content) > most_bytes:
        raise HfCmimError(
            f"{path} has {facts.st_size:,} bytes, more than the {most_bytes:,} that such a file may have: reading it"
            " could take all memory. Take the original."
        )
    return content


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, after any kill, finds all of it or what was there before.

    What an earlier process was killed over (`NAME.PROCESS.partial`) is removed.

    Args:
        path: of the file; not a link, which could lead to a file elsewhere.
        content: bytes, or a text that is written as UTF-8.

    Raises:
        HfCmimError: a link in the place of the file, a full disk, or no right to write there.
    """
    if path.is_symlink():
        raise HfCmimError(
            f"{path} is a link to {os.readlink(path)}: writing through it would change a file elsewhere. Remove the"
            " link."
        )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        encoded = content.encode("utf-8") if isinstance(content, str) else content
        _remove_partials(path)
        _write_new(partial, encoded)
        os.replace(partial, path)
    except UnicodeEncodeError as error:
        raise HfCmimError(
            f"The text for {path} holds half a letter ({error.object[error.start : error.end]!a}), which no file in"
            " UTF-8 can hold. Look for it among your own names."
        ) from None
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HfCmimError(f"{path} cannot be written: {_remedy(error)} What was there before is unchanged.") from error


def _write_new(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
        file.write(content)


def _remove_partials(path: Path) -> None:
    for other in path.parent.glob(f"{_literal(path.name)}.*.partial"):
        match = PARTIAL.fullmatch(other.name)
        if match is not None and not _is_running(int(match["process"])):
            other.unlink(missing_ok=True)


def _literal(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)


def _is_running(process: int) -> bool:
    """Return whether another process has this number, which then may be writing."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}. Free some space."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}. Get the right to write there, or choose another folder."
    return f"{error.strerror}."
