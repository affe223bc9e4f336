"""The audited teacher, asked once about everything an audit needs to know of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor, nn

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.arms import Arm
from hf_cmim.audit.pool import StudentPool
from hf_cmim.audit.pooled import PooledArm
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.measurement import Measurement, MeasurementAccumulator
from hf_cmim.private_paths import public_path
from hf_cmim.report import ModelFacts
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.teachers.fingerprints import digest
from hf_cmim.teachers.model import ModelTeacher
from hf_cmim.teachers.nulls import ArgmaxNull, CentroidNull, LabelOnlyTeacher
from hf_cmim.trainers.distillation_checks import as_teacher
from hf_cmim.trainers.transfer_data import TEACHER_VIEW

ASKED_TWICE = 4
"""Batches of the transfer set about which the teacher is asked a second time."""


@dataclass(frozen=True)
class AuditData:
    """The data of an audit, all labelled.

    Attributes:
        transfer: what the attacker asks about and learns from, map-style.
        validation: what settings are chosen on; never the test data.
        test: what the verdict is about.
        names: of the three, for the report.
    """

    transfer: Any
    validation: Any
    test: Any
    names: tuple[str, str, str] = ("transfer set", "validation set", "test set")


@final
class StoredAnswers(AbstractTeacher):
    """A teacher's answers to the transfer set, in the student's order of classes, by position.

    Args:
        log_probs: `(N, ..., C)`.
        hides_classes: as of the teacher that gave them.
    """

    wants_index = True

    def __init__(self, log_probs: Tensor, *, hides_classes: bool) -> None:
        super().__init__(log_probs.shape[-1], None, hides_classes=hides_classes)
        self.log_probs = log_probs

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        return self.log_probs[inputs[INDEX_NAME]]

    def _identity(self) -> str:
        return digest(self.log_probs)


@final
class Subject:
    """A teacher under audit.

    Args:
        teacher: black box that answers live; a model or a path is wrapped.
        name: for the report.
        pool: trains the students.
        data: of the audit.

    Attributes:
        teacher: the black box.
        asked_twice: largest difference between two answers of its class probabilities to the same question.

    Raises:
        HfCmimError: a teacher that cannot be asked about the test data.
    """

    def __init__(
        self, teacher: AbstractTeacher | nn.Module | str, name: str, pool: StudentPool, data: AuditData
    ) -> None:
        wrapped = ModelTeacher(teacher, device=pool.args.device) if isinstance(teacher, str) else as_teacher(teacher)
        if wrapped is None or wrapped.wants_index:
            raise HfCmimError(
                f"Expected a teacher that answers any sample live, got {type(teacher).__name__}: what it is worth on"
                " the test data, and whether it answers the same twice, could not be measured. Give the model itself."
            )
        self.teacher: AbstractTeacher = wrapped
        self.name = name
        model = getattr(wrapped, "model", None)
        self.path = public_path(teacher if isinstance(teacher, str) else str(getattr(model, "name_or_path", "")))
        self.pool = pool
        self.data = data
        # An arm that asks nobody: these questions are the audit's, no attacker pays for them.
        self._probe = pool.student(PooledArm("probe", Composition(CrossEntropy()), wrapped), seed=0)
        self.asked_twice = self._ask_twice()

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 hex of what determines its answers."""
        return self.teacher.fingerprint()

    # Asking

    def _answers_to(self, dataset: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `(B, ..., C)` answers in the student's order of classes, and `(B, ...)` labels."""
        for batch in self.pool.ordered_batches(self._probe, dataset):
            yield self._answers_to_batch(batch), batch["labels"]

    def _answers_to_batch(self, batch: Mapping[str, Any]) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", INDEX_NAME)}
        view = inputs.pop(TEACHER_VIEW, inputs)
        answers = self._probe.queries.answers(view, batch["labels"], None, paid=False)
        self.pool.shared.forget()
        return answers

    def _ask_twice(self) -> float:
        """Return the largest difference of probabilities between two answers to the very same inputs."""
        batches = islice(self.pool.ordered_batches(self._probe, self.data.transfer), ASKED_TWICE)
        return max(
            float((self._answers_to_batch(batch).exp() - self._answers_to_batch(batch).exp()).abs().max())
            for batch in batches
        )

    @cached_property
    def _transfer_answers(self) -> list[tuple[Tensor, Tensor]]:
        return list(self._answers_to(self.data.transfer))

    @cached_property
    def answers(self) -> list[tuple[Tensor, Tensor]]:
        """Its answers to the transfer set: `(N, C)` log-probabilities and `(N,)` labels, valid samples alone."""
        return [_valid(*batch) for batch in self._transfer_answers]

    @cached_property
    def measurement(self) -> Measurement:
        """What it is worth on the test data."""
        return self._measure(self.data.test)

    @cached_property
    def validation_accuracy(self) -> float:
        """Its accuracy on the validation data."""
        return self._measure(self.data.validation).accuracy

    def _measure(self, dataset: Any) -> Measurement:
        accumulator = MeasurementAccumulator()
        for log_probs, labels in self._answers_to(dataset):
            accumulator.update(log_probs, labels)
        return accumulator.compute()

    @cached_property
    def test_predictions(self) -> Tensor:
        """The `(N,)` classes it names for the valid labels of the test data."""
        return torch.cat([_valid(*batch)[0].argmax(dim=-1).cpu() for batch in self._answers_to(self.data.test)])

    def facts(self) -> ModelFacts:
        """Return what it is worth, for the report."""
        return ModelFacts.of(self.measurement, name=self.name, path=self.path, fingerprint=self.fingerprint)

    # Answering students

    @cached_property
    def stored(self) -> StoredAnswers | None:
        """Its answers to the transfer set, where one look is enough: nothing in it varies from epoch to epoch."""
        if self.pool.varies(self.data.transfer) or self._transfer_answers[0][0].ndim > 2:
            return None  # texts of labelled tokens are padded differently in each batch
        log_probs = torch.cat([log_probs for log_probs, _ in self._transfer_answers])
        return StoredAnswers(log_probs, hides_classes=self.teacher.hides_classes)

    @cached_property
    def _centroids(self) -> CentroidNull:
        log_probs, labels = (torch.cat(parts) for parts in zip(*self.answers, strict=True))
        table = StoredAnswers(log_probs, hides_classes=self.teacher.hides_classes)
        return CentroidNull.fit(table, [({INDEX_NAME: torch.arange(len(labels))}, labels)])

    def answering(self, arm: Arm) -> AbstractTeacher | None:
        """Return who answers the students of an arm, all but those that learn from one of their own kind."""
        if arm.answering == "centroid":
            return self._centroids
        if arm.answering == "label" and arm.confidence is not None:
            temperature = _temperature(arm)
            return LabelOnlyTeacher(self.teacher.num_classes, confidence=arm.confidence, temperature=temperature)
        if arm.answering not in ("teacher", "argmax"):
            return None
        live_only = arm.attack.query_protocol is not None
        teacher = self.teacher if live_only or self.stored is None else self.stored
        if arm.answering == "argmax" and arm.confidence is not None:
            return ArgmaxNull(teacher, confidence=arm.confidence, temperature=_temperature(arm))
        return teacher


def _valid(log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    valid = labels.flatten() != IGNORE_INDEX
    return log_probs.flatten(0, -2)[valid], labels.flatten()[valid]


def _temperature(arm: Arm) -> float:
    temperature = arm.attack.loss.nominal_temperature
    assert isinstance(temperature, float | int)  # with_numbers left no other
    return float(temperature)
