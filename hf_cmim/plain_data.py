"""Dataclasses to and from plain JSON values, and files that are whole or not there."""

import json
import math
import types
import typing
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from hf_cmim.errors import HfCmimError
from hf_cmim.whole_files import read_bounded

Plain = dict[str, Any]
"""Numbers, texts, None, and lists and mappings of them."""
LARGEST_INTEGER = 2**63
DEEPEST = 64
"""Lists and mappings inside each other that a JSON file may hold."""


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
        is_huge = isinstance(value, int) and abs(value) >= LARGEST_INTEGER
        _require(isinstance(value, accepted) and not is_truth and not is_huge, str(kind), repr(value)[:80], where)
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


def parsed_json(text: str | bytes, what: str, *, allows_constants: bool = False) -> Any:
    """Return the values of a JSON text.

    Args:
        text: the text, or its bytes in UTF-8.
        what: its name, for errors.
        allows_constants: whether NaN and Infinity, which are no JSON but which Python writes, are read.

    Raises:
        HfCmimError: no JSON, or JSON that two readers could take for two things or that none should be fed: a name
            given twice, numbers beyond all bounds, letters that no file can hold, hundreds of nested lists.
    """
    hooks: dict[str, Any] = {} if allows_constants else {"parse_constant": _refuse_constant, "parse_float": _finite}
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        values = json.loads(text, object_pairs_hook=_without_doubles, **hooks)
        if "\\u" in text:  # only an escape can name half a letter
            json.dumps(values, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:  # of which broken JSON, other encodings and endless digits are kinds
        raise HfCmimError(
            f"Expected {what} as JSON, got a text that is none ({error}): it was cut or changed. Take the original."
        ) from None
    _check_depth(values, what)
    return values


def _without_doubles(pairs: list[tuple[str, Any]]) -> Plain:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return values


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is beyond all numbers")
    return value


def _check_depth(values: Any, what: str) -> None:
    level = [values]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise HfCmimError(
        f"Expected {what} of at most {DEEPEST} lists and mappings inside each other, got more: reading it could stop"
        " this program. Take the original."
    )


def read_json(path: Path, what: str, *, allows_constants: bool = False) -> Any:
    """Return the values in a JSON file of at most 64 MB.

    Args:
        path: of the file.
        what: its name, for errors.
        allows_constants: as in `parsed_json`.

    Raises:
        HfCmimError: no such file, one that is too large, or one that `parsed_json` refuses.
    """
    return parsed_json(read_bounded(path), what, allows_constants=allows_constants)


def read_mapping(path: Path, what: str) -> Plain:
    """Return the names and values in a JSON file.

    Raises:
        HfCmimError: a file that `read_json` refuses, or one that holds something else.
    """
    values = read_json(path, what)
    if not isinstance(values, dict):
        raise HfCmimError(
            f"Expected names and values in {what}, got {type(values).__name__}: it was changed by hand. Take the"
            " original, or delete it to begin anew."
        )
    return values


def check_schema(values: Plain | Any, known: int, what: str) -> None:
    """Raise an `HfCmimError` unless JSON's values name a schema that is known."""
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int) or not 1 <= schema <= known:
        raise HfCmimError(
            f"Expected {what} of schema {known}, got {schema}: its fields could be misread. Install the release of"
            " hf_cmim that wrote it, or a later one."
        )
