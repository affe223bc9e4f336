"""Decoupled knowledge distillation (DKD)."""

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
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs


def target_and_rest(log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split distributions into the binary one (label or not) and the renormalised one over the other classes.

    Args:
        log_probs: `(N, C)` normalised log-probabilities.
        labels: `(N,)` integers in [0, C).

    Returns:
        Log of (p_y, 1 - p_y), `(N, 2)`, and log-probabilities of the other classes in their order, `(N, C - 1)`.
    """
    target = log_probs.gather(-1, labels.unsqueeze(-1))
    other_log_probs = other_classes(log_probs, labels)
    # log(1 - p_y) as a log-sum-exp: 1 - p_y itself rounds to 0 on a confident answer.
    other_mass = other_log_probs.logsumexp(dim=-1, keepdim=True)
    return torch.cat([target, other_mass], dim=-1), other_log_probs - other_mass


def other_classes(values: Tensor, labels: Tensor) -> Tensor:
    """Remove the column of each sample's label from `(N, C)` values; return `(N, C - 1)`."""
    columns = torch.arange(values.shape[-1] - 1, device=values.device)
    # Columns from the label on move up by one, which skips the label.
    skips_label = (columns >= labels.unsqueeze(-1)).long()
    return values.gather(-1, columns + skips_label)


class DKD(AbstractAttack):
    """Knowledge distillation with separate weights for the label's probability and for the other classes.

    ce_weight CE(y) + warm-up T^2 [alpha KL(b_t || b_s) + beta KL(p^_t || p^_s)]. Here b = (p_y, 1 - p_y), and p^ is
    the renormalised distribution over the classes other than y, both at temperature T. At T = 1,
    KL(p_t || p_s) = KL(b_t || b_s) + (1 - p_y) KL(p^_t || p^_s): DKD drops the factor 1 - p_y, which hides the other
    classes when the teacher is confident.

    Args:
        temperature: temperature T, > 0, or `Relative`.
        alpha: weight of the target-class term, at least 0.
        beta: weight of the term of the other classes, at least 0.
        warmup: fraction of training over which both terms rise linearly from 0, in [0, 1].
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: digits: .97 points above cross-entropy, no better than KD. By its formula it is strong where the
    teacher is confident and right: KD's factor 1 - p_y then hides the other classes.

    Source: Zhao et al., CVPR 2022, arXiv 2203.08679. The defaults are those of mdistiller's CIFAR-100 configurations,
    with the warm-up of 20 of 240 epochs as a fraction. The factor T^2 is the source's.
    """

    needs_every_class = True

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        warmup: float = 20 / 240,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_weight("alpha", alpha)
        check_weight("beta", beta)
        check_fraction("warmup", warmup)
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.warmup = warmup

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `target_kd` and `rest_kd`."""
        temperature = self.resolved(self.temperature)
        teacher = target_and_rest(softened_log_probs(teacher_log_probs, temperature), labels)
        student = target_and_rest(softened_log_probs(student_logits, temperature), labels)
        target_divergence = batch_mean(kl_divergence(teacher[0], student[0]))
        other_divergence = batch_mean(kl_divergence(teacher[1], student[1]))
        scale = linear_warmup(progress, self.warmup) * temperature**2
        return {"target_kd": self.alpha * scale * target_divergence, "rest_kd": self.beta * scale * other_divergence}
