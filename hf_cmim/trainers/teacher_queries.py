"""The attacker's side of a black box: what is asked, what it costs, and answers in the student's order of classes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from hf_cmim.attacks.composition import Composition
from hf_cmim.class_names import are_default_names
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.teachers.classes import match_classes
from hf_cmim.teachers.ledger import QueryLedger


class TeacherQueries:
    """Ask one teacher for one student, and keep the account.

    Args:
        teacher: the black box; None for an arm without one.
        student_names: classes in the order of the student's logits, or None where the student has no names; then the
            teacher's answers are taken in the order of the labels' numbers, if it has no names of its own either.
        num_classes: `C` of the student.
        budget: answers that may be paid for, or None.

    Attributes:
        ledger: the account of this student.
        ask: what passes a question on to the teacher; students trained side by side share one that asks it once.

    Raises:
        HfCmimError: classes that do not match.
    """

    def __init__(
        self,
        teacher: AbstractTeacher | None,
        student_names: Sequence[str] | None,
        num_classes: int,
        budget: int | None,
    ) -> None:
        self.teacher = teacher
        self.ask: Callable[[Mapping[str, Any], Tensor | None], Tensor] | None = teacher
        self.num_classes = num_classes
        self.ledger = QueryLedger(budget)
        self._columns: list[int] | None = None
        if teacher is None:
            return
        if teacher.num_classes != num_classes:
            raise HfCmimError(
                f"Expected a teacher of {num_classes} classes like the student, got one of {teacher.num_classes}:"
                " their answers cannot be compared. Build the student with the teacher's num_labels."
            )
        names = teacher.class_names
        if student_names is not None:
            self._columns = match_classes(names, student_names)
        elif names is not None and not are_default_names(names):
            listed = ", ".join(f"{number}: {name!r}" for number, name in enumerate(names[:3]))
            raise HfCmimError(
                f"The student has no config that names its classes, and the teacher's are {list(names)[:8]}: another"
                " order of the labels would teach the wrong classes. Say in which order the student's labels number"
                f" them: student.config = transformers.PreTrainedConfig(id2label={{{listed}, ...}})."
            )

    def check(self, attack: Composition, samples: int, epochs: float) -> None:
        """Refuse before training what the teacher cannot answer or the budget cannot pay.

        Args:
            attack: what will ask.
            samples: size of the transfer set.
            epochs: passes over it.

        Raises:
            HfCmimError: an attack without its teacher, or one this teacher's answers are of no use to.
        """
        if attack.needs_teacher and self.teacher is None:
            raise HfCmimError(
                f"Expected a teacher for {attack!r}, got None: there is nothing to distil. Give teacher=..., or an"
                " attack without one such as LabelSmoothing()."
            )
        if self.teacher is None or not attack.needs_teacher:
            return
        if attack.needs_every_class and self.teacher.hides_classes:
            raise HfCmimError(
                f"Expected answers with a probability for every class, got {type(self.teacher).__name__} with channel"
                f" {self.teacher.channel!r}, which hides some: {attack!r} would learn from made-up numbers. Use an"
                " attack that copes (LabelOnly, Knockoff, KD), or put PartialBayes or Restoration before the loss."
            )
        if attack.query_protocol is not None and self.teacher.wants_index:
            raise HfCmimError(
                f"Expected a teacher that answers live, got {type(self.teacher).__name__}: {attack.query_protocol!r}"
                " asks about inputs that no stored answer knows. Give the model itself."
            )
        once, each_epoch = self._cost(attack, samples)
        self.ledger.check_plan(once + each_epoch, once + round(each_epoch * epochs))

    def _cost(self, attack: Composition, samples: int) -> tuple[int, int]:
        """Answers paid once, and in each epoch: stored ones once, live ones each time, the survey's once more.

        A live teacher is paid for the same view again, since nobody can tell here whether it is the same.
        """
        if not self._is_asked:
            return 0, 0
        if self.teacher is not None and self.teacher.wants_index:
            return max(0, samples - self.ledger.num_samples), 0  # an earlier training may have paid for some
        views = attack.query_protocol.queries_per_sample if attack.query_protocol is not None else 1
        return (samples if attack.needs_survey else 0), samples * views

    def answers(
        self, inputs: Mapping[str, Any], labels: Tensor | None, index: Tensor | None, *, paid: bool = True
    ) -> Tensor:
        """Return `(B, ..., C)` fp32 log-probabilities in the student's order of classes.

        Args:
            inputs: the teacher's view of the batch.
            labels: `(B, ...)` true labels, for teachers that answer from them.
            index: `(B,)` positions in the transfer set.
            paid: whether the attacker learns from the answers and so pays for them.
        """
        assert self.teacher is not None
        assert self.ask is not None
        if index is not None:
            inputs = {**inputs, INDEX_NAME: index}
        if self._is_asked and index is not None and paid:
            if self.teacher.wants_index:
                self.ledger.charge_samples(index)
            else:
                self.ledger.charge(len(index))
        if self._is_asked and not self.teacher.wants_index:
            self.ledger.asked(_batch_size(inputs))
        log_probs = self.ask(inputs, labels)
        return log_probs if self._columns is None else log_probs[..., self._columns]

    @property
    def _is_asked(self) -> bool:
        """Whether anybody is asked: a null that answers from the true labels costs nothing."""
        return self.teacher is not None and not self.teacher.wants_labels

    def merged_ledger(self) -> QueryLedger:
        """Return the account of all processes together; every process has to call it."""
        return QueryLedger.merged(QueryLedger.from_dict(each) for each in gather_object([self.ledger.to_dict()]))

    @property
    def can_answer_any_sample(self) -> bool:
        """Whether it can be asked about samples outside the transfer set."""
        return self.teacher is not None and not self.teacher.wants_index

    def uniform(self, logits: Tensor) -> Tensor:
        """Return answers that say nothing, for an arm without a teacher."""
        return torch.full_like(logits, 1 / self.num_classes, dtype=torch.float32).log()


def _batch_size(inputs: Mapping[str, Any]) -> int:
    return len(next(value for value in inputs.values() if isinstance(value, Tensor | list)))
