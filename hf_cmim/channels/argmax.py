"""Argmax: answers that name a class and give no probability."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_cmim.channels.base import AbstractChannel, label_log_probs


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
