"""The CMI as a share of all that outputs say.

By the chain rule what an output P says of its sample X is I(X; P) = I(Y; P) + I(X; P | Y): what it says of the
label and, the CMI, what it says beyond. The share of the latter is a number between 0 and 1 that needs no scale: where
all logits shrink, both fall alike at high temperatures, and pushing classes further apart that nobody confuses changes
neither. Source: ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_cmim.functional.divergence import LOWEST, own_centroids, tempered_log_probs

SMALLEST_INFORMATION = 1e-4
"""Nats below which what outputs say counts as this, so that those of an untrained model pull little: at T = 16 as much
is said by logits of a root mean square of about .2."""


class LabelInformation(NamedTuple):
    """What class-mean outputs say of the label; constant in a gradient.

    Attributes:
        log_marginals: `(K, C)` log of the mean output of all classes, by how often each occurs.
        information: `(K,)` I(Y; P) at each temperature, nats: the mean divergence of centroids from that output.
    """

    log_marginals: Tensor
    information: Tensor


def label_information(centroids: Tensor, log_centroids: Tensor, counts: Tensor) -> LabelInformation:
    """Return what centroids say of the label, from one look at their table.

    Args:
        centroids: `(K, C, C)`, row c of a level being the mean output of class c; 0 for classes without a sample.
        log_centroids: `(K, C, C)` their logarithms; -inf for a class without a sample.
        counts: `(C,)` how often each class occurs, at least 0, in any unit.

    >>> certain = torch.eye(2).unsqueeze(0)
    >>> label_information(certain, certain.log(), torch.ones(2)).information  # log 2
    tensor([0.6931])
    """
    # In double precision, as single rounds a difference of entropies by as much as weak outputs say.
    dtype = torch.float32 if centroids.device.type == "mps" else torch.float64
    prior = counts.to(dtype) / counts.sum().clamp_min(1e-12)
    marginals, information = [], []
    with torch.autocast(centroids.device.type, enabled=False):
        for rows, logs in zip(centroids, log_centroids, strict=True):  # one by one: they are large
            marginal = prior @ rows.to(dtype)
            own = torch.linalg.vecdot(rows.to(dtype), logs.clamp_min(LOWEST).to(dtype))
            information.append(prior @ own + torch.special.entr(marginal).sum())
            marginals.append(marginal)
    log_marginals = torch.stack(marginals).log().clamp_min(LOWEST)
    return LabelInformation(log_marginals.to(centroids.dtype), torch.stack(information).to(centroids.dtype))


def relative_divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: Sequence[float],
    known: LabelInformation,
    terms: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the divergences from each class's centroid, summed over the samples, over all that outputs say.

    Their gradient is that of the share CMI / (I + CMI), which is (I dCMI - CMI dI) / (I + CMI)^2, with CMI and I as
    they were before this step, so that it is a sum over samples. I changes with an output p of class y by its product
    with log Q_y - log Q: centroids and marginal may be held constant, as the other parts vanish where these are exact.

    Args:
        logits: `(B, C)`.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)`; a class with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        known: what the label's information is.
        terms: `(K,)` CMI at each temperature in the step before, nats; None takes this batch's own.

    Returns:
        The shares, `(K,)`, times the number of samples, differentiable; sums of divergences, `(K,)`, nats, detached.
    """
    log_probs = tempered_log_probs(logits, temperatures).clamp_min(LOWEST)  # of a masked class it is -inf
    probs = log_probs.exp()
    own, counted = own_centroids(labels, log_centroids)
    said = (probs * (own - known.log_marginals.unsqueeze(1))).sum(dim=-1)
    beyond = (probs * (log_probs - own)).sum(dim=-1)
    said, beyond = (torch.where(counted, each, 0.0).sum(dim=-1) for each in (said, beyond))
    sums = beyond.detach()
    if terms is None:
        terms = sums / counted.sum().clamp_min(1)
    total = (known.information + terms).clamp_min(SMALLEST_INFORMATION)
    shares = (known.information * beyond - terms * said) / total.square()
    return shares + (sums / total - shares.detach()), sums
