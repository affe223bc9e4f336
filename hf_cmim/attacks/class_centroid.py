"""The class centroid: what a teacher says of a class, and nothing of an instance."""

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractTransform
from hf_cmim.attacks.class_means import ClassMeans
from hf_cmim.functional.divergence import softened_log_probs


class ClassCentroid(AbstractTransform):
    """Replace each answer by the normalised exp of its class's mean log-probabilities over the survey.

    q_y = softmax(mean of log p over the class). It commutes with tempering: q_y softened at any T is what the softened
    answers would give, so one survey serves every temperature. As answers depend on the class alone, their CMI is 0.
    It is not the centroid of that CMI, which is the mean of p. A class without a sample in the survey keeps answers.

    Source: ours, a diagnostic null teacher: attack less centroid is what answers say about an instance.

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
        """Whether it needs a survey: always."""
        return True

    def prepare(self, num_classes: int) -> None:
        """Make room for the class means."""
        self.class_means.prepare(num_classes, self.teacher_scale.device)

    @torch.no_grad()
    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Count a batch of the answers that training will use; see `AttackPart.survey`."""
        super().survey(teacher_log_probs, labels)
        self.class_means.add(softened_log_probs(teacher_log_probs.double(), 1.0), labels)

    @torch.no_grad()
    def settle(self) -> None:
        """End the survey."""
        super().settle()
        self.class_means.settle()

    @torch.no_grad()
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the centroids; see `AbstractTransform.forward`.

        Raises:
            HfCmimError: there was no survey.
        """
        means = self.class_means.of(labels, teacher_log_probs)
        return softened_log_probs(means, 1.0).to(teacher_log_probs.dtype)
