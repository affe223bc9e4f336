"""Base of all output channels, which change answers on their way to the reader.

A channel maps `(N, C)` log-probabilities to the answer of an interface, again as `(N, C)` fp32 log-probabilities,
finite and normalised. An interface that gives full probabilities has no channel (`None`).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

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


def precise(values: Tensor) -> Tensor:
    """Return the values in the best precision of their device."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def floored_log_probs(probs: Tensor) -> Tensor:
    """Return fp32 logs of probabilities that need not sum to 1, each at least FLOOR before normalising."""
    logs = probs.clamp_min(FLOOR).log()
    return (logs - torch.logsumexp(logs, dim=-1, keepdim=True)).float()


def finite_answers(log_probs: Tensor) -> Tensor:
    """Return unchanged answers in fp32, with probabilities of 0 raised to FLOOR, and normalised."""
    return normalized(raise_zeros(log_probs.float()))


def keeping_predictions(answers: Tensor, predictions: Tensor, *, otherwise: Tensor) -> Tensor:
    """Return changed answers, with the row of `otherwise` wherever an answer names another class than was predicted.

    A channel that keeps predictions in exact arithmetic still needs this: fp32 can round two classes to one number.

    Args:
        answers: `(N, C)` changed log-probabilities.
        predictions: `(N,)` predicted classes, which must stay.
        otherwise: `(N, C)` log-probabilities that name these classes.
    """
    return torch.where((answers.argmax(dim=-1) == predictions).unsqueeze(-1), answers, otherwise)


def label_log_probs(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels `(...)` in [0, C) as log-probabilities `(..., C)` in which every other class counts as FLOOR."""
    probs = torch.full((*labels.shape, num_classes), FLOOR, device=labels.device)
    return floored_log_probs(precise(probs.scatter_(-1, labels.long().unsqueeze(-1), 1.0)))


@dataclass(frozen=True)
class AbstractChannel(ABC):
    """Abstract channel. Its `repr` tells it from every other channel.

    The repr enters fingerprints and reports. Evaluating it rebuilds the channel, unless the channel is fitted to data:
    then it holds a digest of them.

    Attributes:
        hides_classes: flag for channels after which some classes have no probability of their own.
    """

    hides_classes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the changed answers to `(N, C)` log-probabilities: the same shape, fp32, finite and normalised."""
