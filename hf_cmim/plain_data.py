"""Dataclasses to and from plain JSON values, and JSON of unknown origin."""

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
"""Mapping of names to numbers, texts, None, and lists and mappings of these."""
LARGEST_INTEGER = 2**63
"""Integers from here on are refused: numpy and torch cannot hold them."""
DEEPEST = 64
"""Largest number of nested lists and mappings in a JSON file."""


def to_plain(record: Any) -> Plain:
    """Return a dataclass as the plain values that JSON would give back: tuples become lists.

    Raises:
        ValueError: a number that is not finite, which JSON does not have.
    """
    values: Plain = json.loads(json.dumps(asdict(record), allow_nan=False))
    return values


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """Return a value of JSON in the type of an annotation: a dataclass, a tuple, a mapping, or a plain value.

    Args:
        kind: a dataclass, or the annotation of one of its fields.
        value: value from JSON.
        where: name of the value, for errors.

    Raises:
        HfCmimError: missing or unknown fields, or a value of another type.
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
            from_plain(item_kind, item, f"{where}[{position}]")
            for position, (item_kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict and isinstance(value, dict):
        return {name: from_plain(parts[1], item, f"{where}[{name!r}]") for name, item in value.items()}
    if kind in (int, float, str, bool, tuple, dict) or origin in (tuple, dict):
        accepted = (int, float) if kind is float else (origin or kind)
        # In Python True is an integer; in JSON it is none.
        is_boolean = isinstance(value, bool) and kind is not bool
        is_huge = isinstance(value, int) and abs(value) >= LARGEST_INTEGER
        is_accepted = isinstance(value, accepted) and not is_boolean and not is_huge
        _require(is_accepted, str(kind), repr(value)[:80], where)
    if origin is typing.Literal:
        _require(value in parts, " or ".join(map(repr, parts)), repr(value)[:80], where)
    return value


def _record(kind: type[Any], value: Any, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    expected = {field.name for field in fields(kind)}
    # Files of an earlier release lack the fields that were added since. Those have a default.
    required = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    present = sorted(value) if isinstance(value, dict) else type(value).__name__
    is_complete = isinstance(value, dict) and required <= set(value) <= expected
    _require(is_complete, str(sorted(expected)), str(present), where)
    return kind(**{name: from_plain(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _require(holds: bool, expected: str, got: str, where: str) -> None:
    if not holds:
        raise HfCmimError(
            f"Expected {expected} as {where}, got {got}: the file was changed by hand, or another program wrote it."
            " Use the original file."
        )


def parsed_json(text: str | bytes, source: str, *, allows_constants: bool = False) -> Any:
    """Return the values of a JSON text of unknown origin.

    Args:
        text: the text, or its bytes in UTF-8.
        source: name of the text, for errors.
        allows_constants: True to read NaN and Infinity, which Python writes although JSON does not have them.

    Raises:
        HfCmimError: a text that is no JSON, or that two programs could read differently: a name given twice, numbers
            out of range, letters that UTF-8 cannot hold, too many nested lists.
    """
    hooks: dict[str, Any] = {} if allows_constants else {"parse_constant": _refuse_constant, "parse_float": _finite}
    # ValueError covers broken JSON, other encodings and integers of too many digits.
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        values = json.loads(text, object_pairs_hook=_without_doubles, **hooks)
        # An escape such as \ud800 names half a letter, which passes here and fails when it is written or printed.
        if "\\u" in text:
            json.dumps(values, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise HfCmimError(
            f"Expected {source} as JSON, got a text that is no JSON ({error}): it was cut or changed. Use the original"
            " file."
        ) from None
    _check_depth(values, source)
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
        raise ValueError(f"{digits[:40]} is too large for a number")
    return value


def _check_depth(values: Any, source: str) -> None:
    # Level by level without recursion, which deep nesting could exhaust.
    level = [values]
    for _ in range(DEEPEST):
        parts = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [item for part in parts if isinstance(part, list) for item in part]
        if not level:
            return
    raise HfCmimError(
        f"Expected {source} with at most {DEEPEST} nested lists and mappings, got more: reading it could stop this"
        " program. Use the original file."
    )


def read_json(path: Path, source: str, *, allows_constants: bool = False) -> Any:
    """Return the values in a JSON file of at most 64 MB.

    Args:
        path: path of the file.
        source: name of the file, for errors.
        allows_constants: True to read NaN and Infinity, as in `parsed_json`.

    Raises:
        HfCmimError: a missing file, a file that is too large, or a text that `parsed_json` refuses.
    """
    return parsed_json(read_bounded(path), source, allows_constants=allows_constants)


def read_mapping(path: Path, source: str) -> Plain:
    """Return the names and values in a JSON file.

    Raises:
        HfCmimError: a file that `read_json` refuses, or one that holds no mapping.
    """
    values = read_json(path, source)
    if not isinstance(values, dict):
        raise HfCmimError(
            f"Expected names and values in {source}, got {type(values).__name__}: it was changed by hand. Use the"
            " original file, or delete it to start again."
        )
    return values


def check_schema(values: Plain | Any, newest: int, source: str) -> None:
    """Raise an `HfCmimError` unless the values name a schema from 1 to the newest."""
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int) or not 1 <= schema <= newest:
        raise HfCmimError(
            f"Expected {source} of schema {newest}, got {schema}: its fields could be misread. Install the release of"
            " hf_cmim that wrote it, or a later one."
        )
