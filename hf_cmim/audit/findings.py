"""From accuracies to findings: decisions under each criterion, and the accounting of gains."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import get_args

from hf_cmim.audit.checks import is_void
from hf_cmim.audit.plan import AuditPlan, Confirmation
from hf_cmim.report import Accounting, Check, Criterion, CriterionResult, Interval, LeakDifference
from hf_cmim.statistics import Baselines, Decision, decide, paired_interval

Accuracies = Mapping[str, Sequence[float]]
"""Of each arm's finished students, by name, in the order of their seeds."""


def measured_against(
    plan: AuditPlan, chosen: Confirmation, criterion: Criterion, accuracies: Accuracies
) -> dict[str, Baselines]:
    """Return each attack's baselines; under a criterion that is only described, those alone that were trained."""
    return {
        name: each
        for name, each in chosen.baselines(criterion).items()
        if criterion == plan.criterion or accuracies.get(each.chosen)
    }


def decide_under(plan: AuditPlan, chosen: Confirmation, criterion: Criterion, accuracies: Accuracies) -> Decision:
    """Return the decision under a criterion, from the students there are."""
    baselines = measured_against(plan, chosen, criterion, accuracies)
    return decide(accuracies, baselines, len(chosen.knockoffs), plan.design)


def criterion_results(
    plan: AuditPlan, chosen: Confirmation, accuracies: Accuracies, checks: Sequence[Check]
) -> tuple[CriterionResult, ...]:
    """Return every criterion's result, the primary one first; a fatal check leaves none of them decided."""
    names: list[Criterion] = [plan.criterion, *(each for each in get_args(Criterion) if each != plan.criterion)]
    results = []
    for name in names:
        decision = decide_under(plan, chosen, name, accuracies)
        results.append(
            CriterionResult(
                criterion=name,
                primary=name == plan.criterion,
                verdict="inconclusive" if is_void(checks) else decision.verdict,
                baselines=measured_against(plan, chosen, name, accuracies),
                comparisons=decision.comparisons,
                smallest_margin=decision.smallest_margin,
            )
        )
    return tuple(results)


def account(decision: Decision, chosen: Confirmation, accuracies: Accuracies, count: int) -> tuple[Accounting, ...]:
    """Return where the gains of the strongest attacks come from, as far as their nulls were trained."""
    families = {arm.name: arm for arm in chosen.knockoffs}
    found = []
    for comparison in decision.comparisons[:count]:
        arm = families[comparison.attack]
        null = chosen.nulls.get(arm.family)
        if null is None or null.confidence is None:
            continue
        argmax, centroid = arm.diagnostics(null.confidence)
        steps = [comparison.baseline, null.name, argmax.name, centroid.name, arm.name]
        if any(len(accuracies.get(name, ())) < 2 for name in steps):
            continue
        seeds = min(len(accuracies[name]) for name in steps)  # the terms add up only over the same seeds
        values = [list(accuracies[name])[:seeds] for name in steps]
        terms = [Interval(*paired_interval(after, before)) for before, after in pairwise(values)]
        found.append(Accounting(arm.name, Interval(*paired_interval(values[-1], values[0])), *terms))
    return tuple(found)


def leak_differences(
    accuracies: Accuracies, strongest: str, control: Accuracies, control_strongest: str, attacks: Iterable[str]
) -> tuple[LeakDifference, ...]:
    """Return how much better a control's knockoffs are: the strongest of each teacher, then each attack with itself.

    Args:
        accuracies: of the audited teacher's students.
        strongest: its best attack on validation data; so the test data choose neither.
        control: accuracies of the control's students.
        control_strongest: the best attack on the control.
        attacks: names of those tried on both.

    Returns:
        Those of at least two seeds in common; none where the first has fewer.
    """
    pairs = [(strongest, control_strongest), *((name, name) for name in attacks)]
    first, *others = (
        _leak_difference(accuracies.get(own, ()), control.get(other, ()), own, other) for own, other in pairs
    )
    ranked = sorted((each for each in others if each), key=lambda each: (-each.difference.estimate, each.attack))
    return (first, *ranked) if first else ()


def _leak_difference(
    own: Sequence[float], control: Sequence[float], attack: str, control_attack: str
) -> LeakDifference | None:
    seeds = min(len(own), len(control))
    if seeds < 2:
        return None
    return LeakDifference(attack, control_attack, seeds, Interval(*paired_interval(control, own)))
