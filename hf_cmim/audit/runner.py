"""Run an audit and write what it found."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import nn

from hf_cmim.audit.arms import LABEL_SMOOTHING
from hf_cmim.audit.checks import Evidence, find_faults
from hf_cmim.audit.data import DataFacts
from hf_cmim.audit.findings import account, criterion_results, leak_differences
from hf_cmim.audit.plan import AuditPlan, strongest
from hf_cmim.audit.pool import StudentPool
from hf_cmim.audit.pooled import StudentResult
from hf_cmim.audit.state import AuditFolder
from hf_cmim.audit.subject import AuditData
from hf_cmim.audit.teacher_audit import TeacherAudit
from hf_cmim.audit.training import Trainees
from hf_cmim.audit.workplace import StudentFacts, Teacher, Workplace, fingerprints_of, training_settings
from hf_cmim.environment import describe_environment
from hf_cmim.errors import HfCmimError
from hf_cmim.plain_data import write_whole
from hf_cmim.report import REPORT_NAME, AuditReport, ControlResult, Costs, ModelFacts, Scope
from hf_cmim.trainers.distillation_config import DistillationConfig
from hf_cmim.trainers.launch import check_launch
from hf_cmim.trainers.transfer_data import Collator

TWIN = "CE twin"
"""Name of the control teacher: the same model, trained with plain cross-entropy."""


def run_audit(
    teacher: Teacher,
    build_student: Callable[[], nn.Module],
    args: DistillationConfig,
    data: AuditData,
    plan: AuditPlan | None = None,
    *,
    twin: Teacher | None = None,
    controls: Mapping[str, Teacher] | None = None,
    data_collator: Collator | None = None,
    teacher_collator: Collator | None = None,
    title: str = "",
    student_name: str = "",
) -> AuditReport:
    """Find out whether a classifier can be distilled, by which attack, by how much, and how sure that is.

    Finished students are kept in `args.output_dir`: an audit that was killed goes on where it was, and one that ended
    can be continued with more looks. The report is written there as audit.json.

    Args:
        teacher: the classifier; a model or a path is wrapped in `ModelTeacher`.
        build_student: returns a new student; called right after the student's seed was set.
        args: how every student is trained, and the folder.
        data: transfer, validation and test set, labelled.
        plan: what to try, and when to be satisfied.
        twin: the teacher's twin trained with plain cross-entropy, the control that has to leak.
        controls: other teachers to compare with, by name.
        data_collator: makes the student's batches; None for Trainer's default.
        teacher_collator: makes the teachers' view of them; None where it is the student's.
        title: of the report.
        student_name: in words, for the report.

    Raises:
        HfCmimError: a teacher, student, data or settings that do not fit together, before anything is trained.
    """
    teachers = _teachers(teacher, twin, controls or {})
    plan = plan or AuditPlan()
    check_launch(args.world_size)
    pool = StudentPool(build_student, args, data.transfer, data_collator, teacher_collator, stacked=plan.stacked)
    workplace = Workplace.examine(pool, data, {"teacher": _name_of(teacher)}, teachers, student_name)
    student, facts, subjects = workplace.student, workplace.facts, workplace.subjects
    manifest = workplace.manifest(plan)
    is_main = PartialState().is_main_process
    with AuditFolder(Path(str(args.output_dir)), manifest, is_main=is_main) as folder:
        sittings = folder.begin_sitting(_sitting()) if is_main else []
        trainees = Trainees(pool, folder, workplace.evaluation_sets, plan.wave_size)
        audits = {
            name: TeacherAudit(subject, plan if name == "teacher" else replace(plan, diagnosed=0), trainees)
            for name, subject in subjects.items()
        }
        for audit in audits.values():
            audit.run()
        report = _report(audits, student, facts, data.names, len(sittings), title)
        if is_main:
            write_whole(folder.path / REPORT_NAME, report.to_json())
    return report


def _teachers(teacher: Teacher, twin: Teacher | None, controls: Mapping[str, Teacher]) -> dict[str, Teacher]:
    """Return every teacher to audit, by name, the main one first."""
    taken = sorted({"teacher", TWIN} & {*controls})
    if taken:
        raise HfCmimError(
            f"Expected other names for controls than {taken}: they would stand in the place of the teacher or its"
            " twin. Rename them, and give the twin as twin=..."
        )
    return {"teacher": teacher, **({} if twin is None else {TWIN: twin}), **controls}


def _name_of(teacher: Teacher) -> str:
    """Return a name for people: the folder's, or that of the class."""
    model = getattr(teacher, "model", teacher)
    path = teacher if isinstance(teacher, str) else str(getattr(model, "name_or_path", ""))
    return Path(path).name or type(model).__name__


def _sitting() -> dict[str, Any]:
    return {"command": shlex.join(sys.argv), **describe_environment()}


def _report(
    audits: Mapping[str, TeacherAudit],
    student: StudentFacts,
    facts: tuple[DataFacts, DataFacts, DataFacts],
    names: tuple[str, str, str],
    sittings: int,
    title: str,
) -> AuditReport:
    audit = audits["teacher"]
    subject, plan, args = audit.subject, audit.plan, audit.trainees.pool.args
    worth = {name: each.subject.facts() for name, each in audits.items()}
    twin = audits.get(TWIN)
    power = None if twin is None else twin.decision.verdict == "distillable"
    arms = audit.results()
    reference = LABEL_SMOOTHING if plan.criterion == "paper" else audit.chosen.contenders[0].name
    evidence = Evidence(
        asked_twice=subject.asked_twice,
        teacher=worth["teacher"],
        num_classes=subject.teacher.num_classes,
        baseline=next(arm for arm in arms if arm.name == reference),
        arms=arms,
        chosen=audit.chosen.knockoffs,
        screened=audit.screened,
        scores=audit.scores,
        margin=plan.margin,
        data=facts,
        power=power,
        has_pretrained_student=student.is_pretrained,
        skipped=audit.skipped,
    )
    checks = find_faults(evidence)
    accuracies = audit.accuracies()
    return AuditReport(
        title=title or f"Audit of {subject.path or subject.name}",
        date=time.strftime("%Y-%m-%d"),
        scope=_scope(audit, student, facts, names, training_settings(args)),
        teacher=worth["teacher"],
        twin=worth.get(TWIN),
        power=power,
        design=plan.design,
        criteria=criterion_results(plan, audit.chosen, accuracies, checks),
        reference="" if plan.criterion == "no-leak" else reference,
        arms=tuple(arms),
        accounting=account(audit.decision, audit.chosen, accuracies, plan.diagnosed),
        controls=tuple(_control(name, each, worth[name], audit) for name, each in audits.items() if each is not audit),
        costs=_costs(audits),
        checks=checks,
        looks=tuple(look for look in plan.looks if look <= audit.decision.look),
        sittings=sittings,
        reproduction={**_sitting(), "plan": {**plan.settings(), "looks": list(plan.looks)},
                      "fingerprints": fingerprints_of(student, facts)},
    )  # fmt: skip


def _scope(
    audit: TeacherAudit,
    student: StudentFacts,
    facts: tuple[DataFacts, DataFacts, DataFacts],
    names: tuple[str, str, str],
    training: dict[str, Any],
) -> Scope:
    transfer, validation, test = facts
    return Scope(
        suite=audit.plan.attacks.name,
        student=student.words,
        transfer_set=names[0],
        validation_set=names[1],
        test_set=names[2],
        num_transfer=transfer.size,
        num_validation=len(validation.labels),
        num_test=len(test.labels),
        num_classes=audit.subject.teacher.num_classes,
        training=training,
    )


def _control(name: str, audit: TeacherAudit, facts: ModelFacts, main: TeacherAudit) -> ControlResult:
    decision = audit.decision
    largest = decision.comparisons[0] if decision.comparisons else None
    common = [arm.name for arm in main.chosen.knockoffs if arm.name in audit.chosen.arms()]
    differences = leak_differences(main.accuracies(), _best(main), audit.accuracies(), _best(audit), common)
    return ControlResult(name, facts, decision.verdict, largest, decision.smallest_margin, differences)


def _best(audit: TeacherAudit) -> str:
    """Return the attack that is strongest on validation data."""
    return strongest(audit.chosen.knockoffs, audit.scores, 1)[0].name


def _costs(audits: Mapping[str, TeacherAudit]) -> Costs:
    students: dict[tuple[str, str, int], StudentResult] = {}
    for audit in audits.values():
        students |= audit.finished()
    return Costs(
        queries_paid=max(each.queries for each in students.values()),
        queries_asked=sum(each.queries for each in students.values()),
        students=len(students),
        student_steps=sum(each.steps for each in students.values()),
        seconds=sum(each.seconds for each in students.values()),
    )
