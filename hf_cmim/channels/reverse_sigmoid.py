"""Reverse sigmoid: a deceptive perturbation of answers."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel, floored_log_probs, precise
from hf_cmim.errors import HfCmimError


@dataclass(frozen=True)
class ReverseSigmoid(AbstractChannel):
    """A deterministic perturbation: p' = p - beta (sigmoid(gamma logit(p)) - 1/2), normalised (equations 3 and 4).

    Use it to test attacks that recover p from p'. A class that would fall below FLOOR counts as FLOOR; the public
    implementations let such values become negative.

    Args:
        beta: size of the perturbation, at least 0; 0 changes nothing.
        gamma: steepness, at least 0.

    Source: Lee et al., "Defending Against Machine Learning Model Stealing Attacks Using Deceptive Perturbations",
    arXiv 1806.00054, in the form of the public implementations of prediction-poisoning and ModelGuard. The defaults
    are those of ModelGuard's comparison; the code of prediction-poisoning defaults to 1 and 1.

    >>> import torch
    >>> ReverseSigmoid(beta=0.0)(torch.tensor([[0.75, 0.25]]).log()).exp().mul(100).round().tolist()
    [[75.0, 25.0]]
    """

    beta: float = 0.008
    gamma: float = 0.2

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value in (("beta", self.beta), ("gamma", self.gamma)):
            if not 0 <= value < math.inf:
                raise HfCmimError(
                    f"Expected {name} at least 0 and finite, got {value}: it would sharpen instead of deceive. The"
                    " defaults are beta=0.008 and gamma=0.2."
                )

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the perturbed log-probabilities."""
        logs = precise(log_probs)
        probs = logs.exp()
        # A probability of 1 would have infinite odds.
        log_odds = logs - torch.log1p(-probs.clamp_max(1 - torch.finfo(probs.dtype).eps))
        return floored_log_probs(probs - self.beta * (torch.sigmoid(self.gamma * log_odds) - 0.5))
