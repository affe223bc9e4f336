"""Knowledge distillation (KD), the base of all other attacks."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs


def kd_loss(student_logits: Tensor, teacher_log_probs: Tensor, temperature: float | Tensor) -> Tensor:
    """Return T^2 KL(softmax(z_t / T) || softmax(z_s / T)) of each sample.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        temperature: temperature T > 0; a number, or `(N, 1)` values, one per sample.

    Returns:
        `(N,)` in nats.

    Source: Hinton, Vinyals, Dean, arXiv 1503.02531, section 2, with its factor T^2.

    >>> import torch
    >>> kd_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]).log_softmax(-1), 4.0).item()
    0.0
    """
    divergence = kl_divergence(
        softened_log_probs(teacher_log_probs, temperature), softened_log_probs(student_logits, temperature)
    )
    squared = temperature**2
    # Temperatures per sample are `(N, 1)`, divergences `(N,)`.
    return divergence * (squared.squeeze(-1) if isinstance(squared, Tensor) else squared)


class KD(AbstractAttack):
    """Knowledge distillation, by ce_weight CE(y) + kd_weight T^2 KL(teacher at T || student at T).

    Args:
        temperature: temperature T, > 0, or `Relative` to the teacher's logit scale.
        ce_weight: weight of the cross-entropy on the labels, at least 0.
        kd_weight: weight of the distillation term, at least 0.

    Strength: digits: 1.03 points above cross-entropy, among the first of 31 families. Fashion-MNIST: it gained
    nothing from teachers trained with cross-entropy or hardened. A fixed T suits one logit scale only.

    Source: Hinton, Vinyals, Dean, arXiv 1503.02531. The defaults T = 4, .1 and .9 are usual for CIFAR (mdistiller,
    RepDistiller). The factor T^2 is the paper's.
    """

    def __init__(self, *, temperature: Temperature = 4.0, ce_weight: float = 0.1, kd_weight: float = 0.9) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_weight("kd_weight", kd_weight)
        self.temperature = temperature
        self.kd_weight = kd_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `kd`."""
        losses = kd_loss(student_logits, teacher_log_probs, self.resolved(self.temperature))
        return {"kd": self.kd_weight * batch_mean(losses)}
