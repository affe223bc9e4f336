"""Inputs and results of the operator."""

from typing import NamedTuple

from torch import Tensor


class Scaling(NamedTuple):
    """A common scale for the logits, and the correction that removes the pull on their scale.

    Both come from the steps before, without a graph.

    Attributes:
        multiplier: factor of the logits, 0-d.
        outward: strength of the correction, 0-d: how strongly an objective of weight 1 on the scaled logits pulled all
            logits together in the last step. It is the derivative with respect to the logarithm of a common factor,
            divided by the mean variance of a sample's logits.
    """

    multiplier: Tensor
    outward: Tensor


class Extrapolation(NamedTuple):
    """References further from the marginal than the centroids: log Q + ratio (log Q - log marginal).

    Attributes:
        log_marginals: log of the mean output of all classes, `(K, C)`.
        ratios: distances beyond the centroid in units of its own distance, `(K,)`, at least 0.
    """

    log_marginals: Tensor
    ratios: Tensor


class Divergences(NamedTuple):
    """Result of the operator.

    Attributes:
        total: weighted sum over temperatures and samples, 0-d. It has a graph only inside `torch.compile`.
        sums: sums of the divergences from centroids, `(K,)`, detached; both in nats, fp32 (fp64 for fp64 logits).
        scale_sums: sums of `freed_of_scale`, `(3,)`, detached; 0 without a scaling.
        gradient: gradient of `total`, `(B, C)` in the logits' type or wider, detached; of 0 samples where none is
            needed.
        probs: softmax(logits / T), of scaled logits with a scaling, `(K, B, C)`, detached. Only a small batch without
            a masked class keeps them; otherwise of 0 samples.
    """

    total: Tensor
    sums: Tensor
    scale_sums: Tensor
    gradient: Tensor
    probs: Tensor
