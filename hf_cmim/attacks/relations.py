"""Directions and norms of outputs, for the relations between the samples of a batch."""

import torch
from torch import Tensor

FLOOR = 1e-4
"""Norm of centred logits below which an output has no direction; ours.

A head that starts at 0 gives such outputs. The gradient of a normalised vector grows as 1 / norm, so one step could
undo the training before it. Shorter outputs get no such gradient; the cross-entropy separates them.
"""


def centred_logits(logits: Tensor) -> Tensor:
    """Return `(..., C)` logits minus their mean over classes; log-probabilities give the same result."""
    return logits - logits.mean(dim=-1, keepdim=True)


def norms(vectors: Tensor) -> Tensor:
    """Return the Euclidean norms `(..., 1)` of `(..., D)` vectors; norms below FLOOR are 0, without a gradient."""
    squares = vectors.square().sum(dim=-1, keepdim=True)
    is_short = squares < FLOOR**2
    # The inner `where` keeps the infinite slope of the square root at 0 out of the backward pass.
    return torch.where(is_short, 0.0, torch.where(is_short, 1.0, squares).sqrt())


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return `(..., D)` vectors divided by their norms; those shorter than FLOOR become 0, without a gradient."""
    lengths = norms(vectors)
    # Both `where` keep 0 / 0 out of the backward pass.
    numerators = torch.where(lengths > 0, vectors, 0.0)
    return numerators / torch.where(lengths > 0, lengths, 1.0)
