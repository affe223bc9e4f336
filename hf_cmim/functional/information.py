"""Conditional mutual information of a classifier's outputs given the label, and its companions.

The conditional mutual information (CMI) measures how far the outputs of a class spread around their mean. It is 0 when
the output depends only on the label.

The map X -> P_x = softmax(z / T) makes Y -> X -> Y^ a Markov chain, with Y^ drawn from P_x. The cluster of class c is
{P_x : y(x) = c}, its centroid is Q_c = E[P_X | Y = c], and the CMI is I(X; Y^ | Y) = E[KL(P_X || Q_Y)].

Every function takes `logits` `(..., C)` of any floating dtype and `labels` `(...)` with integers in [0, C) or -100
(ignored). It computes in float64 where the device has it, and returns float32 (float64 for float64 logits). It uses
all samples, or with `correct_only` those whose largest logit is at their label. Masked classes have probability 0
(`hf_cmim.functional.inputs`). `HfCmimError` is raised when there is no sample, or a logit is nan or +inf. All
functions except `prediction_entropy` are differentiable. For data in batches use `ClusterStatistics`.

Source: arXiv 2309.09123 (definitions), arXiv 2507.00012 (temperatures); the variance ratio is ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_cmim.functional.clusters import ClusterStatistics


def _clusters(logits: Tensor, labels: Tensor, temperatures: Sequence[float], correct_only: bool) -> ClusterStatistics:
    statistics = ClusterStatistics(logits.shape[-1], temperatures, correct_only)
    statistics.update(logits, labels)
    return statistics


def _result(value: Tensor, logits: Tensor) -> Tensor:
    return value.to(torch.promote_types(logits.dtype, torch.float32))


def conditional_mutual_information(
    logits: Tensor, labels: Tensor, temperature: float = 1.0, *, correct_only: bool = False
) -> Tensor:
    """Return I(X; Y^ | Y) = mean KL(softmax(z / T) || Q_y), 0-d, in nats, between 0 and log C.

    The centroids are those of this batch. With few samples per class, n, the result understates the CMI of the
    distribution by a factor of about (n - 1) / n, and is exactly 0 at n = 1.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 0.0]])
    >>> round(conditional_mutual_information(logits, torch.tensor([0, 0, 1, 1])).item(), 4)
    0.1639
    """
    return _result(_clusters(logits, labels, [temperature], correct_only).cmi()[0], logits)


def cmi_curve(logits: Tensor, labels: Tensor, temperatures: Sequence[float], *, correct_only: bool = False) -> Tensor:
    """Return the CMI at each temperature, `(K,)` nats. Scaling the logits only shifts this curve along T."""
    return _result(_clusters(logits, labels, temperatures, correct_only).cmi(), logits)


def class_centroids(
    logits: Tensor, labels: Tensor, temperatures: Sequence[float], *, correct_only: bool = False
) -> Tensor:
    """Return the mean of softmax(z / T) of each class, `(K, C, C)`: row c sums to 1, or to 0 if c has no sample."""
    return _result(_clusters(logits, labels, temperatures, correct_only).centroids(), logits)


def separation(logits: Tensor, labels: Tensor, temperature: float = 1.0, *, correct_only: bool = False) -> Tensor:
    """Return Gamma = E[1{Y != V} H(P_X, P_U)], 0-d nats, for (U, V) an independent copy of (X, Y)."""
    return _result(_clusters(logits, labels, [temperature], correct_only).separation()[0], logits)


def normalized_cmi(logits: Tensor, labels: Tensor, temperature: float = 1.0, *, correct_only: bool = False) -> Tensor:
    """Return NCMI = CMI / Gamma, 0-d, dimensionless; 0 where Gamma is 0, as with samples of one class only."""
    return _result(_clusters(logits, labels, [temperature], correct_only).normalized_cmi()[0], logits)


def within_class_variance(logits: Tensor, labels: Tensor, *, correct_only: bool = False) -> Tensor:
    """Return the trace of the within-class covariance of the centred logits, 0-d, in squared logits.

    For large T, T^2 times the CMI tends to this trace divided by 2 C.
    """
    return _result(_clusters(logits, labels, [1.0], correct_only).within_class_variance(), logits)


def within_total_ratio(logits: Tensor, labels: Tensor, *, correct_only: bool = False) -> Tensor:
    """Return the within-class variance divided by the total variance of the centred logits, 0-d in [0, 1].

    The scale of the logits does not change it.
    """
    return _result(_clusters(logits, labels, [1.0], correct_only).within_total_ratio(), logits)


def prediction_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return H(argmax | label), 0-d nats: the limit of the CMI as T goes to 0."""
    return _result(_clusters(logits, labels, [1.0], False).prediction_entropy(), logits)
