"""The divergences as plain operations that autograd derives, twice if asked: the backend "eager".

Source: ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX, LOWEST, kl_divergence, tempered_log_probs


def own_centroids(labels: Tensor, log_centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-centroid of each sample's class, `(K, B, C)`, finite, and a mask of samples that have one."""
    # Label -100 reads class 0 here; the mask leaves such samples out.
    rows = log_centroids[:, labels.clamp_min(0)]
    counted = (labels != IGNORE_INDEX) & (rows > -torch.inf).any(dim=-1).all(dim=0)
    return rows.clamp_min(LOWEST), counted


def centroid_divergences(
    logits: Tensor, labels: Tensor, log_centroids: Tensor, temperatures: Sequence[float], wants_pulls: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the divergences of the samples from their class's centroid, summed over the valid samples.

    Args:
        logits: `(B, C)` logits, -inf for masked classes.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)` log-centroids; a class with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        wants_pulls: switch to compute the derivatives too.

    Returns:
        Sums, `(K,)`, nats, and their derivatives with respect to the logarithm of a factor on all logits, `(K,)`,
        detached; 0 where no gradient flows.
    """
    # The bound matters only for masked classes, whose log-probability is -inf.
    log_probs = tempered_log_probs(logits, temperatures).clamp_min(LOWEST)
    class_log_centroids, counted = own_centroids(labels, log_centroids)
    divergences = kl_divergence(log_probs, class_log_centroids)
    sums = torch.where(counted, divergences, 0.0).sum(dim=-1)
    if not (wants_pulls and sums.requires_grad):
        return sums, torch.zeros_like(sums)
    with torch.no_grad():
        # The derivative is the covariance, under p, of log p and log(p / q).
        excess = log_probs - class_log_centroids - divergences.unsqueeze(-1)
        covariances = (log_probs.exp() * log_probs * excess).sum(dim=-1)
        return sums, torch.where(counted, covariances, 0.0).sum(dim=-1)


def extrapolated_divergences(
    logits: Tensor, labels: Tensor, log_centroids: Tensor, temperatures: Sequence[float], log_marginals: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the divergences from each class's centroid, and the direction in which references lie beyond it.

    Args:
        logits: `(B, C)` logits, -inf for masked classes.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)` log-centroids; a class with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        log_marginals: log of the mean output, `(K, C)`.

    Returns:
        Sums over samples of KL(p || Q_y), `(K,)`, and of E_p[log Q_y - log marginal], `(K,)`, nats, differentiable;
        number of samples that count, 0-d.
    """
    # The bound matters only for masked classes, whose log-probability is -inf.
    log_probs = tempered_log_probs(logits, temperatures).clamp_min(LOWEST)
    class_log_centroids, counted = own_centroids(labels, log_centroids)

    def summed(log_ratios: Tensor) -> Tensor:
        expectations = (log_probs.exp() * log_ratios).sum(dim=-1)
        return torch.where(counted, expectations, 0.0).sum(dim=-1)

    label_sums = summed(class_log_centroids - log_marginals.unsqueeze(1))
    return summed(log_probs - class_log_centroids), label_sums, counted.sum()
