"""Shortening of this machine's paths before they are published, because home folders bear users' names."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

ELLIPSIS = "…"
USER_FOLDERS = frozenset({"home", "users"})
"""Folders, in small letters, with one folder for each user."""
SEPARATED = r"[^\s/\\'\"`<>|:;,()\[\]{}…]"
"""Letter of a path inside a text, where a space ends the path."""
IN_TEXT = re.compile(
    rf"""
    (?:file://)?(?<![\w.~…/\\-])/(?:{SEPARATED}+/+)+{SEPARATED}*   # /home/name/data
    | (?<![\w/\\])~[\w.-]*(?:/+{SEPARATED}+)+/?                    # ~/data, ~name/data
    | (?<![\w./\\])(?:\.\./+)+{SEPARATED}+(?:/+{SEPARATED}+)*/?    # ../data
    | (?<![\w])[A-Za-z]:[\\/]+(?:[^\\/:*?"'<>|\r\n…]+[\\/]+)*{SEPARATED}*        # C:\Users\name\data
    | (?<![\w\\])\\\\+[\w.-]+(?:\\+[^\\/:*?"'<>|\r\n…]+(?=\\))*\\+{SEPARATED}*  # \\server\share\data
    """,
    re.VERBOSE,
)


def public_path(path: str | Path) -> str:
    r"""Return a path in a form that may be published.

    A path inside the working directory becomes relative to it. Of other absolute paths, only the last name is kept,
    after an ellipsis. Of home folders, and of folders above the working directory, no name is kept. Relative paths and
    ids of the Hub are not changed.

    >>> public_path("/home/jane.doe/thesis/glosses"), public_path(r"C:\Users\jane\model"), public_path("owner/name")
    ('…/glosses', '…/model', 'owner/name')
    >>> public_path("/home/jane.doe")
    '…'
    """
    text = str(path).removeprefix("file://")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        return _last_name(PureWindowsPath(text), ())
    expanded = os.path.expanduser(text)
    if not os.path.isabs(expanded) and not text.startswith("~") and ".." not in PurePosixPath(text).parts:
        return text
    # A relative path with ".." leads out of the working directory, so it is treated as an absolute one.
    absolute = PurePosixPath(os.path.abspath(expanded))
    home, here = PurePosixPath(os.path.expanduser("~")), PurePosixPath(os.getcwd())
    if absolute.is_relative_to(here) and not home.is_relative_to(here):
        return str(absolute.relative_to(here))
    return _last_name(absolute, (home, here))


def public_text(text: str) -> str:
    """Return a text with every absolute path in it shortened by `public_path`.

    >>> public_text("no rows in /home/jane.doe/thesis/glosses.csv, see https://huggingface.co/owner/name")
    'no rows in …/glosses.csv, see https://huggingface.co/owner/name'
    """
    # A space ends a path in a text, so paths below a folder with spaces in its name are replaced first.
    for root in (os.getcwd(), os.path.expanduser("~")):
        if " " in root:
            text = re.sub(rf"{re.escape(root)}(?:/+{SEPARATED}+)*", lambda match: public_path(match[0]), text)
    return IN_TEXT.sub(lambda match: public_path(match[0]) if _is_path(match[0]) else match[0], text)


def public_command(words: Sequence[str]) -> str:
    """Return a command line as one text, with every path in it shortened.

    >>> public_command(["/opt/bin/hf-cmim", "audit", "--teacher", "/home/jane/my model", "--config=/home/jane/a.yaml"])
    "hf-cmim audit --teacher '…/my model' '--config=…/a.yaml'"
    """
    program, *arguments = words
    name = PurePath(program).name if os.path.isabs(program) else program
    return shlex.join([name, *map(_public_argument, arguments)])


def public_record(record: Any) -> Any:
    """Return a dataclass, or plain values, with `public_text` applied to every text in it but not to its keys."""
    if isinstance(record, str):
        return public_text(record)
    if is_dataclass(record) and not isinstance(record, type):
        return replace(record, **{field.name: public_record(getattr(record, field.name)) for field in fields(record)})
    if isinstance(record, Mapping):
        return {name: public_record(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return type(record)(map(public_record, record))
    return record


def _public_argument(argument: str) -> str:
    name, sign, value = argument.rpartition("=")
    return f"{name}{sign}{public_path(value) if _is_path(value) else public_text(value)}"


def _is_path(text: str) -> bool:
    """Return True if a text begins like a path of this machine, and not like a unit (/s) or an id (/m/01g317)."""
    text = text.removeprefix("file://")
    if not text.startswith("/"):
        return bool(re.match(r"~[\w.-]*/|\.\./|[A-Za-z]:[\\/]|\\\\", text))
    parts = PurePosixPath(text).parts
    return len(parts) > 2 and (parts[1].lower() in USER_FOLDERS or os.path.isdir(f"/{parts[1]}"))


def _last_name(path: PurePath, private: tuple[PurePath, ...]) -> str:
    is_of_user = path.parent.name.lower() in USER_FOLDERS
    if is_of_user or not path.name or any(folder.is_relative_to(path) for folder in private):
        return ELLIPSIS
    return f"{ELLIPSIS}/{path.name}"
