"""Rounding: answers with few decimals."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel, floored_log_probs, precise
from hf_cmim.errors import HfCmimError


@dataclass(frozen=True)
class Rounded(AbstractChannel):
    """Rounding of probabilities to some decimals; a probability that rounds to 0 counts as FLOOR.

    Args:
        decimals: digits after the point, at least 1.

    Source: ours; the rounding defense is common, for instance in Tramèr et al., arXiv 1609.02943.

    >>> import torch
    >>> Rounded(1)(torch.tensor([[0.72, 0.26, 0.02]]).log()).exp().mul(100).round().tolist()
    [[70.0, 30.0, 0.0]]
    """

    decimals: int

    def __post_init__(self) -> None:
        """Check the range."""
        if self.decimals < 1:
            raise HfCmimError(
                f"Expected at least 1 decimal, got {self.decimals}: every answer would be 0 or 1. Use Argmax()."
            )

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the normalised log-probabilities of the rounded answer."""
        return floored_log_probs(torch.round(precise(log_probs).exp(), decimals=self.decimals))
