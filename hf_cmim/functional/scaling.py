"""What keeps an objective on the logits from being met by shrinking them all. Source: ours."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX

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
        pull: 0-d, detached: derivative of the CMI part at weight 1 by the logarithm of a factor on all logits; 0 where
            nothing is scaled or no gradient flows.
    """

    cmi: Tensor
    terms: Tensor
    pull: Tensor


def spread_of(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum over the samples of the variance of their logits over the classes, and their number.

    Samples to ignore and samples with a masked class (a logit of -inf) do not count.

    Args:
        logits: `(B, C)`.
        labels: `(B,)` integers in [0, C), or -100 to ignore.

    Returns:
        Two 0-d tensors; the sum is differentiable with respect to the logits.

    >>> spread_of(torch.tensor([[1.0, 3.0], [0.0, 9.0]]), torch.tensor([0, -100]))
    (tensor(1.), tensor(1))
    """
    if not len(labels):
        return logits.sum(), (labels == IGNORE_INDEX).sum()  # `torch.var_mean` warns about a batch without samples
    if torch.compiler.is_compiling():  # it joins the passes by itself, and warns of each Function
        valid = (labels != IGNORE_INDEX) & logits.detach().amin(dim=1).isfinite()
        return torch.where(valid.unsqueeze(1), logits, 0.0).var(dim=1, correction=0).sum(), valid.sum()
    return _apply_spread(logits, labels)


class _Spread(torch.autograd.Function):
    """One pass over the logits each way: by operations of torch it takes as long as the CMI itself."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(logits, dim=1, correction=0)
        valid = (labels != IGNORE_INDEX) & variance.isfinite()
        count = valid.sum()
        ctx.mark_non_differentiable(count)
        ctx.save_for_backward(logits, mean, valid)
        return torch.where(valid, variance, 0.0).sum(), count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, mean, valid = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted, for which the mean is no constant
            mean = logits.mean(dim=1)
        found = (logits - mean.unsqueeze(1)) * (gradients[0] * (2 / logits.shape[1]))
        return found.masked_fill(~valid.unsqueeze(1), 0.0), None


_apply_spread: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _Spread.apply
