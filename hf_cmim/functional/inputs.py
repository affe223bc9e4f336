"""Checks of the logits and labels that every statistic and loss takes."""

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.masking import with_masks_at_infinity


def flatten_samples(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as `(B, C)` and labels as `(B,)`; token classification `(B, L, C)` is flattened.

    Raises:
        HfCmimError: shapes that do not fit together, fewer than 2 classes, or labels that are not integers.
    """
    if logits.ndim < 2 or logits.shape[:-1] != labels.shape:
        raise HfCmimError(
            f"Expected logits (..., C) with labels (...), got logits {tuple(logits.shape)} and labels"
            f" {tuple(labels.shape)}. One label per row of logits is needed: a multi-label or regression head has"
            " no cluster per class. Use a single-label classification head."
        )
    if logits.shape[-1] < 2:
        raise HfCmimError(
            f"Expected at least 2 classes, got logits with {logits.shape[-1]}: one class has nothing to hide."
            " Build the model with num_labels >= 2."
        )
    labels = integer_labels(labels, logits.shape[-1])
    # A view of flat logits would only add a step to the backward pass.
    if logits.ndim > 2:
        logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    return logits, labels


def integer_labels(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Return labels of any integer type as int64: in uint8 the label 156 would equal -100, which means ignored.

    Args:
        labels: tensor of any shape.
        num_classes: number of classes for the error message, if known.

    Raises:
        HfCmimError: floating-point or bool labels.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise HfCmimError(
            f"Expected integer labels in [0, {num_classes or 'number of classes'}), got dtype {labels.dtype}: this is"
            " a regression or multi-label target. Give one integer class label per sample. If a table turned class"
            " numbers into floats, convert the column (in pandas: .astype(int))."
        )
    return labels.long()


def check_label_range(labels: Tensor, num_classes: int) -> None:
    """Raise if a label is neither in [0, num_classes) nor -100. Waits for the device.

    Raises:
        HfCmimError: labels out of range; the message names the first ones.
    """
    if not labels.numel():
        return
    lowest, highest = labels.aminmax()
    # Numbers are compared quicker than tensors.
    if lowest.item() >= 0 and highest.item() < num_classes:
        return
    wrong = labels[((labels < 0) & (labels != IGNORE_INDEX)) | (labels >= num_classes)]
    if wrong.numel():
        raise HfCmimError(
            f"Expected labels in [0, {num_classes}) or {IGNORE_INDEX} (ignored), got"
            f" {sorted(set(wrong.tolist()))[:8]}: the model has no output for them, and on a GPU they crash it."
            " Check num_labels and the mapping label2id."
        )


def correct_alone(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the labels, with -100 for samples whose largest logit is not at their label.

    Args:
        logits: `(..., C)` logits.
        labels: `(...)` integers in [0, C), or -100 to ignore.
    """
    return torch.where(logits.detach().argmax(dim=-1) == labels, labels, IGNORE_INDEX)


def select_valid(logits: Tensor, labels: Tensor, correct_only: bool = False) -> tuple[Tensor, Tensor]:
    """Return the samples that count: `(N, C)` logits, with masked classes at -inf, and `(N,)` labels.

    Args:
        logits: `(..., C)` raw logits.
        labels: `(...)` integers in [0, C), or -100 to ignore.
        correct_only: switch to select only samples whose largest logit is at their label.

    Raises:
        HfCmimError: the errors of `flatten_samples`, `check_label_range` and `with_masks_at_infinity`.
    """
    logits, labels = flatten_samples(logits, labels)
    check_label_range(labels, logits.shape[-1])
    valid = labels != IGNORE_INDEX
    logits, labels = with_masks_at_infinity(logits[valid]), labels[valid]
    if not correct_only:
        return logits, labels
    correct = correct_alone(logits, labels) != IGNORE_INDEX
    return logits[correct], labels[correct]
