"""Whether an audit's verdicts follow from its results, and its results from how audits are made."""

from collections.abc import Collection, Iterator

from hf_cmim.hub.verified_arms import arm_faults, baseline_faults, look_faults, suite_faults
from hf_cmim.hub.verified_figures import (
    CLOSE,
    accounting_faults,
    check_faults,
    cost_faults,
    curve_faults,
    facts_faults,
    plan_faults,
    power_faults,
)
from hf_cmim.report import AuditReport, Criterion, CriterionResult
from hf_cmim.statistics import Comparison, Decision, decide

MOST_ARMS = 500
"""Arms of a report; a named suite has at most four for each of its families."""
MOST_STUDENTS = 50_000
CRITERIA: tuple[Criterion, ...] = ("paper", "teacher-free", "no-leak")


def audit_faults(audit: AuditReport, class_names: Collection[str]) -> Iterator[str]:
    """Yield everything in an audit that does not follow from its results, as sentences.

    A named suite is checked whole: its families, their settings, who answers, what each attack is measured against.
    Of a suite of the owner's own only the owner knows what belongs to it.

    Args:
        audit: as a certificate holds it.
        class_names: of the certified model.
    """
    students = sum(len(arm.accuracies) for arm in audit.arms)
    if len(audit.arms) > MOST_ARMS or students > MOST_STUDENTS:
        yield f"it has {len(audit.arms):,} arms and {students:,} students: more than any audit, and too many to check"
        return
    if (
        min(audit.scope.num_transfer, audit.scope.num_validation, audit.scope.num_test, audit.scope.num_classes - 1)
        < 1
    ):
        yield "it counts no samples, or fewer than two classes"
        return
    if sorted(each.criterion for each in audit.criteria) != sorted(CRITERIA) or not _has_one_primary(audit):
        yield "it does not have each of the three criteria once, the primary one first"
        return
    yield from plan_faults(audit, len(class_names))
    yield from facts_faults("the teacher", audit.teacher, audit.scope.num_test, audit.scope.num_classes)
    yield from arm_faults(audit)
    yield from suite_faults(audit)
    yield from baseline_faults(audit)
    yield from power_faults(audit)
    yield from check_faults(audit)
    yield from cost_faults(audit)
    yield from curve_faults(audit)
    yield from accounting_faults(audit)
    for result in audit.criteria:
        yield from recomputed_faults(audit, result)


def _has_one_primary(audit: AuditReport) -> bool:
    return [each.primary for each in audit.criteria] == [True, False, False]


def recomputed_faults(audit: AuditReport, result: CriterionResult) -> Iterator[str]:
    """Yield what one criterion says that does not follow from the accuracies of the arms."""
    decision = _decision(audit, result)
    if isinstance(decision, str):
        yield f"the verdict under {result.criterion!r} cannot be recomputed: {decision}"
        return
    is_void = any(check.severity == "fatal" for check in audit.checks)
    verdict = "inconclusive" if is_void else decision.verdict
    if verdict != result.verdict:
        yield f"under {result.criterion!r} the results say {verdict!r}, the certificate says {result.verdict!r}"
    if abs(decision.smallest_margin - result.smallest_margin) > CLOSE:
        yield (
            f"under {result.criterion!r} the smallest margin is {decision.smallest_margin:.6f}, the certificate says"
            f" {result.smallest_margin:.6f}"
        )
    said = {each.attack: each for each in result.comparisons}
    recomputed = {each.attack: each for each in decision.comparisons}
    wrong = [name for name in {**said, **recomputed} if not _same(said.get(name), recomputed.get(name))]
    if wrong:
        yield f"under {result.criterion!r} the bounds of {', '.join(sorted(wrong))} are not those of the results"
    elif [*said] != [*recomputed] or len(said) < len(result.comparisons):
        yield f"under {result.criterion!r} the attacks are not listed by their gains"
    if result.primary:
        yield from look_faults(audit, decision.look)


def _decision(audit: AuditReport, result: CriterionResult) -> Decision | str:
    """Return the decision that the accuracies give, or why they give none."""
    accuracies = {arm.name: arm.accuracies for arm in audit.arms}
    num_attacks = sum(arm.role == "knockoff" for arm in audit.arms)
    try:
        return decide(accuracies, result.baselines, num_attacks, audit.design)
    except (KeyError, ValueError) as error:
        return str(error)


def _same(first: Comparison | None, second: Comparison | None) -> bool:
    if first is None or second is None:
        return first is second
    numbers = ("gain", "standard_error", "lower", "upper")
    names = ("baseline", "seeds", "baseline_seeds")
    return all(abs(getattr(first, each) - getattr(second, each)) <= CLOSE for each in numbers) and all(
        getattr(first, each) == getattr(second, each) for each in names
    )
