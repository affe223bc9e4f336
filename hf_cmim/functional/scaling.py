"""What keeps an objective on the logits from being met by shrinking them all. Source: ours."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.masking import allowed_classes, row_means

SMALLEST_SPREAD = 1e-6
"""Variance below which logits count as equal: nothing is divided by less."""


class Scaling(NamedTuple):
    """What brings logits to one scale, and what leaves their own scale free; from the steps before, without a graph.

    Attributes:
        multiplier: 0-d, factor of the logits.
        outward: 0-d, how strongly an objective of weight 1 on the scaled logits pulled all logits together in the last
            step: its derivative by the logarithm of a common factor, over the mean variance of a sample's logits.
    """

    multiplier: Tensor
    outward: Tensor


class Concentration(NamedTuple):
    """The CMI part of a batch's loss.

    Attributes:
        cmi: 0-d, weighted, nats, differentiable.
        terms: `(K,)` CMI at each temperature, unweighted, nats, detached.
        scale_sums: `(3,)`, detached, what a `CentroidBank` adds up over a step to follow the scale of the logits: the
            derivative of the CMI part at weight 1 by the logarithm of a factor on all logits (0 where no gradient
            flows), and what `spread_of` returns; 0 where nothing is scaled.
    """

    cmi: Tensor
    terms: Tensor
    scale_sums: Tensor


def spread_of(logits: Tensor, labels: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the sum over the samples of the variance of their logits over the classes, and their number.

    Masked classes are left out. Samples to ignore and samples with a single class that is not masked do not count.

    Args:
        logits: `(B, C)`.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        masked: `(B, C)` masked classes, or None where there is none.

    Returns:
        Two 0-d tensors; the sum is differentiable with respect to the logits.

    >>> spread_of(torch.tensor([[1.0, 3.0], [0.0, 9.0]]), torch.tensor([0, -100]))
    (tensor(1.), tensor(1))
    """
    if torch.compiler.is_compiling():  # it joins the passes by itself, and warns of each Function
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
    """Turn a gradient by the scaled logits into one by the logits that leaves their own scale alone, in place.

    Args:
        logits: `(B, C)`, not scaled.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        gradient: `(B, C)` by `logits * multiplier`, or None.
        multiplier: 0-d.
        outward: 0-d, weight of the half variance of each sample whose gradient is subtracted.
        masked: `(B, C)` masked classes, or None where there is none.

    Returns:
        `(3,)`: the derivative by the logarithm of a factor on all logits (0 without a gradient), and what `spread_of`
        returns.
    """
    centred, weighted, count = _centred(logits, labels, masked)
    pull = logits.new_zeros(())
    if gradient is not None:
        gradient.mul_(multiplier)
        pull = torch.dot(gradient.flatten(), centred.flatten())  # the mean adds nothing: each row's sum is 0
        gradient.addcmul_(weighted, outward, value=-1 / logits.shape[1])
    return torch.stack([pull, _summed_variance(centred, weighted), count.to(pull)])


def _centred(logits: Tensor, labels: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Center the logits of each sample on the mean of the classes that are not masked.

    Returns:
        The centred logits, `(B, C)`, 0 where masked or not counted; the same times C over the number of classes that
        are not masked; how many samples count, 0-d.
    """
    mean = row_means(logits, masked)
    valid = (labels != IGNORE_INDEX) & (mean.squeeze(1).abs() < math.inf)
    centred = logits - mean
    if masked is not None:
        allowed = allowed_classes(masked)
        valid = valid & (allowed.squeeze(1) > 1)
        centred = centred.masked_fill(masked | ~valid.unsqueeze(1), 0.0)
        return centred, centred * (logits.shape[1] / allowed), valid.sum()
    if logits.device.type != "cpu" or not valid.all():  # rare, and on a CPU it costs more than all else here
        centred = centred.masked_fill_(~valid.unsqueeze(1), 0.0)
    return centred, centred, valid.sum()


def _summed_variance(centred: Tensor, weighted: Tensor) -> Tensor:
    """The sum over the samples of their variance; `torch.var` takes thirty times as long on a CPU."""
    return torch.dot(centred.flatten(), weighted.flatten()) / centred.shape[1]


class _Spread(torch.autograd.Function):
    """Few passes over the logits each way: by operations of torch it takes as long as the CMI itself."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor]:
        centred, weighted, count = _centred(logits, labels, masked)
        ctx.mark_non_differentiable(count)
        ctx.save_for_backward(logits, labels, masked)
        return _summed_variance(centred, weighted), count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, masked = ctx.saved_tensors
        _, weighted, _ = _centred(logits, labels, masked)  # made anew: a second derivative may be wanted
        return weighted * (gradients[0] * (2 / logits.shape[1])), None, None


_apply_spread: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]] = _Spread.apply
