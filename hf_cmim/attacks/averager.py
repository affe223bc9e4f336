"""Averager: replace each answer by the mean answer of its class."""

from typing import Literal

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractTransform, Relative, Temperature, check_temperature
from hf_cmim.attacks.class_means import ClassMeans, same_class_means
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import softened_log_probs

FLOOR = 1e-300
"""Smallest probability of a class mean; it keeps the logarithm finite."""


def batch_averages(teacher_log_probs: Tensor, labels: Tensor, temperature: float | Tensor) -> Tensor:
    """Replace each answer by log-probabilities that, softened by T, equal its class's mean softened answer.

    The mean is over the samples of that class in this batch.

    Args:
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        labels: `(N,)` integers in [0, C).
        temperature: temperature T > 0; a number or a 0-d tensor.

    Returns:
        Normalised log-probabilities `(N, C)`. An answer without a second one of its class is unchanged.

    Source: see `Averager`.

    >>> answers = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]]).log()
    >>> batch_averages(answers, torch.tensor([0, 0, 1]), 1.0).exp().mul(10).round().tolist()
    [[6.0, 4.0], [6.0, 4.0], [1.0, 9.0]]
    """
    probs = softened_log_probs(teacher_log_probs.double(), temperature).exp()
    return _as_answers(same_class_means(probs, labels), temperature).to(teacher_log_probs.dtype)


def _as_answers(softened_probs: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the log-probabilities that give `softened_probs` when softened by the temperature."""
    # Dividing logits by 1 / T undoes the division by T.
    return softened_log_probs(softened_probs.clamp_min(FLOOR).log(), 1 / temperature)


class Averager(AbstractTransform):
    """Replace each answer by its class's mean of softmax(log p / T); a loss at the same T then learns that mean.

    The gain of KD without this transform minus the gain with it measures the information about single instances in
    the answers. A teacher whose answers depend only on the class is unchanged.

    With over="batch" the mean depends on how a batch is split: each micro-batch on each process is averaged within
    itself. In small batches, many classes have a single sample, and its answer is unchanged.

    Args:
        temperature: temperature T of the loss that follows, above 0. `Relative` needs over="batch": the teacher's
            logit scale is unknown until the survey that computes the means has ended.
        over: set to average over, "transfer-set" (all surveyed answers) or "batch". The answers of a class without a
            surveyed sample are unchanged.

    Raises:
        HfCmimError: `over` is unknown, or the temperature is `Relative` with "transfer-set".

    Strength: by construction a student learns nothing of single samples from it. Known truth: -.6 points. Its
    authors propose it against teachers that mislead on single samples.

    Source: "Distillation from Undistillable Teacher" (OpenReview). We know it from a public script, which averages at
    T = 4 over the batch, with KD's weights .1 and .9; the transfer set is ours.
    """

    def __init__(
        self, *, temperature: Temperature = 4.0, over: Literal["transfer-set", "batch"] = "transfer-set"
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        if over not in ("transfer-set", "batch"):
            raise HfCmimError(
                f'Expected over="transfer-set" or "batch", got {over!r}. Answers can be averaged only over these.'
            )
        if over == "transfer-set" and isinstance(temperature, Relative):
            raise HfCmimError(
                f'Expected a temperature in numbers with over="transfer-set", got {temperature!r}. The logit scale'
                ' is known only after the survey, too late to average at it. Give a number, or over="batch".'
            )
        self.temperature = temperature
        self.over = over
        self.class_means = ClassMeans()

    @property
    def needs_survey(self) -> bool:
        """True if the mean is over the transfer set, or the temperature is relative."""
        return self.over == "transfer-set" or super().needs_survey

    def prepare(self, num_classes: int) -> None:
        """Allocate the class means."""
        if self.over == "transfer-set":
            self.class_means.prepare(num_classes, self.teacher_scale.device)

    @torch.no_grad()
    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Add a batch of answers to the class means; see `AttackPart.survey`."""
        super().survey(teacher_log_probs, labels)
        if self.over == "transfer-set":
            temperature = self.resolved(self.temperature)
            self.class_means.add(softened_log_probs(teacher_log_probs.double(), temperature).exp(), labels)

    @torch.no_grad()
    def settle(self) -> None:
        """End the survey and compute the class means."""
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
        softened_probs = softened_log_probs(teacher_log_probs.double(), temperature).exp()
        class_means = self.class_means.of(labels, otherwise=softened_probs)
        return _as_answers(class_means, temperature).to(teacher_log_probs.dtype)
