"""Directions and differences of outputs, on which the relations between the samples of a batch are built."""

import torch
from torch import Tensor

FLOOR = 1e-4
"""Norm of centred logits below which an output has no direction; ours.

A head that starts at 0 gives such outputs. The gradient of a normalised vector grows as 1 / norm, so that one step
would otherwise undo the training before it. They get no such gradient; the cross-entropy sets them apart.
"""


def centred_logits(logits: Tensor) -> Tensor:
    """Return `(..., C)` logits less their mean, which is what log-probabilities tell of them."""
    return logits - logits.mean(dim=-1, keepdim=True)


def norms(vectors: Tensor) -> Tensor:
    """Return the Euclidean norms `(..., 1)` of `(..., D)`; those below FLOOR count as 0, without a gradient."""
    squares = vectors.square().sum(dim=-1, keepdim=True)
    is_short = squares < FLOOR**2
    # The inner `where` keeps the infinite slope of the square root at 0 out of the backward pass.
    return torch.where(is_short, 0.0, torch.where(is_short, 1.0, squares).sqrt())


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return `(..., D)` vectors over their norms; those shorter than FLOOR become 0, without a gradient."""
    lengths = norms(vectors)
    return torch.where(lengths > 0, vectors, 0.0) / torch.where(lengths > 0, lengths, 1.0)
