"""Preview of an audit: number of students, hours, queries and reachable margins, before anything is trained."""

import copy
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch.utils.data import Subset

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.convergence import STUDENTS
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.audit.inputs import AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.student_counts import (
    accounting_students,
    baseline_names,
    confirming_students,
    design_until,
    screen_students,
    screened_settings,
)
from hf_cmim.audit.students import LARGEST_WAVE
from hf_cmim.statistics import reachable_margin
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.teachers.nulls import LabelOnlyTeacher
from hf_cmim.trainers.distillation.distillation_checks import as_teacher
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW
from hf_cmim.trainers.shared.components import unchanged_random_states

SPREADS = (0.002, 0.003, 0.0045)
"""Standard deviations of an arm's accuracy over seeds, fractions, for which margins are predicted."""
MEASURED_STEPS = 12
"""Optimizer steps of the two students that are timed."""
EVALUATED_BATCHES = 4
"""Test batches on which evaluation is timed."""


@dataclass(frozen=True)
class LookPreview:
    """The audit up to one look, assuming that no attack stops before it.

    Attributes:
        seeds: seeds of each attack.
        students: confirming students so far, without the screen.
        hours: hours so far, including the screen, with all processes working in parallel.
        margins: reachable margins if this is the last look, fractions, one for each of `SPREADS`.
    """

    seeds: int
    students: int
    hours: float
    margins: tuple[float, ...]


@dataclass(frozen=True)
class StudentCosts:
    """Measured costs of one student, independent of the plan.

    Attributes:
        steps: optimizer steps of a student.
        batches: training batches of a student.
        batch_size: samples per batch that a teacher answers.
        seconds: time of training and evaluation of a student whose teacher's answers are stored.
        asking_seconds: time in which the teacher answers one batch.
        varies: True if samples change from epoch to epoch, so that answers cannot be stored.
        num_classes: number of classes C.
        teachers: number of audited teachers, including twin and controls.
        sizes: samples of transfer, validation and test set; of several attackers, the transfer set of the first.
        attacker_shares: samples of each attacker divided by those of the first.
        processes: number of processes that share the students.
    """

    steps: int
    batches: int
    batch_size: int
    seconds: float
    asking_seconds: float
    varies: bool
    num_classes: int
    teachers: int
    sizes: tuple[int, int, int]
    processes: int
    attacker_shares: tuple[float, ...] = (1.0,)

    def live_seconds(self, plan: AuditPlan) -> float:
        """Return the extra seconds of a student for live answers, averaged over the plan's attacks."""
        # One answer serves a wave where samples vary, and all students where they do not.
        shared = 1 / (plan.wave_size or LARGEST_WAVE) if self.varies else 0.0
        views = (_views(entry.attack) or shared for entry in plan.attacks.entries)
        return statistics.fmean(views) * self.batches * self.asking_seconds

    def hours(self, plan: AuditPlan, students: int) -> float:
        """Return the hours for a number of students of each attacker, shared by all processes."""
        seconds = students * (self.seconds + self.live_seconds(plan)) * sum(self.attacker_shares)
        return seconds / 3600 / self.processes


@dataclass(frozen=True)
class Preview:
    """Upper bounds on the students and costs of an audit; a student counted twice may be trained once.

    Attributes:
        plan: plan of the audit.
        costs: measured costs of a student.
        screened: number of settings in the screen of one teacher, by kind.
        screen_students: number of students in the screens of all teachers.
        screen_hours: estimated hours of the screens and the learning curve.
        confirmed: number of arms of one teacher that are confirmed on test data, by kind.
        looks: preview of the audit up to each look.
        accounting_students: largest number of students for the accounting of gains.
        queries: answers that an attacker would pay for, for the cheapest and the most expensive student.
        live_seconds: extra seconds of a student for live answers, averaged over the suite.
    """

    plan: AuditPlan
    costs: StudentCosts
    screened: dict[str, int]
    screen_students: int
    screen_hours: float
    confirmed: dict[str, int]
    looks: tuple[LookPreview, ...]
    accounting_students: int
    queries: tuple[int, int]
    live_seconds: float

    @property
    def families(self) -> tuple[str, ...]:
        """Families of attacks in the suite."""
        return self.plan.attacks.families

    @property
    def hours(self) -> float:
        """Hours of the whole audit if every attack continues to the last look."""
        return self.looks[-1].hours + self.costs.hours(self.plan, self.accounting_students)


def measured_costs(models: AuditModels, data: AuditData, pool: StudentPool, shares: Sequence[float]) -> StudentCosts:
    """Return the costs of one student, from a few timed steps.

    Args:
        models: models of the audit.
        data: data of the audit.
        pool: pool that trains the students.
        shares: samples of each attacker divided by those of the first, whose students are timed.

    Raises:
        HfCmimError: a teacher that cannot be asked.
    """
    teacher = as_teacher(models.teacher)
    assert teacher is not None  # only None stays None
    return StudentCosts(
        steps=pool.num_steps,
        batches=pool.num_steps * pool.args.gradient_accumulation_steps,
        batch_size=min(len(data.transfer), pool.args.per_device_train_batch_size),
        seconds=_seconds_of_student(pool, data, teacher.num_classes),
        asking_seconds=_seconds_of_asking(pool, teacher),
        varies=pool.batches.varies(data.transfer),
        num_classes=teacher.num_classes,
        teachers=len(models.teachers),
        sizes=(len(data.transfer), len(data.validation), len(data.test)),
        processes=int(PartialState().num_processes),
        attacker_shares=tuple(shares),
    )


def preview_of(plan: AuditPlan, costs: StudentCosts) -> Preview:
    """Return the students and costs of a plan, from costs that were measured for any plan."""
    students = screen_students(plan, costs.num_classes, costs.teachers)
    screen_hours = costs.hours(plan, students + STUDENTS)
    asked_live = costs.batches * costs.batch_size
    cheapest = asked_live if costs.varies else costs.sizes[0]
    return Preview(
        plan=plan,
        costs=costs,
        screened=screened_settings(plan, costs.num_classes),
        screen_students=students,
        screen_hours=screen_hours,
        confirmed={"attacks": len(plan.attacks.families), "baselines": len(baseline_names(plan))},
        looks=tuple(_look(plan, count, costs, screen_hours) for count in range(1, len(plan.looks) + 1)),
        accounting_students=accounting_students(plan, costs.num_classes),
        queries=(cheapest, max(cheapest, asked_live * max(_views(entry.attack) for entry in plan.attacks.entries))),
        live_seconds=costs.live_seconds(plan),
    )


def _look(plan: AuditPlan, count: int, costs: StudentCosts, screen_hours: float) -> LookPreview:
    """Return the audit up to look number `count`."""
    students = confirming_students(plan, count, costs.teachers)
    design = design_until(plan, count)
    margins = tuple(reachable_margin(design, spread, len(plan.attacks.families)) for spread in SPREADS)
    return LookPreview(design.looks[-1], students, screen_hours + costs.hours(plan, students), margins)


def _views(attack: Composition) -> int:
    """Return the number of live answers per sample and epoch that an attack needs."""
    return 0 if attack.query_protocol is None else attack.query_protocol.queries_per_sample


# Measuring


def _seconds_of_student(pool: StudentPool, data: AuditData, num_classes: int) -> float:
    """Return the seconds for training and evaluating one student, from a few steps of two students."""
    device = pool.args.device
    short_args = copy.copy(pool.args)
    short_args.max_steps = MEASURED_STEPS
    short_pool = pool.with_settings(short_args)
    # A null teacher answers as quickly as stored answers.
    null = LabelOnlyTeacher(num_classes, confidence=0.9, temperature=4.0)
    arms = [PooledArm("CE", Composition(CrossEntropy()), None), PooledArm("KD", Composition(KD()), null)]
    with unchanged_random_states(device):
        # Once without timing: samples that never change are collated once for all students.
        next(short_pool.batches.epoch(short_pool.batches.of_seed(0, [null]), 0))
        moments = [_now(device)]
        students = short_pool.train(arms, 0, on_step=lambda _: moments.append(_now(device)))
    # The first duration includes building the students.
    first, *later = [after - before for before, after in itertools.pairwise(moments)]
    remaining = statistics.median(later) * (pool.num_steps - 1) if later else 0.0
    training_seconds = (first + remaining) / len(arms)
    size = len(data.test)
    test_part = Subset(data.test, range(min(size, EVALUATED_BATCHES * pool.args.per_device_eval_batch_size)))
    # Once without timing: collated batches are reused by later waves where they are small.
    short_pool.predict(students, test_part)
    started = _now(device)
    short_pool.predict(students, test_part)
    prediction_seconds = (_now(device) - started) / len(arms)
    return training_seconds + prediction_seconds * size / len(test_part)


def _seconds_of_asking(pool: StudentPool, teacher: AbstractTeacher) -> float:
    """Return the seconds in which a teacher answers one training batch."""
    queries = pool.template.queries(teacher)
    size = min(len(pool.transfer_set), pool.args.per_device_train_batch_size)
    batch = next(pool.batches.ordered(Subset(pool.transfer_set, range(size)), teachers=[teacher]))
    labels = batch.pop("labels")
    batch.pop(INDEX_NAME)
    view = batch.pop(TEACHER_VIEW, batch)
    seconds = []
    for _ in range(3):
        started = _now(pool.args.device)
        queries.answers(view, labels, None, paid=False)
        seconds.append(_now(pool.args.device) - started)
    return min(seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
