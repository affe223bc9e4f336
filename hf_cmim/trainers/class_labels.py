"""Labels as users' data hold them: any integer type is converted, everything else refused."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.inputs import integer_labels

LABEL_COLUMNS = ("labels", "label", "label_ids")
"""Columns in which `Trainer` and the default collator look for labels."""


def with_integer_labels(batch: Any) -> Any:
    """Return a batch whose labels are int64; a matrix of floats is left to the check of shapes.

    Raises:
        HfCmimError: one floating-point or bool label per sample.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor) or (labels.ndim > 1 and labels.is_floating_point()):
        return batch
    converted = integer_labels(labels)
    return batch if converted is labels else {**batch, "labels": converted}


def check_label_column(dataset: Any, name: str) -> None:
    """Refuse labels that are strings, as far as a data set shows them without loading a sample.

    Args:
        dataset: features of a `datasets.Dataset` or the first sample of a list are looked at; None is let pass.
        name: argument it was given as.

    Raises:
        HfCmimError: labels that are strings.
    """
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        columns = [column for column in LABEL_COLUMNS if column in features]
        strings = [column for column in columns if _is_string(features[column])]
    else:
        first = dataset[0] if isinstance(dataset, list | tuple) and dataset else None
        sample = first if isinstance(first, Mapping) else {}
        strings = [column for column in LABEL_COLUMNS if isinstance(sample.get(column), str)]
    if strings:
        raise HfCmimError(
            f"The labels in column {strings[0]!r} of {name} are strings: a model has numbered outputs. Turn them into"
            f" numbers with dataset.class_encode_column({strings[0]!r}), or with"
            f" {{**sample, {strings[0]!r}: model.config.label2id[sample[{strings[0]!r}]]}}."
        )


def _is_string(feature: Any) -> bool:
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in ("string", "large_string")
