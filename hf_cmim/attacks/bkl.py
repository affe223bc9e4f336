"""BKL: forward and reverse divergence together, with more weight on classes that both find improbable."""

import math

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_fraction, check_temperature, check_weight
from hf_cmim.functional.divergence import batch_mean, log_of_sum, softened_log_probs

FLOOR = 1e-12
"""Constant that is added to each divisor; the source's."""


def balanced_divergence(log_probs: Tensor, other_log_probs: Tensor, alpha: float, beta: float) -> Tensor:
    """Return sum_c [alpha p log(p / q) + (1 - alpha) q log(q / p)] / (p^2 + q^2)^((1 - beta) / 2) of each sample.

    Args:
        log_probs: `(N, C)` log p, normalised and finite.
        other_log_probs: `(N, C)` log q, normalised and finite.
        alpha: share of the forward divergence, in [0, 1].
        beta: exponent, in [0, 1]; 1 weighs all classes by 1, 0 divides by the length of (p, q).

    Returns:
        `(N,)` in nats.

    Source: see `BKL`.

    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> balanced_divergence(p, q, 1.0, 1.0).mul(2).exp().item()  # KL(p || q) = log(4 / 3) / 2
    1.3333...
    """
    # In logarithms, because the square of a small probability would underflow to 0.
    lengths = log_of_sum(2 * log_probs, 2 * other_log_probs) * ((1 - beta) / 2)
    divisors = log_of_sum(lengths, torch.full_like(lengths, math.log(FLOOR)))
    difference = log_probs - other_log_probs
    forward = alpha * (log_probs - divisors).exp() * difference
    reverse = (1 - alpha) * (other_log_probs - divisors).exp() * difference
    return (forward - reverse).sum(dim=-1)


class BKL(AbstractAttack):
    """Distillation by both divergences, divided class by class by the length of (teacher, student).

    ce_weight CE(y) + kd_weight T^2 sum over c of [alpha p log(p / q) + (1 - alpha) q log(q / p)]
    / (p^2 + q^2)^((1 - beta) / 2), with p the teacher and q the student at T.

    KD hardly hears classes that both find improbable. Here a small beta gives each class nearly the same say.

    Args:
        temperature: temperature T, > 0, or `Relative`.
        alpha: share of the forward divergence, in [0, 1]. Other values than .5 also pull a student that equals the
            teacher.
        beta: exponent, in [0, 1]; 1 weighs all classes by 1.
        ce_weight: weight of the cross-entropy on the labels, at least 0.
        kd_weight: weight of the divergences, at least 0.

    Strength: not known: it is newer than our tables. By its formula it is strong where small probabilities tell
    something, and sensitive to their perturbation.

    Source: the released code CKeyZhang/BKL (its file for CIFAR-100; that for GLUE squares each term), with its
    defaults, its 1e-12 added to each divisor, its gradient through the divisor and its factor T^2.
    """

    needs_every_class = True

    def __init__(
        self,
        *,
        temperature: Temperature = 2.0,
        alpha: float = 0.5,
        beta: float = 0.2,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_fraction("alpha", alpha)
        check_fraction("beta", beta)
        check_weight("kd_weight", kd_weight)
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.kd_weight = kd_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `kd`."""
        temperature = self.resolved(self.temperature)
        losses = balanced_divergence(
            softened_log_probs(teacher_log_probs, temperature),
            softened_log_probs(student_logits, temperature),
            self.alpha,
            self.beta,
        )
        return {"kd": self.kd_weight * temperature**2 * batch_mean(losses)}
