"""Whether an audit's figures, plan, control and checks agree with each other."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from hf_cmim.attacks.suites import Suite
from hf_cmim.hub.verified_arms import LEFT_OUT, claimed_suite, is_share, tried_families
from hf_cmim.report import Accounting, AuditReport, ControlResult, Interval, ModelFacts
from hf_cmim.statistics import Comparison, Design, paired_interval
from hf_cmim.teachers.fingerprints import digest

CLOSE = 1e-9
"""Difference of two bounds that another machine's rounding may explain; ours."""
LARGEST_MARGIN = 0.05
"""Largest gain that may be called none, a fraction; ours. Attacks seldom gain more on any model."""
FEWEST_SAMPLES = 3
"""Test samples that a margin has to be worth."""
KNOWING = 0.1
"""Share of the way from guessing to knowing all, under which a teacher has nothing to protect."""
TWIN = "CE twin"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"\d{4}-[01]\d-[0-3]\d")
CLAIMS = ("undistillable within the margin", "leaks less than the margin")


def plan_of(audit: AuditReport) -> Mapping[str, Any]:
    """Return the plan in a report, or an empty one."""
    plan = audit.reproduction.get("plan")
    return plan if isinstance(plan, dict) else {}


def plan_faults(audit: AuditReport, num_classes: int) -> Iterator[str]:
    """Yield what in design, scope and plan is not as audits are designed, or contradicts each other."""
    design, scope, plan = audit.design, audit.scope, plan_of(audit)
    if design.error_rate != Design().error_rate:
        yield f"its error rate is {design.error_rate:g}, verdicts are given at {Design().error_rate:g}"
    if audit.primary.verdict in CLAIMS and design.margin > LARGEST_MARGIN:
        yield (
            f"its margin is {100 * design.margin:g} points: a gain of at most {100 * LARGEST_MARGIN:g} may be called"
            " none"
        )
    if scope.num_classes != num_classes:
        yield f"it is about {scope.num_classes} classes, the model has {num_classes}"
    if audit.sittings < 1:
        yield "it counts no sittings"
    if not _DATE.fullmatch(audit.date):
        yield "its date is no date"
    suite = claimed_suite(audit)
    if suite is not None:
        expected = {
            "margin": design.margin,
            "criterion": audit.primary.criterion,
            "looks": list(design.looks),
            "reference_multiple": design.reference_multiple,
            "suite": suite_words(suite),
        }
        for name, value in expected.items():
            if plan.get(name) != value:
                yield f"its plan says {name} = {str(plan.get(name))[:40]!r}, it is {str(value)[:40]!r}"


def suite_words(suite: Suite) -> str:
    """Return how a plan calls a suite."""
    entries = [(entry.family, repr(entry.attack)) for entry in suite.entries]
    return f"{suite.name}, {len(entries)} settings, {digest(entries)[:12]}"


def facts_faults(name: str, facts: ModelFacts, num_test: int, num_classes: int) -> Iterator[str]:
    """Yield figures of a model that no model can have."""
    if not (_FINGERPRINT.fullmatch(facts.fingerprint) and _FINGERPRINT.fullmatch(facts.labels_fingerprint)):
        yield f"{name} has no fingerprint of its weights or of its labels"
    if not (is_share(facts.accuracy, num_test) and is_share(facts.top5_accuracy, num_test)):
        yield f"{name} has an accuracy that no count of {num_test} test samples gives"
    if facts.top5_accuracy < facts.accuracy or (num_classes <= 5 and facts.top5_accuracy < 1):
        yield f"{name} is right less often in five guesses than in one"
    shares = (facts.ece, facts.ece_calibrated, facts.aurc)
    if not all(0 <= share <= 1 for share in shares) or min(facts.nll, facts.nll_calibrated) < 0:
        yield f"{name} has a calibration that no model has"
    temperatures = [temperature for temperature, _ in facts.curve]
    if any(later <= earlier for earlier, later in pairwise([0.0, *temperatures])):
        yield f"{name} has a CMI curve whose temperatures do not rise"
    if any(not 0 <= cmi <= math.log(max(2, num_classes)) + 1e-6 for _, cmi in facts.curve):
        yield f"{name} has a CMI outside of 0 to log C"
    if facts.within_total_ratio < 0:
        yield f"{name} has a negative ratio of scatter"


# The control


def power_faults(audit: AuditReport) -> Iterator[str]:
    """Yield where the claimed power does not agree with the control."""
    twins = [control for control in audit.controls if control.name == TWIN]
    power = twins[0].verdict == "distillable" if twins else None
    if len(twins) > 1 or audit.power != power:
        yield f"it claims power = {audit.power}, its control says {power}"
    if audit.twin != (twins[0].facts if twins else None):
        yield "the twin is not the model that its control audited"
    claims = audit.primary.verdict in (*CLAIMS, "distillable")
    if audit.power is False and claims:
        yield "its positive control was not distilled: no verdict can stand"
    for control in audit.controls:
        yield from _of_control(audit, control)


def _of_control(audit: AuditReport, control: ControlResult) -> Iterator[str]:
    name, margin, largest = f"control {control.name!r}", audit.margin, control.largest_gain
    if control.facts is not None:
        yield from facts_faults(name, control.facts, audit.scope.num_test, audit.scope.num_classes)
    if any(check.severity == "fatal" for check in control.checks) and control.verdict != "inconclusive":
        yield f"{name} has a verdict that a check takes away"
    if control.verdict in CLAIMS and control.smallest_margin >= margin:
        yield f"{name} is called {control.verdict!r} with a smallest margin of {control.smallest_margin:g}"
    if control.verdict == "distillable" and (largest is None or control.smallest_margin < margin):
        yield f"{name} is called distillable, and no attack on it reaches the margin"
    if not 0 <= control.smallest_margin <= 1:
        yield f"{name} has a smallest margin that is no share"
    if largest is not None:
        if not largest.lower <= largest.gain <= largest.upper or largest.standard_error <= 0:
            yield f"{name} has a largest gain outside of its bounds"
        if largest.upper > control.smallest_margin + CLOSE:
            yield f"{name} has a gain whose bound is above its smallest margin"
    knockoffs = {arm.name for arm in audit.arms if arm.role == "knockoff"}
    for each in control.differences:
        if each.attack not in knockoffs or each.seeds < 2 or not _is_ordered(each.difference):
            yield f"{name} has a difference that no two arms have"


def _is_ordered(interval: Interval) -> bool:
    # Bounds may lie beyond 1: a t interval of two seeds is 13 standard errors wide to each side.
    is_finite = math.isfinite(interval.lower) and math.isfinite(interval.upper)
    return is_finite and interval.lower <= interval.estimate <= interval.upper and abs(interval.estimate) <= 1


# Checks


def check_faults(audit: AuditReport) -> Iterator[str]:
    """Yield the checks that the report's own figures call for and that are not there, or not that severe."""
    present = {(check.name, check.severity) for check in audit.checks}
    for name, severity in sorted(set(_due_checks(audit)) - present):
        yield f"its figures call for the check {name!r} ({severity}), which is not there"


def _due_checks(audit: AuditReport) -> Iterator[tuple[str, str]]:
    guessing = 1 / max(1, audit.scope.num_classes)
    accuracy = audit.teacher.accuracy
    if accuracy < guessing + KNOWING * (1 - guessing):
        yield "teacher knows nothing", "fatal"
    baseline = next((arm for arm in audit.arms if arm.name == audit.reference and arm.accuracies), None)
    if baseline is not None and guessing + KNOWING * (1 - guessing) <= accuracy < float(np.mean(baseline.accuracies)):
        yield "teacher worse than student", "warning"
    if audit.margin < FEWEST_SAMPLES / audit.scope.num_test:
        yield "margin too fine", "fatal"
    means = {
        role: max(
            (float(np.mean(arm.accuracies)) for arm in audit.arms if arm.role == role and arm.accuracies), default=-1
        )
        for role in ("null", "knockoff")
    }
    if means["null"] > means["knockoff"] >= 0:
        yield "a null beats every teacher", "warning"
    if any(arm.diverged for arm in audit.arms):
        yield "diverged", "warning"
    if audit.power is None:
        yield "no control teacher", "warning"
    if audit.power is False:
        yield "no power", "fatal"
    suite = claimed_suite(audit)
    if suite is not None and set(suite.families) - tried_families(audit):
        yield LEFT_OUT, "warning"


def curve_faults(audit: AuditReport) -> Iterator[str]:
    """Yield where the learning curve of a cross-entropy student contradicts itself."""
    curve, samples = audit.learning_curve, audit.scope.num_validation
    if curve is None:
        return
    measured = (*curve.validation, curve.longer, curve.most_frequent)
    if not curve.validation or not all(is_share(each, samples) for each in measured):
        yield f"its learning curve has an accuracy that no count of {samples} validation samples gives"
    elif abs(curve.longer - curve.validation[-1] - curve.gain.estimate) > CLOSE or not _is_ordered(curve.gain):
        yield "its learning curve gains something else than the difference of its two students"
    rises = all(later > earlier for earlier, later in pairwise([0, *curve.epochs]))
    if len(curve.epochs) != len(curve.validation) or not rises:
        yield "its learning curve has epochs that do not rise, or not one accuracy for each"
    if not set(curve.unnamed) <= set(range(audit.scope.num_classes)):
        yield "its learning curve misses classes that the model does not have"


# Accounting and costs


def accounting_faults(audit: AuditReport) -> Iterator[str]:
    """Yield where an accounting of gains does not follow from the accuracies of its arms."""
    accuracies = {arm.name: arm.accuracies for arm in audit.arms}
    comparisons = {each.attack: each for each in audit.primary.comparisons}
    for each in audit.accounting:
        comparison = comparisons.get(each.attack)
        if comparison is None or each != _accounted(comparison, accuracies, each):
            yield f"the accounting of {each.attack!r} does not follow from its arms"


def _accounted(comparison: Comparison, accuracies: Mapping[str, tuple[float, ...]], said: Accounting) -> Accounting:
    """Return the accounting as the arms give it; what differs by rounding alone is taken as it is said."""
    attack = comparison.attack
    steps = [comparison.baseline, f"label null of {attack}", f"argmax null of {attack}", f"centroid null of {attack}"]
    values = [accuracies.get(name, ()) for name in (*steps, attack)]
    seeds = min(map(len, values))
    if seeds < 2:
        return Accounting(attack, *[Interval(math.inf, math.inf, math.inf)] * 5)
    values = [each[:seeds] for each in values]
    terms = [Interval(*paired_interval(after, before)) for before, after in pairwise(values)]
    terms = [Interval(*paired_interval(values[-1], values[0])), *terms]
    parts = (said.gain, said.loss_form, said.teacher_errors, said.class_similarity, said.instance_information)
    return Accounting(attack, *(old if _is_same(old, new) else new for old, new in zip(parts, terms, strict=True)))


def _is_same(first: Interval, second: Interval) -> bool:
    pairs = ((first.estimate, second.estimate), (first.lower, second.lower), (first.upper, second.upper))
    return all(abs(one - other) <= CLOSE for one, other in pairs)


def cost_faults(audit: AuditReport) -> Iterator[str]:
    """Yield costs that are less than those of the students in the report."""
    costs, students = audit.costs, sum(len(arm.seeds) for arm in audit.arms)
    if costs.students < students or costs.student_steps < costs.students:
        yield f"it counts {costs.students} students and {costs.student_steps} steps for {students} in its arms"
    if costs.queries_paid < 0 or costs.queries_asked < costs.queries_paid or costs.seconds < 0:
        yield "its queries or its time are less than nothing, or fewer than one student's"
