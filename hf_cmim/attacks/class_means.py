"""Class means, over one batch or accumulated over a survey."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from hf_cmim.attacks.base import AttackPart
from hf_cmim.errors import HfCmimError


def same_class_means(values: Tensor, labels: Tensor) -> Tensor:
    """Average `(N, D)` values over the samples of each class; return each sample's class mean, `(N, D)`.

    >>> same_class_means(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([0, 0, 4])).flatten().tolist()
    [2.0, 2.0, 7.0]
    """
    # Every sample shares a class with itself, so no row of `is_same` is empty.
    is_same = (labels.unsqueeze(1) == labels).to(values.dtype)
    return is_same @ values / is_same.sum(dim=-1, keepdim=True)


class ClassMeans(nn.Module):
    """Class means over a survey, of log-probabilities or other values with one column per class.

    Attributes:
        means: class means, `(C, C)` float64; row c is the mean over class c. `(0, 0)` until `prepare`.
        counts: number of surveyed samples per class, `(C,)` float64. Checkpoints keep both.
    """

    means: Tensor
    counts: Tensor
    _sums: Tensor
    _sum_counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.prepare(0, torch.device("cpu"))

    def prepare(self, num_classes: int, device: torch.device) -> None:
        """Allocate empty sums for the classes."""
        square = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=device)
        self.register_buffer("means", square)
        self.register_buffer("counts", square.new_zeros(num_classes))
        self.register_buffer("_sums", square.clone(), persistent=False)
        self.register_buffer("_sum_counts", square.new_zeros(num_classes), persistent=False)
        self._is_settled = False

    def add(self, values: Tensor, labels: Tensor) -> None:
        """Add `(N, C)` values of samples with labels in [0, C).

        Raises:
            HfCmimError: the number of classes differs from that of `prepare`.
        """
        if values.shape[-1] != len(self.means):
            raise HfCmimError(
                f"Expected answers of {len(self.means)} classes, got {values.shape[-1]}. Class means are allocated"
                f" for {len(self.means)} classes. Call prepare(num_classes) first."
            )
        self._sums.index_add_(0, labels, values.double())
        self._sum_counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))

    def settle(self) -> None:
        """Compute the means and clear the sums for the next survey."""
        self.means.copy_(self._sums / self._sum_counts.clamp_min(1).unsqueeze(-1))
        self.counts.copy_(self._sum_counts)
        self._sums.zero_()
        self._sum_counts.zero_()

    def check_settled(self) -> None:
        """Check that a survey has been made. Only the first call waits for the device.

        Raises:
            HfCmimError: no sample was surveyed.
        """
        self._is_settled = self._is_settled or bool(self.counts.any())
        if not self._is_settled:
            raise HfCmimError(
                "Expected a survey of the teacher's answers before the first use, got none. There are no class means."
                " Call prepare(num_classes), survey(log_probs, labels) for all answers, and settle(), as trainers do."
            )

    def of(self, labels: Tensor, otherwise: Tensor) -> Tensor:
        """Return the mean of each sample's class, `(N, C)` float64.

        Args:
            labels: `(N,)` integers in [0, C).
            otherwise: `(N, C)` values for samples whose class was not surveyed.

        Raises:
            HfCmimError: no sample was surveyed.
        """
        self.check_settled()
        was_surveyed = self.counts[labels].unsqueeze(-1) > 0
        return torch.where(was_surveyed, self.means[labels], otherwise.double())


class ClassMeansSurvey(AttackPart):
    """A part of an attack whose survey gives the mean answer of each class.

    Attributes:
        class_means: class means of `averaged`.
    """

    class_means: ClassMeans

    @abstractmethod
    def averaged(self, teacher_log_probs: Tensor) -> Tensor:
        """Return the values that are averaged, `(N, C)` float64, of answers `(N, C)`."""

    def prepare(self, num_classes: int) -> None:
        """Allocate the class means."""
        self.class_means.prepare(num_classes, self.teacher_scale.device)

    @torch.no_grad()
    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Add a batch of answers to the class means; see `AttackPart.survey`."""
        super().survey(teacher_log_probs, labels)
        self.class_means.add(self.averaged(teacher_log_probs), labels)

    @torch.no_grad()
    def settle(self) -> None:
        """End the survey and compute the class means."""
        super().settle()
        self.class_means.settle()
