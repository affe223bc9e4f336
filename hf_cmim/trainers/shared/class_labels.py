"""Checks of the labels in users' data before training: their column, and that they are numbers that count."""

from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX

LABEL_COLUMNS = ("labels", "label", "label_ids")
"""Columns in which `Trainer` and the default collator look for labels."""


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


def check_has_valid_label(dataset: Any) -> None:
    """Refuse a data set whose labels are all -100; usually only one sample is read.

    Streams, and data whose collator makes the labels, are not checked.

    Raises:
        HfCmimError: all labels are -100, or labels are strings.
    """
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        return
    samples: Any = dataset
    for position in range(len(dataset)):
        sample = samples[position]
        column = find_label_column(sample)
        if column is not None:
            check_label(sample[column], column, "train_dataset")
        if column is None or np.any(np.asarray(sample[column]) != IGNORE_INDEX):
            return
    if len(dataset):
        raise HfCmimError(
            f"All labels of the {len(dataset)} training samples are {IGNORE_INDEX} (ignored): the model would learn"
            " nothing. Check the alignment of labels with tokens, and whether long texts are cut before their labelled"
            " part."
        )


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
