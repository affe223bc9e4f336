"""Tempered softmax, Kullback-Leibler divergence and cross-entropy: the only eager softmax code of the library.

Shapes: `B` samples, `C` classes, `K` temperatures. All values in nats, all arithmetic in fp32 or better.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

IGNORE_INDEX = -100
"""Label of a position that takes no part in any loss or statistic (the Hugging Face convention)."""
LOWEST = math.log(torch.finfo(torch.float32).tiny)
"""A probability below the smallest normal fp32 number is taken as that number: 0 * inf is nan."""


def tempered_log_probs(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Return log softmax(logits / T) for every temperature.

    Args:
        logits: `(B, C)` raw logits; half precision is raised to fp32, fp64 stays.
        temperatures: `K` numbers above 0.

    Returns:
        `(K, B, C)`, fp32 (fp64 for fp64 logits).
    """
    raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scale = torch.tensor(temperatures, dtype=raised.dtype, device=raised.device).reshape(-1, 1, 1)
    return functional.log_softmax(raised.unsqueeze(0) / scale, dim=-1)


def softened_log_probs(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return log softmax(logits / T) at one temperature; of log-probabilities it gives their normalised power 1/T.

    Args:
        logits: `(..., C)` logits or log-probabilities.
        temperature: T > 0: a number, a 0-d tensor, or `(..., 1)` one for each row.
    """
    raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probs: Tensor = functional.log_softmax(raised / temperature, dim=-1)
    return log_probs


def standard_deviation(logits: Tensor) -> Tensor:
    """Return the unbiased standard deviation of each row, `(..., 1)`; its gradient at a constant row is 0."""
    # `Tensor.std` warns about a batch without samples.
    centred = logits - logits.mean(dim=-1, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    return norm / math.sqrt(logits.shape[-1] - 1)


def standardized(logits: Tensor, floor: float = 1e-7) -> Tensor:
    """Return each row less its mean, over its standard deviation (unbiased) plus `floor`."""
    return (logits - logits.mean(dim=-1, keepdim=True)) / (standard_deviation(logits) + floor)


def pearson_correlation(first: Tensor, second: Tensor, floor: float = 1e-8) -> Tensor:
    """Return the correlation of the rows of two tensors, `(...)` in [-1, 1]; a constant row has none, 0.

    Args:
        first: `(..., D)`.
        second: `(..., D)`.
        floor: smallest norm of a centred row.
    """
    first, second = (values - values.mean(dim=-1, keepdim=True) for values in (first, second))
    correlation: Tensor = functional.cosine_similarity(first, second, dim=-1, eps=floor)
    return correlation


def batch_mean(values: Tensor) -> Tensor:
    """Return the mean over samples `(N,)`, and a differentiable 0 where there is none."""
    return values.sum() / max(len(values), 1)


def kl_divergence(log_probs: Tensor, other_log_probs: Tensor) -> Tensor:
    """Return KL(p || q) along the last dimension, not averaged.

    Args:
        log_probs: `(..., C)` log p, finite.
        other_log_probs: `(..., C)` log q, finite (raise -inf to a finite floor first: 0 * inf is nan).

    Returns:
        `(...)` in nats.
    """
    return (log_probs.exp() * (log_probs - other_log_probs)).sum(dim=-1)


def own_centroids(labels: Tensor, log_centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-centroid of each sample's class, `(K, B, C)`, finite, and which samples have one, `(B,)`."""
    own = log_centroids[:, labels.clamp_min(0)]
    counted = (labels != IGNORE_INDEX) & (own > -torch.inf).any(dim=-1).all(dim=0)
    return own.clamp_min(LOWEST), counted


def centroid_divergences(
    logits: Tensor, labels: Tensor, log_centroids: Tensor, temperatures: Sequence[float], wants_pulls: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the divergences of the samples from their class's centroid, summed over the valid samples.

    Args:
        logits: `(B, C)`, -inf for masked classes.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)`; a class with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        wants_pulls: whether to derive the sums.

    Returns:
        The sums, `(K,)`, nats; their derivatives by the logarithm of a factor on the logits, `(K,)`, detached; 0 where
        no gradient flows.
    """
    log_probs = tempered_log_probs(logits, temperatures).clamp_min(LOWEST)  # of a masked class it is -inf
    own_log_centroids, counted = own_centroids(labels, log_centroids)
    divergences = kl_divergence(log_probs, own_log_centroids)
    sums = torch.where(counted, divergences, 0.0).sum(dim=-1)
    if not (wants_pulls and sums.requires_grad):
        return sums, torch.zeros_like(sums)
    with torch.no_grad():  # the covariance, under p, of log p and log p / q
        excess = log_probs - own_log_centroids - divergences.unsqueeze(-1)
        return sums, torch.where(counted, (log_probs.exp() * log_probs * excess).sum(dim=-1), 0.0).sum(dim=-1)


def summed_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy summed over the valid labels, 0-d.

    The caller divides by a count. With class weights that count is the number of labels, not the sum of their
    weights: only so does splitting a batch leave the loss unchanged.

    Args:
        logits: `(B, C)` raw logits.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        class_weights: `(C,)` factors of each class, or None.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
    """
    raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(
        raised,
        labels.long(),
        weight=None if class_weights is None else class_weights.to(raised.dtype),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
