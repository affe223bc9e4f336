"""Check before training that a training set has labels."""

from collections.abc import Sized
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.trainers.shared.class_labels import check_label, find_label_column


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
