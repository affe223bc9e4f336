"""Checks of an audit's figures, plan and checks: they are possible and agree with each other."""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from hf_cmim.attacks.suites import Suite
from hf_cmim.hub.verified_arms import LEFT_OUT, claimed_suite, is_share, teacher_free_reference, tried_families
from hf_cmim.report import Accounting, ArmResult, AuditReport, Interval, ModelFacts
from hf_cmim.statistics import Comparison, Design, paired_interval
from hf_cmim.teachers.fingerprints import digest

CLOSE = 1e-9
"""Largest difference of two bounds, for rounding on another machine; ours."""
LARGEST_MARGIN = 0.05
"""Largest margin of a verdict of protection, a fraction; ours. Attacks seldom gain more on any model."""
FEWEST_SAMPLES = 3
"""Smallest number of test samples that a margin may correspond to."""
KNOWING = 0.1
"""Smallest accuracy of a teacher worth protecting, as a share of the way from guessing (0) to perfect (1)."""
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"\d{4}-[01]\d-[0-3]\d")
CLAIMS = ("undistillable within the margin", "leaks less than the margin")


def plan_of(audit: AuditReport) -> Mapping[str, Any]:
    """Return the plan in a report, or an empty mapping if it has none."""
    plan = audit.reproduction.get("plan")
    return plan if isinstance(plan, dict) else {}


def plan_faults(audit: AuditReport, num_classes: int) -> Iterator[str]:
    """Check design, scope and plan against each other and against the rules of an audit, and yield the faults."""
    design, scope, plan = audit.design, audit.scope, plan_of(audit)
    # The error rate is the same for all audits, so that verdicts can be compared.
    if design.error_rate != Design().error_rate:
        yield f"its error rate is {design.error_rate:g}, audits use {Design().error_rate:g}"
    # A large margin would make every model undistillable.
    if audit.primary.verdict in CLAIMS and design.margin > LARGEST_MARGIN:
        yield (
            f"its margin is {100 * design.margin:g} points, but a verdict of protection needs a margin of at most"
            f" {100 * LARGEST_MARGIN:g} points"
        )
    if scope.num_classes != num_classes:
        yield f"it has {scope.num_classes} classes, the model has {num_classes}"
    if audit.sittings < 1:
        yield f"its number of sittings is {audit.sittings}, expected at least 1"
    if not _DATE.fullmatch(audit.date):
        yield f"its date {audit.date[:20]!r} is not written as YYYY-MM-DD"
    # The plan is a part of its own in the report; here it must tell the same as the results.
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
                yield f"its plan says {name} = {str(plan.get(name))[:40]!r}, but the audit has {str(value)[:40]!r}"


def suite_words(suite: Suite) -> str:
    """Return the name of a suite in a plan: its released name, number of settings and a digest of them."""
    entries = [(entry.family, repr(entry.attack)) for entry in suite.entries]
    return f"{suite.name}, {len(entries)} settings, {digest(entries)[:12]}"


def facts_faults(name: str, facts: ModelFacts, num_test: int, num_classes: int) -> Iterator[str]:
    """Yield the figures of a model that are impossible, as sentences.

    Args:
        name: the model in words, to begin each sentence.
        facts: figures of the model.
        num_test: number of test samples.
        num_classes: number of classes C.
    """
    if not (_FINGERPRINT.fullmatch(facts.fingerprint) and _FINGERPRINT.fullmatch(facts.labels_fingerprint)):
        yield f"{name} has no valid fingerprint of its weights or of its labels"
    if not (is_share(facts.accuracy, num_test) and is_share(facts.top5_accuracy, num_test)):
        yield f"{name} has an accuracy that is no whole number of {num_test} test samples"
    # With at most five classes, every class is among the first five.
    if facts.top5_accuracy < facts.accuracy or (num_classes <= 5 and facts.top5_accuracy < 1):
        yield f"{name} has an impossible top-5 accuracy: below its accuracy, or below 1 with at most five classes"
    # These are averages of errors and of gaps between fractions.
    shares = (facts.ece, facts.ece_calibrated, facts.aurc)
    if not all(0 <= share <= 1 for share in shares) or min(facts.nll, facts.nll_calibrated) < 0:
        yield f"{name} has an impossible calibration: ECE and AURC are 0 to 1, the NLL is at least 0"
    temperatures = [temperature for temperature, _ in facts.curve]
    if any(later <= earlier for earlier, later in pairwise([0.0, *temperatures])):
        yield f"{name} has a CMI curve with temperatures that do not increase"
    # I(X; prediction | label) is at most the entropy of a prediction, log C.
    if any(not 0 <= cmi <= math.log(max(2, num_classes)) + 1e-6 for _, cmi in facts.curve):
        yield f"{name} has a CMI outside the possible range, 0 to log C nats"
    if facts.within_total_ratio < 0:
        yield f"{name} has a negative ratio of scatter within classes to total scatter"
    auc = facts.membership_auc
    if auc is not None and not 0 <= auc.lower <= auc.estimate <= auc.upper <= 1:
        yield f"{name} has an impossible membership-inference AUC: expected it inside its interval, and both in [0, 1]"


def is_ordered(interval: Interval) -> bool:
    """Return True if an interval of differences of fractions is finite and holds its estimate."""
    # Bounds may lie beyond 1: a t interval of two seeds is 13 standard errors wide to each side.
    is_finite = math.isfinite(interval.lower) and math.isfinite(interval.upper)
    return is_finite and interval.lower <= interval.estimate <= interval.upper and abs(interval.estimate) <= 1


# Checks


def check_faults(audit: AuditReport) -> Iterator[str]:
    """Yield the checks that the report's own figures require and that are missing or less severe, as sentences."""
    present = {(check.name, check.severity) for check in audit.checks}
    for name, severity in sorted(set(_required_checks(audit)) - present):
        yield f"its figures require the check {name!r} ({severity}), which is missing"


def _required_checks(audit: AuditReport) -> Iterator[tuple[str, str]]:
    """Yield name and severity of each check, by the same rules as the audit."""
    # These rules repeat those of hf_cmim/audit/checks.py from the figures in the report alone: an owner who deletes a
    # check is found out.
    guessing = 1 / max(1, audit.scope.num_classes)
    lowest_accuracy = guessing + KNOWING * (1 - guessing)
    accuracy = audit.teacher.accuracy
    if accuracy < lowest_accuracy:
        yield "teacher knows nothing", "fatal"
    is_beyond = audit.primary.criterion == "beyond-labels"
    reference = teacher_free_reference(audit) if is_beyond else audit.reference
    baseline = next((arm for arm in audit.arms if arm.name == reference and arm.accuracies), None)
    if baseline is not None and lowest_accuracy <= accuracy < float(np.mean(baseline.accuracies)):
        yield "teacher worse than student", "warning"
    if audit.margin < FEWEST_SAMPLES / audit.scope.num_test:
        yield "margin too fine", "fatal"
    if _best_mean(audit, "null", "tuned null") > _best_mean(audit, "knockoff") >= 0:
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


def _best_mean(audit: AuditReport, *roles: str) -> float:
    """Return the best mean accuracy of the arms of some roles, or -1 without such an arm."""
    means = [float(np.mean(arm.accuracies)) for arm in audit.arms if arm.role in roles and arm.accuracies]
    return max(means, default=-1)


def curve_faults(audit: AuditReport) -> Iterator[str]:
    """Yield the contradictions in the learning curve of a cross-entropy student, as sentences."""
    curve, samples = audit.learning_curve, audit.scope.num_validation
    if curve is None:
        return
    accuracies = (*curve.validation, curve.longer, curve.most_frequent)
    if not curve.validation or not all(is_share(accuracy, samples) for accuracy in accuracies):
        yield f"its learning curve has an accuracy that is no whole number of {samples} validation samples"
    elif abs(curve.longer - curve.validation[-1] - curve.gain.estimate) > CLOSE or not is_ordered(curve.gain):
        yield "its learning curve has a gain that is not the difference of its two students"
    is_increasing = all(later > earlier for earlier, later in pairwise([0, *curve.epochs]))
    if len(curve.epochs) != len(curve.validation) or not is_increasing:
        yield "its learning curve has epochs that do not increase, or not one accuracy for each"
    if not set(curve.unnamed) <= set(range(audit.scope.num_classes)):
        yield "its learning curve lists classes that the model does not have"


# Accounting and costs


def accounting_faults(audit: AuditReport) -> Iterator[str]:
    """Yield the accountings of gains that do not follow from the accuracies of the arms, as sentences."""
    accuracies = {arm.name: arm.accuracies for arm in audit.arms}
    comparisons = {comparison.attack: comparison for comparison in audit.primary.comparisons}
    for accounting in audit.accounting:
        comparison = comparisons.get(accounting.attack)
        if comparison is None or not _follows(accounting, comparison, accuracies):
            yield f"the accounting of {accounting.attack!r} does not follow from its arms"


def floor_faults(audit: AuditReport) -> Iterator[str]:
    """Yield the gains from labels and class answers that do not follow from the accuracies, as sentences."""
    arms = {arm.name: arm for arm in audit.arms}
    roles = {role: [arm.name for arm in audit.arms if arm.role == role] for role in ("labels", "class answers")}
    reference = teacher_free_reference(audit)
    floor, control = audit.label_floor, audit.class_answers
    # Without labels there is no reference to measure these gains against.
    is_told = audit.scope.attacker.is_labelled
    has_labels, has_answers = (bool(roles[role]) and is_told for role in ("labels", "class answers"))
    if (floor is not None) != has_labels or (control is not None) != has_answers:
        yield "it does not tell what labels or class answers give away, or tells it without such students"
    if floor is not None and (
        floor.labels not in roles["labels"]
        or floor.reference != reference
        or not _is_paired(floor.gain, arms.get(floor.labels), arms.get(reference))
    ):
        yield "what the teacher's labels give away does not follow from its arms"
    if control is not None and (
        control.arm not in roles["class answers"]
        or control.reference != reference
        or arms.get(control.attack) is None
        or arms[control.attack].role != "knockoff"
        or not _is_paired(control.gain, arms.get(control.arm), arms.get(reference))
        or not _is_paired(control.beyond, arms.get(control.attack), arms.get(control.arm))
    ):
        yield "what class answers give away does not follow from its arms"


def _is_paired(certified: Interval, first: ArmResult | None, second: ArmResult | None) -> bool:
    if first is None or second is None or min(len(first.accuracies), len(second.accuracies)) < 2:
        return False
    return _is_close(certified, Interval(*paired_interval(first.accuracies, second.accuracies)))


def _follows(accounting: Accounting, comparison: Comparison, accuracies: Mapping[str, tuple[float, ...]]) -> bool:
    """Return True if an accounting is the one that the arms give, up to rounding."""
    attack = comparison.attack
    nulls = [f"label null of {attack}", f"argmax null of {attack}", f"centroid null of {attack}"]
    # Each arm knows more of the teacher than the one before, so that the four differences of neighbours add up to the
    # gain of the attack over its reference.
    values = [accuracies.get(name, ()) for name in (comparison.baseline, *nulls, attack)]
    seeds = min(map(len, values))
    if seeds < 2:
        return False
    values = [value[:seeds] for value in values]
    pairs = [(values[0], values[-1]), *pairwise(values)]
    expected = [Interval(*paired_interval(later, earlier)) for earlier, later in pairs]
    certified = (
        accounting.gain,
        accounting.loss_form,
        accounting.teacher_errors,
        accounting.class_similarity,
        accounting.instance_information,
    )
    return all(_is_close(*pair) for pair in zip(expected, certified, strict=True))


def _is_close(first: Interval, second: Interval) -> bool:
    pairs = ((first.estimate, second.estimate), (first.lower, second.lower), (first.upper, second.upper))
    return all(abs(value - neighbour) <= CLOSE for value, neighbour in pairs)


def cost_faults(audit: AuditReport) -> Iterator[str]:
    """Yield costs that are below those of the students in the report, or negative, as sentences."""
    costs, students = audit.costs, sum(len(arm.seeds) for arm in audit.arms)
    if costs.students < students or costs.student_steps < costs.students:
        yield f"it reports {costs.students} students and {costs.student_steps} steps, but its arms have {students}"
    queries = [arm.queries for arm in audit.arms] + [control.queries for control in audit.controls]
    if min(queries, default=0) < 0 or max(queries, default=0) > costs.queries_paid:
        yield f"a student paid for no number of answers from 0 to {costs.queries_paid}, that of the most expensive one"
    if costs.queries_paid < 0 or costs.queries_asked < costs.queries_paid or costs.seconds < 0:
        yield (
            f"its costs are impossible: {costs.queries_asked} queries asked, {costs.queries_paid} paid for,"
            f" {costs.seconds:g} seconds"
        )
