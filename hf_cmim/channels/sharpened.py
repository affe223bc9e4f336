"""Sharpening: answers at a fixed temperature."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel, normalized, precise, raise_zeros
from hf_cmim.errors import HfCmimError


@dataclass(frozen=True)
class Sharpened(AbstractChannel):
    """Sharpening: softmax(scale log p). It keeps the label and hides the other classes at a fixed temperature.

    No probability is cut off, so an attacker who scales the temperature by the same factor undoes it.

    Args:
        scale: factor of the log-probabilities, above 0; a factor below 1 flattens.

    Source: ours, the simplest rival of a hardened model.

    >>> import torch
    >>> Sharpened(2.0)(torch.tensor([[0.75, 0.25]]).log()).exp().mul(100).round().tolist()
    [[90.0, 10.0]]
    """

    scale: float

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.scale < math.inf:
            raise HfCmimError(
                f"Expected a scale above 0 and finite, got {self.scale}: the label would change. Use 2.0, say."
            )

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the sharpened log-probabilities."""
        logs = torch.log_softmax(self.scale * precise(log_probs), dim=-1).float()
        return normalized(raise_zeros(logs))
