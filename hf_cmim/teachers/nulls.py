"""Null teachers: teachers that know only the label, the teacher's label, or one answer per class.

They show how much a student gains from an attack's loss without the teacher's knowledge of single samples. A knockoff
that is no better than its null has learned nothing more than the null knows.
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
    """Return answers that hold only a label, with a given confidence after an attack's temperature.

    softmax(answer / T) is `confidence` at the label and (1 - confidence) / (C - 1) at every other class.

    Args:
        labels: `(...)` integers in [0, C); -100 gets the answer of class 0.
        num_classes: number of classes `C`.
        confidence: probability of the label, in [1 / C, 1).
        temperature: temperature T > 0 at which the attack reads the answer.

    Returns:
        Log-probabilities, `(..., C)` fp32, finite and normalised.

    Source: ours. At T = 1 it is the target of label smoothing.

    >>> import torch
    >>> (hard_log_probs(torch.tensor([1]), 3, 0.8, 4.0) / 4).softmax(-1).mul(100).round().tolist()
    [[10.0, 80.0, 10.0]]
    """
    check_hard(num_classes, confidence, temperature)
    other_log_prob = math.log((1 - confidence) / (num_classes - 1))
    target = torch.full((*labels.shape, num_classes), other_log_prob, device=labels.device)
    target.scatter_(-1, labels.clamp_min(0).long().unsqueeze(-1), math.log(confidence))
    # Sharpened by T here, so that the attack's division by T gives back the target.
    return softened_log_probs(target, 1 / temperature)


def check_hard(num_classes: int, confidence: float, temperature: float) -> None:
    """Raise an `HfCmimError` unless answers with this confidence are distributions that name the label."""
    if not 1 / num_classes <= confidence < 1:
        raise HfCmimError(
            f"Expected a confidence in [1 / {num_classes}, 1), got {confidence}: a smaller one would name every class"
            " but the label, and at 1 the logarithm of the others is infinite. Use 0.9, for instance."
        )
    if not 0 < temperature < math.inf:
        raise HfCmimError(
            f"Expected a temperature above 0 and finite, got {temperature}: the answer would not be a distribution."
            " Use the attack's temperature."
        )


@final
class LabelOnlyTeacher(AbstractTeacher):
    """A null teacher that knows only the true label.

    Args:
        num_classes: number of classes `C`.
        confidence: probability of the true class after the attack's temperature, in [1 / C, 1).
        temperature: temperature T > 0 at which the attack reads the answer, as a number.
    """

    wants_labels = True

    def __init__(self, num_classes: int, *, confidence: float, temperature: float = 1.0) -> None:
        super().__init__(num_classes, None)
        check_hard(num_classes, confidence, temperature)
        self.confidence = confidence
        self.temperature = temperature

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        assert labels is not None  # __call__ has checked
        return hard_log_probs(labels, self.num_classes, self.confidence, self.temperature)

    def _identity(self) -> str:
        return digest(self.confidence, self.temperature)


@final
class ArgmaxNull(AbstractTeacher):
    """A null teacher that knows only the teacher's label: it shows how much the teacher's errors teach.

    Args:
        teacher: teacher whose label is the answer.
        confidence: probability of this label after the attack's temperature, in [1 / C, 1).
        temperature: temperature T > 0 at which the attack reads the answer, as a number.
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
        teacher_labels = self.teacher(inputs, labels).argmax(dim=-1)
        return hard_log_probs(teacher_labels, self.num_classes, self.confidence, self.temperature)

    def _identity(self) -> str:
        return digest(self.teacher.fingerprint(), self.confidence, self.temperature)


@final
class CentroidNull(AbstractTeacher):
    """A null teacher with one answer per class: it knows the similarities of classes, but no single samples.

    The answer to a sample of class c is the normalised exponential of the mean log-probabilities over class c. Unlike
    a mean of probabilities, this mean commutes with every temperature, so one null serves all attacks. Its conditional
    mutual information is 0.

    Args:
        log_centroids: `(C, C)` log-probabilities: row c answers the samples with label c, columns are in the teacher's
            order.
        class_names: names of the columns; None if they are in the order of the labels' numbers.
        unseen: classes without an answer, because the null was fitted on no sample of them.

    Raises:
        HfCmimError: a question about a sample of an unseen class.

    Source: ours.
    """

    wants_labels = True

    def __init__(
        self, log_centroids: Tensor, *, class_names: Sequence[str] | None = None, unseen: Sequence[int] = ()
    ) -> None:
        if log_centroids.ndim != 2 or log_centroids.shape[0] != log_centroids.shape[1]:
            raise HfCmimError(
                f"Expected log_centroids (C, C), one answer per class, got {tuple(log_centroids.shape)}. Build them"
                " with CentroidNull.fit."
            )
        super().__init__(len(log_centroids), class_names)
        self.log_centroids = log_centroids.detach()
        self.unseen = tuple(unseen)

    @classmethod
    def fit(cls, teacher: AbstractTeacher, batches: Iterable[tuple[Mapping[str, Any], Tensor]]) -> "CentroidNull":
        """Return the null of a teacher's answers to the attacker's own queries; some classes may be missing.

        Args:
            teacher: teacher that answers the queries.
            batches: pairs of the teacher's view of a batch and its labels, `(B, ...)` in [0, C), or -100 to ignore.
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
        # The row of a class without samples is uniform; `_answer` refuses samples of this class.
        unseen = (counts == 0).nonzero().flatten().tolist()
        centroids = torch.log_softmax(sums / counts.clamp_min(1).unsqueeze(-1), dim=-1).float()
        return cls(centroids, class_names=teacher.class_names, unseen=unseen)

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        assert labels is not None  # __call__ has checked
        unanswerable = sorted({*self.unseen} & {*labels.unique().tolist()}) if self.unseen else []
        if unanswerable:
            raise HfCmimError(
                f"Expected samples of classes that the null was fitted on, got some of {unanswerable[:8]}: it has no"
                " answer for these classes, and one of another class would be wrong. Fit it on more queries."
            )
        self.log_centroids = self.log_centroids.to(labels.device)
        return self.log_centroids[labels.clamp_min(0)]

    def _identity(self) -> str:
        return digest(self.log_centroids)
