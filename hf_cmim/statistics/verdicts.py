"""Verdicts from accuracies, look by look."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hf_cmim.errors import HfCmimError
from hf_cmim.statistics.design import Design
from hf_cmim.statistics.estimates import ArmMean, arm_means, difference
from hf_cmim.statistics.multiplicity import max_t_tail

Verdict = Literal["distillable", "leaks less than the margin", "undistillable within the margin", "inconclusive"]


@dataclass(frozen=True)
class Baselines:
    """The baselines of one attack.

    Args:
        chosen: strongest baseline on validation data, fixed before the confirming runs; upper bounds are against it.
        every: all references of the criterion, including `chosen`; an attack leaks if it beats each of them.
    """

    chosen: str
    every: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The gain of one attack over its baselines, at the last look that included the attack.

    Attributes:
        attack: name of the attack.
        baseline: name of the chosen baseline.
        seeds: number of the attack's students.
        baseline_seeds: number of the baseline's students.
        gain: mean accuracy of the attack minus that of `baseline`.
        standard_error: standard error of the gain.
        lower: lower bound on the gain over the best of the baselines, for all attacks and looks together. It is the
            smallest of the bounds against each baseline: beating all of them is an intersection, which needs no
            correction.
        upper: upper bound on the gain over only `baseline`, for this attack and all looks. It also bounds the gain
            over the best baseline. The smallest of the upper bounds would be lower but need a correction.
    """

    attack: str
    baseline: str
    seeds: int
    baseline_seeds: int
    gain: float
    standard_error: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Decision:
    """The decision at the last look for which the data suffice.

    Attributes:
        verdict: verdict about all attacks together.
        comparisons: comparisons, one per attack, the largest gain first; empty before the first look.
        smallest_margin: largest upper bound, at least 0; 1 before the first look, or if not all attacks were compared.
        look: number of seeds per attack at this look; 0 before the first.
        seeds_wanted: total number of seeds that each arm needs for the next look; empty when finished.
    """

    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    smallest_margin: float
    look: int
    seeds_wanted: dict[str, int]


def replay(accuracies: Mapping[str, Sequence[float]], baselines: Mapping[str, Baselines], design: Design) -> Decision:
    """Take all looks for which the data suffice, in order, and return the last decision.

    The decision depends only on the accuracies that the looks use, not on other runs or their order. An attack stops
    once its upper bound is below the margin. The audit ends with a proven leak that is not below the margin, when no
    attack is left, or after the last look. The verdicts follow from the bounds:

    - distillable: an attack has a lower bound above 0, and its upper bound is not below the margin;
    - leaks less than the margin: all upper bounds are below the margin, and a lower bound is above 0;
    - undistillable within the margin: all upper bounds are below the margin, and no lower bound is above 0;
    - inconclusive: all other cases.

    Args:
        accuracies: accuracies of each arm's students in the order of their seeds, fractions in [0, 1]; arms that are
            neither attack nor baseline are ignored.
        baselines: baselines of each attack, by the attack's name.
        design: margin, looks and error rate.

    Raises:
        HfCmimError: there is no attack, the baselines do not fit, or an accuracy is out of its range.
    """
    _check(accuracies, baselines)
    active_attacks = list(baselines)
    used_seeds: dict[str, int] = {}
    latest: dict[str, Comparison] = {}
    verdict: Verdict = "inconclusive"
    last_look, seeds_wanted = 0, dict[str, int]()
    for look, error in zip(design.looks, design.errors(), strict=True):
        seeds_wanted = _seeds_wanted(look, active_attacks, baselines, design.reference_multiple)
        # The audit trains these students next.
        if any(len(accuracies.get(name, ())) < seeds for name, seeds in seeds_wanted.items()):
            break
        # Stopped attacks keep the seeds of their last look.
        used_seeds |= seeds_wanted
        means = arm_means({name: accuracies[name][:seeds] for name, seeds in used_seeds.items()})
        latest |= _comparisons(active_attacks, baselines, means, error)
        verdict, last_look, seeds_wanted = verdict_of(latest.values(), design.margin), look, {}
        if verdict != "inconclusive":
            break
        # An attack below the margin for sure needs no more seeds; the others go on.
        active_attacks = [attack for attack in active_attacks if latest[attack].upper >= design.margin]
    by_gain = sorted(latest.values(), key=lambda comparison: (-comparison.gain, comparison.attack))
    upper_bounds = [comparison.upper for comparison in by_gain]
    return Decision(
        verdict=verdict,
        comparisons=tuple(by_gain),
        smallest_margin=max(0.0, *upper_bounds) if upper_bounds else 1.0,
        look=last_look,
        seeds_wanted=seeds_wanted,
    )


def decide(
    accuracies: Mapping[str, Sequence[float]], baselines: Mapping[str, Baselines], num_attacks: int, design: Design
) -> Decision:
    """Return the last decision, also if some of the tried attacks have no baselines.

    A result for some attacks need not hold for all. Such a decision is inconclusive, unless it is "distillable", and
    no margin below 1 is known to hold.

    Args:
        accuracies: accuracies of the arms, as for `replay`.
        baselines: baselines of the attacks that have any.
        num_attacks: number of all attacks that were tried.
        design: margin, looks and error rate.
    """
    if not baselines:
        return Decision("inconclusive", (), 1.0, 0, {})
    decision = replay(accuracies, baselines, design)
    if len(baselines) == num_attacks:
        return decision
    verdict: Verdict = "distillable" if decision.verdict == "distillable" else "inconclusive"
    return dataclasses.replace(decision, verdict=verdict, smallest_margin=1.0)


def _check(accuracies: Mapping[str, Sequence[float]], baselines: Mapping[str, Baselines]) -> None:
    """Raise an `HfCmimError` unless the baselines fit together and every accuracy is a fraction."""
    if not baselines:
        raise HfCmimError("Expected at least one attack, got none. There would be no gain to judge. Add an attack.")
    for attack, attack_baselines in baselines.items():
        names = attack_baselines.every
        has_duplicates = len(set(names)) < len(names)
        if attack_baselines.chosen not in names or has_duplicates or set(names) & set(baselines):
            raise HfCmimError(
                f"Expected baselines of {attack!r} that are no attacks, each once, including"
                f" {attack_baselines.chosen!r}, got {names}. The gain would be measured against the wrong arms. Give"
                " the arms without a teacher."
            )
        for name in (attack, *names):
            for accuracy in accuracies.get(name, ()):
                # A nan fails this comparison too.
                if not 0 <= accuracy <= 1:
                    raise HfCmimError(
                        f"Expected accuracies in [0, 1], got {accuracy} in {name!r}. Percentages would make gains a"
                        " hundred times too large, and nan hides a student. Divide percentages by 100, and count a"
                        " diverged student as 1 / C."
                    )


def _seeds_wanted(
    look: int, active_attacks: Sequence[str], baselines: Mapping[str, Baselines], multiple: int
) -> dict[str, int]:
    """Return the numbers of seeds that the active attacks and their baselines need at a look."""
    # Stopped attacks count as users: a baseline's share of the seeds must not change between looks.
    num_users = Counter(name for attack_baselines in baselines.values() for name in attack_baselines.every)
    seeds = dict.fromkeys(active_attacks, look)
    for attack in active_attacks:
        for name in baselines[attack].every:
            # More seeds where many attacks are compared with the same baseline, whose error all of them share.
            seeds[name] = look * (multiple if num_users[name] > 1 else 1)
    return seeds


def verdict_of(comparisons: Iterable[Comparison], margin: float) -> Verdict:
    """Return the verdict from the latest bounds of all attacks."""
    leaks, reaches_margin = False, False
    for comparison in comparisons:
        if comparison.lower > 0 and comparison.upper >= margin:
            return "distillable"
        leaks |= comparison.lower > 0
        reaches_margin |= comparison.upper >= margin
    if reaches_margin:
        return "inconclusive"
    return "leaks less than the margin" if leaks else "undistillable within the margin"


def _comparisons(
    active_attacks: Sequence[str], baselines: Mapping[str, Baselines], means: Mapping[str, ArmMean], error: float
) -> dict[str, Comparison]:
    """Compare the active attacks with their baselines; `error` is the look's share of the error rate.

    Attacks with the same baselines form a family, whose best baseline is the same arm for all of them. A baseline's
    max-t quantile must therefore hold only for the case that this baseline is the best. Families share the error as
    if they were independent. Stopped attacks still count, because it depends on the data which attacks stop.
    """
    families: dict[frozenset[str], list[str]] = {}
    for attack, attack_baselines in baselines.items():
        families.setdefault(frozenset(attack_baselines.every), []).append(attack)
    comparisons = {}
    for names, attacks in families.items():
        # The family's share: the product of (1 - family_error) over all families is 1 - error.
        family_error = 1 - (1 - error) ** (len(attacks) / len(baselines))
        largest_variance = max(means[attack].squared_error for attack in attacks)
        tails = {}
        for name in sorted(names):
            # Smallest correlation of two gains over this baseline.
            correlation = means[name].squared_error / (means[name].squared_error + largest_variance)
            tails[name] = max_t_tail(len(attacks), correlation, family_error)
        for attack in set(attacks).intersection(active_attacks):
            # The upper bound and the gain are over the one baseline that validation data chose before.
            chosen = baselines[attack].chosen
            gain = difference(means[attack], means[chosen])
            lowers = [difference(means[attack], means[name]).bound(tail) for name, tail in tails.items()]
            comparisons[attack] = Comparison(
                attack=attack,
                baseline=chosen,
                seeds=means[attack].seeds,
                baseline_seeds=means[chosen].seeds,
                gain=gain.estimate,
                standard_error=gain.standard_error,
                lower=max(-1.0, min(lowers)),
                upper=min(1.0, gain.bound(1 - error)),
            )
    return comparisons
