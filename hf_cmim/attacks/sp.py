"""Similarity-preserving distillation (SP) on outputs: match the similarities of the samples in a batch."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, check_weight
from hf_cmim.attacks.relations import centred_logits, unit_vectors
from hf_cmim.functional.divergence import batch_mean


def sp_loss(student_logits: Tensor, teacher_log_probs: Tensor) -> Tensor:
    """Return sum_j (g_s,ij - g_t,ij)^2 of each sample i, with g_i = row i of F F' divided by its norm.

    F holds the centred logits f_i. Row i is computed as u_i F' with u_i = f_i / |f_i|, which has the same direction:
    the limit for short norms then applies to logits and not to their squares.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.

    Returns:
        Losses `(N,)` in [0, 4]; scaling all logits of one side changes nothing.

    Source: see `SP`.

    >>> import torch
    >>> losses = sp_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    >>> [round(loss, 4) for loss in losses.tolist()]
    [2.0, 2.0]
    """
    student_values, teacher_values = centred_logits(student_logits), centred_logits(teacher_log_probs)
    student = unit_vectors(unit_vectors(student_values) @ student_values.T)
    teacher = unit_vectors(unit_vectors(teacher_values) @ teacher_values.T)
    return (student - teacher).square().sum(dim=-1)


class SP(AbstractAttack):
    """Distillation of the similarities between the samples of a batch.

    ce_weight CE(y) + sp_weight mean_i sum_j (g_s,ij - g_t,ij)^2, with the normalised similarities g of `sp_loss`. The
    loss compares the samples of one batch. Each micro-batch on each process is compared within itself and nothing is
    gathered; losses are averaged by number of samples.

    Args:
        sp_weight: weight of the differences, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: not known: no table of ours singles it out.

    Source: Tung and Mori, ICCV 2019, arXiv 1907.09682, for features. Centred logits instead of features are ours, as
    is the mean over i of sums over j (the source divides by N^2: its weight 3,000 is 47 here at N = 64). The default
    is ours: on digits (10 classes, a small perceptron, 540 steps, 3 seeds) the term's gradient is at first .3 to .8 of
    the cross-entropy's, and a ten times larger weight cost 6 points. There is no temperature.
    """

    batch_level = True
    smallest_batch = 2
    needs_every_class = True

    def __init__(self, *, sp_weight: float = 0.3, ce_weight: float = 1.0) -> None:
        super().__init__(ce_weight)
        check_weight("sp_weight", sp_weight)
        self.sp_weight = sp_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `sp`."""
        return {"sp": self.sp_weight * batch_mean(sp_loss(student_logits, teacher_log_probs))}
