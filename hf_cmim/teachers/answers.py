"""Checks of a teacher's answers, and their conversion to log-probabilities."""

from typing import Literal

import torch
from torch import Tensor

from hf_cmim.channels.base import label_log_probs, normalized, raise_zeros
from hf_cmim.errors import HfCmimError

Representation = Literal["log_probs", "probs", "logits", "labels"]
"""Log-probabilities, probabilities or logits `(B, ..., C)`, or only labels `(B, ...)`."""

TOLERANCE = 1e-3
"""Largest distance from 0 of the log of a row's sum."""


def check_representation(returns: str) -> None:
    """Raise an `HfCmimError` unless the representation is known."""
    if returns not in ("log_probs", "probs", "logits", "labels"):
        raise HfCmimError(f'Expected returns "log_probs", "probs", "logits" or "labels", got {returns!r}.')


def check_shape(values: Tensor, returns: Representation, num_classes: int, labels: Tensor | None) -> None:
    """Check the type and shape of an answer, without reading its numbers.

    Raises:
        HfCmimError: no tensor, wrong dimensions, wrong number of classes or samples, or wrong type of numbers.
    """
    if not isinstance(values, Tensor):
        raise HfCmimError(f"Expected a tensor of {returns}, got {type(values).__name__}. Return only the tensor.")
    of_labels = returns == "labels"
    if of_labels == values.is_floating_point() or values.dtype in (torch.bool, torch.complex64):
        kind = "integers" if of_labels else "floating point numbers"
        raise HfCmimError(
            f"Expected {returns} as {kind}, got {values.dtype}. Set `returns` to the kind of the answers."
        )
    if of_labels:
        shape, expected = values.shape, "(B, ...)"
    else:
        shape, expected = values.shape[:-1], f"(B, ..., {num_classes})"
        if values.ndim < 2 or values.shape[-1] != num_classes:
            raise HfCmimError(
                f"Expected {returns} {expected}, one for each of the {num_classes} classes, got"
                f" {tuple(values.shape)}: wrong classes would be compared. Give the teacher's class_names."
            )
    if labels is not None and shape[:1] != labels.shape[:1]:
        raise HfCmimError(
            f"Expected {returns} {expected} for labels {tuple(labels.shape)}, got {tuple(values.shape)}: answers and"
            " samples would be paired wrongly. Give one answer per sample."
        )


def check_answers(values: Tensor, returns: Representation, num_classes: int) -> None:
    """Check the numbers of an answer. Waits for the device.

    Raises:
        HfCmimError: NaN or infinite values, rows that are not a distribution although `returns` promises one, rows
            that are one although it promises logits, or labels outside [0, C).
    """
    if returns == "labels":
        wrong = values[(values < 0) | (values >= num_classes)]
        if wrong.numel():
            raise HfCmimError(
                f"Expected labels in [0, {num_classes}), got {sorted(set(wrong.tolist()))[:8]}: they name no class."
                " Return the class numbers of class_names, counted from 0."
            )
        return
    values = values.to(torch.promote_types(values.dtype, torch.float32)).reshape(-1, num_classes)
    # A logit or log-probability of -inf is a probability of 0, which is an answer.
    bad = values.isnan() | (values == torch.inf) | (values.isneginf() if returns == "probs" else False)
    if bad.any():
        raise HfCmimError(
            f"Expected finite {returns}, got nan or inf in {int(bad.any(dim=-1).sum())} of {len(values)} rows: every"
            " gradient would become nan. Check for nan in the inputs or an overflow in half precision."
        )
    if returns == "logits":
        _check_no_probs(values)
    elif returns == "probs" and (values < 0).any():
        raise HfCmimError(
            f"Expected probabilities, got values down to {values.min().item():.4g}: these are logits or"
            ' log-probabilities. Set returns="logits" or returns="log_probs", or apply softmax once.'
        )
    else:
        _check_sums(values, returns)


def _check_no_probs(logits: Tensor) -> None:
    """Refuse a batch of logits in which every row is a distribution; in 4 or more rows this is never chance."""
    excess = (logits.sum(dim=-1) - 1).abs()
    in_range = bool(((logits >= 0) & (logits <= 1)).all())
    if len(logits) >= 4 and in_range and bool((excess < 1e-4).all()):
        raise HfCmimError(
            "Expected logits, got rows in [0, 1] that all sum to 1: these are probabilities, and a second softmax"
            ' would flatten them to almost uniform. Set returns="probs", or remove the model\'s last softmax.'
        )


def _check_sums(values: Tensor, returns: Representation) -> None:
    """Refuse rows that do not sum to 1."""
    logs = values.log() if returns == "probs" else values
    excess = torch.logsumexp(logs, dim=-1)
    if not bool((excess.abs() <= TOLERANCE).all()):
        # The message shows sums of probabilities, not their logarithms.
        smallest, largest = (sums.item() for sums in excess.exp().aminmax())
        raise HfCmimError(
            f"Expected {returns} whose rows sum to 1, got sums from {smallest:.4g} to {largest:.4g}: these are logits,"
            " sigmoid scores, or another representation than promised, and temperatures would not work as intended."
            ' Set returns="logits" (or the right kind), or apply log_softmax.'
        )


def answer_log_probs(values: Tensor, returns: Representation, num_classes: int) -> Tensor:
    """Return an answer as fp32 log-probabilities `(B, ..., C)`, finite and normalised.

    A probability of 0 counts as FLOOR. Finite log-probabilities whose probabilities sum to 1, to 1e-5, keep every bit.
    """
    if returns == "labels":
        return label_log_probs(values, num_classes)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if returns == "logits":
        values = torch.log_softmax(values, dim=-1)
    elif returns == "probs":
        values = values.log()
    return normalized(raise_zeros(values).float())
