"""The attacker's side of a black box: queries, their cost, and answers in the student's order of classes."""

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
    """The queries of one student to one teacher, with their ledger.

    Args:
        teacher: black box; None for an arm without a teacher.
        student_names: classes in the order of the student's logits, or None for a student without names. Then the
            teacher must have no names either, and its logits must have the order of the label numbers.
        num_classes: number of classes `C` of the student.
        budget: largest number of answers to pay for, or None.

    Attributes:
        ledger: account of this student's queries.
        columns: columns of the teacher's answers in the student's order of classes; None where the orders are equal.
        ask: function that passes a query to the teacher; students trained side by side share one that asks only once.

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
        self.columns: list[int] | None = None
        if teacher is None:
            return
        if teacher.num_classes != num_classes:
            raise HfCmimError(
                f"Expected a teacher of {num_classes} classes like the student, got one of {teacher.num_classes}:"
                " their answers cannot be compared. Build the student with the teacher's num_labels."
            )
        names = teacher.class_names
        if student_names is not None:
            self.columns = match_classes(names, student_names)
        elif names is not None and not are_default_names(names):
            listed = ", ".join(f"{number}: {name!r}" for number, name in enumerate(names[:3]))
            raise HfCmimError(
                f"The student has no config that names its classes, and the teacher's are {list(names)[:8]}: if the"
                " labels have another order, the student learns the wrong classes. Give the order of the student's"
                f" labels: student.config = transformers.PreTrainedConfig(id2label={{{listed}, ...}})."
            )

    def check(self, attack: Composition, samples: int, epochs: float) -> None:
        """Refuse, before training, queries that the teacher cannot answer or the budget cannot pay.

        Args:
            attack: attack that will ask.
            samples: size of the transfer set.
            epochs: number of passes over the transfer set.

        Raises:
            HfCmimError: an attack without its teacher, an attack that cannot use this teacher's answers, or a budget
                that is too small.
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
                " attack for partial answers (LabelOnly, Knockoff, KD), or put PartialBayes or Restoration before the"
                " loss."
            )
        if attack.query_protocol is not None and self.teacher.wants_index:
            raise HfCmimError(
                f"Expected a teacher that answers live, got {type(self.teacher).__name__}: {attack.query_protocol!r}"
                " asks about new inputs, which have no stored answer. Give the model itself."
            )
        once, each_epoch = self._cost(attack, samples)
        self.ledger.check_plan(once + each_epoch, once + round(each_epoch * epochs))

    def _cost(self, attack: Composition, samples: int) -> tuple[int, int]:
        """Return the number of answers paid once, and the number paid in each epoch.

        Stored answers are paid once, live answers each time. A survey of a live teacher costs one more pass.
        """
        if not self._is_asked:
            return 0, 0
        if self.teacher is not None and self.teacher.wants_index:
            # An earlier training may have paid for some samples.
            return max(0, samples - self.ledger.num_samples), 0
        # A repeated view is paid again: the trainer cannot see whether random augmentation changed it.
        views = attack.query_protocol.queries_per_sample if attack.query_protocol is not None else 1
        survey = samples if attack.needs_survey else 0
        return survey, samples * views

    def answers(
        self, inputs: Mapping[str, Any], labels: Tensor | None, index: Tensor | None, *, paid: bool = True
    ) -> Tensor:
        """Return `(B, ..., C)` fp32 log-probabilities in the student's order of classes.

        Args:
            inputs: teacher's view of the batch.
            labels: `(B, ...)` true labels, for teachers that answer from them.
            index: `(B,)` positions in the transfer set.
            paid: True if the attacker learns from the answers and pays for them.
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
        return log_probs if self.columns is None else log_probs[..., self.columns]

    @property
    def _is_asked(self) -> bool:
        """True if queries cost something: a null teacher that answers from the true labels is free."""
        return self.teacher is not None and not self.teacher.wants_labels

    def merged_ledger(self) -> QueryLedger:
        """Return the ledger of all processes together; every process must call it."""
        process_ledgers = gather_object([self.ledger.to_dict()])
        return QueryLedger.merged(QueryLedger.from_dict(ledger) for ledger in process_ledgers)

    @property
    def can_answer_any_sample(self) -> bool:
        """True if the teacher can answer samples outside the transfer set."""
        return self.teacher is not None and not self.teacher.wants_index

    def uniform(self, logits: Tensor) -> Tensor:
        """Return uniform answers, for an arm without a teacher."""
        return torch.full_like(logits, 1 / self.num_classes, dtype=torch.float32).log()


def _batch_size(inputs: Mapping[str, Any]) -> int:
    return len(next(value for value in inputs.values() if isinstance(value, Tensor | list)))
