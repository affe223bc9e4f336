"""The averager student: every answer becomes the mean answer of its class."""

from typing import Literal

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractTransform, Relative, Temperature, check_temperature
from hf_cmim.attacks.class_means import ClassMeans, same_class_means
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import softened_log_probs

FLOOR = 1e-300
"""Smallest class mean at T, so that its logarithm is finite."""


def batch_averages(teacher_log_probs: Tensor, labels: Tensor, temperature: float | Tensor) -> Tensor:
    """Return log-probabilities which at temperature T are the class means of softmax(log p / T) over this batch.

    Args:
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        labels: `(N,)` integers in [0, C).
        temperature: T > 0; a number or a 0-d tensor.

    Returns:
        `(N, C)` normalised; an answer that is alone in its class comes back as it is.

    Source: see `Averager`.

    >>> answers = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]]).log()
    >>> batch_averages(answers, torch.tensor([0, 0, 1]), 1.0).exp().mul(10).round().tolist()
    [[6.0, 4.0], [6.0, 4.0], [1.0, 9.0]]
    """
    probs = softened_log_probs(teacher_log_probs.double(), temperature).exp()
    return _as_answers(same_class_means(probs, labels), temperature).to(teacher_log_probs.dtype)


def _as_answers(softened_probs: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the log-probabilities which at temperature T are these probabilities."""
    return softened_log_probs(softened_probs.clamp_min(FLOOR).log(), 1 / temperature)


class Averager(AbstractTransform):
    """Replace each answer by its class's mean of softmax(log p / T), so that a loss at the same T sees that mean.

    What KD gains without it over KD with it is what the answers say about an instance beyond its class. On a teacher
    whose answers depend on the class alone it changes nothing.

    With over="batch" the mean depends on how a batch is split: each micro-batch on each process is averaged within
    itself, and small batches leave many answers alone in their class, as they are.

    Args:
        temperature: T, > 0, that of the loss which follows. `Relative` needs over="batch": a survey that finds the
            scale cannot average at it.
        over: "transfer-set", all answers of the survey, or "batch". A class without a sample in the survey keeps its
            answers.

    Raises:
        HfCmimError: an unknown `over`, or a `Relative` temperature with "transfer-set".

    Source: "Distillation from Undistillable Teacher" (OpenReview), known to us from a public script that averages at
    T = 4 over the batch, with KD's weights .1 and .9; the transfer set is ours.
    """

    def __init__(
        self, *, temperature: Temperature = 4.0, over: Literal["transfer-set", "batch"] = "transfer-set"
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if over not in ("transfer-set", "batch"):
            raise HfCmimError(
                f'Expected over="transfer-set" or "batch", got {over!r}: there is nothing else to average.'
            )
        if over == "transfer-set" and isinstance(temperature, Relative):
            raise HfCmimError(
                f'Expected a temperature in numbers with over="transfer-set", got {temperature!r}: its scale is known'
                ' only after the survey that would have to average at it. Give a number, or over="batch".'
            )
        self.temperature = temperature
        self.over = over
        self.class_means = ClassMeans()

    @property
    def needs_survey(self) -> bool:
        """Whether it averages over the transfer set, or its temperature is relative."""
        return self.over == "transfer-set" or super().needs_survey

    def prepare(self, num_classes: int) -> None:
        """Make room for the class means."""
        if self.over == "transfer-set":
            self.class_means.prepare(num_classes, self.teacher_scale.device)

    @torch.no_grad()
    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Count a batch of the answers that training will use; see `AttackPart.survey`."""
        super().survey(teacher_log_probs, labels)
        if self.over == "transfer-set":
            temperature = self.resolved(self.temperature)
            self.class_means.add(softened_log_probs(teacher_log_probs.double(), temperature).exp(), labels)

    @torch.no_grad()
    def settle(self) -> None:
        """End the survey."""
        super().settle()
        self.class_means.settle()

    @torch.no_grad()
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the averaged answers; see `AbstractTransform.forward`.

        Raises:
            HfCmimError: over="transfer-set" without a survey.
        """
        temperature = self.resolved(self.temperature)
        if self.over == "batch":
            return batch_averages(teacher_log_probs, labels, temperature)
        own = softened_log_probs(teacher_log_probs.double(), temperature).exp()
        return _as_answers(self.class_means.of(labels, own), temperature).to(teacher_log_probs.dtype)
