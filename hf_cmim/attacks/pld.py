"""Plackett-Luce distillation (PLD): learn the teacher's ranking of the classes, with the label first."""

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def ranking_loss(
    student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, temperature: float | Tensor
) -> Tensor:
    """Return the weighted negative log-likelihood of the teacher's ranking of each sample.

    Classes are ranked by the teacher, but the label comes first. With r_k the class of rank k, p the teacher at T and
    s the student's logits, it is the sum over k of p(r_k) (log sum over j >= k of exp s(r_j) - s(r_k)).

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        labels: `(N,)` integers in [0, C).
        temperature: temperature T > 0 of the weights.

    Returns:
        `(N,)` in nats.

    Source: see `PLD`.

    >>> even = torch.tensor([[1.0, 1.0]])
    >>> ranking_loss(even, even, torch.tensor([0]), 1.0).exp().square().round().item()  # log 2, half of the weight
    2.0
    """
    weights = softened_log_probs(teacher_log_probs, temperature).exp()
    keys = teacher_log_probs.scatter(-1, labels.unsqueeze(-1), torch.inf)
    order = keys.argsort(dim=-1, descending=True, stable=True)
    ranked = student_logits.gather(-1, order)
    of_the_rest = ranked.flip(-1).logcumsumexp(dim=-1).flip(-1)
    return (weights.gather(-1, order) * (of_the_rest - ranked)).sum(dim=-1)


class PLD(AbstractAttack):
    """Distillation of a ranking: each class must be more probable than all that the teacher ranks below it.

    ce_weight CE(y) + pld_weight sum over ranks k of p(r_k) (log sum over j >= k of exp s(r_j) - s(r_k)).

    The label has the first rank, all other classes follow in the teacher's order; `ranking_loss` has the symbols. The
    first term is the cross-entropy on the label, weighted by the teacher's confidence in it. The student must match an
    order, and no probabilities.

    Args:
        temperature: temperature T of the weights p, > 0, or `Relative`.
        pld_weight: weight of the ranking, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: not known: it is newer than our tables. By its formula it survives every perturbation that keeps the
    order of the classes.

    Source: Bassam, Zhu, Bian, arXiv 2506.12542, known to us from its abstract and summaries: label first, then
    descending confidence, each rank weighted by the teacher's probability. The paper has no separate cross-entropy.
    The temperature is ours. There is no factor T^2.
    """

    def __init__(self, *, temperature: Temperature = 1.0, pld_weight: float = 1.0, ce_weight: float = 0.0) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_weight("pld_weight", pld_weight)
        self.temperature = temperature
        self.pld_weight = pld_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `pld`."""
        losses = ranking_loss(student_logits, teacher_log_probs, labels, self.resolved(self.temperature))
        return {"pld": self.pld_weight * batch_mean(losses)}
