"""Logits and labels as every statistic and loss takes them: shapes, types, and which samples and classes count.

A masked class is a logit that says "this class must not be chosen", not "this class is unlikely". Heads that serve
subsets of the labels, or pad them, fill the unused logits with -inf, -1e4, -1e9 or the lowest number of their type.
Such a class has probability 0 at every temperature. It takes no part in means, variances, centroids and gradients of
the CMI, and a class that is masked in every sample changes nothing. The cross-entropy is PyTorch's: it is infinite
where the label is at -inf, and with label smoothing where any class is.

A logit counts as masked when it lies more than `MASK_DISTANCE` below the largest of its row. For -1e4 this holds if
the largest logit is above -5,000. Confident models stay far closer: logits 300 below the largest are ordinary. At a
distance of 5,000 a probability is below 1e-33 at T = 64, less than fp32 can add to 1 (6e-8) at any T up to 300.
Source: ours.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX

MASK_DISTANCE = 5000.0
"""Distance from the largest logit of a row beyond which a logit is a masked class."""


def model_logits(outputs: Any) -> Tensor:
    """Return the logits of a model's output, `(..., C)`.

    Raises:
        HfCmimError: there are none.
    """
    if isinstance(outputs, Mapping) and "logits" not in outputs:
        raise HfCmimError(
            f"Expected a model that returns 'logits', got {sorted(outputs)}. Is it the base model without its head?"
            " Use an AutoModelFor...Classification class."
        )
    logits: Tensor = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    return logits


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


# Masked classes


def masked_classes(logits: Tensor) -> Tensor | None:
    """Return a mask of the logits that are masked classes.

    Args:
        logits: `(..., C)` raw logits, not divided by a temperature.

    Returns:
        Mask, `(..., C)` bool, or None where no class is masked. Only a CPU returns None; elsewhere the search would
        wait for the device.

    >>> masked_classes(torch.tensor([[0.0, -300.0, -1e4], [-torch.inf, 2.0, 1.0]]))
    tensor([[False, False,  True],
            [ True, False, False]])
    """
    values = logits.detach()
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        if not values.numel():
            return None
        lowest, highest = torch.aminmax(values)
        # The comparison is false where a value is nan: then the rows below decide.
        if highest.item() - lowest.item() <= MASK_DISTANCE:
            return None
    raised = values.to(torch.promote_types(values.dtype, torch.float32))
    return raised < raised.amax(dim=-1, keepdim=True) - MASK_DISTANCE


def without_masked(logits: Tensor, masked: Tensor | None) -> Tensor:
    """Return logits with -inf for masked classes, which get no gradient; `masked` is from `masked_classes`."""
    return logits if masked is None else logits.masked_fill(masked, -torch.inf)


def row_means(logits: Tensor, masked: Tensor | None) -> Tensor:
    """Return the mean of each row over the classes that are not masked, `(..., 1)`."""
    if masked is None:
        return logits.mean(dim=-1, keepdim=True)
    return logits.masked_fill(masked, 0.0).sum(dim=-1, keepdim=True) / allowed_classes(masked)


def allowed_classes(masked: Tensor) -> Tensor:
    """Return the number of classes of each row that are not masked, `(..., 1)`, at least 1."""
    return masked.shape[-1] - masked.sum(dim=-1, keepdim=True)
