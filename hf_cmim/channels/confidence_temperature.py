"""Confidence temperature: answers at a temperature that rises with their own confidence."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel, finite_answers, keeping_predictions, precise
from hf_cmim.errors import HfCmimError


@final
@dataclass(frozen=True)
class ConfidenceTemperature(AbstractChannel):
    """Softening of confident answers: softmax(log p / T) with T = 1 + m / limit, where m is the answer's own lead.

    The lead m = log p_1 - log p_2 is that of the likeliest class over the second. After the channel it is
    m' = limit m / (limit + m), below `limit` for every answer. A doubtful answer hardly changes, and confident answers
    all look about equally confident. The label stays, and with it accuracy. Confidence is lost: with many classes a
    confident answer can end at a small probability.

    An attacker who knows the limit undoes it exactly, up to rounding: the lead m' gives m = limit m' / (limit - m'),
    and with it the temperature. A student's own temperature undoes a part of it.

    Args:
        limit: upper bound of the lead of an answer, in nats, above 0; a larger one softens less.

    Raises:
        HfCmimError: a limit that is not above 0 and finite.

    Source: ours. It carries the idea of antidistillation sampling (arXiv 2504.13146), to spoil an answer only where
    that costs the user little, over to classifiers; formula and measure of confidence are ours.

    >>> import torch
    >>> ConfidenceTemperature(limit=2.0)(torch.tensor([[0.99, 0.01]]).log()).exp().mul(100).round().tolist()
    [[80.0, 20.0]]
    """

    limit: float

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.limit < math.inf:
            raise HfCmimError(
                f"Expected a limit above 0 and finite, got {self.limit}: no class would lead. Use 3.0, say: the"
                " likeliest class is then at most 20 times as probable as the second."
            )

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the softened log-probabilities."""
        original = finite_answers(log_probs)
        logs = precise(original)
        first, second = logs.topk(2, dim=-1).values.unbind(dim=-1)
        temperatures = 1 + (first - second) / self.limit
        answers = torch.log_softmax(logs / temperatures.unsqueeze(-1), dim=-1).float()
        return keeping_predictions(answers, original.argmax(dim=-1), otherwise=original)
