"""Output channels: changes of a teacher's answers on their way to the attacker, such as rounding or top-k.

A channel maps `(N, C)` log-probabilities to the answer of an interface, again as `(N, C)` fp32 log-probabilities,
finite and normalised. An interface that gives full probabilities has no channel (`None`).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError

FLOOR = 1e-12
"""Probability given to a class whose probability is hidden or 0; ours.

An attack that softens answers reads it as FLOOR^(1/T) of the top class: at T = 4 as .001. An answer with only a label
(`Argmax`) then becomes a confidence of .991 for 10 classes, .91 for 100 and .50 for 1,000. A larger floor would smooth
more (1e-8: .92, .50 and .09). A smaller one would make losses on logits grow without bound.
"""


def raise_zeros(log_probs: Tensor) -> Tensor:
    """Return the rows with probabilities of exactly 0 (-inf) raised to FLOOR; all other rows stay unchanged.

    All probabilities of such a row are then at least FLOOR, so the order of its classes stays. Its sum is not
    corrected.

    Args:
        log_probs: `(..., C)` log-probabilities, -inf allowed.
    """
    has_zero = (log_probs == -math.inf).any(dim=-1, keepdim=True)
    return torch.where(has_zero, log_probs.clamp_min(math.log(FLOOR)), log_probs)


def normalized(log_probs: Tensor) -> Tensor:
    """Return the rows normalised to sum to 1; rows that already do, to 1e-5, keep every bit.

    Args:
        log_probs: `(..., C)` log-probabilities without a row of only -inf.
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
    """Abstract channel. Evaluating its `repr` rebuilds it.

    Attributes:
        hides_classes: flag for channels after which some classes have no probability of their own.
    """

    hides_classes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the changed answers to `(N, C)` log-probabilities: the same shape, fp32, finite and normalised."""


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
        return _log_probs(torch.round(_precise(log_probs).exp(), decimals=self.decimals))


@dataclass(frozen=True)
class TopK(AbstractChannel):
    """Only the k most probable classes.

    The attacker knows the missing mass and spreads it evenly over the hidden classes. An interface that renormalises
    the visible probabilities also hides that mass; then the hidden classes count as FLOOR.

    Args:
        k: number of visible classes, at least 1 and below the number of classes.
        renormalized: switch to scale the visible probabilities to sum to 1.

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
            raise HfCmimError(
                f"Expected at least 1 class shown, got k={self.k}: there would be no answer. Use k=1 or more."
            )

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the k largest log-probabilities; the other classes share the remaining mass.

        Raises:
            HfCmimError: k is not below the number of classes, so no class would be hidden.
        """
        num_classes = log_probs.shape[-1]
        if self.k >= num_classes:
            raise HfCmimError(
                f"Expected k below the number of classes, {num_classes}, got k={self.k}: nothing would be hidden, but"
                " attacks that need every class would still be refused. Use channel=None."
            )
        logs = _precise(log_probs)
        top_classes = logs.topk(self.k, dim=-1).indices
        visible = torch.zeros_like(logs, dtype=torch.bool).scatter_(-1, top_classes, True)
        if self.renormalized:
            hidden = torch.zeros_like(logs)
        else:
            mass = logs.exp().masked_fill(visible, 0).sum(dim=-1, keepdim=True)
            hidden = (mass / (num_classes - self.k)).expand_as(logs)
        return _log_probs(torch.where(visible, logs.exp(), hidden))


@dataclass(frozen=True)
class Argmax(AbstractChannel):
    """Only the most probable label; every other class counts as FLOOR.

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
        logs = torch.log_softmax(self.scale * _precise(log_probs), dim=-1).float()
        return normalized(raise_zeros(logs))


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
        logs = _precise(log_probs)
        probs = logs.exp()
        # A probability of 1 would have infinite odds.
        log_odds = logs - torch.log1p(-probs.clamp_max(1 - torch.finfo(probs.dtype).eps))
        return _log_probs(probs - self.beta * (torch.sigmoid(self.gamma * log_odds) - 0.5))


def label_log_probs(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels `(...)` in [0, C) as log-probabilities `(..., C)` in which every other class counts as FLOOR."""
    probs = torch.full((*labels.shape, num_classes), FLOOR, device=labels.device)
    return _log_probs(_precise(probs.scatter_(-1, labels.long().unsqueeze(-1), 1.0)))
