"""Inputs of an audit: models and data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, final

from torch import Tensor, nn
from torch.utils.data import Dataset

from hf_cmim.errors import HfCmimError
from hf_cmim.private_paths import public_path
from hf_cmim.report import Attacker
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.trainers.distillation.transfer_data import Collator, Fraction, Unlabelled

Teacher = AbstractTeacher | nn.Module | str
"""A classifier to audit; a model or a path is wrapped in `ModelTeacher`."""
TEACHER = "teacher"
"""Key of the audited classifier among all teachers of an audit."""
TWIN = "CE twin"
"""Name of the positive control: the same model trained with plain cross-entropy."""


@dataclass(frozen=True)
class AuditModels:
    """Models of an audit.

    Attributes:
        teacher: classifier to audit.
        student: function that returns a new student; called right after the student's seed is set.
        twin: the same model trained with plain cross-entropy, the positive control; None without one.
        controls: other teachers to compare with, by name.
        student_name: name of the student for readers, or "" for the name of its class.

    Raises:
        HfCmimError: a control with the name of the teacher or of its twin.
    """

    teacher: Teacher
    student: Callable[[], nn.Module]
    twin: Teacher | None = None
    controls: Mapping[str, Teacher] = field(default_factory=dict)
    student_name: str = ""

    def __post_init__(self) -> None:
        """Check the names of the controls."""
        reserved_names = sorted({TEACHER, TWIN} & {*self.controls})
        if reserved_names:
            raise HfCmimError(
                f"Controls are named {reserved_names}, which are the names of the teacher and its twin: they"
                " would replace these. Rename them, and give the twin as twin=..."
            )

    @property
    def teachers(self) -> dict[str, Teacher]:
        """Every teacher by key, the audited one first."""
        return {TEACHER: self.teacher, **({} if self.twin is None else {TWIN: self.twin}), **self.controls}

    @property
    def teacher_name(self) -> str:
        """Name of the teacher's folder or, without one, of its class."""
        model = getattr(self.teacher, "model", self.teacher)
        path = self.teacher if isinstance(self.teacher, str) else str(getattr(model, "name_or_path", ""))
        return Path(public_path(path)).name or type(model).__name__


@dataclass(frozen=True)
class AuditData:
    """Labelled data of an audit, all map-style.

    Attributes:
        transfer: samples that the attacker asks about and learns from.
        validation: samples on which settings are chosen, disjoint from the test data.
        test: samples that the verdict is about.
        names: names of the three sets in the report.
        own: samples of an attacker with data of its own: of the same kind, and none that the teacher was trained on;
            None without such an attacker.
        own_name: name of these samples in the report.
        collator: collator of the student's batches; None for Trainer's default.
        teacher_collator: collator of the teachers' view of a batch; None if it is the student's.
    """

    transfer: Any
    validation: Any
    test: Any
    names: tuple[str, str, str] = ("transfer set", "validation set", "test set")
    own: Any = None
    own_name: str = "the attacker's own samples"
    collator: Collator | None = None
    teacher_collator: Collator | None = None

    def of(self, attacker: Attacker) -> Self:
        """Return the data with the samples of an attacker as transfer set.

        Raises:
            HfCmimError: an attacker without samples.
        """
        name, samples = (self.own_name, self.own) if attacker.has_own_samples else (self.names[0], self.transfer)
        if samples is None:
            raise HfCmimError(
                f"The attacker {attacker.name!r} has no samples: no student can learn. Give them as"
                f" AuditData({'own' if attacker.has_own_samples else 'transfer'}=...)."
            )
        if attacker.share < 1:
            samples = Fraction(samples, attacker.share)
            name = f"{name}, {100 * attacker.share:g} % of them"
        return replace(self, transfer=samples, names=(name, *self.names[1:]))

    def labelled(self, labels: Tensor) -> Self:
        """Return the data with other labels of the transfer set, `(N,)`."""
        return replace(self, transfer=Relabelled(self.transfer, labels))


@final
class Relabelled(Dataset[dict[str, Any]]):
    """A data set with other labels than its own, or with labels where it has none.

    Args:
        dataset: data set that returns mappings of names to values, by position.
        labels: `(N,)` labels.
    """

    def __init__(self, dataset: Any, labels: Tensor) -> None:
        self.dataset = Unlabelled(dataset)
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {**self.dataset[position], "labels": self.labels[position]}
