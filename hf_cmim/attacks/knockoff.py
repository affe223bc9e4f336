"""Knockoff nets: cross-entropy on only the answers."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def soft_cross_entropy(log_probs: Tensor, other_log_probs: Tensor) -> Tensor:
    """Return the cross-entropy -sum_i p_i log q_i of each sample, which is KL(p || q) plus the entropy of p.

    Args:
        log_probs: `(N, C)` log p, normalised and finite.
        other_log_probs: `(N, C)` log q, normalised and finite.

    Returns:
        `(N,)` in nats.

    >>> import torch
    >>> soft_cross_entropy(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.25]]).log()).exp().item()
    4.0
    """
    return -(log_probs.exp() * other_log_probs).sum(dim=-1)


class Knockoff(AbstractAttack):
    """Cross-entropy -sum_i p_i log q_i on the answers, for queries without true labels.

    Its gradient equals that of KD at T = 1 without labels. The attack differs from KD by the choice of queries.

    Strength: not known. It is meant for attackers without labels, and our audits gave every attacker labels.

    Source: Orekondy, Schiele, Fritz, CVPR 2019, arXiv 1812.02766. There is no temperature.
    """

    def __init__(self) -> None:
        super().__init__(ce_weight=0.0)

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `soft_ce`."""
        losses = soft_cross_entropy(
            softened_log_probs(teacher_log_probs, 1.0), softened_log_probs(student_logits, 1.0)
        )
        return {"soft_ce": batch_mean(losses)}
