"""Reading with a size limit, and writing that leaves a complete file or the one before and follows no link."""

import errno
import os
import re
import stat
from pathlib import Path

from hf_cmim.errors import HfCmimError

MOST_BYTES = 64_000_000
"""Largest size of a file that is read into memory, in bytes: 100 times a certificate with an audit."""
PARTIAL = re.compile(r"(?P<name>.+)\.(?P<process>\d+)\.partial")
"""Name of an unfinished file, with the number of the process that writes it."""


def read_bounded(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file.

    Args:
        path: path of the file.
        most_bytes: largest size that is read.

    Raises:
        HfCmimError: a missing file, a device or a pipe, a file that is too large, or no right to read it.
    """
    # O_NONBLOCK: opening a pipe would wait for a writer. The size is limited while reading, because a file may grow
    # after it was measured.
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise HfCmimError(f"{path} is a folder, a device or a pipe, not a file. Give the path of a file.")
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise HfCmimError(f"{path} cannot be read: {error.strerror}. Check its name and access rights.") from error
    if len(content) > most_bytes:
        raise HfCmimError(
            f"{path} has {facts.st_size:,} bytes, more than the {most_bytes:,} that such a file may have: reading it"
            " could take all memory. Use the original file."
        )
    return content


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that even a killed process leaves the complete new content or the old one.

    Unfinished files of killed processes (`NAME.PROCESS.partial`) are removed.

    Args:
        path: path of the file; not a link, which could lead to a file elsewhere.
        content: bytes, or a text that is written as UTF-8.

    Raises:
        HfCmimError: a link at this path, a full disk, or no right to write there.
    """
    if path.is_symlink():
        raise HfCmimError(
            f"{path} is a link to {os.readlink(path)}: writing through it would change a file elsewhere. Remove the"
            " link, then try again."
        )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        encoded = content.encode("utf-8") if isinstance(content, str) else content
        _remove_partials(path)
        _write_new(partial, encoded)
        os.replace(partial, path)
    except UnicodeEncodeError as error:
        raise HfCmimError(
            f"The text for {path} contains half a letter ({error.object[error.start : error.end]!a}), which UTF-8"
            " cannot encode. Look for it in the names that you gave."
        ) from None
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HfCmimError(f"{path} cannot be written: {_remedy(error)} Its earlier content is unchanged.") from error


def _write_new(path: Path, content: bytes) -> None:
    # O_EXCL and O_NOFOLLOW: somebody who may write here could have placed a link under this name.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
        file.write(content)


def _remove_partials(path: Path) -> None:
    for partial in path.parent.glob(f"{_literal(path.name)}.*.partial"):
        match = PARTIAL.fullmatch(partial.name)
        if match is not None and not _is_running(int(match["process"])):
            partial.unlink(missing_ok=True)


def _literal(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)


def _is_running(process: int) -> bool:
    """Return True if another process with this number is running, which may still write its file."""
    if process == os.getpid():
        return False
    # Signal 0 only asks whether the process exists.
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
