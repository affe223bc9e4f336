"""The nasty teacher: a classifier trained to answer unlike a normal one, while it keeps its predictions."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_cmim.defenses.base import AbstractDefense, Samples, check_positive, check_weight
from hf_cmim.functional.divergence import kl_divergence, softened_log_probs, summed_cross_entropy


@dataclass(frozen=True)
class NastyTeacher(AbstractDefense):
    """Self-undermining training: softened answers are pushed away from those of a normal classifier.

    CE(z, y) - weight T^2 KL(softmax(z / T) || softmax(z_ref / T)), with z_ref the logits of a frozen `reference`, the
    same model trained with cross-entropy. The gradient reaches only z. False peaks appear among the classes that are
    not predicted; a student at temperature T learns them. The divergence has no upper bound, so too large a weight
    costs accuracy: select by `metric_for_best_model="accuracy"`, as the source does, not by the loss.

    Args:
        weight: weight of the divergence, at least 0 (omega in the paper).
        temperature: temperature T > 0 of both answers.

    Strength: the paper claims that students learn badly at an almost unchanged accuracy of the teacher. Later papers
    claim to undo it; their attacks `htc`, `skeptical`, `averager` and `markov-kd` are in `hf_cmim.attacks`.

    Source: Ma et al., "Undistillable: Making A Nasty Teacher That CANNOT teach students", ICLR 2021, arXiv
    2105.07381. The defaults are those of the public code for CIFAR-10; it uses weight .005 and T = 20 for CIFAR-100,
    .01 and 20 for Tiny ImageNet. It averages over the samples only, and adds a constant of 100, left out here.

    >>> import torch
    >>> logits, reference = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    >>> parts = NastyTeacher()(logits, torch.tensor([0]), reference_log_probs=reference)
    >>> {name: round(value.item(), 4) for name, value in parts.items()}
    {'ce': 0.4076, 'undermining': -0.0116}
    """

    weight: float = 0.04
    temperature: float = 4.0
    source: ClassVar[str] = "Ma et al., ICLR 2021, arXiv 2105.07381"
    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_weight(self.weight)
        check_positive("temperature", self.temperature)

    def summed_components(self, samples: Samples) -> dict[str, Tensor]:
        """Return the components `ce` and `undermining`, at most 0."""
        assert samples.reference_log_probs is not None
        divergences = kl_divergence(
            softened_log_probs(samples.logits, self.temperature),
            softened_log_probs(samples.reference_log_probs, self.temperature),
        )
        undermining = -self.weight * self.temperature**2 * divergences.sum()
        return {"ce": summed_cross_entropy(samples.logits, samples.labels), "undermining": undermining}
