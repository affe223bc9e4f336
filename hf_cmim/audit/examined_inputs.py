"""Pool, data, student and teachers of an audit, examined before anything is trained."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from accelerate import PartialState

from hf_cmim.audit.audited_teacher import AuditedTeacher
from hf_cmim.audit.data import DataFacts, check_reads_alike, examine
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.inputs import TEACHER, AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.state import ATTACKER, CONTROL
from hf_cmim.class_names import are_default_names, class_names_of
from hf_cmim.report import UNKNOWN_ATTACKER, Attacker
from hf_cmim.teachers.fingerprints import digest
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig

SETS = ("transfer set", "validation set", "test set")
TRAINING_SETTINGS = (
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "bf16", "fp16", "torch_compile",
    "dataloader_drop_last", "label_names", "query_budget",
)  # fmt: skip
"""Settings that determine a student, apart from its arm and seed."""


@dataclass(frozen=True)
class StudentFacts:
    """Facts about a new student.

    Attributes:
        words: name for readers.
        fingerprint: sha256 hex of the student of seed 0.
        is_pretrained: True if students start from trained weights.
        class_names: names of the classes in the order of the labels; () if its configuration gives none.
    """

    words: str
    fingerprint: str
    is_pretrained: bool
    class_names: tuple[str, ...] = ()


def _examine_student(pool: StudentPool, name: str) -> StudentFacts:
    """Build two new students and return the facts about them."""
    first, second = pool.untrained(0), pool.untrained(1)
    pairs = [(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True) if a.numel() > 1]
    # Two seeds give different random weights. Equal weights that are not constant come from a checkpoint.
    is_pretrained = any(torch.equal(a, b) and bool(a.std() > 0) for a, b in pairs)
    num_weights = sum(value.numel() for value in first.parameters())
    names = class_names_of(first) or ()
    return StudentFacts(
        words=name or f"{type(first).__name__}, {num_weights:,} weights",
        fingerprint=digest(repr(first), first.state_dict()),
        is_pretrained=is_pretrained,
        class_names=() if are_default_names(names) else names,
    )


def _examine_data(pool: StudentPool, data: AuditData) -> tuple[DataFacts, DataFacts, DataFacts]:
    quiet = pool.args.disable_tqdm or not PartialState().is_main_process
    sets = (data.transfer, data.validation, data.test)
    transfer, validation, test = (
        examine(pool.batches.ordered(dataset), len(dataset), name, quiet=quiet)
        for dataset, name in zip(sets, data.names, strict=True)
    )
    return transfer, validation, test


def training_settings(args: DistillationConfig) -> dict[str, Any]:
    """Return the settings that determine a student, apart from its arm and seed."""
    values = {name: getattr(args, name, None) for name in TRAINING_SETTINGS}
    return {name: getattr(value, "value", value) for name, value in values.items()}


def fingerprints_of(student: StudentFacts, facts: tuple[DataFacts, DataFacts, DataFacts]) -> dict[str, str]:
    """Return the fingerprints of the student and the three data sets, by name."""
    of_data = {name: data_facts.fingerprint for name, data_facts in zip(SETS, facts, strict=True)}
    return {"student": student.fingerprint, **of_data}


@dataclass(frozen=True)
class ExaminedInputs:
    """Everything that determines the students of an audit.

    Attributes:
        pool: pool that trains them.
        data: data of the audit.
        student: facts about a new student.
        facts: facts about transfer, validation and test set.
        teachers: teachers under audit, by name.
        attacker: attacker to whom the transfer set belongs.
    """

    pool: StudentPool
    data: AuditData
    student: StudentFacts
    facts: tuple[DataFacts, DataFacts, DataFacts]
    teachers: dict[str, AuditedTeacher]
    attacker: Attacker = UNKNOWN_ATTACKER

    @classmethod
    def examine(
        cls,
        pool: StudentPool,
        data: AuditData,
        models: AuditModels,
        attacker: Attacker = UNKNOWN_ATTACKER,
        only: str | None = None,
    ) -> Self:
        """Examine data, student and teachers once and return them.

        Args:
            pool: pool that trains the students.
            data: data of the audit.
            models: models of the audit.
            attacker: attacker to whom the transfer set belongs.
            only: key of the only teacher to examine; None for all.

        Raises:
            HfCmimError: data without labels, data whose samples differ at each reading, or a teacher that cannot
                answer them.
        """
        for dataset, name in zip((data.transfer, data.validation, data.test), data.names, strict=True):
            check_reads_alike(dataset, name)
        student_facts = _examine_student(pool, models.student_name)
        names = {TEACHER: models.teacher_name}
        teachers = {
            key: AuditedTeacher(teacher, names.get(key, key), pool, data)
            for key, teacher in models.teachers.items()
            if only in (None, key)
        }
        return cls(pool, data, student_facts, _examine_data(pool, data), teachers, attacker)

    @property
    def evaluation_sets(self) -> dict[str, Any]:
        """Validation and test set with their labels, by name."""
        _, validation, test = self.facts
        return {"validation": (self.data.validation, validation.labels), "test": (self.data.test, test.labels)}

    @property
    def prefix(self) -> str:
        """Prefix of the keys of students, "" for those of the audit's transfer set."""
        return "" if self.is_main else f"{self.facts[0].fingerprint[:16]}-"

    @property
    def is_main(self) -> bool:
        """True if students learn from the whole transfer set of the audit."""
        return self.attacker.share == 1 and not self.attacker.has_own_samples

    def manifest(self, plan: AuditPlan) -> dict[str, Any]:
        """Return everything that the students depend on, by name."""
        fingerprints = fingerprints_of(self.student, self.facts)
        teachers = {name: teacher.fingerprint for name, teacher in self.teachers.items()}
        transfer_name = f"data, {SETS[0]}" if self.is_main else f"{ATTACKER}{self.attacker.name}"
        return {
            **{f"plan, {name}": value for name, value in plan.settings().items()},
            **{f"training, {name}": value for name, value in training_settings(self.pool.args).items()},
            **{f"data, {name}": fingerprints[name] for name in SETS[1:]},
            transfer_name: fingerprints[SETS[0]],
            "student": fingerprints["student"],
            **{name if name == TEACHER else CONTROL + name: value for name, value in teachers.items()},
        }
