"""Output channels: what an answer passes through before an attacker sees it.

A channel maps `(N, C)` log-probabilities to what an interface lets out, again as `(N, C)` fp32 log-probabilities,
finite and normalised. Where the interface gives full probabilities there is no channel (`None`).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError

FLOOR = 1e-12
"""Probability read into a class whose probability is hidden or 0; ours.

An attack that softens answers reads it as FLOOR^(1/T) of the top class: at T = 4 as .001, so that a label alone
(`Argmax`) becomes a confidence of .991 for 10 classes, .91 for 100 and .50 for 1,000. A larger floor would smooth more
by itself (1e-8: .92, .50 and .09), a smaller one would make losses on logits grow without bound.
"""


def raise_zeros(log_probs: Tensor) -> Tensor:
    """Return the rows with probabilities of exactly 0 (-inf) raised to FLOOR; all other rows as they are.

    In such a row nothing is below FLOOR, so that the order of its classes stays; its sum is not corrected.

    Args:
        log_probs: `(..., C)` log-probabilities, -inf allowed.
    """
    has_zero = (log_probs == -math.inf).any(dim=-1, keepdim=True)
    return torch.where(has_zero, log_probs.clamp_min(math.log(FLOOR)), log_probs)


def normalized(log_probs: Tensor) -> Tensor:
    """Return the rows so that they sum to 1; rows that do so to 1e-5 keep every bit.

    Args:
        log_probs: `(..., C)`, of which no row is all -inf.
    """
    excess = torch.logsumexp(log_probs, dim=-1, keepdim=True)
    return torch.where(excess.abs() > 1e-5, log_probs - excess, log_probs)


def _precise(values: Tensor) -> Tensor:
    """Return the values in the best precision of their device."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def _log_probs(probs: Tensor) -> Tensor:
    """Return fp32 logs of probabilities that need not sum to 1, each at least FLOOR before normalising."""
    logs = probs.clamp_min(FLOOR).log()
    return (logs - torch.logsumexp(logs, dim=-1, keepdim=True)).float()


@dataclass(frozen=True)
class AbstractChannel(ABC):
    """Abstract channel. Its `repr` gives it back.

    Attributes:
        hides_classes: whether some classes have no probability of their own in what comes out.
    """

    hides_classes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return what comes out for `(N, C)` log-probabilities: the same shape, fp32, finite and normalised."""


@dataclass(frozen=True)
class Rounded(AbstractChannel):
    """Probabilities rounded to some decimals; what rounds to 0 counts as FLOOR.

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
        """Return the log-probabilities of the rounded answer, normalised."""
        return _log_probs(torch.round(_precise(log_probs).exp(), decimals=self.decimals))


@dataclass(frozen=True)
class TopK(AbstractChannel):
    """The k most probable classes alone.

    The attacker knows what mass is missing and spreads it evenly over the hidden classes. An interface that
    renormalises what it shows hides that mass as well: then the hidden classes count as FLOOR.

    Args:
        k: classes shown, at least 1 and fewer than there are.
        renormalized: whether the shown probabilities are scaled to sum to 1.

    Source: ours; renormalised it is the stingy teacher (Ma et al., "Sparse Logits Suffice to Fail Knowledge
    Distillation", OpenReview 2021, known to us by its description).

    >>> import torch
    >>> TopK(1)(torch.tensor([[0.6, 0.3, 0.1]]).log()).exp().mul(100).round().tolist()
    [[60.0, 20.0, 20.0]]
    """

    k: int
    renormalized: bool = False
    hides_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the range."""
        if self.k < 1:
            raise HfCmimError(f"Expected at least 1 class shown, got k={self.k}: there would be no answer.")

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the k largest log-probabilities, and for the others what is left.

        Raises:
            HfCmimError: no class would be hidden.
        """
        num_classes = log_probs.shape[-1]
        if self.k >= num_classes:
            raise HfCmimError(
                f"Expected k below the number of classes, {num_classes}, got k={self.k}: nothing would be hidden, and"
                " attacks that need every class would be refused for nothing. Use channel=None."
            )
        logs = _precise(log_probs)
        shown = torch.zeros_like(logs, dtype=torch.bool).scatter_(-1, logs.topk(self.k, dim=-1).indices, True)
        if self.renormalized:
            hidden = torch.zeros_like(logs)
        else:
            mass = logs.exp().masked_fill(shown, 0).sum(dim=-1, keepdim=True)
            hidden = (mass / (num_classes - self.k)).expand_as(logs)
        return _log_probs(torch.where(shown, logs.exp(), hidden))


@dataclass(frozen=True)
class Argmax(AbstractChannel):
    """The most probable label alone; every other class counts as FLOOR.

    >>> import torch
    >>> Argmax()(torch.tensor([[0.4, 0.6]]).log()).exp().round().tolist()
    [[0.0, 1.0]]
    """

    hides_classes: ClassVar[bool] = True

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the label as log-probabilities."""
        return label_log_probs(log_probs.argmax(dim=-1), log_probs.shape[-1])


@dataclass(frozen=True)
class Sharpened(AbstractChannel):
    """Probabilities sharpened: softmax(scale log p), which keeps the label and hides the rest at a fixed temperature.

    No probability is cut off, so an attacker who scales the temperature by the same factor undoes it.

    Args:
        scale: factor of the log-probabilities, above 0; below 1 it flattens.

    Source: ours, the simplest rival of a hardened model.

    >>> import torch
    >>> Sharpened(2.0)(torch.tensor([[0.75, 0.25]]).log()).exp().mul(100).round().tolist()
    [[90.0, 10.0]]
    """

    scale: float

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.scale < math.inf:
            raise HfCmimError(f"Expected a scale above 0 and finite, got {self.scale}: the label would change.")

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the sharpened log-probabilities."""
        logs = torch.log_softmax(self.scale * _precise(log_probs), dim=-1).float()
        return normalized(raise_zeros(logs))


@dataclass(frozen=True)
class ReverseSigmoid(AbstractChannel):
    """A deterministic perturbation: p' = p - beta (sigmoid(gamma logit(p)) - 1/2), normalised (equations 3 and 4).

    Here to test attacks that recover p from p'. A class that would fall below FLOOR counts as FLOOR; the public
    implementations of it let such values become negative.

    Args:
        beta: size of the perturbation, at least 0; at 0 nothing is changed.
        gamma: steepness, at least 0.

    Source: Lee et al., "Defending Against Machine Learning Model Stealing Attacks Using Deceptive Perturbations",
    arXiv 1806.00054, as the public implementations of prediction-poisoning and ModelGuard have it. The defaults are
    those ModelGuard names for its comparison; the former's code defaults to 1 and 1.

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
                    f"Expected {name} at least 0 and finite, got {value}: it would sharpen instead of deceive."
                )

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the perturbed log-probabilities."""
        logs = _precise(log_probs)
        probs = logs.exp()
        log_odds = logs - torch.log1p(-probs.clamp_max(1 - torch.finfo(probs.dtype).eps))
        return _log_probs(probs - self.beta * (torch.sigmoid(self.gamma * log_odds) - 0.5))


def label_log_probs(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels `(...)` in [0, C) as log-probabilities `(..., C)` in which every other class counts as FLOOR."""
    probs = torch.full((*labels.shape, num_classes), FLOOR, device=labels.device)
    return _log_probs(_precise(probs.scatter_(-1, labels.long().unsqueeze(-1), 1.0)))
