"""Checks of an audit: its verdicts follow from its results, and its results have the form that an audit gives."""

from collections.abc import Collection, Iterator
from typing import Any, get_args

from hf_cmim.hub.verified_arms import arm_faults, baseline_faults, look_faults, suite_faults
from hf_cmim.hub.verified_controls import channel_faults, power_faults
from hf_cmim.hub.verified_figures import (
    CLOSE,
    accounting_faults,
    check_faults,
    cost_faults,
    curve_faults,
    facts_faults,
    floor_faults,
    plan_faults,
)
from hf_cmim.report import AuditReport, Criterion, CriterionResult
from hf_cmim.statistics import Comparison, Decision, decide

MOST_ARMS = 500
"""Largest number of arms of a report; a released suite has at most four for each family."""
MOST_STUDENTS = 50_000
"""Largest number of students of a report. Both limits bound the time that a hostile report can cost."""
MOST_ATTACKERS = 20
"""Largest number of attackers of a report."""
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


def audit_faults(audit: AuditReport, class_names: Collection[str]) -> Iterator[str]:
    """Yield everything in an audit that does not follow from its results, as sentences.

    A released suite is checked completely: families, settings, sources of answers, and the reference of each attack.
    The families of an owner's suite are known to the owner only, and are not checked. Each
    attacker's report is checked so.

    Args:
        audit: audit of a certificate.
        class_names: class names of the certified model.
    """
    names = [report.scope.attacker.name for report in (audit, *audit.other_attackers)]
    if len(names) > MOST_ATTACKERS or len(set(names)) < len(names):
        yield f"it has {len(names)} attackers: two of one name, or more than any audit"
        return
    yield from _of_attacker(audit, class_names)
    for other in audit.other_attackers:
        name = other.scope.attacker.name
        if other.other_attackers or _shared(other) != _shared(audit):
            yield f"attacker {name!r}: it is not about the same model, test data, student and design"
        yield from (f"attacker {name!r}: {fault}" for fault in _of_attacker(other, class_names))


def _shared(audit: AuditReport) -> tuple[Any, ...]:
    """Return everything that the reports for all attackers share."""
    scope = audit.scope
    data = (scope.test_set, scope.num_test, scope.validation_set, scope.num_validation, scope.training, scope.student)
    return audit.teacher, audit.twin, audit.design, scope.suite, *data


def _of_attacker(audit: AuditReport, class_names: Collection[str]) -> Iterator[str]:
    students = sum(len(arm.accuracies) for arm in audit.arms)
    if len(audit.arms) > MOST_ARMS or students > MOST_STUDENTS:
        yield f"it has {len(audit.arms):,} arms and {students:,} students: more than any audit, and too many to check"
        return
    # The three checks that return come first: all later ones divide by these counts or look up the criteria.
    scope = audit.scope
    if min(scope.num_transfer, scope.num_validation, scope.num_test) < 1 or scope.num_classes < 2:
        yield "it has no samples, or fewer than two classes"
        return
    # An attacker without labels can only be judged by the criterion that needs none.
    expected = CRITERIA if scope.attacker.is_labelled else ("beyond-labels",)
    criteria = [result.criterion for result in audit.criteria]
    if sorted(criteria) != sorted(expected) or not _has_one_primary(audit):
        yield f"it does not have each of its {len(expected)} criteria once, the primary one first"
        return
    yield from plan_faults(audit, len(class_names))
    yield from channel_faults(audit)
    yield from facts_faults("the teacher", audit.teacher, audit.scope.num_test, audit.scope.num_classes)
    yield from arm_faults(audit)
    yield from suite_faults(audit)
    yield from baseline_faults(audit)
    yield from power_faults(audit)
    yield from check_faults(audit)
    yield from cost_faults(audit)
    yield from curve_faults(audit)
    yield from accounting_faults(audit)
    yield from floor_faults(audit)
    for result in audit.criteria:
        yield from recomputed_faults(audit, result)


def _has_one_primary(audit: AuditReport) -> bool:
    return [result.primary for result in audit.criteria] == [True, *[False] * (len(audit.criteria) - 1)]


def recomputed_faults(audit: AuditReport, result: CriterionResult) -> Iterator[str]:
    """Recompute the verdict of one criterion from the arms' accuracies, and yield the differences as sentences."""
    decision = _decision(audit, result)
    if isinstance(decision, str):
        yield f"the verdict under {result.criterion!r} cannot be recomputed: {decision}"
        return
    # A fatal check voids every verdict, whatever the accuracies say.
    is_void = any(check.severity == "fatal" for check in audit.checks)
    verdict = "inconclusive" if is_void else decision.verdict
    if verdict != result.verdict:
        yield f"under {result.criterion!r} the results say {verdict!r}, the certificate says {result.verdict!r}"
    if abs(decision.smallest_margin - result.smallest_margin) > CLOSE:
        yield (
            f"under {result.criterion!r} the smallest margin is {decision.smallest_margin:.6f}, the certificate says"
            f" {result.smallest_margin:.6f}"
        )
    certified = {comparison.attack: comparison for comparison in result.comparisons}
    recomputed = {comparison.attack: comparison for comparison in decision.comparisons}
    names = {**certified, **recomputed}
    wrong = [name for name in names if not _is_same(certified.get(name), recomputed.get(name))]
    if wrong:
        yield f"under {result.criterion!r} the bounds of {', '.join(sorted(wrong))} do not follow from the results"
    elif [*certified] != [*recomputed] or len(certified) < len(result.comparisons):
        yield f"under {result.criterion!r} the attacks are not sorted by gain, or one is listed twice"
    if result.primary:
        yield from look_faults(audit, decision.look)


def _decision(audit: AuditReport, result: CriterionResult) -> Decision | str:
    """Return the decision for the accuracies, or the reason why there is none."""
    accuracies = {arm.name: arm.accuracies for arm in audit.arms}
    num_attacks = sum(arm.role == "knockoff" for arm in audit.arms)
    try:
        return decide(accuracies, result.baselines, num_attacks, audit.design)
    except (KeyError, ValueError) as error:
        return str(error)


def _is_same(first: Comparison | None, second: Comparison | None) -> bool:
    if first is None or second is None:
        return first is second
    numbers = ("gain", "standard_error", "lower", "upper")
    names = ("baseline", "seeds", "baseline_seeds")
    is_close = all(abs(getattr(first, number) - getattr(second, number)) <= CLOSE for number in numbers)
    return is_close and all(getattr(first, name) == getattr(second, name) for name in names)
