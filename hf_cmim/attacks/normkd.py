"""Normalised-logit knowledge distillation (NormKD): temperatures proportional to the scale of each sample's logits."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, check_positive, check_weight
from hf_cmim.functional.divergence import (
    batch_mean,
    kl_divergence,
    softened_log_probs,
    standard_deviation,
    standardized,
)


def normkd_loss(student_logits: Tensor, teacher_log_probs: Tensor, scale: float) -> Tensor:
    """Return T_t^2 KL(softmax(z_t / T_t) || softmax(z_s / T_s)) of each sample, T = scale std(z) on each side.

    Args:
        student_logits: `(N, C)` raw logits; the gradient also flows through their standard deviation.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        scale: temperature in units of the sample's standard deviation (unbiased, plus 1e-7), > 0.

    Returns:
        Losses `(N,)` in nats; multiplying the teacher's logits by a multiplies the loss by a^2.

    Source: see `NormKD`; the 1e-7 is ours, for a student whose logits are all equal.

    >>> import torch
    >>> round(normkd_loss(torch.tensor([[-5.0, 0.0, 5.0]]), torch.tensor([[1.0, 0.0, -1.0]]), 2.0).item(), 4)
    1.2806
    """
    # z / (scale std) and standardized(z) / scale differ only by a constant per sample.
    teacher = softened_log_probs(standardized(teacher_log_probs), scale)
    student = softened_log_probs(standardized(student_logits), scale)
    temperatures = scale * standard_deviation(teacher_log_probs).squeeze(-1)
    return temperatures.square() * kl_divergence(teacher, student)


class NormKD(AbstractAttack):
    """Knowledge distillation with a temperature per sample, proportional to the standard deviation of its logits.

    ce_weight CE(y) + kd_weight T_t^2 KL(teacher at T_t || student at T_s), with T = scale std(z) on each side. This is
    KD on standardised logits (`LogitStandardization`), with samples weighted by the variance of their answers.

    Args:
        scale: temperature divided by the standard deviation, above 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.
        kd_weight: weight of the distillation term, at least 0.

    Strength: the strongest attack on teachers trained with cross-entropy: in six of eight audits on Fashion-MNIST,
    and on WordNet (+4.86 points). No scale of the teacher's logits misleads it.

    Source: Chi et al., arXiv 2308.00520. The defaults are the released ones for CIFAR-100 (ImageNet: scale 1). The
    factor, the teacher's squared temperature inside the mean, is the source's. So is the gradient through the
    student's standard deviation, which the released code does not detach.
    """

    needs_every_class = True

    def __init__(self, *, scale: float = 2.0, ce_weight: float = 0.1, kd_weight: float = 0.9) -> None:
        super().__init__(ce_weight)
        check_positive(scale, "scale")
        check_weight("kd_weight", kd_weight)
        self.scale = scale
        self.kd_weight = kd_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `kd`."""
        return {"kd": self.kd_weight * batch_mean(normkd_loss(student_logits, teacher_log_probs, self.scale))}
