"""Labels in users' data: any integer type is converted, everything else is refused."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.inputs import integer_labels

LABEL_COLUMNS = ("labels", "label", "label_ids")
"""Columns in which `Trainer` and the default collator look for labels."""


def with_integer_labels(batch: Any) -> Any:
    """Return the batch with int64 labels; a matrix of floats passes here and fails at the check of shapes.

    Raises:
        HfCmimError: one floating-point or bool label per sample.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor) or (labels.ndim > 1 and labels.is_floating_point()):
        return batch
    converted = integer_labels(labels)
    return batch if converted is labels else {**batch, "labels": converted}


def find_label_column(sample: Any) -> str | None:
    """Return the name of a sample's label column, or None if it has none."""
    if not isinstance(sample, Mapping):
        return None
    return next((column for column in LABEL_COLUMNS if column in sample), None)


def check_label_column(dataset: Any, name: str) -> None:
    """Refuse labels that are strings, without loading a sample from disk.

    Args:
        dataset: data set whose features (`datasets.Dataset`) or first sample (a list) are checked; None passes.
        name: argument that holds the data set.

    Raises:
        HfCmimError: labels that are strings.
    """
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        for column in LABEL_COLUMNS:
            if column in features and _is_string(features[column]):
                raise _strings_in(column, name)
    elif isinstance(dataset, list | tuple) and dataset and isinstance(dataset[0], Mapping):
        for column in LABEL_COLUMNS:
            check_label(dataset[0].get(column), column, name)


def check_label(label: Any, column: str, name: str) -> None:
    """Raise an `HfCmimError` if a sample's label, or the labels of its tokens, are strings."""
    values = label if isinstance(label, list | tuple) else [label]
    if any(isinstance(value, str) for value in values):
        raise _strings_in(column, name)


def _strings_in(column: str, name: str) -> HfCmimError:
    return HfCmimError(
        f"The labels in column {column!r} of {name} are strings, but a model numbers its outputs. Convert them to"
        f" integers with dataset.class_encode_column({column!r}), or with"
        f" {{**sample, {column!r}: model.config.label2id[sample[{column!r}]]}}."
    )


def _is_string(feature: Any) -> bool:
    # Labels of tokens are a feature inside a list, or inside a Sequence or List of datasets.
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in ("string", "large_string")
