"""What an audit would train, cost and reach, before anything of it is trained."""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import Subset

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import NULL_CONFIDENCES
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.arms import LABEL_SMOOTHING, references
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.pool import StudentPool
from hf_cmim.audit.pooled import PooledArm
from hf_cmim.audit.subject import AuditData
from hf_cmim.audit.training import LARGEST_WAVE
from hf_cmim.statistics import Baselines, Design, reachable_margin, replay
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.teachers.nulls import LabelOnlyTeacher
from hf_cmim.trainers.components import unchanged_random_states
from hf_cmim.trainers.distillation_checks import as_teacher
from hf_cmim.trainers.distillation_config import DistillationConfig
from hf_cmim.trainers.transfer_data import TEACHER_VIEW, Collator

SPREADS = (0.002, 0.003, 0.0045)
"""Standard deviations of an arm's accuracy over seeds, fractions, for which a margin is foretold."""
MEASURED_STEPS = 12
"""Steps of the two students that are timed."""
EVALUATED_BATCHES = 4
"""Batches of the test set on which they are evaluated, for the time it takes."""


@dataclass(frozen=True)
class LookPreview:
    """The audit up to one look, if no attack stops before it.

    Attributes:
        seeds: of each attack.
        students: trained by then to confirm, without the screen.
        hours: until then, the screen included, on all processes together.
        margins: reachable with this as the last look, fractions, for each of `SPREADS`.
    """

    seeds: int
    students: int
    hours: float
    margins: tuple[float, ...]


@dataclass(frozen=True)
class Preview:
    """What an audit would train and cost; students of an arm that were counted twice may be trained once.

    Attributes:
        teachers: that are audited, twin and controls included.
        families: attacks in the suite.
        screened: settings in the screen, by what they are; of one teacher.
        screen_students: of all teachers.
        screen_hours: for them.
        confirmed: arms that go on to the test data, by what they are; of one teacher.
        looks: what each look adds up to.
        accounting_students: trained at the end, to say where gains come from, at most.
        queries: answers that an attacker would pay for, the cheapest and the most expensive student.
        steps: optimizer steps of a student.
        seconds: of a student whose teacher's answers are stored, training and evaluation.
        live_seconds: more, for a student that asks its teacher live, on average over the suite.
        sizes: samples of transfer, validation and test set.
        processes: among which students are divided.
    """

    teachers: int
    families: tuple[str, ...]
    screened: dict[str, int]
    screen_students: int
    screen_hours: float
    confirmed: dict[str, int]
    looks: tuple[LookPreview, ...]
    accounting_students: int
    queries: tuple[int, int]
    steps: int
    seconds: float
    live_seconds: float
    sizes: tuple[int, int, int]
    processes: int


def preview_audit(
    teacher: AbstractTeacher | nn.Module | str,
    build_student: Callable[[], nn.Module],
    args: DistillationConfig,
    data: AuditData,
    plan: AuditPlan | None = None,
    *,
    twin: Any = None,
    controls: Mapping[str, Any] | None = None,
    data_collator: Collator | None = None,
    teacher_collator: Collator | None = None,
) -> Preview:
    """Say what `run_audit` with the same arguments would train, measured on two students and a few steps.

    Times are of two students side by side, cross-entropy and KD; more of them share the loading of data, so that an
    audit is rather faster. Counts are at most: an attack that is below the margin stops.

    Raises:
        HfCmimError: a teacher, student, data or settings that do not fit together.
    """
    plan = plan or AuditPlan()
    wrapped = as_teacher(teacher)
    assert wrapped is not None  # only None stays None
    teachers = 1 + (twin is not None) + len(controls or {})
    processes = int(PartialState().num_processes)
    pool = StudentPool(build_student, args, data.transfer, data_collator, teacher_collator)
    seconds, asking = _seconds_of_student(pool, data, wrapped.num_classes), _seconds_of_asking(pool, wrapped)
    varies = pool.varies(data.transfer)
    shared = 1 / (plan.wave_size or LARGEST_WAVE) if varies else 0.0  # one answer serves a wave, or all of them
    views = [_views(entry.attack) for entry in plan.attacks.entries]
    batches = pool.num_steps * args.gradient_accumulation_steps
    live_seconds = statistics.fmean(each or shared for each in views) * batches * asking
    screened, screen_students = _screen(plan, wrapped.num_classes, teachers)
    hours_of_student = (seconds + live_seconds) / 3600 / processes
    size = len(data.transfer)
    asked_live = batches * min(size, args.per_device_train_batch_size)
    cheapest = asked_live if varies else size
    return Preview(
        teachers=teachers,
        families=plan.attacks.families,
        screened=screened,
        screen_students=screen_students,
        screen_hours=screen_students * hours_of_student,
        confirmed={"attacks": len(plan.attacks.families), "baselines": len(_baseline_names(plan))},
        looks=tuple(
            _look(plan, count, teachers, screen_students, hours_of_student) for count in range(1, len(plan.looks) + 1)
        ),
        accounting_students=_accounting(plan, wrapped.num_classes),
        queries=(cheapest, max(cheapest, asked_live * max(views))),
        steps=pool.num_steps,
        seconds=seconds,
        live_seconds=live_seconds,
        sizes=(size, len(data.validation), len(data.test)),
        processes=processes,
    )


# Counting


def _views(attack: Composition) -> int:
    """Return the live answers that an attack asks for each sample in each epoch."""
    return 0 if attack.query_protocol is None else attack.query_protocol.queries_per_sample


def _nulls_of_family(num_classes: int) -> int:
    return sum(confidence > 1 / num_classes for confidence in NULL_CONFIDENCES)


def _null_families(plan: AuditPlan) -> int:
    families = len(plan.attacks.families)
    return families if plan.criterion == "no-leak" else min(plan.null_families, families)


def _screen(plan: AuditPlan, num_classes: int, teachers: int) -> tuple[dict[str, int], int]:
    """Return the settings of one teacher's screen, and the students of all; references serve every teacher."""
    shared, attacks = len(references()), len(plan.attacks.entries)
    nulls = _null_families(plan) * _nulls_of_family(num_classes)
    finalists = min(plan.finalists, attacks) + min(plan.finalists, shared + nulls)
    settings = {
        "settings of teacher-free students": shared,
        "settings of attacks": attacks,
        "label-only nulls": nulls,
        "finalists among them, tried again": finalists,
    }
    students = plan.screening_seeds * (shared + teachers * (attacks + nulls)) + plan.final_seeds * teachers * finalists
    return settings, students


def _baseline_names(plan: AuditPlan) -> list[str]:
    if plan.criterion == "no-leak":
        return [f"null of {family}" for family in plan.attacks.families]
    return [
        LABEL_SMOOTHING,
        *(f"reference {number}" for number in range(plan.references * (plan.criterion != "paper"))),
    ]


def _baselines(plan: AuditPlan) -> dict[str, Baselines]:
    names = _baseline_names(plan)
    if plan.criterion == "no-leak":
        return {family: Baselines(name, (name,)) for family, name in zip(plan.attacks.families, names, strict=True)}
    return {family: Baselines(names[0], tuple(names)) for family in plan.attacks.families}


def _look(plan: AuditPlan, count: int, teachers: int, screened: int, hours_of_student: float) -> LookPreview:
    """Return the audit up to the look of that number."""
    looks = plan.looks[:count]
    multiple = 1 if plan.criterion == "no-leak" else plan.reference_multiple  # there each attack has its own baseline
    last = Design(margin=plan.margin, looks=looks[-1:], reference_multiple=multiple)
    wanted = replay({}, _baselines(plan), last).seeds_wanted
    attacks = sum(wanted[family] for family in plan.attacks.families)
    others = sum(wanted.values()) - attacks
    students = teachers * attacks + others * (teachers if plan.criterion == "no-leak" else 1)
    design = Design(margin=plan.margin, looks=looks, reference_multiple=multiple)
    margins = tuple(reachable_margin(design, spread, len(plan.attacks.families)) for spread in SPREADS)
    return LookPreview(looks[-1], students, (screened + students) * hours_of_student, margins)


def _accounting(plan: AuditPlan, num_classes: int) -> int:
    """Return the students of the accounting after the last look: nulls that are tuned late, and three null arms."""
    late = plan.screening_seeds * _nulls_of_family(num_classes)
    return min(plan.diagnosed, len(plan.attacks.families)) * (late + 3 * plan.looks[-1]) + plan.looks[-1]


# Measuring


def _seconds_of_student(pool: StudentPool, data: AuditData, num_classes: int) -> float:
    """Return the seconds in which one student is trained and evaluated, from two that take a few steps."""
    device = pool.args.device
    short = copy.copy(pool.args)
    short.max_steps = MEASURED_STEPS
    students = StudentPool(pool.build_student, short, pool.transfer_set, pool.data_collator, pool.teacher_collator)
    null = LabelOnlyTeacher(num_classes, confidence=0.9, temperature=4.0)  # as quick as stored answers
    arms = [PooledArm("CE", Composition(CrossEntropy()), None), PooledArm("KD", Composition(KD()), null)]
    with unchanged_random_states(device):
        moments = [_now(device)]
        trained = students.train(arms, 0, on_step=lambda _: moments.append(_now(device)))
    first, *gaps = [after - before for before, after in itertools.pairwise(moments)]  # the first builds them as well
    later = statistics.median(gaps) * (pool.num_steps - 1) if gaps else 0.0
    training = (first + later) / len(arms)
    size = len(data.test)
    part = Subset(data.test, range(min(size, EVALUATED_BATCHES * pool.args.per_device_eval_batch_size)))
    students.predict(trained, part)  # collated once, and kept for all waves where it is small
    started = _now(device)
    students.predict(trained, part)
    return training + (_now(device) - started) / len(arms) * size / len(part)


def _seconds_of_asking(pool: StudentPool, teacher: AbstractTeacher) -> float:
    """Return the seconds in which a teacher answers one batch of training."""
    probe = pool.student(PooledArm("probe", Composition(KD()), teacher), 0)
    size = min(len(pool.transfer_set), pool.args.per_device_train_batch_size)
    batch = next(pool.ordered_batches(probe, Subset(pool.transfer_set, range(size))))
    labels = batch.pop("labels")
    batch.pop(INDEX_NAME)
    view = batch.pop(TEACHER_VIEW, batch)
    seconds = []
    for _ in range(3):
        started = _now(pool.args.device)
        probe.queries.answers(view, labels, None, paid=False)
        seconds.append(_now(pool.args.device) - started)
    return min(seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
