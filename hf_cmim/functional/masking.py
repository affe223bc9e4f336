"""Masked classes: logits that say "this class is not to be chosen", not "this class is unlikely".

Heads that serve subsets of the labels, or pad them, fill the other logits with -inf, -1e4, -1e9 or the lowest number
of their type. Such a class has probability 0 at every temperature. It takes no part in means, variances, centroids
and gradients of the CMI, and a class that is masked in every sample changes nothing. The cross-entropy is PyTorch's
own: it is infinite where the label is at -inf, and with label smoothing where any class is.

A logit counts as masked when it lies more than `MASK_DISTANCE` below the largest of its row. -1e4 does as long as that
largest logit is above -5,000. Confident models stay far closer: logits 300 below the largest are ordinary. At a
distance of 5,000 a probability is below 1e-33 at T = 64, less than fp32 can add to 1 (6e-8) at any T up to 300.
Source: ours.
"""

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError

MASK_DISTANCE = 5000.0
"""Distance from the largest logit of a row beyond which a logit is a masked class."""
GAP = MASK_DISTANCE / 2
"""Distance by which measurements want masked classes to stand apart from all other logits."""
MOST_FILLS = 8
"""Fill values in one batch, at most."""


def masked_classes(logits: Tensor) -> Tensor | None:
    """Return which logits are masked classes.

    Args:
        logits: `(..., C)` raw logits, not divided by a temperature.

    Returns:
        `(..., C)` bool, or None where no class is masked. Only on a CPU is that looked for; elsewhere it would mean
        waiting for the device.

    >>> masked_classes(torch.tensor([[0.0, -300.0, -1e4], [-torch.inf, 2.0, 1.0]]))
    tensor([[False, False,  True],
            [ True, False, False]])
    """
    values = logits.detach()
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        if not values.numel():
            return None
        lowest, highest = torch.aminmax(values)
        if highest.item() - lowest.item() <= MASK_DISTANCE:  # false where one is nan
            return None
    raised = values.to(torch.promote_types(values.dtype, torch.float32))
    return raised < raised.amax(dim=-1, keepdim=True) - MASK_DISTANCE


def without_masked(logits: Tensor, masked: Tensor | None) -> Tensor:
    """Return logits with -inf for masked classes, which get no gradient; `masked` as `masked_classes` returns it."""
    return logits if masked is None else logits.masked_fill(masked, -torch.inf)


def row_means(logits: Tensor, masked: Tensor | None) -> Tensor:
    """Return the mean of each row over the classes that are not masked, `(..., 1)`."""
    if masked is None:
        return logits.mean(dim=-1, keepdim=True)
    return logits.masked_fill(masked, 0.0).sum(dim=-1, keepdim=True) / allowed_classes(masked)


def allowed_classes(masked: Tensor) -> Tensor:
    """Return the number of classes of each row that are not masked, `(..., 1)`, at least 1."""
    return masked.shape[-1] - masked.sum(dim=-1, keepdim=True)


def with_masks_at_infinity(logits: Tensor) -> Tensor:
    """Return the logits of a measurement with -inf for masked classes.

    A measurement must not depend on the scale of the logits: multiplied by 1,000 they lie as far apart as masked
    classes do, and most would no longer count. So finite logits count as masked only where a batch looks like one with
    masks: no logit lies between `GAP` and `MASK_DISTANCE` below the largest, and those beyond are a few fill values.
    Waits for the device.

    Args:
        logits: `(N, C)` raw logits of samples that count.

    Raises:
        HfCmimError: a logit that is nan or +inf, or a sample with every class at -inf.
    """
    if not logits.numel():
        return logits
    lowest, highest = (value.item() for value in torch.aminmax(logits.detach()))
    if highest - lowest <= GAP:  # false where one is nan or infinite
        return logits
    raised = logits.detach().to(torch.float32 if logits.device.type == "mps" else torch.float64)
    largest = raised.amax(dim=-1, keepdim=True)
    wrong = int((~largest.isfinite()).sum())
    if wrong:
        raise HfCmimError(
            f"{wrong} of {len(logits)} samples have a logit that is nan or +inf, or no class above -inf: they have no"
            " output to measure. Look for a model that diverged, an overflow in half precision, or a mask over every"
            " class. To leave samples out, label them -100."
        )
    below = largest - raised
    masked = below > MASK_DISTANCE
    if bool(((below > GAP) & ~masked).any()) or not _are_fills(raised[masked & (raised > -torch.inf)]):
        return logits
    return without_masked(logits, masked)


def _are_fills(values: Tensor) -> bool:
    """Whether values are constants, to which a model's ordinary logits may have been added."""
    steps = values.unique().diff()
    apart = steps > GAP
    return int(apart.sum()) < MOST_FILLS and bool(steps[~apart].sum() <= GAP)


def infinite_classes(logits: Tensor) -> Tensor | None:
    """Return which logits are -inf, `(N, C)` bool, or None where there is none. Waits for the device."""
    infinite = logits.detach() == -torch.inf
    return infinite if bool(infinite.any()) else None
