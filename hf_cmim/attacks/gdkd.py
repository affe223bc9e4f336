"""Generalised decoupled knowledge distillation (GDKD): the teacher's likeliest classes apart from the others."""

import torch
from torch import Tensor

from hf_cmim.attacks.base import (
    AbstractAttack,
    Temperature,
    check_fraction,
    check_temperature,
    check_weight,
    linear_warmup,
)
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs


def split_divergences(student_log_probs: Tensor, teacher_log_probs: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the divergences between group masses, within the top classes and within the others.

    The teacher's `top` likeliest classes are one group, all others the second. Within a group, probabilities are
    renormalised. With m the mass of the top classes, KL(p || q) is the first divergence, plus m times the second, plus
    1 - m times the third.

    Args:
        student_log_probs: `(N, C)` log-probabilities.
        teacher_log_probs: `(N, C)` log-probabilities.
        top: number of top classes, in [1, C - 1].

    Returns:
        Three divergences KL(teacher || student), `(N,)` each, in nats.

    Source: see `GDKD`.

    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.2, 0.3, 0.5]]).log()
    >>> mass, inside, rest = split_divergences(q, p, top=2)
    >>> abs(mass + 0.8 * inside + 0.2 * rest - kl_divergence(p, q)).item() < 1e-6
    True
    """
    order = teacher_log_probs.argsort(dim=-1, descending=True)
    masses, groups = [], []
    for log_probs in (teacher_log_probs.gather(-1, order), student_log_probs.gather(-1, order)):
        parts = log_probs.split([top, log_probs.shape[-1] - top], dim=-1)
        masses.append(torch.cat([part.logsumexp(dim=-1, keepdim=True) for part in parts], dim=-1))
        groups.append([part.log_softmax(dim=-1) for part in parts])
    (teacher_top, teacher_rest), (student_top, student_rest) = groups
    return kl_divergence(*masses), kl_divergence(teacher_top, student_top), kl_divergence(teacher_rest, student_rest)


class GDKD(AbstractAttack):
    """Knowledge distillation with separate weights for the teacher's likeliest classes and for the others.

    ce_weight CE(y) + warm-up T^2 [mass_weight KL of the two groups' masses + top_weight KL within the top classes
    + rest_weight KL within the others], all at temperature T. KD weighs the last two by the teacher's mass in each
    group, which hides the other classes when the teacher is confident. Unlike `DKD`, the split needs no labels.

    Args:
        temperature: temperature T, > 0, or `Relative`.
        top: number of the teacher's likeliest classes, at least 1. With C classes, at most C - 1 are used.
        mass_weight: weight of the divergence between the masses, at least 0.
        top_weight: weight of the divergence within the top classes, at least 0.
        rest_weight: weight of the divergence within the others, at least 0.
        warmup: fraction of training over which the three terms rise linearly from 0, in [0, 1].
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Raises:
        HfCmimError: a number is out of its range.

    Strength: not known: it is newer than our tables. By its formula it is strong where the teacher is confident.

    Source: arXiv 2512.04625, known to us from its released code, whose defaults for CIFAR-100 these are, with the
    warm-up of 20 of 240 epochs as a fraction. Some of its pairs have top_weight 1 or 2. The factor T^2 is the code's;
    the limit of C - 1 is ours.
    """

    needs_every_class = True

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        top: int = 5,
        mass_weight: float = 1.0,
        top_weight: float = 8.0,
        rest_weight: float = 8.0,
        warmup: float = 20 / 240,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        if top < 1:
            raise HfCmimError(
                f"Expected top of at least 1, got {top}. Without top classes there is one group only. The source"
                " uses 5."
            )
        for name, weight in (("mass_weight", mass_weight), ("top_weight", top_weight), ("rest_weight", rest_weight)):
            check_weight(name, weight)
        check_fraction("warmup", warmup)
        self.temperature = temperature
        self.top = top
        self.mass_weight = mass_weight
        self.top_weight = top_weight
        self.rest_weight = rest_weight
        self.warmup = warmup

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `mass_kd`, `top_kd` and `rest_kd`."""
        temperature = self.resolved(self.temperature)
        mass, inside, rest = split_divergences(
            softened_log_probs(student_logits, temperature),
            softened_log_probs(teacher_log_probs, temperature),
            min(self.top, student_logits.shape[-1] - 1),
        )
        scale = linear_warmup(progress, self.warmup) * temperature**2
        return {
            "mass_kd": self.mass_weight * scale * batch_mean(mass),
            "top_kd": self.top_weight * scale * batch_mean(inside),
            "rest_kd": self.rest_weight * scale * batch_mean(rest),
        }
