"""Function matching: learn only from answers, on the same view for teacher and student."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs


def function_matching_loss(student_logits: Tensor, teacher_log_probs: Tensor, temperature: float | Tensor) -> Tensor:
    """Return KL(softmax(z_t / T) || softmax(z_s / T)) of each sample, without the factor T^2 of KD.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        temperature: temperature T > 0; a number, or `(N, 1)` values, one per sample.

    Returns:
        `(N,)` in nats.

    Source: see `FunctionMatching`.

    >>> import torch
    >>> function_matching_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 2.0]]), 2.0).item()
    0.0
    """
    return kl_divergence(
        softened_log_probs(teacher_log_probs, temperature), softened_log_probs(student_logits, temperature)
    )


class FunctionMatching(AbstractAttack):
    """Distillation without labels, by KL(teacher at T || student at T).

    The training recipe matters more than the loss: the teacher answers live on the same crops and mixtures that the
    student gets, for a very long schedule. Train a reference with the same schedule for a fair comparison.

    Args:
        temperature: temperature T, > 0, or `Relative`.

    Strength: digits: weak, .31 points below cross-entropy. Its paper finds it strong with live answers, mixed
    samples and a schedule many times longer.

    Source: Beyer et al., CVPR 2022, arXiv 2106.05237; the released configuration has T = 1. There is no factor T^2, as
    in the paper's formula (recalled). The released code multiplies by T^2, which is 1 at T = 1.
    """

    def __init__(self, *, temperature: Temperature = 1.0) -> None:
        super().__init__(ce_weight=0.0)
        check_temperature(temperature)
        self.temperature = temperature

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `kd`."""
        losses = function_matching_loss(student_logits, teacher_log_probs, self.resolved(self.temperature))
        return {"kd": batch_mean(losses)}
