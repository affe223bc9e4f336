"""Which class each value of a label column stands for."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from hf_cmim.errors import HfCmimError

SHOWN = 8
"""Labels and names that an error lists."""


def read_classes(parts: Sequence[Dataset], column: str, model_names: Sequence[str] | None) -> dict[Any, str]:
    """Return the name of the class that each value in a label column stands for.

    A `ClassLabel` goes by its names. Other labels are names of the model's classes where they read like these, and
    otherwise numbers of its classes from 0, as `Trainer` takes them; both may be stored as text.

    Args:
        parts: data sets with the column.
        column: name of the label column.
        model_names: classes in the order of the model's logits, or None to take the labels' own names.

    Returns:
        Names by value, in the order of the values; then the model's classes that no row has, under their own names.

    Raises:
        HfCmimError: rows without a label or with several, or numbers that are neither names nor numbers of the model's
            classes.
    """
    values = [value for part in parts for value in part.select_columns(column)[:][column]]
    if any(isinstance(value, list | dict) for value in values):
        raise HfCmimError(
            f"Expected one class for each row in column {column!r}, got several: hf-cmim audit measures single-label"
            " classifiers. Choose another --label-column, or audit from Python with hf_cmim.audit.runner.run_audit."
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
        f"Column {column!r} holds the labels {_listed(sorted(numbers.values()))}, and the model has"
        f" {len(model_names)} classes called {_listed(model_names)}: these labels are neither names of its classes nor"
        f" their numbers 0 to {len(model_names) - 1}, so that which is which is unknown. Store the names as labels, or"
        " the numbers that the model was trained with."
    )


def _texts(counts: Mapping[Any, int], column: str, names: Sequence[str] | None) -> dict[Any, str]:
    """Return what each value says: its name in a ClassLabel, or the value itself."""
    if names is not None:
        texts = dict(enumerate(names))
    else:
        labelled = [value for value in counts if value is not None and value == value]
        texts = {value: _text(value) for value in sorted(labelled)}
    missing = {value: count for value, count in counts.items() if value not in texts}
    if missing:
        raise HfCmimError(
            f"Expected a class for every row in column {column!r}, got {set(missing)} in {sum(missing.values()):,}"
            " rows: rows without a label, as public test splits often have? Nothing can be measured on them. Choose"
            " another --test-split."
        )
    return texts


def _text(value: Any) -> str:
    """Return a label as text; integers that a file stores as floats, as next to an empty cell, lose their '.0'."""
    is_whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return str(int(value)) if is_whole else str(value)


def _completed(classes: dict[Any, str], model_names: Sequence[str]) -> dict[Any, str]:
    """Add the model's classes that no value stands for."""
    named = set(classes.values())
    return classes | {name: name for name in model_names if name not in named}


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:SHOWN])) + (", ..." if len(values) > SHOWN else "")
