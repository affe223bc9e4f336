"""Relational distillation on outputs: distances and angles between the samples of a batch."""

import torch
from torch import Tensor
from torch.nn import functional

from hf_cmim.attacks.base import AbstractAttack, check_weight
from hf_cmim.attacks.relations import centred_logits, norms, unit_vectors
from hf_cmim.functional.divergence import batch_mean


def relative_distances(differences: Tensor) -> Tensor:
    """Return the lengths of `(N, N, C)` differences over the mean length of two different samples, `(N, N)`."""
    distances = norms(differences).squeeze(-1)
    pairs = len(distances) * (len(distances) - 1)
    mean = distances.sum() / max(pairs, 1)
    return distances / torch.where(mean > 0, mean, 1.0)


def angle_cosines(differences: Tensor) -> Tensor:
    """Return the cosine of the angle at sample i between samples j and k, `(N, N, N)`; 0 where two coincide."""
    directions = unit_vectors(differences)
    return directions @ directions.mT


def rkd_losses(student_logits: Tensor, teacher_log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean Huber loss of each sample's relative distances, and of the angles at each sample.

    With f = centred logits: h(psi_s(i, j) - psi_t(i, j)), psi = |f_i - f_j| / mean |f_i - f_j|, and
    h(cos_s(j, i, k) - cos_t(j, i, k)), cos of the angle at i; h(d) = d^2 / 2 up to |d| = 1, |d| - 1/2 beyond. The
    means are over all N samples j, and all N^2 pairs (j, k), those with i itself included.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.

    Returns:
        Two `(N,)`; scaling all logits of one side changes neither.

    Source: see `RKD`.

    >>> import torch
    >>> logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
    >>> [losses.max().item() < 1e-12 for losses in rkd_losses(logits, 3 * logits + 1)]
    [True, True]
    """
    student, teacher = (
        values.unsqueeze(1) - values.unsqueeze(0)
        for values in map(centred_logits, (student_logits, teacher_log_probs))
    )
    distances = functional.smooth_l1_loss(relative_distances(student), relative_distances(teacher), reduction="none")
    angles = functional.smooth_l1_loss(angle_cosines(student), angle_cosines(teacher), reduction="none")
    samples = max(len(student), 1)
    return distances.sum(dim=-1) / samples, angles.sum(dim=(-2, -1)) / samples**2


class RKD(AbstractAttack):
    """ce_weight CE(y) + distance_weight distances + angle_weight angles.

    It compares the samples of a batch: each micro-batch on each process is compared within itself, and the losses are
    averaged by numbers of samples; nothing is gathered. Memory grows as N^2 C + N^3.

    Args:
        distance_weight: weight of the distances between two samples, at least 0.
        angle_weight: weight of the angles among three, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Source: Park et al., CVPR 2019, arXiv 1904.05068, made for features; that it looks at centred logits instead is
    ours, and that outputs which coincide have no angle and no gradient. The defaults are a tenth of the usual weights
    for features (25 and 50 in mdistiller): while a student's logits are small, its gradient is many times that of the
    cross-entropy, and on digits (10 classes, a small perceptron, 540 steps, 3 seeds) the usual weights cost 42 points.
    There is no temperature.
    """

    batch_level = True
    smallest_batch = 2
    needs_every_class = True

    def __init__(self, *, distance_weight: float = 2.5, angle_weight: float = 5.0, ce_weight: float = 1.0) -> None:
        super().__init__(ce_weight)
        check_weight("distance_weight", distance_weight)
        check_weight("angle_weight", angle_weight)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return `distance` and `angle`."""
        distances, angles = rkd_losses(student_logits, teacher_log_probs)
        return {
            "distance": self.distance_weight * batch_mean(distances),
            "angle": self.angle_weight * batch_mean(angles),
        }
