"""Memory of a teacher's answers: each question of students in lockstep is asked once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW

LARGEST_TABLE = 2**28
"""Largest size of one teacher's stored answers, in bytes."""

OrderedBatches = Callable[[AbstractTeacher], Iterator[dict[str, Any]] | None]
"""A function from a teacher to the transfer set's batches in order, with its inputs, or to None if samples change."""


@final
class SharedAnswers:
    """A memory of teachers' answers, shared by students that are trained side by side.

    Answers to the current batch are remembered until `forget`. Two questions are equal if their tensors are the same
    objects. A query that a student made itself (a mixture, a perturbation) therefore never gets the answer to another
    student's query. If samples never change, the answers to the whole transfer set are stored before training.

    Args:
        ordered_batches: function that returns the batches of the transfer set on the device; without it nothing is
            stored. Stored answers do not depend on the order of training, but may differ in rounding from answers to
            other batches.

    Attributes:
        num_asked: number of samples that a teacher has really answered.
    """

    def __init__(
        self, ordered_batches: Callable[[AbstractTeacher], Iterator[dict[str, Any]] | None] | None = None
    ) -> None:
        self.num_asked = 0
        self._ordered_batches = ordered_batches
        self._remembered: list[tuple[AbstractTeacher, list[Any], Tensor]] = []
        # Weak: an audit makes new nulls for each wave, and their tables end with them.
        self._tables: WeakKeyDictionary[AbstractTeacher, Tensor | None] = WeakKeyDictionary()
        self._views: list[Mapping[str, Any]] = []

    def show(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Set the batches of the current step as they were loaded; only answers to these can come from storage."""
        self._views = [batch.get(TEACHER_VIEW, batch) for batch in batches]

    def forget(self) -> None:
        """Forget the answers to the current batch, before the next one."""
        self._remembered.clear()
        self._views = []

    def ask(self, teacher: AbstractTeacher, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        """Return `(B, ..., C)` log-probabilities; the teacher is asked unless it has answered this question."""
        question = [*inputs.values(), labels]
        for remembered_teacher, remembered_question, answer in self._remembered:
            if remembered_teacher is teacher and _is_same(remembered_question, question):
                return answer
        table = self._table(teacher) if INDEX_NAME in inputs and self._was_loaded(inputs) else None
        answer = self._live(teacher, inputs, labels) if table is None else table[inputs[INDEX_NAME]]
        self._remembered.append((teacher, question, answer))
        return answer

    def _live(self, teacher: AbstractTeacher, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        answer = teacher(inputs, labels)
        # A teacher of labels or positions does no work that counts.
        if not (teacher.wants_labels or teacher.wants_index):
            self.num_asked += len(answer)
        return answer

    def _was_loaded(self, inputs: Mapping[str, Any]) -> bool:
        """Return True if a question is about a batch as it was loaded."""
        question = {name: value for name, value in inputs.items() if name != INDEX_NAME}
        return any(all(value is view.get(name) for name, value in question.items()) for view in self._views)

    def _table(self, teacher: AbstractTeacher) -> Tensor | None:
        """Return the teacher's `(N, C)` answers to the whole transfer set, or None if they cannot be stored."""
        if teacher not in self._tables:
            batches = None if self._ordered_batches is None else self._ordered_batches(teacher)
            self._tables[teacher] = None if batches is None else self._stored(teacher, batches)
        return self._tables[teacher]

    @torch.no_grad()
    def _stored(self, teacher: AbstractTeacher, batches: Iterator[dict[str, Any]]) -> Tensor | None:
        answers: list[Tensor] = []
        num_bytes = 0
        for batch in batches:
            view = {name: value for name, value in batch.get(TEACHER_VIEW, batch).items() if name not in _NOT_ASKED}
            if teacher.wants_index:
                view[INDEX_NAME] = batch[INDEX_NAME]
            answer = self._live(teacher, view, batch["labels"])
            if answer.ndim != 2:
                return None  # one answer per token: its shape depends on the batch
            if not answers and not torch.equal(answer, self._live(teacher, view, batch["labels"])):
                return None  # it answers differently each time
            answers.append(answer)
            num_bytes += answer.nbytes
            if num_bytes > LARGEST_TABLE:
                return None
        return torch.cat(answers)


_NOT_ASKED = ("labels", INDEX_NAME, TEACHER_VIEW)


def _is_same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))
