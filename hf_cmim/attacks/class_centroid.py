"""Class centroid: replace each answer by one answer per class, which says nothing about single instances."""

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractTransform
from hf_cmim.attacks.class_means import ClassMeans, ClassMeansSurvey
from hf_cmim.functional.divergence import softened_log_probs


class ClassCentroid(ClassMeansSurvey, AbstractTransform):
    """Replace each answer by the normalised geometric mean of its class's answers in the survey.

    q_y = softmax(mean of log p over class y). Averaging commutes with softening: q_y softened by T is the geometric
    mean of the softened answers, so one survey serves every temperature. The answers depend only on the class, and
    their CMI is 0. Here the centroid is not the mean of p, which the CMI uses. The answers of a class without a
    surveyed sample are unchanged.

    Strength: by construction a student learns nothing of single samples from it. Known truth: -.9 points. It is
    strong only where the similarities of classes are worth copying.

    Source: ours, a diagnostic null teacher. The gain of an attack minus its gain with this transform measures the
    information about instances.

    >>> centroid = ClassCentroid()
    >>> centroid.prepare(num_classes=2)
    >>> answers, labels = torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]]).log(), torch.tensor([0, 0, 1])
    >>> centroid.survey(answers, labels)
    >>> centroid.settle()
    >>> centroid(answers, labels).exp().mul(30).round().tolist()  # sqrt(.8 * .5) : sqrt(.2 * .5) = 2 : 1
    [[20.0, 10.0], [20.0, 10.0], [3.0, 27.0]]
    """

    def __init__(self) -> None:
        super().__init__()
        self.class_means = ClassMeans()

    @property
    def needs_survey(self) -> bool:
        """True: the centroids come from a survey."""
        return True

    def averaged(self, teacher_log_probs: Tensor) -> Tensor:
        """Return normalised log-probabilities, `(N, C)` float64."""
        return softened_log_probs(teacher_log_probs.double(), 1.0)

    @torch.no_grad()
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the centroids; see `AbstractTransform.forward`.

        Raises:
            HfCmimError: the answers were not surveyed.
        """
        means = self.class_means.of(labels, teacher_log_probs)
        return softened_log_probs(means, 1.0).to(teacher_log_probs.dtype)
