"""The audit's statistics against scipy, published tables, planted truths and exact limits."""

import dataclasses
import math
import re

import numpy as np
import pytest
from scipy import optimize, special, stats

from hf_cmim.statistics import (
    Baselines,
    Comparison,
    Decision,
    Design,
    decide,
    paired_interval,
    reachable_margin,
    replay,
)
from hf_cmim.statistics.estimates import arm_means, inverse_trigamma, variance_prior
from hf_cmim.statistics.multiplicity import max_t_tail

BELOW = {"leaks less than the margin", "undistillable within the margin"}
LEAKS = {"leaks less than the margin", "distillable"}


def students(mean: float, spread: float, seeds: int) -> list[float]:
    """Accuracies with this exact mean and about this spread, in an order without a trend."""
    scores = stats.norm.ppf((np.arange(seeds) + 0.5) / seeds)
    return (mean + spread * np.random.default_rng(seeds).permutation(scores)).tolist()


def against(*names: str) -> Baselines:
    return Baselines(names[0], names)


def only(decision: Decision) -> Comparison:
    (comparison,) = decision.comparisons
    return comparison


# Against scipy, tables and limits


@pytest.mark.parametrize(("attack_spread", "baseline_spread"), [(0.004, 0.004), (0.001, 0.01)])
def test_one_look_equals_welch(attack_spread, baseline_spread):
    """Catches a pooled variance, swapped arms, a two-sided level, wrong degrees of freedom, a wrong correlation."""
    generator = np.random.default_rng(0)
    attack, baseline = generator.normal(0.8, attack_spread, 12), generator.normal(0.79, baseline_spread, 36)
    design = Design(looks=(12,), reference_multiple=3)
    baselines = {"attack": against("baseline"), "other": against("baseline")}
    other = generator.normal(0.7, 0.003, 12)
    decision = replay({"attack": attack, "baseline": baseline, "other": other}, baselines, design)
    comparison = next(each for each in decision.comparisons if each.attack == "attack")
    (error,) = design.errors()
    welch = stats.ttest_ind(attack, baseline, equal_var=False, alternative="less")
    assert comparison.gain == pytest.approx(attack.mean() - baseline.mean())
    assert comparison.standard_error == pytest.approx(comparison.gain / welch.statistic)
    assert comparison.upper == pytest.approx(welch.confidence_interval(1 - error).high)
    assert (comparison.seeds, comparison.baseline_seeds) == (12, 36)
    widest = max(attack.var(ddof=1), other.var(ddof=1)) / 12
    correlation = baseline.var(ddof=1) / 36 / (baseline.var(ddof=1) / 36 + widest)
    both = stats.multivariate_normal(cov=[[1, correlation], [correlation, 1]])
    quantile = optimize.brentq(lambda value: both.cdf([value, value]) - (1 - error), 1, 4)
    lower = comparison.gain - stats.t.isf(stats.norm.sf(quantile), welch.df) * comparison.standard_error
    assert comparison.lower == pytest.approx(lower, abs=5e-6)  # the correlation is rounded down


def test_attacks_with_own_baselines_are_independent_families():
    """Catches a Dunnett correlation where no baseline is shared, and a correction left out."""
    generator = np.random.default_rng(1)
    accuracies = {name: generator.normal(0.8, 0.004, 12) for name in ("a", "b", "c", "a null", "b null", "c null")}
    design = Design(looks=(12,))
    decision = replay(accuracies, {name: against(f"{name} null") for name in "abc"}, design)
    level = (1 - design.errors()[0]) ** (1 / 3)
    assert {each.baseline_seeds for each in decision.comparisons} == {12}
    for each in decision.comparisons:
        welch = stats.ttest_ind(
            accuracies[each.attack], accuracies[each.baseline], equal_var=False, alternative="greater"
        )
        assert each.lower == pytest.approx(welch.confidence_interval(level).low)


def test_lower_bound_is_against_every_baseline_and_upper_against_the_chosen():
    """Catches a gain over the chosen baseline alone, and an upper bound that takes the best of several."""
    generator = np.random.default_rng(2)
    accuracies = {"attack": generator.normal(0.81, 0.004, 12)}
    accuracies |= {name: generator.normal(mean, 0.004, 12) for name, mean in [("weak", 0.79), ("strong", 0.8)]}
    design = Design(looks=(12,))
    both = only(replay(accuracies, {"attack": against("weak", "strong")}, design))
    weak = only(replay(accuracies, {"attack": against("weak")}, design))
    strong = only(replay(accuracies, {"attack": against("strong")}, design))
    assert strong.lower < weak.lower
    assert strong.upper < weak.upper
    assert (both.lower, both.upper, both.gain) == (strong.lower, weak.upper, weak.gain)


DUNNETT = {0.05: [1.64, 1.92, 2.06, 2.16, 2.23, 2.29, 2.34, 2.38, 2.42], 0.01: [2.33, 2.56, 2.68, 2.77, 2.84, 2.89]}


@pytest.mark.parametrize("error", DUNNETT)
def test_max_t_equals_dunnetts_table(error):
    """Catches a wrong integral: the one-sided table of 1955 for arms of equal size and known variance."""
    quantiles = [stats.norm.isf(max_t_tail(size, 0.5, error)) for size in range(1, len(DUNNETT[error]) + 1)]
    assert np.allclose(quantiles, DUNNETT[error], atol=0.0051)


@pytest.mark.parametrize(("size", "correlation"), [(2, 0.25), (6, 0.25), (6, 0.8)])
def test_max_t_equals_multivariate_normal(size, correlation):
    """Catches rho where its root belongs, and a quadrature that is too coarse."""
    covariance = np.full((size, size), correlation) + (1 - correlation) * np.eye(size)
    quantile = stats.norm.isf(max_t_tail(size, correlation, 0.05))
    cdf = stats.multivariate_normal.cdf(np.full(size, quantile), cov=covariance, abseps=1e-6, releps=1e-6)
    assert cdf == pytest.approx(0.95, abs=2e-5)


def test_max_t_is_conservative_where_a_spread_is_shared():
    """Catches a normal quantile where a t quantile belongs; multivariate t has one spread for all comparisons."""
    shape = np.full((4, 4), 0.25) + 0.75 * np.eye(4)
    quantile = stats.t.isf(max_t_tail(4, 0.25, 0.05), 8)
    coverage = stats.multivariate_t(shape=shape, df=8, seed=0).cdf(np.full(4, quantile), random_state=0)
    assert 0.95 < coverage < 0.965


def test_max_t_limits():
    """Catches a tail that does not reach Sidak's without correlation, or that lets correlation cost."""
    assert max_t_tail(30, 0.0, 0.01) == pytest.approx(1 - 0.99 ** (1 / 30), rel=1e-9)
    tails = [max_t_tail(30, correlation, 0.01) for correlation in (0, 0.25, 0.5, 0.9, 0.999, 1)]
    assert tails == sorted(tails)
    assert max_t_tail(1, 0.7, 0.01) == 0.01


def test_inverse_trigamma():
    """Catches a Newton step in the wrong direction, and a loop that ends too early."""
    for value in np.logspace(-6, 6, 49):
        assert special.polygamma(1, inverse_trigamma(value)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("prior_freedom", [3.0, 12.0])
def test_variance_prior_finds_what_was_planted(prior_freedom):
    """Catches wrong moments: variances drawn from the model, with unequal degrees of freedom."""
    generator = np.random.default_rng(3)
    freedoms = np.tile([2.0, 4.0, 8.0], 20_000)
    truths = 0.5 * prior_freedom / generator.chisquare(prior_freedom, len(freedoms))
    found = variance_prior(truths * generator.chisquare(freedoms) / freedoms, freedoms)
    assert found == pytest.approx((prior_freedom, 0.5), rel=0.1)


def test_variance_prior_of_degenerate_variances():
    """Catches a logarithm or a root of nothing where all variances are equal, or there is one."""
    assert variance_prior(np.full(4, 2.0), np.array([2.0, 2.0, 8.0, 8.0])) == (math.inf, 2.0)
    assert variance_prior(np.array([2.0]), np.array([3.0]))[0] == 0


@pytest.mark.parametrize(
    ("scales", "cap_binds"), [([1, 2, 4, 8, 16, 1, 30], False), ([1, 2, 3, 1, 2, 5, 3], True)], ids=["apart", "alike"]
)
def test_few_seeds_are_moderated_as_the_equations_say(scales, cap_binds):
    """Catches a prior that outweighs an arm's own seeds, that lowers a variance, or that reaches ten seeds."""
    generator = np.random.default_rng(4)
    few = [f"arm {index}" for index in range(6)]
    samples = {name: generator.normal(0.8, 0.001 * scale, 4) for name, scale in zip(few, scales[:6], strict=True)}
    samples["many"] = generator.normal(0.8, 0.001 * scales[6], 10)
    means = arm_means(samples)
    variances = {name: np.var(values, ddof=1) for name, values in samples.items()}
    freedoms = {name: len(values) - 1 for name, values in samples.items()}
    logs = [
        math.log(v) - special.digamma(d / 2) + math.log(d / 2)
        for v, d in zip(variances.values(), freedoms.values(), strict=True)
    ]
    excess = np.var(logs, ddof=1) - np.mean([special.polygamma(1, d / 2) for d in freedoms.values()])
    half = optimize.brentq(lambda root: special.polygamma(1, root) - excess, 1e-3, 1e3)
    prior = math.exp(np.mean(logs) + special.digamma(half) - math.log(half))
    assert (2 * half > 1.5) == cap_binds
    lent = min(2 * half, 1.5)
    raised = 0
    for name in few:
        expected = max(variances[name], (lent * prior + 3 * variances[name]) / (lent + 3))
        raised += expected > variances[name]
        assert means[name].squared_error == pytest.approx(expected / 4)
        assert means[name].freedom == pytest.approx(3 + lent)
    assert 0 < raised < len(few)
    assert (means["many"].squared_error, means["many"].freedom) == (pytest.approx(variances["many"] / 10), 9)


def test_students_that_agree_exactly_are_taken_for_one_sample_apart():
    """Catches a variance of 0, which makes a verdict certain, and single-precision dust taken for samples."""
    samples = {
        "same": [0.75] * 12,
        "dusty": [0.75, float(np.float32(0.7)), 0.7, *[0.7] * 9],
        "spread": [0.75, 0.8] * 6,
    }
    means = arm_means(samples)
    assert means["same"].squared_error == pytest.approx(0.05**2 / 12)
    assert means["spread"].squared_error == pytest.approx(0.05**2 / 12)


@pytest.mark.parametrize(("baseline_accuracy", "seeds"), [(0.7, 40), (0.7, 3), (0.9, 3)])
def test_no_spread_anywhere_decides_nothing(baseline_accuracy, seeds):
    """Catches a division by zero, bounds that are no numbers, and a verdict from students that never differ."""
    accuracies = {"attack": [0.7] * seeds, "baseline": [baseline_accuracy] * seeds}
    decision = replay(accuracies, {"attack": against("baseline")}, Design())
    assert decision.verdict == "inconclusive"
    assert decision.look == seeds
    assert -1 <= only(decision).lower < 0.005 <= only(decision).upper <= 1


def test_paired_interval_equals_scipy():
    """Catches an unpaired interval, a normal quantile, and seeds that only one arm has."""
    generator = np.random.default_rng(5)
    second = generator.normal(0.8, 0.01, 9)
    first = second[:6] + generator.normal(0.01, 0.002, 6)
    expected = stats.ttest_rel(first, second[:6]).confidence_interval(0.95)
    estimate, lower, upper = paired_interval(first.tolist(), second.tolist())
    assert estimate == pytest.approx((first - second[:6]).mean())
    assert (lower, upper) == (pytest.approx(expected.low), pytest.approx(expected.high))


# Looks


def test_error_rate_is_spent_without_knowing_later_looks():
    """Catches a spending function of n / cap, which changes old decisions, and one that adds up to too much."""
    short, long = Design(looks=(3, 5, 8)).errors(), Design(looks=(3, 5, 8, 12, 250)).errors()
    assert short == long[:3]
    assert sum(Design(looks=tuple(range(2, 2000))).errors()) <= 0.05
    assert sum(Design().errors()) == pytest.approx(0.05 * 15 / 16)
    assert min(long) > 0


def test_before_the_first_look():
    """Catches a decision from too few seeds, and a shared baseline that is not given its multiple."""
    baselines = {"a": against("shared", "own"), "b": against("shared")}
    wanted = {"a": 3, "b": 3, "shared": 9, "own": 3}
    for accuracies in ({}, {"a": [0.8] * 3, "b": [0.8] * 3, "shared": [0.8] * 8, "own": [0.8] * 3}):
        decision = replay(accuracies, baselines, Design())
        assert decision == Decision("inconclusive", (), 1.0, 0, wanted)


def planted(seeds: int = 40, **gains: float) -> tuple[dict[str, list[float]], dict[str, Baselines]]:
    accuracies = {name: students(0.8 + gain, 0.002, seeds) for name, gain in gains.items()}
    baselines = {name: against("baseline") for name in gains}
    return accuracies | {"baseline": students(0.8, 0.002, 3 * seeds)}, baselines


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ({"a": 0.01, "b": -0.005}, "distillable"),
        ({"a": 0.0025, "b": -0.005}, "leaks less than the margin"),
        ({"a": -0.005, "b": -0.005}, "undistillable within the margin"),
        ({"a": 0.0003, "b": -0.005}, "undistillable within the margin"),
        ({"a": 0.0025, "b": 0.005}, "distillable"),
    ],
)
def test_verdicts(gains, verdict):
    """Catches a verdict that confuses the bounds, with gains of many standard errors and all data at one look."""
    accuracies, baselines = planted(**gains)
    decision = replay(accuracies, baselines, Design(looks=(40,)))
    assert decision.verdict == verdict
    assert decision.seeds_wanted == {}
    assert [each.attack for each in decision.comparisons] == sorted(gains, key=gains.get, reverse=True)
    assert decision.smallest_margin == pytest.approx(max(0, *(each.upper for each in decision.comparisons)))


def test_small_leak_does_not_hide_an_undecided_attack():
    """Catches "leaks less than the margin", or an end, while another attack's upper bound is above the margin."""
    accuracies, baselines = planted(small=0.0025, wild=0.0)
    accuracies["wild"] = students(0.8, 0.05, 40)
    decision = replay(accuracies, baselines, Design())
    small = next(each for each in decision.comparisons if each.attack == "small")
    assert 0 < small.lower < small.upper < 0.005
    assert (decision.verdict, decision.look) == ("inconclusive", 40)


def test_margin_of_zero_gain_is_never_negative():
    """Catches a smallest margin below 0, which would promise that attacks make students worse."""
    accuracies, baselines = planted(a=-0.1)
    assert replay(accuracies, baselines, Design()).smallest_margin == 0


def test_attack_below_the_margin_stops_and_keeps_its_look():
    """Catches an attack that goes on, is compared again, or keeps a baseline of its own busy."""
    accuracies, baselines = planted(low=-0.02, open=0.004)
    accuracies |= {"null": students(0.79, 0.002, 120), "open": students(0.804, 0.012, 40)}
    baselines["low"] = against("baseline", "null")
    few = {name: values[:9] if name in {"baseline", "null"} else values[:3] for name, values in accuracies.items()}
    first = replay(few, baselines, Design())
    assert first.look == 3
    assert first.seeds_wanted == {"open": 5, "baseline": 15}
    few |= {"open": accuracies["open"][:5], "baseline": accuracies["baseline"][:15]}
    second = replay(few, baselines, Design())
    assert second.look == 5
    assert [each.seeds for each in second.comparisons] == [5, 3]
    assert second.comparisons[1] == first.comparisons[1]


def random_audit(seed: int) -> tuple[dict[str, list[float]], dict[str, Baselines]]:
    generator = np.random.default_rng(seed)
    names = [f"attack {index}" for index in range(5)]
    accuracies = {
        name: generator.normal(0.8 + generator.choice([0, 0.003, -0.004]), 0.006, 60).tolist() for name in names
    }
    accuracies |= {name: generator.normal(0.8, 0.006, 180).tolist() for name in ("plain", "smooth")}
    return accuracies, dict.fromkeys(names, against("plain", "smooth"))


def seeds_used(decision: Decision, baselines: dict[str, Baselines]) -> dict[str, int]:
    used = {each.attack: each.seeds for each in decision.comparisons}
    most = max(each.baseline_seeds for each in decision.comparisons)
    return used | {name: most for each in baselines.values() for name in each.every}


@pytest.mark.parametrize("seed", range(4))
def test_decision_depends_on_the_seeds_it_used_alone(seed):
    """Catches a look at everything that happens to be there: more seeds, other arms or another order."""
    accuracies, baselines = random_audit(seed)
    decision = replay(accuracies, baselines, Design())
    used = seeds_used(decision, baselines)
    cut = {name: values[: used[name]] for name, values in accuracies.items()}
    assert replay(cut, baselines, Design()) == decision
    others = {"another arm": [0.1, 0.9]} | {name: [*cut[name], 0.0, 1.0, 0.123456] for name in reversed(cut)}
    assert replay(others, baselines, Design()) == decision


@pytest.mark.parametrize("seed", range(4))
def test_audit_that_asks_for_its_seeds_ends_where_replay_does(seed):
    """Catches seeds that are never asked for, or asked for when finished: what a runner would train for nothing."""
    accuracies, baselines = random_audit(seed)
    done: dict[str, list[float]] = {}
    looks = [0]
    while (decision := replay(done, baselines, Design())).seeds_wanted:
        looks.append(decision.look)
        assert any(len(done.get(name, ())) < seeds for name, seeds in decision.seeds_wanted.items())
        done |= {name: accuracies[name][:seeds] for name, seeds in decision.seeds_wanted.items()}
    assert looks == sorted(looks)
    assert decision == replay(accuracies, baselines, Design())
    assert {name: len(values) for name, values in done.items()} == seeds_used(decision, baselines)


def test_more_looks_continue_an_audit():
    """Catches an earlier decision that changes when looks are added."""
    accuracies, baselines = random_audit(0)
    names = list(baselines)
    accuracies |= {name: students(0.805, 0.02, 60) for name in names}
    short = replay(accuracies, baselines, Design(looks=(3, 5, 8)))
    assert (short.verdict, short.look) == ("inconclusive", 8)
    longer = Design(looks=(3, 5, 8, 60))
    cut = {name: values[:24] if name not in baselines else values[:8] for name, values in accuracies.items()}
    continued = replay(cut, baselines, longer)
    assert continued.seeds_wanted == dict.fromkeys(names, 60) | {"plain": 180, "smooth": 180}
    assert dataclasses.replace(continued, seeds_wanted={}) == short
    assert replay(accuracies, baselines, longer).look == 60


# Planted truths: whole audits on random accuracies


def audits(
    gains: list[float],
    spreads: list[float] | float,
    count: int,
    noise: str = "normal",
    unequal: bool = False,
    margin: float = 0.005,
) -> list[Decision]:
    generator = np.random.default_rng(0)
    design = Design(margin=margin)
    decisions = []
    for _ in range(count):
        scales = np.broadcast_to(spreads, len(gains) + 1) * np.exp(
            0.5 * generator.standard_normal(len(gains) + 1) * unequal
        )
        draws = [generator.standard_normal, lambda size: generator.standard_t(3, size) / math.sqrt(3)][noise == "t3"]
        accuracies = {
            f"attack {index}": (0.7 + gain + scales[index] * draws(40)).clip(0, 1).tolist()
            for index, gain in enumerate(gains)
        }
        baselines = dict.fromkeys(accuracies, against("baseline"))
        accuracies["baseline"] = (0.7 + scales[-1] * draws(120)).clip(0, 1).tolist()
        decisions.append(replay(accuracies, baselines, design))
    return decisions


NOISES = {
    "equal": {"spreads": 0.0045},
    "unequal": {"spreads": 0.003, "unequal": True},
    "first is wide": {"spreads": [0.006, *[0.002] * 6]},
    "baseline is wide": {"spreads": [*[0.002] * 6, 0.006]},
    "heavy tails": {"spreads": 0.003, "noise": "t3", "unequal": True},
}


def assert_at_most_five_percent(wrong: int, count: int) -> None:
    assert stats.binomtest(wrong, count, 0.05, alternative="greater").pvalue > 0.001, f"{wrong} of {count}"


@pytest.mark.parametrize("case", NOISES)
def test_attack_at_the_margin_is_rarely_called_below_it(case):
    """Catches looks without spending, and few seeds whose spread is borrowed from calmer arms."""
    decisions = audits([0.005, *[-0.005] * 5], count=250, **NOISES[case])
    assert_at_most_five_percent(sum(each.verdict in BELOW for each in decisions), 250)


@pytest.mark.parametrize("case", NOISES)
def test_no_gain_is_rarely_called_a_leak(case):
    """Catches lower bounds that are not corrected for the number of attacks or of looks."""
    decisions = audits([0.0] * 6, count=250, **NOISES[case])
    assert_at_most_five_percent(sum(each.verdict in LEAKS for each in decisions), 250)


@pytest.mark.parametrize("num_attacks", [6, 30])
@pytest.mark.parametrize("spread", [0.002, 0.003, 0.0045])
def test_power(num_attacks, spread):
    """Catches statistics so careful that they never decide."""
    leaking = audits([0.01, *[-0.005] * (num_attacks - 1)], spread, count=20)
    assert sum(each.verdict == "distillable" for each in leaking) >= 16
    tight = audits([-0.005] * num_attacks, spread, count=20)
    assert sum(each.verdict == "undistillable within the margin" for each in tight) >= 16


def test_narrow_margin_costs_few_runs():
    """Catches attacks that do not stop: five of thirty at 0, the rest far below, a margin of one spread."""
    decisions = audits([*[0.0] * 5, *[-0.005] * 25], 0.002, count=60, margin=0.002)
    assert sum(each.verdict == "undistillable within the margin" for each in decisions) >= 56
    runs = [
        sum(each.seeds for each in d.comparisons) + max(each.baseline_seeds for each in d.comparisons)
        for d in decisions
    ]
    assert np.mean(runs) < 310


@pytest.mark.parametrize(("correlation", "ratio"), [(0.0, 1.0), (0.5, 2.0)])
def test_arms_that_rise_and_fall_together_are_more_precise_than_claimed(correlation, ratio):
    """Catches a standard error that claims the pairing; var(estimated) / var(true) is 1 / (1 - correlation)."""
    generator = np.random.default_rng(6)
    shared = math.sqrt(correlation) * generator.standard_normal((1000, 1, 12))
    own = math.sqrt(1 - correlation) * generator.standard_normal((1000, 2, 12))
    pairs = 0.7 + 0.003 * (shared + own)
    design = Design(looks=(12,))
    results = [
        only(replay({"attack": attack, "baseline": baseline}, {"attack": against("baseline")}, design))
        for attack, baseline in pairs.tolist()
    ]
    claimed = np.mean([each.standard_error**2 for each in results])
    assert claimed / np.var([each.gain for each in results]) == pytest.approx(ratio, rel=0.15)


@pytest.mark.parametrize(("num_attacks", "multiple"), [(1, 3), (6, 3), (30, 1)])
def test_reachable_margin_is_decided_with_power_80(num_attacks, multiple):
    """Catches a margin for one attack given out for all, and a baseline taken for exact."""
    design = Design(looks=(3, 10), reference_multiple=multiple)
    reference = 10 * (multiple if num_attacks > 1 else 1)
    generator = np.random.default_rng(7)
    gains = generator.normal(0, 0.003 / math.sqrt(10), (40_000, num_attacks))
    gains = gains - generator.normal(0, 0.003 / math.sqrt(reference), (40_000, 1))
    error = stats.norm.isf(design.errors()[-1]) * 0.003 * math.sqrt(1 / 10 + 1 / reference)
    margin = reachable_margin(design, 0.003, num_attacks, leak=0.001)
    assert (0.001 + gains + error < margin).all(axis=1).mean() == pytest.approx(0.8, abs=0.01)


def test_reachable_margin_is_not_negative():
    """Catches a margin below 0 where the leak is far below it."""
    assert reachable_margin(Design(), 0.002, 30) == 0


# Messages


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"margin": 0.0}, "margin in (0, 1), a fraction of the test samples, got 0.0"),
        ({"margin": 1.0}, "Half a point is 0.005"),
        ({"margin": math.nan}, "got nan"),
        ({"looks": ()}, "increase from 2 seeds or more, got ()"),
        ({"looks": (1, 3)}, "One seed has no spread"),
        ({"looks": (3, 3)}, "Sort the looks"),
        ({"error_rate": 0.5}, "error_rate in (0, 0.5), got 0.5"),
        ({"reference_multiple": 0}, "reference_multiple of at least 1, got 0"),
    ],
)
def test_design_says_what_is_wrong(values, words):
    """Catches a range that is not checked."""
    with pytest.raises(ValueError, match=re.escape(words)):
        Design(**values)


@pytest.mark.parametrize(
    ("accuracies", "baselines", "words"),
    [
        ({}, {}, "at least one attack"),
        ({}, {"a": Baselines("b", ("c",))}, "including 'b'"),
        ({}, {"a": Baselines("b", ("b", "b"))}, "each once"),
        ({}, {"a": Baselines("b", ("b", "a"))}, "no attacks"),
        ({"a": [0.5, 81.0]}, {"a": Baselines("b", ("b",))}, "got 81.0 in 'a'. Percent"),
        ({"b": [math.nan]}, {"a": Baselines("b", ("b",))}, "got nan in 'b'"),
    ],
)
def test_replay_says_what_is_wrong(accuracies, baselines, words):
    """Catches data that would be compared all the same."""
    with pytest.raises(ValueError, match=re.escape(words)):
        replay(accuracies, baselines, Design())


def test_paired_interval_needs_two_seeds():
    """Catches an interval of nan from one difference."""
    with pytest.raises(ValueError, match="at least 2 seeds in both arms, got 1 and 5"):
        paired_interval([0.5], [0.5] * 5)


@pytest.mark.parametrize("tail", [0.025, 0.4])
def test_prediction_is_that_of_one_further_observation(tail):
    """Catches an interval of the mean in the place of one of the next student, and the wrong tail."""
    sample = np.random.default_rng(3).normal(0.9, 0.004, 12)
    lower, upper = arm_means({"arm": sample.tolist()})["arm"].prediction(tail)
    scale = sample.std(ddof=1) * np.sqrt(1 + 1 / len(sample))
    expected = stats.t.interval(1 - 2 * tail, len(sample) - 1, loc=sample.mean(), scale=scale)
    assert (lower, upper) == pytest.approx(expected, rel=1e-12)


def test_what_holds_for_some_attacks_is_not_said_of_all():
    """Catches a verdict about attacks that were compared with nothing."""
    accuracies = {"quiet": [0.90, 0.901, 0.899], "reference": [0.95, 0.951, 0.949]}
    baselines, design = {"quiet": Baselines("reference", ("reference",))}, Design(looks=(3,))
    assert decide(accuracies, baselines, 1, design).verdict == "undistillable within the margin"
    assert decide(accuracies, baselines, 2, design).verdict == "inconclusive"
    assert decide(accuracies, {}, 2, design).verdict == "inconclusive"
    loud = accuracies | {"quiet": [0.99, 0.991, 0.989]}
    assert decide(loud, baselines, 2, design).verdict == "distillable"
    for each in (accuracies, loud):
        assert decide(each, baselines, 2, design).smallest_margin == 1
