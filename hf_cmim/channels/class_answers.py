"""Class answers: a channel that names a class and gives that class's mean answer, the same for all its samples."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from hf_cmim.channels.base import floored_log_probs, keeping_predictions, normalized, precise
from hf_cmim.channels.fitted import AbstractFittedChannel, check_distributions, check_held_out_answers
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.calibration import CalibrationStatistics, octave_grid
from hf_cmim.functional.selection import select_valid

MEAN_SAMPLES = 100
"""Number of samples that the mean answer of a class counts as, beside its held-out labels; ours."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class ClassAnswers(AbstractFittedChannel):
    """One answer per class: every sample that is predicted as class c gets the same answer, row c of a table.

    A classifier must at least name a class. With sharpness 0 this channel tells nothing else: the answer is a function
    of the prediction, I(X; P | prediction) = 0, and a student learns what it would learn from the labels and the
    table. The prediction stays, so accuracy stays. The confidence tells only how often such a prediction is right,
    so it no longer ranks samples of one class.

    The answer is (1 - s) Q[c] + s p, with the sharpness s, the model's own answer p, and its class c. At T = 1 the
    answers hold at most the share s of the information beyond the prediction that p holds.

    Args:
        probs: `(C, C)` table Q of probabilities: row c answers samples that are predicted as class c. Each row sums to
            1, and its largest entry is that of its own class.
        sharpness: share s of the model's own answer, in [0, 1]; 1 changes nothing.

    Raises:
        HfCmimError: a table that would change predictions or is no table of distributions, or a sharpness outside
            [0, 1].

    Source: ours.

    >>> import torch
    >>> channel = ClassAnswers(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    >>> channel(torch.tensor([[0.51, 0.49], [0.99, 0.01]]).log()).exp().mul(100).round().tolist()
    [[90.0, 10.0], [90.0, 10.0]]
    """

    probs: Tensor
    sharpness: float = 0.0
    file_name: ClassVar[str] = "class_answers.safetensors"

    def __post_init__(self) -> None:
        """Check the table and the sharpness, and keep a copy of the table on the CPU in fp32."""
        if not 0 <= self.sharpness <= 1:
            raise HfCmimError(
                f"Expected a sharpness in [0, 1], got {self.sharpness}: it is the share of the model's own answer. Use"
                " 0 to give away nothing beyond the label."
            )
        check_distributions(self.probs, "(C, C)", "ClassAnswers.fit")
        self._keep_copy()
        _check_predictions(self.log_probs)

    @classmethod
    def fit(cls, log_probs: Tensor, labels: Tensor | None = None, *, sharpness: float = 0.0) -> Self:
        """Return the channel for a model's answers to held-out samples, with calibrated confidences.

        Row c is the mean answer to the samples that are predicted as class c, after the temperature that fits the
        labels best. The labels of these samples then correct it; the mean answer counts as `MEAN_SAMPLES` samples
        among them. If the labels would make another class the most probable of row c, the row stays the mean answer,
        in which class c always leads. A class that is never predicted gets the model's mean confidence, spread evenly
        over the other classes.

        Use samples that the model was not trained on. On training samples it is too confident.

        Args:
            log_probs: `(..., C)` log-probabilities of the model.
            labels: `(...)` classes in [0, C), or -100 to ignore. Without labels row c is the mean answer as it is, and
                as over-confident as the model.
            sharpness: share of the model's own answer, in [0, 1].

        Raises:
            HfCmimError: no samples, answers that are no distributions, or labels out of range.
        """
        given = log_probs.argmax(dim=-1) if labels is None else labels
        rows, targets = select_valid(log_probs.detach().cpu().double(), given.cpu())
        check_held_out_answers(rows)
        predicted = rows.argmax(dim=-1)
        answers = (rows / (1.0 if labels is None else _temperature(rows, targets))).softmax(dim=-1)
        # One more sample, of full confidence, so that class c leads in row c even if all answers are uniform.
        confidence = (answers.amax(dim=-1).sum() + 1) / (len(answers) + 1)
        table = _means(answers, predicted, _even_rows(confidence, answers.shape[-1]), 1)
        if labels is not None:
            votes = torch.zeros_like(answers).scatter_(-1, targets.unsqueeze(-1), 1.0)
            calibrated = _means(votes, predicted, table, MEAN_SAMPLES)
            # Judged as the answers that are given, in fp32.
            table = torch.where(_leads(floored_log_probs(calibrated)).unsqueeze(-1), calibrated, table)
        return cls(table, sharpness)

    @cached_property
    def log_probs(self) -> Tensor:
        """Table as the answers that are given, `(C, C)` fp32 log-probabilities; a probability of 0 counts as FLOOR."""
        return floored_log_probs(self.probs.double())

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the answer of each predicted class, mixed with the model's own answer.

        Raises:
            HfCmimError: answers for another number of classes than the table has.
        """
        self._check_classes(log_probs)
        predicted = log_probs.argmax(dim=-1)
        rows = self.log_probs.to(log_probs.device)[predicted]
        if self.sharpness == 0:
            return rows
        if self.sharpness == 1:
            return log_probs.float()
        own, common = precise(log_probs) + math.log(self.sharpness), precise(rows) + math.log1p(-self.sharpness)
        mixed = normalized(torch.logaddexp(own, common).float())
        return keeping_predictions(mixed, predicted, otherwise=rows)


def _check_predictions(log_probs: Tensor) -> None:
    leads = _leads(log_probs)
    if not leads.all():
        row = int((~leads).nonzero()[0])
        raise HfCmimError(
            f"Expected the largest entry of each row at its own class, got row {row} with its largest at class"
            f" {int(_others(log_probs)[row].argmax())}: answers would name another class than the model predicts."
            " Build the table with ClassAnswers.fit, which keeps every prediction."
        )


def _temperature(log_probs: Tensor, labels: Tensor) -> float:
    """Return the temperature at which the answers fit the labels best."""
    statistics = CalibrationStatistics(octave_grid(-4, 4, per_octave=4))
    statistics.update(log_probs, labels)
    return statistics.compute().temperature


def _even_rows(confidence: Tensor, num_classes: int) -> Tensor:
    """Return `(C, C)` rows with the confidence at their own class and the rest spread evenly."""
    rows = ((1 - confidence) / (num_classes - 1)).expand(num_classes, num_classes).clone()
    return rows.fill_diagonal_(confidence.item())


def _means(values: Tensor, predicted: Tensor, prior: Tensor, weight: int) -> Tensor:
    """Return the mean of the values of each predicted class, `(C, C)`; the prior counts as `weight` samples."""
    sums = torch.zeros_like(prior).index_add_(0, predicted, values)
    counts = predicted.bincount(minlength=len(prior)).unsqueeze(-1)
    return (sums + weight * prior) / (counts + weight)


def _others(log_probs: Tensor) -> Tensor:
    """Return the table with -inf on its diagonal."""
    return log_probs.clone().fill_diagonal_(-math.inf)


def _leads(log_probs: Tensor) -> Tensor:
    """Return for each row of a table, `(C,)`, whether its own class is the most probable, alone."""
    return log_probs.diagonal() > _others(log_probs).amax(dim=-1)
