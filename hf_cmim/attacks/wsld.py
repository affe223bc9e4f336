"""Weighted soft labels (WSLD): more distillation on samples where the teacher beats the student."""

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.attacks.knockoff import soft_cross_entropy
from hf_cmim.attacks.label_only import label_cross_entropy
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def soft_label_weight(student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - exp(-CE_s / CE_t) of each sample, detached, with the cross-entropies on the label at T = 1.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        labels: `(N,)` integers in [0, C).

    Returns:
        Weights `(N,)` in [0, 1): near 0 if the student is better, near 1 if the teacher is certain and right.

    Source: see `WSLD`, with its 1e-7 added to CE_t.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    >>> round(soft_label_weight(student, teacher, torch.tensor([0])).item(), 4)  # 1 - e^-2
    0.8647
    """
    student_losses = label_cross_entropy(student_logits, labels)
    teacher_losses = label_cross_entropy(teacher_log_probs, labels)
    ratio = student_losses / (teacher_losses + 1e-7)
    # expm1 keeps the digits of a small ratio, which 1 - exp would round away.
    return -torch.expm1(-ratio.detach())


class WSLD(AbstractAttack):
    """Knowledge distillation, weighted per sample by the teacher's advantage over the student.

    ce_weight CE(y) + alpha T^2 mean of (1 - exp(-CE_s / CE_t)) times the soft cross-entropy at T. If the teacher is
    certain and right on its training data, the weight is nearly 1, and this is KD.

    Args:
        temperature: temperature T, > 0, or `Relative`.
        alpha: weight of the soft labels, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: not known: no table of ours singles it out. By its formula it is KD where the teacher is certain and
    right.

    Source: Zhou et al., ICLR 2021, arXiv 2102.00650. The defaults are the released ones for CIFAR-100 (ImageNet: T 2,
    alpha 2.5). The factor T^2, the cross-entropy form and the detached weight are the source's.
    """

    def __init__(self, *, temperature: Temperature = 4.0, alpha: float = 2.25, ce_weight: float = 1.0) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_weight("alpha", alpha)
        self.temperature = temperature
        self.alpha = alpha

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `soft_ce`."""
        temperature = self.resolved(self.temperature)
        losses = soft_label_weight(student_logits, teacher_log_probs, labels) * soft_cross_entropy(
            softened_log_probs(teacher_log_probs, temperature), softened_log_probs(student_logits, temperature)
        )
        return {"soft_ce": self.alpha * temperature**2 * batch_mean(losses)}
