"""Relational distillation (RKD) on outputs: distances and angles between the samples of a batch."""

import torch
from torch import Tensor
from torch.nn import functional

from hf_cmim.attacks.base import AbstractAttack, check_weight
from hf_cmim.attacks.relations import centred_logits, norms, unit_vectors
from hf_cmim.functional.divergence import batch_mean


def relative_distances(differences: Tensor) -> Tensor:
    """Return the lengths of `(N, N, C)` differences divided by their mean over pairs of samples, `(N, N)`."""
    distances = norms(differences).squeeze(-1)
    # The N distances of a sample to itself are 0 and do not count.
    num_pairs = len(distances) * (len(distances) - 1)
    mean = distances.sum() / max(num_pairs, 1)
    return distances / torch.where(mean > 0, mean, 1.0)


def angle_cosines(differences: Tensor) -> Tensor:
    """Return the cosines of the angles at sample i between samples j and k, `(N, N, N)`; 0 if two coincide."""
    directions = unit_vectors(differences)
    return directions @ directions.mT


def rkd_losses(student_logits: Tensor, teacher_log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean Huber losses of each sample's relative distances, and of the angles at each sample.

    With f = centred logits, the losses are h(psi_s(i, j) - psi_t(i, j)), psi = |f_i - f_j| / mean |f_i - f_j|, and
    h(cos_s(j, i, k) - cos_t(j, i, k)) with the cosine of the angle at i. h(d) is d^2 / 2 up to |d| = 1 and |d| - 1/2
    beyond. The means are over all N samples j and all N^2 pairs (j, k), including i itself.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.

    Returns:
        Two losses `(N,)`; scaling all logits of one side changes neither.

    Source: see `RKD`.

    >>> import torch
    >>> logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
    >>> [losses.max().item() < 1e-12 for losses in rkd_losses(logits, 3 * logits + 1)]
    [True, True]
    """
    student_values, teacher_values = centred_logits(student_logits), centred_logits(teacher_log_probs)
    student = student_values.unsqueeze(1) - student_values.unsqueeze(0)
    teacher = teacher_values.unsqueeze(1) - teacher_values.unsqueeze(0)
    distances = functional.smooth_l1_loss(relative_distances(student), relative_distances(teacher), reduction="none")
    angles = functional.smooth_l1_loss(angle_cosines(student), angle_cosines(teacher), reduction="none")
    num_samples = max(len(student), 1)
    return distances.sum(dim=-1) / num_samples, angles.sum(dim=(-2, -1)) / num_samples**2


class RKD(AbstractAttack):
    """Distillation of the distances and angles between the samples of a batch.

    ce_weight CE(y) + distance_weight distances + angle_weight angles. The loss compares the samples of one batch. Each
    micro-batch on each process is compared within itself and nothing is gathered; losses are averaged by number of
    samples. Memory grows as N^2 C + N^3.

    Args:
        distance_weight: weight of the distances between two samples, at least 0.
        angle_weight: weight of the angles between three samples, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: not known: no table of ours singles it out.

    Source: Park et al., CVPR 2019, arXiv 1904.05068, for features. Centred logits instead of features are ours, and so
    is the rule that coinciding outputs have no angle and no gradient. The defaults are a tenth of the usual weights
    for features (25 and 50 in mdistiller): with small student logits the term's gradient is many times that of the
    cross-entropy. On digits (10 classes, a small perceptron, 540 steps, 3 seeds) the usual weights cost 42 points.
    There is no temperature.
    """

    batch_level = True
    is_slow_together = True  # N^3 numbers of each student at once miss the cache
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
        """Return the components `distance` and `angle`."""
        distances, angles = rkd_losses(student_logits, teacher_log_probs)
        return {
            "distance": self.distance_weight * batch_mean(distances),
            "angle": self.angle_weight * batch_mean(angles),
        }
