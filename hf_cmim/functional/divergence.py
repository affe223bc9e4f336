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
"""Logarithm of the smallest normal fp32 number; smaller probabilities count as that number, as 0 * inf is nan."""


def tempered_log_probs(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Return log softmax(logits / T) for every temperature.

    Args:
        logits: `(B, C)` raw logits; half precision is raised to fp32, fp64 stays.
        temperatures: `K` numbers above 0.

    Returns:
        Log-probabilities, `(K, B, C)`, fp32 (fp64 for fp64 logits).
    """
    raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scale = torch.tensor(temperatures, dtype=raised.dtype, device=raised.device).reshape(-1, 1, 1)
    return functional.log_softmax(raised.unsqueeze(0) / scale, dim=-1)


def softened_log_probs(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return log softmax(logits / T) at one temperature; for log-probabilities, their normalised power 1/T.

    Args:
        logits: `(..., C)` logits or log-probabilities.
        temperature: T > 0: a number, a 0-d tensor, or one temperature per row, `(..., 1)`.
    """
    raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probs: Tensor = functional.log_softmax(raised / temperature, dim=-1)
    return log_probs


def standard_deviation(logits: Tensor) -> Tensor:
    """Return the unbiased standard deviation of each row, `(..., 1)`; its gradient at a constant row is 0."""
    # Not `Tensor.std`, which warns about a batch without samples.
    centred = logits - logits.mean(dim=-1, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    return norm / math.sqrt(logits.shape[-1] - 1)


def standardized(logits: Tensor, floor: float = 1e-7) -> Tensor:
    """Return each row minus its mean, divided by its unbiased standard deviation plus `floor`."""
    return (logits - logits.mean(dim=-1, keepdim=True)) / (standard_deviation(logits) + floor)


def pearson_correlation(first: Tensor, second: Tensor, floor: float = 1e-8) -> Tensor:
    """Return the correlation of the rows of two tensors, `(...)` in [-1, 1]; 0 where a row is constant.

    Args:
        first: rows, `(..., D)`.
        second: rows, `(..., D)`.
        floor: constant added to the product of the norms of two centred rows.
    """
    first, second = (values - values.mean(dim=-1, keepdim=True) for values in (first, second))
    norms = torch.linalg.vector_norm(first, dim=-1) * torch.linalg.vector_norm(second, dim=-1)
    correlation: Tensor = (first * second).sum(dim=-1) / (norms + floor)
    return correlation


def batch_mean(values: Tensor) -> Tensor:
    """Return the mean over samples `(N,)`, or a differentiable 0 without samples."""
    return values.sum() / max(len(values), 1)


def log_of_sum(first: Tensor, second: Tensor) -> Tensor:
    """Return log(e^a + e^b) of each pair of numbers, with the same bits whatever else is in the tensors.

    `torch.logaddexp` rounds some of the last numbers of a tensor otherwise than it would in a longer one.
    """
    return torch.stack([first, second]).logsumexp(dim=0)


def kl_divergence(log_probs: Tensor, other_log_probs: Tensor) -> Tensor:
    """Return KL(p || q) along the last dimension, not averaged.

    Args:
        log_probs: log p, `(..., C)`, finite.
        other_log_probs: log q, `(..., C)`, finite (raise -inf to a finite floor first: 0 * inf is nan).

    Returns:
        Divergences, `(...)`, nats.
    """
    return (log_probs.exp() * (log_probs - other_log_probs)).sum(dim=-1)


def summed_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy summed over the valid labels, 0-d; the caller divides by their number.

    Args:
        logits: `(B, C)` raw logits.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        label_smoothing: share of the target that is spread evenly over the classes, in [0, 1).
    """
    raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(
        raised, labels.long(), ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )
