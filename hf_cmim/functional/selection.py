"""The samples and classes that count in a measurement.

A loss takes each batch as it comes; `hf_cmim.functional.inputs` says which classes it masks. A measurement must not
depend on the scale of the logits, so it looks at a whole batch before it masks a class. Everything here waits for the
device.
"""

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import (
    MASK_DISTANCE,
    check_label_range,
    correct_alone,
    flatten_samples,
    without_masked,
)

GAP = MASK_DISTANCE / 2
"""Smallest distance between masked classes and all other logits for which a measurement accepts a mask."""
MOST_FILLS = 8
"""Largest number of different fill values in one batch."""


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
