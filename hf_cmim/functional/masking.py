"""Masked classes: logits that say "this class must not be chosen", not "this class is unlikely".

Heads that serve subsets of the labels, or pad them, fill the unused logits with -inf, -1e4, -1e9 or the lowest number
of their type. Such a class has probability 0 at every temperature. It takes no part in means, variances, centroids
and gradients of the CMI, and a class that is masked in every sample changes nothing. The cross-entropy is PyTorch's:
it is infinite where the label is at -inf, and with label smoothing where any class is.

A logit counts as masked when it lies more than `MASK_DISTANCE` below the largest of its row. For -1e4 this holds if
the largest logit is above -5,000. Confident models stay far closer: logits 300 below the largest are ordinary. At a
distance of 5,000 a probability is below 1e-33 at T = 64, less than fp32 can add to 1 (6e-8) at any T up to 300.
Source: ours.
"""

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError

MASK_DISTANCE = 5000.0
"""Distance from the largest logit of a row beyond which a logit is a masked class."""
GAP = MASK_DISTANCE / 2
"""Smallest distance between masked classes and all other logits for which a measurement accepts a mask."""
MOST_FILLS = 8
"""Largest number of different fill values in one batch."""


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


def with_masks_at_infinity(logits: Tensor) -> Tensor:
    """Return the logits of a measurement with -inf for masked classes.

    A measurement must not depend on the scale of the logits. Multiplied by 1,000, ordinary logits lie as far apart as
    masked classes, and most would no longer count. So finite logits count as masked only in a batch that looks masked:
    no logit lies between `GAP` and `MASK_DISTANCE` below the largest, and the logits beyond are a few fill values.
    Waits for the device.

    Args:
        logits: `(N, C)` raw logits of valid samples.

    Raises:
        HfCmimError: a logit that is nan or +inf, or a sample with every class at -inf.
    """
    if not logits.numel():
        return logits
    lowest, highest = (value.item() for value in torch.aminmax(logits.detach()))
    # The comparison is false where a value is nan or infinite: those go on to the check below.
    if highest - lowest <= GAP:
        return logits
    raised = logits.detach().to(torch.float32 if logits.device.type == "mps" else torch.float64)
    largest = raised.amax(dim=-1, keepdim=True)
    num_unusable = int((~largest.isfinite()).sum())
    if num_unusable:
        raise HfCmimError(
            f"{num_unusable} of {len(logits)} samples have a logit that is nan or +inf, or no class above -inf: they"
            " have no output to measure. Look for a model that diverged, an overflow in half precision, or a mask over"
            " every class. To leave samples out, label them -100."
        )
    distances = largest - raised
    masked = distances > MASK_DISTANCE
    has_logits_in_gap = bool(((distances > GAP) & ~masked).any())
    if has_logits_in_gap or not _are_fills(raised[masked & (raised > -torch.inf)]):
        return logits
    return without_masked(logits, masked)


def _are_fills(values: Tensor) -> bool:
    """Return True if values are a few fill values, to which a model's ordinary logits may have been added."""
    steps = values.unique().diff()
    # A large step separates two fill values; small steps are ordinary logits around one of them.
    is_large = steps > GAP
    return int(is_large.sum()) < MOST_FILLS and bool(steps[~is_large].sum() <= GAP)


def infinite_classes(logits: Tensor) -> Tensor | None:
    """Return a mask of logits at -inf, `(N, C)` bool, or None without any. Waits for the device."""
    infinite = logits.detach() == -torch.inf
    return infinite if bool(infinite.any()) else None
