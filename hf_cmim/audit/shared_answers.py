"""One question, many students: the teacher is asked once about a batch that several students look at together."""

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from hf_cmim.teachers.base import AbstractTeacher


@final
class SharedAnswers:
    """Remembers the answers to the batch at hand, for as long as it is at hand.

    A question is the same where its tensors are the same objects, so that a query which a student made for itself (a
    mixture, a perturbation) is never answered with another student's.

    Attributes:
        num_asked: samples about which a teacher was really asked.
    """

    def __init__(self) -> None:
        self.num_asked = 0
        self._known: list[tuple[AbstractTeacher, list[Any], Tensor]] = []

    def forget(self) -> None:
        """Drop the answers, before the next batch."""
        self._known.clear()

    def ask(self, teacher: AbstractTeacher, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        """Return `(B, ..., C)` log-probabilities, asking the teacher where nobody did so yet."""
        question = [*inputs.values(), labels]
        for known_teacher, known, answer in self._known:
            if known_teacher is teacher and _is_same(known, question):
                return answer
        answer = teacher(inputs, labels)
        if not (teacher.wants_labels or teacher.wants_index):
            self.num_asked += len(answer)
        self._known.append((teacher, question, answer))
        return answer


def _is_same(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))
