"""Probabilistic knowledge transfer (PKT) on outputs: match the neighbourhoods of samples in a batch."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, check_weight
from hf_cmim.attacks.relations import centred_logits, unit_vectors
from hf_cmim.functional.divergence import batch_mean


def neighbour_probs(logits: Tensor) -> Tensor:
    """Return s_ij / sum_k s_ik, `(N, N)`, with s = (1 + cosine of two samples' centred logits) / 2.

    Args:
        logits: `(N, C)` logits or log-probabilities.
    """
    directions = unit_vectors(centred_logits(logits))
    # Rounding can put a cosine slightly below -1.
    similarities = ((1 + directions @ directions.T) / 2).clamp_min(0)
    # A sample's similarity to itself is 1, or 1/2 without a direction, so no sum is 0.
    return similarities / similarities.sum(dim=-1, keepdim=True)


def pkt_loss(student_logits: Tensor, teacher_log_probs: Tensor, floor: float = 1e-7) -> Tensor:
    """Return sum_j p_j log((p_j + floor) / (q_j + floor)) of each sample, p and q the neighbours of both sides.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        floor: constant that keeps the logarithm of opposite samples finite.

    Returns:
        Losses `(N,)` in nats; scaling the logits of a sample changes nothing.

    Source: see `PKT`.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> pkt_loss(logits, 3 * logits + 1).abs().max().item() < 1e-6
    True
    """
    teacher, student = neighbour_probs(teacher_log_probs), neighbour_probs(student_logits)
    return (teacher * ((teacher + floor).log() - (student + floor).log())).sum(dim=-1)


class PKT(AbstractAttack):
    """Distillation of the similarities between the samples of a batch, as distributions over neighbours.

    ce_weight CE(y) + pkt_weight mean KL(teacher's neighbours || student's neighbours). The loss compares the samples
    of one batch. Each micro-batch on each process is compared within itself and nothing is gathered; losses are
    averaged by number of samples.

    Args:
        pkt_weight: weight of the divergence, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: not known: no table of ours singles it out. No scale of the teacher's logits misleads it.

    Source: Passalis and Tefas, ECCV 2018, arXiv 1803.10837, for features. Centred logits instead of features are ours,
    as is the mean over i of sums over j (the released code divides by N^2; mdistiller's weight 30,000 is 470 here at
    N = 64). The default is ours: on digits (10 classes, a small perceptron, 540 steps, 3 seeds) the term's gradient is
    at first .3 to 1.2 of the cross-entropy's, and a ten times larger weight cost 28 points. There is no temperature.
    The floor 1e-7 is the source's.
    """

    batch_level = True
    smallest_batch = 2
    needs_every_class = True

    def __init__(self, *, pkt_weight: float = 5.0, ce_weight: float = 1.0) -> None:
        super().__init__(ce_weight)
        check_weight("pkt_weight", pkt_weight)
        self.pkt_weight = pkt_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `pkt`."""
        return {"pkt": self.pkt_weight * batch_mean(pkt_loss(student_logits, teacher_log_probs))}
