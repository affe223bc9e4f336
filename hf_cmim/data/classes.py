"""Mapping from the values of a label column to names of classes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from hf_cmim.errors import HfCmimError, abbreviated


def read_classes(parts: Sequence[Dataset], column: str, model_names: Sequence[str] | None) -> dict[Any, str]:
    """Return the name of the class for each value in a label column.

    A `ClassLabel` column has names. Other labels are names of the model's classes if all of them are such names, and
    otherwise numbers of its classes from 0, as for `Trainer`. Both may be stored as text.

    Args:
        parts: data sets with the column.
        column: name of the label column.
        model_names: class names in the order of the model's logits, or None to use the labels as names.

    Returns:
        Names by value, in the order of the values, followed by the model's classes that no row has.

    Raises:
        HfCmimError: rows without a label or with several labels, or numbers that are neither names nor numbers of the
            model's classes.
    """
    values = [value for part in parts for value in part.select_columns(column)[:][column]]
    if any(isinstance(value, list | dict) for value in values):
        raise HfCmimError(
            f"Column {column!r} has several classes per row, but hf-cmim audit measures single-label classifiers."
            " Choose another --label-column, or audit from Python with hf_cmim.Audit."
        )
    counts = Counter(values)
    texts = _texts(counts, column, getattr(parts[0].features[column], "names", None))
    if model_names is None:
        return texts
    with_rows = {value: text for value, text in texts.items() if value in counts}
    if set(with_rows.values()) <= set(model_names):
        return _completed(with_rows if len(with_rows) < len(texts) else texts, model_names)
    if not all(text.lstrip("-").isdecimal() for text in with_rows.values()):
        return texts
    numbers = {value: int(text) for value, text in with_rows.items()}
    if set(numbers.values()) <= set(range(len(model_names))):
        return _completed({value: model_names[number] for value, number in numbers.items()}, model_names)
    raise HfCmimError(
        f"Column {column!r} holds the labels {abbreviated(sorted(numbers.values()))}, and the model has"
        f" {len(model_names)} classes called {abbreviated(model_names)}: these labels are neither names of its classes"
        f" nor their numbers 0 to {len(model_names) - 1}, so they cannot be matched. Store the names as labels, or the"
        " numbers that the model was trained with."
    )


def _texts(counts: Mapping[Any, int], column: str, names: Sequence[str] | None) -> dict[Any, str]:
    """Return the text of each value: its name in a ClassLabel column, or the value itself."""
    if names is not None:
        texts = dict(enumerate(names))
    else:
        # NaN, as pandas stores a missing label, is the only value that differs from itself.
        labelled = [value for value in counts if value is not None and value == value]
        texts = {value: _text(value) for value in sorted(labelled)}
    missing = {value: count for value, count in counts.items() if value not in texts}
    if missing:
        raise HfCmimError(
            f"{sum(missing.values()):,} rows have no class in column {column!r} but {set(missing)}: nothing can be"
            " measured on them. Public test splits often hide their labels; choose another --test-split."
        )
    return texts


def _text(value: Any) -> str:
    """Return a label as text; whole floats, as files store integers beside an empty cell, lose their ".0"."""
    is_whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return str(int(value)) if is_whole else str(value)


def _completed(classes: dict[Any, str], model_names: Sequence[str]) -> dict[Any, str]:
    """Add the model's classes that no value stands for."""
    present_names = set(classes.values())
    return classes | {name: name for name in model_names if name not in present_names}
