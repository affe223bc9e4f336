"""Construction of an audit's report from the results of its teachers."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hf_cmim.attacks.references import LABEL_SMOOTHING
from hf_cmim.audit.audited_teacher import AuditedTeacher
from hf_cmim.audit.checks import Evidence, find_faults, find_faults_of_control, is_void
from hf_cmim.audit.engine.pooled import StudentResult
from hf_cmim.audit.examined_inputs import ExaminedInputs, fingerprints_of, training_settings
from hf_cmim.audit.findings import (
    account,
    class_answers_control,
    criterion_results,
    described_leaks,
    label_floor,
    leak_differences,
)
from hf_cmim.audit.inputs import TEACHER, TWIN
from hf_cmim.audit.plan import strongest
from hf_cmim.audit.teacher_audit import TeacherAudit
from hf_cmim.environment import describe_environment
from hf_cmim.private_paths import public_command, public_record
from hf_cmim.report import AuditReport, Check, ControlResult, Costs, LearningCurve, Scope


def sitting() -> dict[str, Any]:
    """Return command, versions and device of this run."""
    return {"command": public_command(sys.argv), **describe_environment()}


def build_report(
    audits: Mapping[str, TeacherAudit],
    inputs: ExaminedInputs,
    curve: LearningCurve,
    sittings: int,
    title: str,
) -> AuditReport:
    """Return the report of an audit.

    Args:
        audits: finished audits by the key of the teacher.
        inputs: data, student and teachers.
        curve: learning curve of a cross-entropy student.
        sittings: number of times the audit was started or continued.
        title: title of the report, or "" to make one from the teacher's name.
    """
    audit = audits[TEACHER]
    teacher, plan = audit.teacher, audit.plan
    controls = tuple(
        _control(name, control_audit, audit, inputs)
        for name, control_audit in audits.items()
        if control_audit is not audit
    )
    twin = next((control for control in controls if control.name == TWIN), None)
    power = None if twin is None else twin.verdict == "distillable"
    fault = "" if twin is None else " ".join(check.sentence for check in twin.checks if check.severity == "fatal")
    checks = find_faults(replace(_evidence(audit, inputs, power), control_fault=fault, curve=curve))
    accuracies = audit.accuracies()
    report = AuditReport(
        title=title or f"Audit of {teacher.path or teacher.name}{_behind(teacher)}",
        date=time.strftime("%Y-%m-%d"),
        scope=_scope(audit, inputs),
        teacher=teacher.facts(),
        twin=None if twin is None else twin.facts,
        power=power,
        design=plan.design,
        criteria=criterion_results(plan, audit.chosen, accuracies, checks),
        reference=_reference(audit),
        arms=tuple(audit.results()),
        accounting=account(audit.decision, audit.chosen, accuracies, plan.diagnosed),
        controls=controls,
        costs=_costs(audits),
        checks=checks,
        looks=tuple(look for look in plan.looks if look <= audit.decision.look),
        sittings=sittings,
        reproduction={
            **sitting(),
            "plan": {**plan.settings(), "looks": list(plan.looks)},
            "fingerprints": fingerprints_of(inputs.student, inputs.facts),
        },
        learning_curve=curve,
        # References of an attacker without labels know the teacher's labels: there is nothing to compare these with.
        label_floor=label_floor(audit.chosen, accuracies) if inputs.attacker.is_labelled else None,
        class_answers=(
            class_answers_control(audit.chosen, _best(audit), accuracies) if inputs.attacker.is_labelled else None
        ),
    )
    public: AuditReport = public_record(report)
    return public


def _behind(teacher: AuditedTeacher) -> str:
    """Return the channel of the teacher's answers in words, or "" without one."""
    return "" if teacher.black_box.channel is None else f" behind {teacher.black_box.channel!r}"


def _reference(audit: TeacherAudit) -> str:
    """Return the name of the arm that all attacks are measured against, or "" if each has its own."""
    references = {baselines.chosen for baselines in audit.chosen.baselines(audit.plan.criterion).values()}
    return "" if audit.plan.criterion == "no-leak" else references.pop()


def _evidence(audit: TeacherAudit, inputs: ExaminedInputs, power: bool | None) -> Evidence:
    arms = audit.results()
    reference = LABEL_SMOOTHING if audit.plan.criterion == "paper" else audit.chosen.contenders[0].name
    return Evidence(
        asked_twice=audit.teacher.asked_twice,
        teacher=audit.teacher.facts(),
        num_classes=audit.teacher.black_box.num_classes,
        baseline=next(arm for arm in arms if arm.name == reference),
        arms=arms,
        chosen=audit.chosen.knockoffs,
        screened=audit.screened,
        scores=audit.scores,
        margin=audit.plan.margin,
        data=inputs.facts,
        power=power,
        has_pretrained_student=inputs.student.is_pretrained,
        skipped=audit.skipped,
        class_names=inputs.student.class_names,
    )


def _scope(audit: TeacherAudit, inputs: ExaminedInputs) -> Scope:
    transfer, validation, test = inputs.facts
    names = inputs.data.names
    return Scope(
        suite=audit.plan.attacks.name,
        student=inputs.student.words,
        transfer_set=names[0],
        validation_set=names[1],
        test_set=names[2],
        num_transfer=transfer.size,
        num_validation=len(validation.labels),
        num_test=len(test.labels),
        num_classes=audit.teacher.black_box.num_classes,
        training=training_settings(inputs.pool.args),
        attacker=inputs.attacker,
    )


def _control(name: str, audit: TeacherAudit, main_audit: TeacherAudit, inputs: ExaminedInputs) -> ControlResult:
    """Return the result of a control; checks void its verdict as they do the audited model's."""
    decision = audit.decision
    largest = decision.comparisons[0] if decision.comparisons else None
    evidence = _evidence(audit, inputs, power=None)
    checks: tuple[Check, ...] = find_faults_of_control(evidence)
    queries = {arm.name: arm.queries for arm in evidence.arms}
    common = [arm.name for arm in main_audit.chosen.knockoffs if arm.name in audit.chosen.arms()]
    return ControlResult(
        name=name,
        facts=audit.teacher.facts(),
        verdict="inconclusive" if is_void(checks) else decision.verdict,
        largest_gain=largest,
        smallest_margin=decision.smallest_margin,
        differences=leak_differences(
            main_audit.accuracies(), _best(main_audit), audit.accuracies(), _best(audit), common
        ),
        checks=checks,
        described=described_leaks(criterion_results(audit.plan, audit.chosen, audit.accuracies(), checks)),
        queries=0 if largest is None else queries[largest.attack],
    )


def _best(audit: TeacherAudit) -> str:
    """Return the name of the attack that is strongest on validation data."""
    return strongest(audit.chosen.knockoffs, audit.scores, 1)[0].name


def _costs(audits: Mapping[str, TeacherAudit]) -> Costs:
    # Keyed by student, because teachers share the students of references.
    students: dict[tuple[str, str, int], StudentResult] = {}
    for audit in audits.values():
        students |= audit.finished()
    return Costs(
        queries_paid=max(student.queries for student in students.values()),
        queries_asked=sum(student.queries for student in students.values()),
        students=len(students),
        student_steps=sum(student.steps for student in students.values()),
        seconds=sum(student.seconds for student in students.values()),
    )
