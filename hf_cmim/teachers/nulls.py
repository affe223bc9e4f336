"""Null teachers: what a student gains from an attack's loss without the teacher's knowledge of single samples.

A knockoff that is no better than its null learned nothing that the labels, the teacher's labels, or one answer a class
could not have told it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX, softened_log_probs
from hf_cmim.functional.inputs import check_label_range
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.fingerprints import digest


def hard_log_probs(labels: Tensor, num_classes: int, confidence: float, temperature: float = 1.0) -> Tensor:
    """Return answers that say a label alone, with a given confidence after an attack's temperature.

    softmax(answer / T) is `confidence` at the label and (1 - confidence) / (C - 1) at every other class.

    Args:
        labels: `(...)` integers in [0, C); where -100, the answer is that of class 0.
        num_classes: `C`.
        confidence: in [1 / C, 1).
        temperature: T > 0 at which the attack reads the answer.

    Returns:
        `(..., C)` fp32 log-probabilities, finite and normalised.

    Source: ours. At T = 1 it is the target of label smoothing.

    >>> import torch
    >>> (hard_log_probs(torch.tensor([1]), 3, 0.8, 4.0) / 4).softmax(-1).mul(100).round().tolist()
    [[10.0, 80.0, 10.0]]
    """
    check_hard(num_classes, confidence, temperature)
    rest = math.log((1 - confidence) / (num_classes - 1))
    target = torch.full((*labels.shape, num_classes), rest, device=labels.device)
    target.scatter_(-1, labels.clamp_min(0).long().unsqueeze(-1), math.log(confidence))
    return softened_log_probs(target, 1 / temperature)


def check_hard(num_classes: int, confidence: float, temperature: float) -> None:
    """Raise an `HfCmimError` unless the answers to a label would be distributions that name it."""
    if not 1 / num_classes <= confidence < 1:
        raise HfCmimError(
            f"Expected a confidence in [1 / {num_classes}, 1), got {confidence}: below, the answer would name every"
            " class but the label; at 1 its logarithm is infinite."
        )
    if not 0 < temperature < math.inf:
        raise HfCmimError(f"Expected a temperature above 0 and finite, got {temperature}.")


@final
class LabelOnlyTeacher(AbstractTeacher):
    """The null that says the true label and nothing else.

    Args:
        num_classes: `C`.
        confidence: probability of the true class after the attack's temperature, in [1 / C, 1).
        temperature: T > 0 at which the attack reads the answer, as a number.
    """

    wants_labels = True

    def __init__(self, num_classes: int, *, confidence: float, temperature: float = 1.0) -> None:
        super().__init__(num_classes, None)
        check_hard(num_classes, confidence, temperature)
        self.confidence = confidence
        self.temperature = temperature

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        assert labels is not None  # __call__ looks
        return hard_log_probs(labels, self.num_classes, self.confidence, self.temperature)

    def _identity(self) -> str:
        return digest(self.confidence, self.temperature)


@final
class ArgmaxNull(AbstractTeacher):
    """The null that says the teacher's label and nothing else: what its errors alone teach.

    Args:
        teacher: teacher that is asked.
        confidence: probability of its label after the attack's temperature, in [1 / C, 1).
        temperature: T > 0 at which the attack reads the answer, as a number.
    """

    def __init__(self, teacher: AbstractTeacher, *, confidence: float, temperature: float = 1.0) -> None:
        super().__init__(teacher.num_classes, teacher.class_names)
        check_hard(teacher.num_classes, confidence, temperature)
        self.teacher = teacher
        self.confidence = confidence
        self.temperature = temperature
        self.wants_index = teacher.wants_index
        self.wants_labels = teacher.wants_labels
        self.input_names = teacher.input_names

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        answered = self.teacher(inputs, labels).argmax(dim=-1)
        return hard_log_probs(answered, self.num_classes, self.confidence, self.temperature)

    def _identity(self) -> str:
        return digest(self.teacher.fingerprint(), self.confidence, self.temperature)


@final
class CentroidNull(AbstractTeacher):
    """The null that gives one answer a class: similarities of classes are left, nothing about single samples.

    The answer to a sample of class c is the normalised exponential of the mean log-probabilities over class c. This
    mean, unlike that of the probabilities, commutes with every temperature, so that one null serves all attacks. Its
    conditional mutual information is 0.

    Args:
        log_centroids: `(C, C)` log-probabilities: row c answers the samples labelled c, columns are in the teacher's
            order.
        class_names: names of the columns; None if they are in the order of the labels' numbers.
        unseen: classes that it cannot answer for, as no answer to a sample of theirs is known.

    Raises:
        HfCmimError: when asked about a sample of one of them.

    Source: ours.
    """

    wants_labels = True

    def __init__(
        self, log_centroids: Tensor, *, class_names: Sequence[str] | None = None, unseen: Sequence[int] = ()
    ) -> None:
        if log_centroids.ndim != 2 or log_centroids.shape[0] != log_centroids.shape[1]:
            raise HfCmimError(f"Expected log_centroids (C, C), one answer a class, got {tuple(log_centroids.shape)}.")
        super().__init__(len(log_centroids), class_names)
        self.log_centroids = log_centroids.detach()
        self.unseen = tuple(unseen)

    @classmethod
    def fit(cls, teacher: AbstractTeacher, batches: Iterable[tuple[Mapping[str, Any], Tensor]]) -> "CentroidNull":
        """Return the null of a teacher's answers to the attacker's own queries; they may lack classes.

        Args:
            teacher: teacher that is asked.
            batches: its views of the batches, with labels `(B, ...)` in [0, C), or -100 to ignore.
        """
        num_classes = teacher.num_classes
        sums = torch.zeros(num_classes, num_classes, dtype=torch.float64)
        counts = torch.zeros(num_classes, dtype=torch.float64)
        for inputs, labels in batches:
            check_label_range(labels, num_classes)
            valid = labels.cpu() != IGNORE_INDEX
            rows = labels.cpu()[valid].long()
            sums.index_add_(0, rows, teacher(inputs, labels).cpu()[valid].double())
            counts += rows.bincount(minlength=num_classes)
        unseen = (counts == 0).nonzero().flatten().tolist()
        centroids = torch.log_softmax(sums / counts.clamp_min(1).unsqueeze(-1), dim=-1).float()
        return cls(centroids, class_names=teacher.class_names, unseen=unseen)

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        assert labels is not None  # __call__ looks
        asked = sorted({*self.unseen} & {*labels.unique().tolist()}) if self.unseen else []
        if asked:
            raise HfCmimError(
                f"Expected samples of classes that the null was fitted on, got some of {asked[:8]}: no answer of the"
                " teacher to these is known, and one of another class would be no null. Fit it on more queries."
            )
        self.log_centroids = self.log_centroids.to(labels.device)
        return self.log_centroids[labels.clamp_min(0)]

    def _identity(self) -> str:
        return digest(self.log_centroids)
