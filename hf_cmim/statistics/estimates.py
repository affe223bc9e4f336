"""Means over seeds with their standard errors, and differences of means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from hf_cmim.errors import HfCmimError

OWN_VARIANCE_SEEDS = 10
"""Fewest seeds with which an arm's variance is not moderated by the variances of all arms."""
PRIOR_SHARE = 0.5
"""Largest number of degrees of freedom borrowed from the other arms, divided by the arm's own; ours."""


@dataclass(frozen=True)
class ArmMean:
    """The mean accuracy of an arm's students.

    Attributes:
        seeds: number of students.
        mean: mean accuracy, a fraction.
        squared_error: variance of the mean.
        freedom: degrees of freedom of that variance.
    """

    seeds: int
    mean: float
    squared_error: float
    freedom: float

    def prediction(self, tail: float) -> tuple[float, float]:
        """Return the interval for one further student's accuracy; each side is exceeded with probability `tail`."""
        # s^2 / n is `squared_error`; a further student adds s^2, which gives s^2 (1 + 1 / n).
        deviation = math.sqrt(self.squared_error * (self.seeds + 1))
        half_width = -float(special.stdtrit(self.freedom, tail)) * deviation
        return self.mean - half_width, self.mean + half_width


@dataclass(frozen=True)
class Difference:
    """The difference of two means, with its standard error and degrees of freedom."""

    estimate: float
    standard_error: float
    freedom: float

    def bound(self, tail: float) -> float:
        """Return the lower bound at error probability `tail`; `1 - tail` gives the upper bound."""
        return self.estimate + float(special.stdtrit(self.freedom, tail)) * self.standard_error


def difference(first: ArmMean, second: ArmMean) -> Difference:
    """Return the first mean minus the second.

    Source: Welch, Biometrika 34, 1947, with Satterthwaite's degrees of freedom.
    """
    squared = first.squared_error + second.squared_error
    freedom = squared**2 / (first.squared_error**2 / first.freedom + second.squared_error**2 / second.freedom)
    return Difference(first.mean - second.mean, math.sqrt(squared), freedom)


def arm_means(samples: Mapping[str, Sequence[float]]) -> dict[str, ArmMean]:
    """Return the mean of each arm; the variances of all arms moderate that of an arm with fewer than 10 seeds.

    A moderated variance is max(s^2, (d0 s0^2 + d s^2) / (d0 + d)) with d0 + d degrees of freedom (`variance_prior`),
    where d0 is at most d / 2. Both limits, this one and the one that s^2 is never lowered, are ours. Without them, an
    attack at the margin with three times the spread of all others was called below the margin in 12 % instead of 5 %
    of simulated audits with 6 attacks: the others made it look precise.

    A spread of less than one test sample is raised to one. Otherwise a few students that happen to agree exactly would
    make a verdict certain. One sample is the smallest distance between two accuracies of any arms, or 1 if all are
    equal, since the data then say nothing about the spread.

    Args:
        samples: accuracies of each arm's students, at least two.
    """
    accuracies = {name: np.asarray(values, dtype=np.float64) for name, values in samples.items()}
    # Equal accuracies that went through single precision differ by rounding.
    levels = np.unique(np.concatenate(list(accuracies.values())).round(6))
    one_sample = float(np.diff(levels).min()) if len(levels) > 1 else 1.0
    seeds = np.array([len(values) for values in accuracies.values()])
    raw_variances = np.array([values.var(ddof=1) for values in accuracies.values()])
    variances = raw_variances.clip(min=one_sample**2)
    freedoms = seeds - 1.0
    prior_freedom, prior_variance = variance_prior(variances, freedoms)
    # An infinite prior freedom (variances alike) is cut to half of the arm's own.
    borrowed = np.where(seeds < OWN_VARIANCE_SEEDS, np.minimum(prior_freedom, PRIOR_SHARE * freedoms), 0.0)
    weighted = (borrowed * prior_variance + freedoms * variances) / (borrowed + freedoms)
    moderated = np.maximum(variances, weighted)
    means = {}
    for (name, values), variance, freedom in zip(accuracies.items(), moderated, borrowed + freedoms, strict=True):
        squared_error = float(variance / len(values))
        means[name] = ArmMean(len(values), float(values.mean()), squared_error, float(freedom))
    return means


def variance_prior(variances: NDArray[np.float64], freedoms: NDArray[np.float64]) -> tuple[float, float]:
    """Estimate the common prior of the arms' variances: d0 and s0^2 of s^2 ~ s0^2 F(d, d0), by moments of log s^2.

    With e = log s^2 - digamma(d / 2) + log(d / 2), the moments give trigamma(d0 / 2) = var e - mean trigamma(d / 2)
    and log s0^2 = mean e + digamma(d0 / 2) - log(d0 / 2).

    Args:
        variances: `(A,)` variances s^2 of the arms, above 0.
        freedoms: `(A,)` degrees of freedom d of the variances, above 0.

    Returns:
        Degrees of freedom d0 and variance s0^2 of the prior. If the variances differ no more than by chance, d0 is
        infinite and s0^2 the pooled variance. For a single arm, d0 is 0.

    Source: Smyth, Statistical Applications in Genetics and Molecular Biology 3(1), article 3, 2004, section 6.2; the
    pooled variance is ours.
    """
    pooled = float(np.average(variances, weights=freedoms))
    if len(variances) < 2:
        return 0.0, pooled
    centres = np.log(variances) - special.digamma(freedoms / 2) + np.log(freedoms / 2)
    # The scatter of log s^2 beyond the sampling error of each variance.
    excess = float(centres.var(ddof=1) - special.polygamma(1, freedoms / 2).mean())
    if excess <= 0:
        return math.inf, pooled
    half_freedom = inverse_trigamma(excess)
    log_variance = float(centres.mean()) + float(special.digamma(half_freedom)) - math.log(half_freedom)
    return 2 * half_freedom, math.exp(log_variance)


def inverse_trigamma(value: float) -> float:
    """Solve trigamma(y) = value > 0 for y > 0, by Newton's method on 1 / trigamma from y = 1/2 + 1 / value.

    Source: Smyth 2004 (see `variance_prior`), appendix.
    """
    root = 0.5 + 1 / value
    # 1 / trigamma is convex and almost linear: a few of these steps suffice.
    for _ in range(50):
        trigamma = float(special.polygamma(1, root))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, root))
        root += step
        if abs(step) <= 1e-12 * root:
            break
    return root


def paired_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean difference and its two-sided 95 % t interval, paired on the seeds that both arms have.

    The interval is for tables, not for verdicts: it is not corrected for looks or other intervals, and without spread
    it is a point.

    Args:
        first: accuracies in the order of their seeds; seeds that the other arm lacks are ignored.
        second: accuracies of the other arm, likewise.

    Returns:
        Estimate, lower end, upper end.

    Raises:
        HfCmimError: the arms share fewer than two seeds.

    >>> [round(value, 6) for value in paired_interval([0.8, 0.9, 0.8], [0.7, 0.8, 0.7, 0.1])]
    [0.1, 0.1, 0.1]
    """
    shared_seeds = min(len(first), len(second))
    if shared_seeds < 2:
        raise HfCmimError(
            f"Expected at least 2 seeds in both arms, got {len(first)} and {len(second)}. One difference has no"
            " spread and therefore no interval. Train more seeds."
        )
    first_values = np.asarray(first[:shared_seeds], dtype=np.float64)
    second_values = np.asarray(second[:shared_seeds], dtype=np.float64)
    differences = first_values - second_values
    estimate = float(differences.mean())
    quantile = special.stdtrit(shared_seeds - 1, 0.975)
    half_width = float(quantile * differences.std(ddof=1)) / math.sqrt(shared_seeds)
    return estimate, estimate - half_width, estimate + half_width
