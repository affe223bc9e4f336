"""Membership inference by the loss: can a model's training samples be told from others?"""

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError

NORMAL_QUANTILE = 1.959964
"""Quantile .975 of the normal distribution, for intervals of 95 %."""


def membership_auc(member_losses: Tensor, other_losses: Tensor) -> tuple[float, float, float]:
    """Return how well a threshold on the loss tells training samples from others, with its 95 % interval.

    The AUC is the probability that a random training sample has a smaller loss than a random other sample, where equal
    losses count half. 0.5: the loss tells nothing. 1: it tells every training sample. No threshold has to be chosen.
    It measures one simple attacker: 0.5 does not exclude that a stronger one succeeds.

    AUC = mean over (i, j) of [l_i < l'_j] + [l_i = l'_j] / 2. Its variance is that of each sample's own mean:
    var_i(mean_j) / M + var_j(mean_i) / N. The interval is normal and cut at 0 and 1; within a few samples of 0 or 1 it
    is too narrow.

    Args:
        member_losses: `(M,)` cross-entropies of the true label on samples that the model was trained on, M >= 2.
        other_losses: `(N,)` cross-entropies on other samples of the same kind, N >= 2.

    Returns:
        Estimate, lower end, upper end.

    Raises:
        HfCmimError: fewer than two samples of a kind, or a loss that is nan.

    Source: Yeom et al., arXiv 1709.01604 (the attacker); DeLong et al., Biometrics 44, 1988 (the variance).

    >>> membership_auc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.3, 0.5, 0.9]))[0]
    0.875
    """
    members, strangers = member_losses.flatten().double().cpu(), other_losses.flatten().double().cpu()
    if min(len(members), len(strangers)) < 2:
        raise HfCmimError(
            f"Expected the losses of at least 2 training samples and 2 others, got {len(members)} and"
            f" {len(strangers)}: one sample has no spread and therefore no interval. Give more samples."
        )
    if members.isnan().any() or strangers.isnan().any():
        raise HfCmimError("Expected losses, got nan: it is neither small nor large. Check the answers for nan.")
    larger = 1 - _share_below(strangers, members)
    smaller = _share_below(members, strangers)
    auc = larger.mean().item()
    error = (larger.var() / len(members) + smaller.var() / len(strangers)).sqrt().item()
    return auc, max(0.0, auc - NORMAL_QUANTILE * error), min(1.0, auc + NORMAL_QUANTILE * error)


def _share_below(losses: Tensor, thresholds: Tensor) -> Tensor:
    """Return the share of losses below each threshold; equal ones count half."""
    ordered = losses.sort().values
    below = torch.searchsorted(ordered, thresholds, right=False)
    not_above = torch.searchsorted(ordered, thresholds, right=True)
    return (below + not_above).double() / (2 * len(losses))
