"""Class weights that balance the classes of the training data."""

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.trainers.shared.class_labels import LABEL_COLUMNS, check_label, find_label_column


def balanced_weights(dataset: Any, num_classes: int | None) -> list[float]:
    """Return one weight per class that makes all classes count the same, as scikit-learn's "balanced" does.

    The weight is n / (C n_c) for each of C classes with n_c of the n valid labels, and 0 for a class without a sample.
    Only the label column of a `datasets.Dataset` is read; any other data are read once.

    Args:
        dataset: map-style training data.
        num_classes: number of classes `C`, or None for the largest label plus 1.

    Raises:
        HfCmimError: data without a length, no valid label, or a label outside [0, C).
    """
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        raise HfCmimError(
            f'class_weights="balanced" counts the labels of train_dataset before training, and'
            f" {type(dataset).__name__} has no length. Give the weights as a list, one per class."
        )
    labels = np.concatenate([np.empty(0, np.int64), *_labels(dataset)])
    labels = labels[labels != IGNORE_INDEX]
    if not len(labels):
        raise HfCmimError(
            'class_weights="balanced" counts the labels of train_dataset, which has none. Give the weights as a list,'
            " one per class."
        )
    if labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes):
        raise HfCmimError(
            f"Expected labels in [0, {num_classes}) or {IGNORE_INDEX} (ignored), got {labels.min()} to"
            f" {labels.max()} in train_dataset. Check num_labels and the mapping label2id."
        )
    counts = np.bincount(labels, minlength=num_classes or 0)
    # A class without a sample keeps the 0 of `out`.
    no_weights = np.zeros(len(counts))
    weights = np.divide(len(labels), len(counts) * counts, out=no_weights, where=counts > 0)
    return [float(weight) for weight in weights]


def _labels(dataset: Any) -> Iterator[NDArray[np.int64]]:
    # Only a datasets.Dataset has a list here; samples of other data are read one by one.
    column_names = getattr(dataset, "column_names", None)
    columns = column_names if isinstance(column_names, list) else []
    column = next((name for name in LABEL_COLUMNS if name in columns), None)
    # One column, without a format or a transform: no image is decoded.
    if column is not None:
        values: Any = dataset.with_format(None)[column]
        yield from (np.asarray(value, dtype=np.int64).reshape(-1) for value in values)
        return
    for position in range(len(dataset)):
        sample = dataset[position]
        column = find_label_column(sample)
        if column is not None:
            check_label(sample[column], column, "train_dataset")
            yield np.asarray(sample[column], dtype=np.int64).reshape(-1)
