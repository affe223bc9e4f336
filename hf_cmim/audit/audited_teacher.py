"""A teacher under audit, with its answers to the audit's own questions."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from hf_cmim.audit.arms import Arm
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.inputs import AuditData, Teacher
from hf_cmim.channels import ClassAnswers
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.membership import membership_auc
from hf_cmim.measurement import Measurement, MeasurementAccumulator
from hf_cmim.private_paths import public_path
from hf_cmim.report import Interval, ModelFacts
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.teachers.channels import ChannelTeacher
from hf_cmim.teachers.fingerprints import digest
from hf_cmim.teachers.model import ModelTeacher
from hf_cmim.teachers.nulls import ArgmaxNull, CentroidNull, LabelOnlyTeacher
from hf_cmim.trainers.distillation.distillation_checks import as_teacher
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW

ASKED_TWICE = 4
"""Batches of the transfer set that the teacher answers twice."""


@final
class StoredAnswers(AbstractTeacher):
    """A table of a teacher's answers to the transfer set, by position, in the student's order of classes.

    Args:
        log_probs: `(N, ..., C)` log-probabilities.
        hides_classes: True if the teacher that gave them hides classes.
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
class AuditedTeacher:
    """A teacher under audit.

    Args:
        teacher: teacher that answers live; a model or a path is wrapped.
        name: name in the report.
        pool: pool that trains the students.
        data: data of the audit.

    Attributes:
        black_box: teacher as an attacker sees it: it only answers.
        membership_auc: membership-inference AUC for the report; None unless an attacker has its training samples.
        asked_twice: largest difference of a class probability between two answers to the same question.

    Raises:
        HfCmimError: a teacher that cannot answer the test data.
    """

    def __init__(self, teacher: Teacher, name: str, pool: StudentPool, data: AuditData) -> None:
        wrapped = ModelTeacher(teacher, device=pool.args.device) if isinstance(teacher, str) else as_teacher(teacher)
        if wrapped is None or wrapped.wants_index:
            raise HfCmimError(
                f"An audit needs a teacher that answers any sample live, not {type(teacher).__name__}: its accuracy on"
                " the test data and the stability of its answers could not be measured. Give the model itself."
            )
        self.black_box: AbstractTeacher = wrapped
        self.name = name
        model = getattr(wrapped, "model", None)
        self.path = public_path(teacher if isinstance(teacher, str) else str(getattr(model, "name_or_path", "")))
        self.pool = pool
        self.data = data
        self.membership_auc: Interval | None = None
        # These questions are the audit's, and no attacker pays for them.
        self._queries = pool.template.queries(wrapped)
        self.asked_twice = self._ask_twice()

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 hex of everything that determines the teacher's answers."""
        return self.black_box.fingerprint()

    # Asking

    def _answers_to(self, dataset: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs of `(B, ..., C)` answers, in the student's order of classes, and `(B, ...)` labels."""
        for batch in self.pool.batches.ordered(dataset, teachers=[self.black_box]):
            yield self._answers_to_batch(batch), batch["labels"]

    def _answers_to_batch(self, batch: Mapping[str, Any]) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name not in ("labels", INDEX_NAME)}
        view = inputs.pop(TEACHER_VIEW, inputs)
        return self._queries.answers(view, batch.get("labels"), None, paid=False)

    def labels_of(self, dataset: Any) -> Tensor:
        """Return `(N,)` classes that the teacher predicts, for an attacker who has no labels.

        Raises:
            HfCmimError: samples with a label for each token.
        """
        batches = self.pool.batches.ordered(dataset, teachers=[self.black_box])
        predictions = [self._answers_to_batch(batch).argmax(dim=-1).cpu() for batch in batches]
        if predictions[0].ndim > 1:
            raise HfCmimError(
                "An attacker without labels was asked for on samples with a label for each token: their number depends"
                " on padding, so the teacher's labels cannot be stored. Leave the attacker own-unlabelled out."
            )
        return torch.cat(predictions)

    def _ask_twice(self) -> float:
        """Return the largest difference of a probability between two answers to the same inputs."""
        batches = islice(self.pool.batches.ordered(self.data.transfer, teachers=[self.black_box]), ASKED_TWICE)
        return max(
            float((self._answers_to_batch(batch).exp() - self._answers_to_batch(batch).exp()).abs().max())
            for batch in batches
        )

    @cached_property
    def _transfer_answers(self) -> list[tuple[Tensor, Tensor]]:
        return list(self._answers_to(self.data.transfer))

    @cached_property
    def answers(self) -> list[tuple[Tensor, Tensor]]:
        """Answers to the valid samples of the transfer set: `(N, C)` log-probabilities and `(N,)` labels per batch."""
        return [_valid(*batch) for batch in self._transfer_answers]

    @cached_property
    def _tested(self) -> tuple[Measurement, Tensor, Tensor]:
        """Measurement, predicted classes and losses on the test data, from one pass: the answers are not kept."""
        accumulator, predictions, losses = MeasurementAccumulator(), [], []
        for log_probs, labels in self._answers_to(self.data.test):
            accumulator.update(log_probs, labels)
            predictions.append(_valid(log_probs, labels)[0].argmax(dim=-1).cpu())
            losses.append(_losses(log_probs, labels))
        return accumulator.compute(), torch.cat(predictions), torch.cat(losses)

    @property
    def measurement(self) -> Measurement:
        """Measurement of the teacher on the test data."""
        return self._tested[0]

    @property
    def test_predictions(self) -> Tensor:
        """`(N,)` classes that the teacher predicts for the valid labels of the test data."""
        return self._tested[1]

    @cached_property
    def validation_accuracy(self) -> float:
        """Accuracy of the teacher on the validation data."""
        accumulator = MeasurementAccumulator()
        for log_probs, labels in self._answers_to(self.data.validation):
            accumulator.update(log_probs, labels)
        return accumulator.compute().accuracy

    def membership_of_transfer_set(self) -> Interval:
        """Return the AUC of telling transfer samples from test samples by the loss of the answers."""
        members = torch.cat([_losses(*batch) for batch in self._transfer_answers])
        return Interval(*membership_auc(members, self._tested[2]))

    def facts(self) -> ModelFacts:
        """Return the teacher's figures for the report."""
        channel = self.black_box.channel
        return ModelFacts.of(
            self.measurement,
            name=self.name,
            path=self.path,
            fingerprint=self.fingerprint,
            channel="" if channel is None else repr(channel),
            membership_auc=self.membership_auc,
        )

    # Answering students

    @cached_property
    def stored(self) -> StoredAnswers | None:
        """Stored answers to the transfer set, or None if its samples change from epoch to epoch."""
        if self.pool.batches.varies(self.data.transfer) or self._transfer_answers[0][0].ndim > 2:
            return None  # token labels: each batch is padded to a different length
        log_probs = torch.cat([log_probs for log_probs, _ in self._transfer_answers])
        return StoredAnswers(log_probs, hides_classes=self.black_box.hides_classes)

    @cached_property
    def _centroids(self) -> CentroidNull:
        log_probs, labels = (torch.cat(parts) for parts in zip(*self.answers, strict=True))
        table = StoredAnswers(log_probs, hides_classes=self.black_box.hides_classes)
        return CentroidNull.fit(table, [({INDEX_NAME: torch.arange(len(labels))}, labels)])

    # Cached, because students in lockstep share the answers of one teacher object.

    @cached_property
    def _class_answers(self) -> ClassAnswers:
        """Class answers in the student's order of classes, fitted to the validation data."""
        batches = [_valid(*batch) for batch in self._answers_to(self.data.validation)]
        log_probs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return ClassAnswers.fit(log_probs, labels)

    @cached_property
    def _stored_class_answers(self) -> AbstractTeacher:
        assert self.stored is not None  # answering() has checked
        return ChannelTeacher(self.stored, self._class_answers)

    @cached_property
    def _live_class_answers(self) -> AbstractTeacher:
        columns = self._queries.columns
        table = self._class_answers.probs
        if columns is not None:
            # Back to the teacher's order of classes, in which it answers live.
            order = torch.tensor(columns).argsort()
            table = table[order][:, order]
        return ChannelTeacher(self.black_box, ClassAnswers(table))

    def answering(self, arm: Arm) -> AbstractTeacher | None:
        """Return the teacher that answers the students of an arm, or None without one and for self-distillation."""
        if arm.answering == "centroid":
            return self._centroids
        if arm.answering == "label" and arm.confidence is not None:
            temperature = _temperature(arm)
            return LabelOnlyTeacher(self.black_box.num_classes, confidence=arm.confidence, temperature=temperature)
        if arm.answering not in ("teacher", "argmax", "class answers"):
            return None
        # A query protocol makes inputs of its own, to which no answers are stored.
        needs_live_answers = arm.attack.query_protocol is not None
        is_live = needs_live_answers or self.stored is None
        teacher = self.black_box if is_live or self.stored is None else self.stored
        if arm.answering == "class answers":
            return self._live_class_answers if is_live else self._stored_class_answers
        if arm.answering == "argmax" and arm.confidence is not None:
            return ArgmaxNull(teacher, confidence=arm.confidence, temperature=_temperature(arm))
        return teacher


def _valid(log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    valid = labels.flatten() != IGNORE_INDEX
    return log_probs.flatten(0, -2)[valid], labels.flatten()[valid]


def _losses(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample with a label, the mean over its tokens where these have labels."""
    losses = functional.nll_loss(
        log_probs.flatten(0, -2), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    ).reshape(len(labels), -1)
    counts = (labels.reshape(len(labels), -1) != IGNORE_INDEX).sum(dim=1)
    return (losses.sum(dim=1)[counts > 0] / counts[counts > 0]).cpu()


def _temperature(arm: Arm) -> float:
    temperature = arm.attack.loss.nominal_temperature
    assert isinstance(temperature, float | int)  # with_numbers has replaced relative temperatures
    return float(temperature)
