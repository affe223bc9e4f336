"""A training set without a single label is noticed before training."""

from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.trainers.class_labels import LABEL_COLUMNS, check_label


def check_has_valid_label(dataset: Any) -> None:
    """Refuse a data set whose labels are all -100; usually one sample is read.

    Streams, and data whose labels the collator makes, are not looked at.

    Raises:
        HfCmimError: no sample has a label to learn from, or labels are strings.
    """
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        return
    samples: Any = dataset
    for position in range(len(dataset)):
        sample = samples[position]
        column = next((name for name in LABEL_COLUMNS if isinstance(sample, Mapping) and name in sample), None)
        if column is not None:
            check_label(sample[column], column, "train_dataset")
        if column is None or np.any(np.asarray(sample[column]) != IGNORE_INDEX):
            return
    if len(dataset):
        raise HfCmimError(
            f"All labels of the {len(dataset)} training samples are {IGNORE_INDEX} (ignored): there is nothing to"
            " learn, and the model would stay as it is. Look where labels are aligned with tokens, and whether long"
            " texts are cut before their labelled part."
        )
