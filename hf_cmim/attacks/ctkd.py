"""Curriculum temperature distillation (CTKD): a learned temperature that makes the task gradually harder."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hf_cmim.attacks.base import (
    AbstractAttack,
    Temperature,
    check_fraction,
    check_positive,
    check_weight,
    linear_warmup,
)
from hf_cmim.attacks.kd import kd_loss
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean

INITIAL_OFFSET = 1.0
"""Initial value of t."""


class ReversedGradient(torch.autograd.Function):
    """The identity function, with its gradient multiplied by -strength."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: float) -> Tensor:
        """Return the value."""
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the reversed gradient of the value."""
        return -ctx.strength * gradients[0], None


def reversal_strength(progress: float, curriculum: float) -> float:
    """Return a factor that rises from 0 to 1 over the fraction `curriculum` of training, as half a cosine.

    >>> [round(reversal_strength(progress, 0.5), 3) for progress in (0, 0.125, 0.25, 0.5, 1)]
    [0.0, 0.146, 0.5, 1.0, 1.0]
    """
    return (1 - math.cos(math.pi * linear_warmup(progress, curriculum))) / 2


class CTKD(AbstractAttack):
    """Knowledge distillation with a temperature that learns to increase the loss.

    ce_weight CE(y) + kd_weight T^2 KL(teacher at T || student at T), with T = lowest + span sigmoid(t). The number t,
    the same for all samples, is learned with a reversed gradient: it increases the loss that the student decreases.
    The strength of the reversal grows from 0 to 1.

    Args:
        lowest: lower end of the temperature range, above 0.
        span: width of the range, at least 0; 0 fixes the temperature.
        curriculum: fraction of training over which the strength grows, in [0, 1].
        ce_weight: weight of the cross-entropy on the labels, at least 0.
        kd_weight: weight of the distillation term, at least 0.

    Strength: digits: 1.00 points above cross-entropy, level with KD. It suits an attacker who cannot try several
    temperatures.

    Source: Li et al., AAAI 2023, arXiv 2211.16231, the global version. The defaults are the released ones for
    CIFAR-100, with 10 of 240 epochs as a fraction (ImageNet: 5 of 120). t starts at 1, hence T at 15.6, as in every
    copy of the authors' module that we found. The factor T^2 (with its gradient) and the student's learning rate for t
    are also the source's. There t has the student's weight decay; here it has none.
    """

    def __init__(
        self,
        *,
        lowest: float = 1.0,
        span: float = 20.0,
        curriculum: float = 10 / 240,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
    ) -> None:
        super().__init__(ce_weight)
        check_positive(lowest, "lowest temperature")
        if not 0 <= span < math.inf:
            raise HfCmimError(
                f"Expected span at least 0 and finite, got {span}. `lowest` would become the highest temperature, and"
                " the other end could be below 0. Give the lower end and the width of the range."
            )
        check_fraction("curriculum", curriculum)
        check_weight("kd_weight", kd_weight)
        self.lowest = lowest
        self.span = span
        self.curriculum = curriculum
        self.kd_weight = kd_weight
        self.offset = nn.Parameter(torch.tensor(INITIAL_OFFSET))

    @property
    def nominal_temperature(self) -> Temperature:
        """Temperature at the start of training."""
        return self.lowest + self.span / (1 + math.exp(-INITIAL_OFFSET))

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `kd`."""
        strength = reversal_strength(progress, self.curriculum)
        offset: Tensor = ReversedGradient.apply(self.offset, strength)  # type: ignore[no-untyped-call]  # torch's own
        temperature = self.lowest + self.span * torch.sigmoid(offset)
        return {"kd": self.kd_weight * batch_mean(kd_loss(student_logits, teacher_log_probs, temperature))}
