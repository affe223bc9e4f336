"""Spread of the logits, and gradients that do not change their scale. Source: ours."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import allowed_classes, row_means

SMALLEST_SPREAD = 1e-6
"""Variance below which logits count as equal; smaller variances are never divisors."""


def spread_of(logits: Tensor, labels: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the variance of the logits over the classes, summed over the samples, and the number of samples.

    Masked classes are left out. Ignored samples and samples in which only one class is not masked do not count.

    Args:
        logits: `(B, C)` logits.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        masked: `(B, C)` masked classes, or None where there is none.

    Returns:
        Sum, differentiable with respect to the logits, and number of samples, both 0-d.

    >>> spread_of(torch.tensor([[1.0, 3.0], [0.0, 9.0]]), torch.tensor([0, -100]))
    (tensor(1.), tensor(1))
    """
    # The compiler joins the passes itself, and warns about autograd functions.
    if torch.compiler.is_compiling():
        centred, weighted, count = _centred(logits, labels, masked)
        return _summed_variance(centred, weighted), count
    return _apply_spread(logits, labels, masked)


def freed_of_scale(
    logits: Tensor,
    labels: Tensor,
    gradient: Tensor | None,
    multiplier: Tensor,
    outward: Tensor,
    masked: Tensor | None,
) -> Tensor:
    """Convert a gradient for the scaled logits, in place, into one for the logits that does not change their scale.

    Args:
        logits: `(B, C)` logits, not scaled.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        gradient: gradient with respect to `logits * multiplier`, `(B, C)`, or None.
        multiplier: factor of the logits, 0-d.
        outward: weight of the half variance of each sample whose gradient is subtracted, 0-d.
        masked: `(B, C)` masked classes, or None where there is none.

    Returns:
        Sums, `(3,)`: the derivative with respect to the logarithm of a factor on all logits (0 without a gradient),
        and the two values of `spread_of`.
    """
    centred, weighted, count = _centred(logits, labels, masked)
    pull = logits.new_zeros(())
    if gradient is not None:
        gradient.mul_(multiplier)
        # Centred or raw logits give the same number, because each row of the gradient sums to 0.
        pull = torch.dot(gradient.flatten(), centred.flatten())
        gradient.addcmul_(weighted, outward, value=-1 / logits.shape[1])
    return torch.stack([pull, _summed_variance(centred, weighted), count.to(pull)])


def _centred(logits: Tensor, labels: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Center the logits of each sample on the mean of the classes that are not masked.

    Returns:
        Centred logits, `(B, C)`, 0 where masked or not counted; the same times C and divided by the number of classes
        that are not masked; number of samples that count, 0-d.
    """
    mean = row_means(logits, masked)
    valid = (labels != IGNORE_INDEX) & (mean.squeeze(1).abs() < math.inf)
    centred = logits - mean
    if masked is not None:
        allowed = allowed_classes(masked)
        valid = valid & (allowed.squeeze(1) > 1)
        centred = centred.masked_fill(masked | ~valid.unsqueeze(1), 0.0)
        return centred, centred * (logits.shape[1] / allowed), valid.sum()
    # On a CPU this costs more than all other operations here, and it is rarely needed.
    if logits.device.type != "cpu" or not valid.all():
        centred = centred.masked_fill_(~valid.unsqueeze(1), 0.0)
    return centred, centred, valid.sum()


def _summed_variance(centred: Tensor, weighted: Tensor) -> Tensor:
    """Return the sum of the samples' variances; `torch.var` takes thirty times as long on a CPU."""
    return torch.dot(centred.flatten(), weighted.flatten()) / centred.shape[1]


class _Spread(torch.autograd.Function):
    """`spread_of` with few passes over the logits each way; as separate operations it takes as long as the CMI."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor]:
        centred, weighted, count = _centred(logits, labels, masked)
        ctx.mark_non_differentiable(count)
        ctx.save_for_backward(logits, labels, masked)
        return _summed_variance(centred, weighted), count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, masked = ctx.saved_tensors
        # Computed again instead of stored, so that autograd can derive it a second time.
        _, weighted, _ = _centred(logits, labels, masked)
        return weighted * (gradients[0] * (2 / logits.shape[1])), None, None


_apply_spread: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]] = _Spread.apply
