"""Decisions under each criterion, accounting of gains, and differences between teachers, from accuracies."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import get_args

from hf_cmim.audit.checks import is_void
from hf_cmim.audit.plan import AuditPlan, Confirmation
from hf_cmim.report import (
    Accounting,
    Check,
    ClassAnswersControl,
    Criterion,
    CriterionResult,
    Interval,
    LabelFloor,
    Leak,
    LeakDifference,
)
from hf_cmim.statistics import Baselines, Decision, decide, paired_interval

Accuracies = Mapping[str, Sequence[float]]
"""Test accuracies of each arm's finished students, by name of the arm, in the order of seeds."""


def measured_against(
    plan: AuditPlan, chosen: Confirmation, criterion: Criterion, accuracies: Accuracies
) -> dict[str, Baselines]:
    """Return each attack's baselines; under a criterion that is only described, only baselines with students."""
    return {
        name: baselines
        for name, baselines in chosen.baselines(criterion).items()
        if criterion == plan.criterion or accuracies.get(baselines.chosen)
    }


def decide_under(plan: AuditPlan, chosen: Confirmation, criterion: Criterion, accuracies: Accuracies) -> Decision:
    """Return the decision under a criterion from the finished students."""
    baselines = measured_against(plan, chosen, criterion, accuracies)
    return decide(accuracies, baselines, len(chosen.knockoffs), plan.design)


def criterion_results(
    plan: AuditPlan, chosen: Confirmation, accuracies: Accuracies, checks: Sequence[Check]
) -> tuple[CriterionResult, ...]:
    """Return the result of every criterion, the primary one first; a fatal check makes all inconclusive.

    An attacker without labels is judged only by the criterion `beyond-labels`: the others need labels.
    """
    others: tuple[Criterion, ...] = get_args(Criterion) if plan.attackers[0].is_labelled else ()
    names: list[Criterion] = [plan.criterion, *(name for name in others if name != plan.criterion)]
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


def described_leaks(results: Iterable[CriterionResult]) -> tuple[Leak, ...]:
    """Return the leak under each criterion that is only described, where an attack was compared with a baseline."""
    return tuple(
        Leak(result.criterion, result.verdict, result.comparisons[0], result.smallest_margin)
        for result in results
        if not result.primary and result.comparisons
    )


def account(decision: Decision, chosen: Confirmation, accuracies: Accuracies, count: int) -> tuple[Accounting, ...]:
    """Return the terms of the gains of the `count` strongest attacks whose nulls were trained."""
    families = {arm.name: arm for arm in chosen.knockoffs}
    accounting = []
    for comparison in decision.comparisons[:count]:
        arm = families[comparison.attack]
        null = chosen.nulls.get(arm.family)
        if null is None or null.confidence is None:
            continue
        argmax, centroid = arm.diagnostics(null.confidence)
        steps = [comparison.baseline, null.name, argmax.name, centroid.name, arm.name]
        if any(len(accuracies.get(name, ())) < 2 for name in steps):
            continue
        # The terms add up to the gain only over the same seeds.
        seeds = min(len(accuracies[name]) for name in steps)
        values = [list(accuracies[name])[:seeds] for name in steps]
        terms = [Interval(*paired_interval(after, before)) for before, after in pairwise(values)]
        accounting.append(Accounting(arm.name, Interval(*paired_interval(values[-1], values[0])), *terms))
    return tuple(accounting)


def label_floor(chosen: Confirmation, accuracies: Accuracies) -> LabelFloor | None:
    """Return the gain from nothing but the teacher's labels, over the best arm without the teacher."""
    labels = next((arm.name for arm in chosen.without_samples if arm.role == "labels"), "")
    reference = chosen.contenders[0].name
    gain = _paired(accuracies, labels, reference)
    return None if gain is None else LabelFloor(labels, reference, gain)


def class_answers_control(chosen: Confirmation, attack: str, accuracies: Accuracies) -> ClassAnswersControl | None:
    """Return the gain from class answers, and the gain of the strongest attack on the teacher itself beyond it."""
    arm = next((arm.name for arm in chosen.without_samples if arm.role == "class answers"), "")
    reference = chosen.contenders[0].name
    gain, beyond = _paired(accuracies, arm, reference), _paired(accuracies, attack, arm)
    return None if gain is None or beyond is None else ClassAnswersControl(arm, reference, attack, gain, beyond)


def _paired(accuracies: Accuracies, first: str, second: str) -> Interval | None:
    """Return the difference of two arms paired by seed, or None with fewer than two common seeds."""
    pair = (accuracies.get(first, ()), accuracies.get(second, ()))
    return Interval(*paired_interval(*pair)) if min(map(len, pair)) >= 2 else None


def leak_differences(
    accuracies: Accuracies, strongest: str, control: Accuracies, control_strongest: str, attacks: Iterable[str]
) -> tuple[LeakDifference, ...]:
    """Return differences of accuracy between a control's knockoffs and the audited teacher's.

    Args:
        accuracies: accuracies of the audited teacher's students.
        strongest: strongest attack on the audited teacher, chosen on validation data and not on test data.
        control: accuracies of the control's students.
        control_strongest: strongest attack on the control, chosen in the same way.
        attacks: names of the attacks that were tried on both.

    Returns:
        Differences between the strongest attacks, then of each attack, the largest first. Pairs with fewer than two
        common seeds are left out; without the first pair the result is empty.
    """
    pairs = [(strongest, control_strongest), *((name, name) for name in attacks)]
    of_strongest, *of_attacks = (
        _leak_difference(accuracies.get(attack, ()), control.get(control_attack, ()), attack, control_attack)
        for attack, control_attack in pairs
    )
    ranked = sorted(filter(None, of_attacks), key=lambda leak: (-leak.difference.estimate, leak.attack))
    return (of_strongest, *ranked) if of_strongest else ()


def _leak_difference(
    teacher_accuracies: Sequence[float], control_accuracies: Sequence[float], attack: str, control_attack: str
) -> LeakDifference | None:
    seeds = min(len(teacher_accuracies), len(control_accuracies))
    if seeds < 2:
        return None
    difference = Interval(*paired_interval(control_accuracies, teacher_accuracies))
    return LeakDifference(attack, control_attack, seeds, difference)
