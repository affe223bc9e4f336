"""Normalised knowledge distillation (NKD)."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.attacks.dkd import target_and_rest
from hf_cmim.attacks.knockoff import soft_cross_entropy
from hf_cmim.attacks.label_only import label_cross_entropy
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def nkd_losses(
    student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return -p_y log q_y and -T^2 sum_{i != y} p^_i log q^_i of each sample.

    p and q are the probabilities of teacher and student at T = 1. p^ and q^ are those at T, renormalised over the
    classes other than y.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        labels: `(N,)` integers in [0, C).
        temperature: temperature T > 0; a number or a 0-d tensor.

    Returns:
        Two losses `(N,)` in nats. They are cross-entropies and not 0 at z_s = z_t, where the second is smallest.

    Source: see `NKD`.

    >>> import torch
    >>> answer = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> [round(term.item(), 4) for term in nkd_losses(answer, answer, torch.tensor([0]), 1.0)]  # .5 log 2, log 2
    [0.3466, 0.6931]
    """
    target_probs = (-label_cross_entropy(teacher_log_probs, labels)).exp()
    _, teacher_others = target_and_rest(softened_log_probs(teacher_log_probs, temperature), labels)
    _, student_others = target_and_rest(softened_log_probs(student_logits, temperature), labels)
    target_losses = target_probs * label_cross_entropy(student_logits, labels)
    return target_losses, temperature**2 * soft_cross_entropy(teacher_others, student_others)


class NKD(AbstractAttack):
    """Distillation by separate cross-entropies for the label and for the other classes.

    ce_weight CE(y) - p_y log q_y - gamma T^2 sum_{i != y} p^_i log q^_i; `nkd_losses` explains the symbols.

    Args:
        temperature: temperature T of the other classes, > 0, or `Relative`; the target's p_y and q_y are at T = 1.
        gamma: weight of the term of the other classes, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: digits: .56 points above cross-entropy, and .31 below label smoothing. Its paper reports gains on
    ImageNet and CIFAR-100.

    Source: Yang et al., ICCV 2023, arXiv 2303.13005. The defaults are the released ones for ImageNet (CIFAR-100:
    gamma 3.5, T 3). The cross-entropy form, and the factor T^2 on only the second term, are the source's.
    """

    needs_every_class = True

    def __init__(self, *, temperature: Temperature = 1.0, gamma: float = 1.5, ce_weight: float = 1.0) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_weight("gamma", gamma)
        self.temperature = temperature
        self.gamma = gamma

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `target` and `rest`."""
        temperature = self.resolved(self.temperature)
        target_losses, other_losses = nkd_losses(student_logits, teacher_log_probs, labels, temperature)
        return {"target": batch_mean(target_losses), "rest": self.gamma * batch_mean(other_losses)}
