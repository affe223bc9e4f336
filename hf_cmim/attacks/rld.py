"""Refined logit distillation (RLD): the parts of an answer that contradict the label are not taught."""

from torch import Tensor

from hf_cmim.attacks.base import (
    AbstractAttack,
    Temperature,
    check_fraction,
    check_temperature,
    check_weight,
    linear_warmup,
)
from hf_cmim.attacks.dkd import target_and_rest
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs

HIDDEN = -1e30
"""Logit of a hidden class. It is finite, so a sample with all classes hidden gives 0 instead of 0 / 0."""


def confidence_divergence(
    student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, temperature: float | Tensor
) -> Tensor:
    """Return T^2 KL((p_max, 1 - p_max) || (q_y, 1 - q_y)) of each sample, at the temperature T.

    The student learns to be as confident of the true class as the teacher is of its most probable class.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        labels: `(N,)` integers in [0, C).
        temperature: temperature T > 0; a number or a 0-d tensor.

    Returns:
        `(N,)` in nats.

    Source: see `RLD`; its "sample confidence".
    """
    best, _ = target_and_rest(softened_log_probs(teacher_log_probs, temperature), teacher_log_probs.argmax(dim=-1))
    target, _ = target_and_rest(softened_log_probs(student_logits, temperature), labels)
    return temperature**2 * kl_divergence(best, target)


def masked_divergence(
    student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, temperature: float | Tensor
) -> Tensor:
    """Return T^2 KL(teacher at T || student at T) of each sample among the classes with z_t,i < z_t,y.

    The true class and all classes that the teacher ranks at least as high are hidden on both sides; the others are
    renormalised. The loss is 0 if one class is left, or none (y is the teacher's last choice).

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        labels: `(N,)` integers in [0, C).
        temperature: temperature T > 0; a number or a 0-d tensor.

    Returns:
        `(N,)` in nats.

    Source: see `RLD`; its "masked correlation".

    >>> import torch
    >>> teacher, student = torch.tensor([[9.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.75, 0.25]]).log().clamp_min(-9)
    >>> [round(masked_divergence(student, teacher, torch.tensor([y]), 1.0).item(), 4) for y in (0, 1)]
    [0.1438, 0.0]
    """
    is_hidden = teacher_log_probs >= teacher_log_probs.gather(-1, labels.unsqueeze(-1))
    # Masked after the division by T, so that a high T does not lift the hidden classes.
    teacher = softened_log_probs((teacher_log_probs / temperature).masked_fill(is_hidden, HIDDEN), 1.0)
    student = softened_log_probs((student_logits / temperature).masked_fill(is_hidden, HIDDEN), 1.0)
    return temperature**2 * kl_divergence(teacher, student)


class RLD(AbstractAttack):
    """Distillation of the teacher's confidence and of its ranking below the true class.

    ce_weight CE(y) + warm-up [alpha confidence divergence at T_a + beta masked divergence at T].

    Args:
        temperature: temperature T of the masked divergence, > 0, or `Relative`.
        alpha: weight of the confidence divergence, at least 0.
        beta: weight of the masked divergence, at least 0.
        target_temperature: temperature T_a of the confidence divergence, > 0, or `Relative`.
        warmup: fraction of training over which both divergences rise linearly from 0, in [0, 1].
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: digits: the weakest of the families, .17 points below cross-entropy. By its formula it is made for
    teachers that are often wrong: it never teaches a class above the label.

    Source: Sun et al., arXiv 2408.07703. The defaults are the released ones, with the warm-up of 20 of 240 epochs as a
    fraction. As in the source, each divergence has the factor of its squared temperature.
    """

    needs_every_class = True

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        target_temperature: Temperature = 1.0,
        warmup: float = 20 / 240,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_weight("alpha", alpha)
        check_weight("beta", beta)
        check_temperature(target_temperature, "target_temperature")
        check_fraction("warmup", warmup)
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.target_temperature = target_temperature
        self.warmup = warmup

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `confidence_kd` and `masked_kd`."""
        samples = student_logits, teacher_log_probs, labels
        confidence_loss = batch_mean(confidence_divergence(*samples, self.resolved(self.target_temperature)))
        masked_loss = batch_mean(masked_divergence(*samples, self.resolved(self.temperature)))
        scale = linear_warmup(progress, self.warmup)
        return {"confidence_kd": self.alpha * scale * confidence_loss, "masked_kd": self.beta * scale * masked_loss}
