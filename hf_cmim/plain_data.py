"""Dataclasses to and from plain JSON values, and files that are whole or not there."""

import json
import os
import types
import typing
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from hf_cmim.errors import HfCmimError

Plain = dict[str, Any]
"""Numbers, texts, None, and lists and mappings of them."""


def to_plain(record: Any) -> Plain:
    """Return a dataclass as JSON would give it back: tuples become lists.

    Raises:
        HfCmimError: a number that is not finite, which JSON does not know.
    """
    values: Plain = json.loads(json.dumps(asdict(record), allow_nan=False))
    return values


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """Return the value as an annotation says it is: dataclasses, tuples and mappings of them, or plain values.

    Args:
        kind: a dataclass, or the annotation of one of its fields.
        value: as JSON gave it.
        where: its name, for errors.

    Raises:
        HfCmimError: fields that are missing or not known, or a value of another kind.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value, where)
    if origin is types.UnionType:
        inner = next(part for part in parts if part is not type(None))
        return None if value is None else from_plain(inner, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        _require(len(kinds) == len(value), f"{len(kinds)} values", f"{len(value)}", where)
        return tuple(
            from_plain(each, item, f"{where}[{position}]")
            for position, (each, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict and isinstance(value, dict):
        return {name: from_plain(parts[1], item, f"{where}[{name!r}]") for name, item in value.items()}
    if kind in (int, float, str, bool, tuple, dict) or origin in (tuple, dict):
        accepted = (int, float) if kind is float else (origin or kind)
        is_truth = isinstance(value, bool) and kind is not bool
        _require(isinstance(value, accepted) and not is_truth, str(kind), repr(value)[:80], where)
    if origin is typing.Literal:
        _require(value in parts, " or ".join(map(repr, parts)), repr(value)[:80], where)
    return value


def _record(kind: type[Any], value: Any, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    expected = {field.name for field in fields(kind)}
    # A field that was added later has a default, and is missing in files written before it.
    needed = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    present = sorted(value) if isinstance(value, dict) else type(value).__name__
    is_complete = isinstance(value, dict) and needed <= set(value) <= expected
    _require(is_complete, str(sorted(expected)), str(present), where)
    return kind(**{name: from_plain(hints[name], each, f"{where}.{name}") for name, each in value.items()})


def _require(holds: bool, expected: str, got: str, where: str) -> None:
    if not holds:
        raise HfCmimError(
            f"Expected {expected} as {where}, got {got}: read as it stands, it would mean something else than was"
            " written. Was the file changed by hand? Take the original."
        )


def parsed_json(text: str, what: str) -> Any:
    """Return the values of a JSON text.

    Raises:
        HfCmimError: it is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise HfCmimError(
            f"Expected {what} as JSON, got a text that is none ({error}): it was cut or changed. Take the original."
        ) from error


def check_schema(values: Plain | Any, known: int, what: str) -> None:
    """Raise an `HfCmimError` unless JSON's values name a schema that is known."""
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int) or not 1 <= schema <= known:
        raise HfCmimError(
            f"Expected {what} of schema {known}, got {schema}: its fields could be misread. Install the release of"
            " hf_cmim that wrote it, or a later one."
        )


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, after any kill, finds all of it or what was there before."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
