"""What an audit works with: pool, data, student and teachers, looked at before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from accelerate import PartialState
from torch import nn

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.data import DataFacts, check_reads_alike, examine
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.pool import StudentPool
from hf_cmim.audit.pooled import PooledArm
from hf_cmim.audit.state import CONTROL
from hf_cmim.audit.subject import AuditData, Subject
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.fingerprints import digest
from hf_cmim.trainers.distillation_config import DistillationConfig

Teacher = AbstractTeacher | nn.Module | str
SETS = ("transfer set", "validation set", "test set")
TRAINING_SETTINGS = (
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "bf16", "fp16", "torch_compile",
    "dataloader_drop_last", "label_names", "query_budget",
)  # fmt: skip
"""Settings that determine a student."""


@dataclass(frozen=True)
class StudentFacts:
    """What a new student is like.

    Attributes:
        words: its name, for people.
        fingerprint: sha256 hex of one of seed 0.
        is_pretrained: whether it starts from trained weights.
    """

    words: str
    fingerprint: str
    is_pretrained: bool


def _examine_student(pool: StudentPool, name: str) -> StudentFacts:
    """Look at two new students: weights of theirs that are random and yet equal were trained before."""
    first, second = pool.untrained(0), pool.untrained(1)
    pairs = [(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True) if a.numel() > 1]
    is_pretrained = any(torch.equal(a, b) and bool(a.std() > 0) for a, b in pairs)
    weights = sum(value.numel() for value in first.parameters())
    words = name or f"{type(first).__name__}, {weights:,} weights"
    return StudentFacts(words, digest(repr(first), first.state_dict()), is_pretrained)


def _examine_data(pool: StudentPool, data: AuditData) -> tuple[DataFacts, DataFacts, DataFacts]:
    probe = pool.student(PooledArm("probe", Composition(CrossEntropy()), None), 0)
    quiet = pool.args.disable_tqdm or not PartialState().is_main_process
    sets = (data.transfer, data.validation, data.test)
    transfer, validation, test = (
        examine(pool.ordered_batches(probe, each), len(each), name, quiet=quiet)
        for each, name in zip(sets, data.names, strict=True)
    )
    return transfer, validation, test


def training_settings(args: DistillationConfig) -> dict[str, Any]:
    """Return what determines a student, apart from its arm and its seed."""
    values = {name: getattr(args, name, None) for name in TRAINING_SETTINGS}
    return {name: getattr(value, "value", value) for name, value in values.items()}


def fingerprints_of(student: StudentFacts, facts: tuple[DataFacts, DataFacts, DataFacts]) -> dict[str, str]:
    """Return the fingerprints of the student and the three data sets, by name."""
    return {"student": student.fingerprint, **{name: each.fingerprint for name, each in zip(SETS, facts, strict=True)}}


@dataclass(frozen=True)
class Workplace:
    """What determines the students of an audit.

    Attributes:
        pool: trains them.
        data: of the audit.
        student: what a new one is like.
        facts: of transfer, validation and test set.
        subjects: the teachers, by name.
    """

    pool: StudentPool
    data: AuditData
    student: StudentFacts
    facts: tuple[DataFacts, DataFacts, DataFacts]
    subjects: dict[str, Subject]

    @classmethod
    def examine(
        cls,
        pool: StudentPool,
        data: AuditData,
        names: Mapping[str, str],
        teachers: Mapping[str, Teacher],
        student: str,
    ) -> Self:
        """Look at everything once.

        Args:
            pool: trains the students.
            data: of the audit.
            names: for people, of teachers that are not called by their key.
            teachers: by key.
            student: its name for people, or "" for that of its class.

        Raises:
            HfCmimError: data without labels or whose samples differ at each reading, or a teacher that cannot be
                asked about them.
        """
        for each, name in zip((data.transfer, data.validation, data.test), data.names, strict=True):
            check_reads_alike(each, name)
        facts_of_student = _examine_student(pool, student)
        subjects = {name: Subject(each, names.get(name, name), pool, data) for name, each in teachers.items()}
        return cls(pool, data, facts_of_student, _examine_data(pool, data), subjects)

    @property
    def evaluation_sets(self) -> dict[str, Any]:
        """Validation and test set with their labels, by name."""
        _, validation, test = self.facts
        return {"validation": (self.data.validation, validation.labels), "test": (self.data.test, test.labels)}

    def manifest(self, plan: AuditPlan) -> dict[str, Any]:
        """Return what the students depend on, by name."""
        fingerprints = fingerprints_of(self.student, self.facts)
        teachers = {name: each.fingerprint for name, each in self.subjects.items()}
        return {
            **{f"plan, {name}": value for name, value in plan.settings().items()},
            **{f"training, {name}": value for name, value in training_settings(self.pool.args).items()},
            **{f"data, {name}": fingerprints[name] for name in SETS},
            "student": fingerprints["student"],
            **{name if name == "teacher" else CONTROL + name: each for name, each in teachers.items()},
        }
