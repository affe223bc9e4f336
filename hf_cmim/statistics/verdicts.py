"""From accuracies to a verdict, one look after the other."""

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
    """What one attack is compared with.

    Args:
        chosen: the strongest, named before the confirming runs (on validation data); upper bounds are against it.
        every: all teacher-free arms that the criterion names, `chosen` among them; an attack leaks if it beats each.
    """

    chosen: str
    every: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """One attack against its baselines, at the last look that it took part in.

    Attributes:
        gain: mean accuracy of the attack minus that of `baseline`, the chosen one.
        standard_error: of the gain.
        lower: lower bound on the gain over the best of its baselines, for all attacks and looks together: the least of
            the bounds against each. To beat them all is an intersection, which needs no correction.
        upper: this attack's own upper bound, for all looks, against `baseline` alone. It bounds the gain over the best
            as well; the least of the bounds against each would be lower, but would need a correction.
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
    """What the data say at the last look that they allow.

    Attributes:
        comparisons: one for each attack, the largest gain first; empty before the first look.
        smallest_margin: the largest upper bound, at least 0; 1 before the first look.
        look: seeds of an attack at the last look taken; 0 before the first.
        seeds_wanted: seeds that each arm needs, in all, before the next look; empty when finished.
    """

    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    smallest_margin: float
    look: int
    seeds_wanted: dict[str, int]


def replay(accuracies: Mapping[str, Sequence[float]], baselines: Mapping[str, Baselines], design: Design) -> Decision:
    """Take one look after the other, as far as the data go, and return the last decision.

    A pure function of the seeds that the looks use: whatever else ran, in whatever order, the same seeds decide the
    same. An attack stops once its upper bound is below the margin. The audit ends with a proven leak that is not below
    the margin, when no attack is left, or after the last look. With each attack's bounds:

    - distillable: some lower bound is above 0, and its upper bound is not below the margin;
    - leaks less than the margin: every upper bound is below it, some lower bound above 0;
    - undistillable within the margin: every upper bound is below it, no lower bound above 0;
    - inconclusive: the rest.

    Args:
        accuracies: of each arm's students in the order of their seeds, fractions in [0, 1]; arms that are neither
            attack nor baseline are ignored.
        baselines: of each attack, by its name.
        design: when to look, and how sure to be.

    Raises:
        HfCmimError: no attack, baselines that do not fit, or an accuracy out of its range.
    """
    _check(accuracies, baselines)
    alive = list(baselines)
    used: dict[str, int] = {}
    latest: dict[str, Comparison] = {}
    verdict: Verdict = "inconclusive"
    last, wanted = 0, dict[str, int]()
    for look, error in zip(design.looks, design.errors(), strict=True):
        wanted = _seeds_wanted(look, alive, baselines, design.reference_multiple)
        if any(len(accuracies.get(name, ())) < seeds for name, seeds in wanted.items()):
            break
        used |= wanted
        means = arm_means({name: accuracies[name][:seeds] for name, seeds in used.items()})
        latest |= _comparisons(alive, baselines, means, error)
        verdict, last, wanted = verdict_of(latest.values(), design.margin), look, {}
        if verdict != "inconclusive":
            break
        alive = [attack for attack in alive if latest[attack].upper >= design.margin]
    return Decision(
        verdict=verdict,
        comparisons=tuple(sorted(latest.values(), key=lambda each: (-each.gain, each.attack))),
        smallest_margin=max((0.0, *(each.upper for each in latest.values()))) if latest else 1.0,
        look=last,
        seeds_wanted=wanted,
    )


def decide(
    accuracies: Mapping[str, Sequence[float]], baselines: Mapping[str, Baselines], num_attacks: int, design: Design
) -> Decision:
    """Return the last decision about a model that more attacks were tried on than have baselines.

    What holds for some attacks need not hold for all: such a decision is inconclusive, unless one of them leaks.

    Args:
        accuracies: as `replay` takes them.
        baselines: of the attacks that have any.
        num_attacks: all that were tried.
        design: as `replay` takes it.
    """
    if not baselines:
        return Decision("inconclusive", (), 1.0, 0, {})
    decision = replay(accuracies, baselines, design)
    if len(baselines) < num_attacks and decision.verdict != "distillable":
        return dataclasses.replace(decision, verdict="inconclusive")
    return decision


def _check(accuracies: Mapping[str, Sequence[float]], baselines: Mapping[str, Baselines]) -> None:
    """Raise an `HfCmimError` unless the baselines fit together and every accuracy is a fraction."""
    if not baselines:
        raise HfCmimError("Expected at least one attack, got none: a verdict about no attack says nothing. Add one.")
    for attack, each in baselines.items():
        if each.chosen not in each.every or len(set(each.every)) < len(each.every) or set(each.every) & set(baselines):
            raise HfCmimError(
                f"Expected baselines of {attack!r} that are no attacks, each once, {each.chosen!r} among them, got"
                f" {each.every}: the attack would be measured against another question. Name the teacher-free arms."
            )
        for name in (attack, *each.every):
            for accuracy in accuracies.get(name, ()):
                if not 0 <= accuracy <= 1:
                    raise HfCmimError(
                        f"Expected accuracies in [0, 1], got {accuracy} in {name!r}: percent would make every gain a"
                        " hundred times too large, and nan hides a student. A diverged student counts as 1 / C."
                    )


def _seeds_wanted(
    look: int, alive: Sequence[str], baselines: Mapping[str, Baselines], multiple: int
) -> dict[str, int]:
    """Return the seeds that the living attacks and their baselines need at a look."""
    users = Counter(name for each in baselines.values() for name in each.every)
    needed = [name for attack in alive for name in baselines[attack].every]
    return dict.fromkeys(alive, look) | {name: look * (multiple if users[name] > 1 else 1) for name in needed}


def verdict_of(comparisons: Iterable[Comparison], margin: float) -> Verdict:
    """Return the verdict that every attack's latest bounds give."""
    leaks, reaches_margin = False, False
    for each in comparisons:
        if each.lower > 0 and each.upper >= margin:
            return "distillable"
        leaks |= each.lower > 0
        reaches_margin |= each.upper >= margin
    if reaches_margin:
        return "inconclusive"
    return "leaks less than the margin" if leaks else "undistillable within the margin"


def _comparisons(
    alive: Sequence[str], baselines: Mapping[str, Baselines], means: Mapping[str, ArmMean], error: float
) -> dict[str, Comparison]:
    """Compare the living attacks with their baselines; `error` is the look's share of the error rate.

    Attacks with the same baselines form a family. The best baseline is then the same arm for all of them, so a
    baseline's max-t quantile need hold only for the case that this one is the best. Families share the error as if
    independent, and stopped attacks keep counting, for which ones stopped depends on the data.
    """
    families: dict[frozenset[str], list[str]] = {}
    for attack, each in baselines.items():
        families.setdefault(frozenset(each.every), []).append(attack)
    comparisons = {}
    for names, attacks in families.items():
        family_error = 1 - (1 - error) ** (len(attacks) / len(baselines))
        widest = max(means[attack].squared_error for attack in attacks)
        tails = {
            name: max_t_tail(len(attacks), mean.squared_error / (mean.squared_error + widest), family_error)
            for name, mean in means.items()
            if name in names
        }
        for attack in set(attacks).intersection(alive):
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
