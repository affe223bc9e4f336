"""One question, many students: a teacher is asked once about samples that several students look at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.trainers.transfer_data import TEACHER_VIEW

LARGEST_TABLE = 2**28
"""Bytes that the stored answers of one teacher may take."""


@final
class SharedAnswers:
    """A memory of a teacher's answers, so that students trained side by side ask each question once.

    Answers to the batch at hand are remembered until `forget`. A question is the same where its tensors are the same
    objects, so that a query which a student made for itself (a mixture, a perturbation) is never answered with another
    student's. Where the samples never change, answers to the whole transfer set can be stored before training.

    Args:
        ordered_batches: returns the transfer set in order, collated and on the device, or None where its samples
            change; without it nothing is stored. Stored answers do not depend on the order of training, but may differ
            in rounding from those to another batch.

    Attributes:
        num_asked: samples about which a teacher was really asked.
    """

    def __init__(self, ordered_batches: Callable[[], Iterator[dict[str, Any]] | None] | None = None) -> None:
        self.num_asked = 0
        self._ordered_batches = ordered_batches
        self._remembered: list[tuple[AbstractTeacher, list[Any], Tensor]] = []
        self._tables: list[tuple[AbstractTeacher, Tensor | None]] = []
        self._views: list[Mapping[str, Any]] = []

    def show(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Note the batches of a step as they were loaded: only their answers can be stored."""
        self._views = [batch.get(TEACHER_VIEW, batch) for batch in batches]

    def forget(self) -> None:
        """Drop the answers to the batch at hand, before the next one."""
        self._remembered.clear()
        self._views = []

    def ask(self, teacher: AbstractTeacher, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        """Return `(B, ..., C)` log-probabilities, asking the teacher where nobody did so yet."""
        question = [*inputs.values(), labels]
        for known_teacher, known_question, answer in self._remembered:
            if known_teacher is teacher and _is_same(known_question, question):
                return answer
        table = self._table(teacher) if INDEX_NAME in inputs and self._was_loaded(inputs) else None
        answer = self._live(teacher, inputs, labels) if table is None else table[inputs[INDEX_NAME]]
        self._remembered.append((teacher, question, answer))
        return answer

    def _live(self, teacher: AbstractTeacher, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        answer = teacher(inputs, labels)
        if not (teacher.wants_labels or teacher.wants_index):
            self.num_asked += len(answer)
        return answer

    def _was_loaded(self, inputs: Mapping[str, Any]) -> bool:
        """Return whether a question is about a batch as it was loaded."""
        own = {name: value for name, value in inputs.items() if name != INDEX_NAME}
        return any(all(value is view.get(name) for name, value in own.items()) for view in self._views)

    def _table(self, teacher: AbstractTeacher) -> Tensor | None:
        """Return the teacher's answers to the whole transfer set, `(N, C)`, or None where they are not stored."""
        for known_teacher, table in self._tables:
            if known_teacher is teacher:
                return table
        batches = None if self._ordered_batches is None else self._ordered_batches()
        table = None if batches is None else self._stored(teacher, batches)
        self._tables.append((teacher, table))
        return table

    @torch.no_grad()
    def _stored(self, teacher: AbstractTeacher, batches: Iterator[dict[str, Any]]) -> Tensor | None:
        if teacher.wants_labels or teacher.wants_index:
            return None  # a function of the label, or stored already
        answers: list[Tensor] = []
        size = 0
        for batch in batches:
            view = {name: value for name, value in batch.get(TEACHER_VIEW, batch).items() if name not in _NOT_ASKED}
            answer = self._live(teacher, view, batch["labels"])
            if answer.ndim != 2:
                return None  # tokens: as many answers as the batch at hand is long
            if not answers and not torch.equal(answer, self._live(teacher, view, batch["labels"])):
                return None  # it answers differently each time
            answers.append(answer)
            size += answer.nbytes
            if size > LARGEST_TABLE:
                return None
        return torch.cat(answers)


_NOT_ASKED = ("labels", INDEX_NAME, TEACHER_VIEW)


def _is_same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))
