"""The sequential design of an audit: margin, looks and error rate."""

import itertools
import math
from dataclasses import dataclass

from scipy import special

from hf_cmim.errors import HfCmimError
from hf_cmim.statistics.multiplicity import max_t_tail

HALVING_SEEDS = 10
"""Number of seeds that spend half of the remaining error rate; ours."""


@dataclass(frozen=True)
class Design:
    """The margin, the looks and the error rate of an audit.

    Args:
        margin: smallest gain that counts as distilling, a fraction of the test samples in (0, 1).
        looks: numbers of seeds per attack at which a verdict is tried, increasing from at least 2. Appending looks
            later changes no earlier decision.
        error_rate: probability of a false claim of each kind, over any number of looks, in (0, 0.5).
        reference_multiple: seeds of a baseline that several attacks share, per seed of an attack, at least 1.

    Raises:
        HfCmimError: a value is out of its range.
    """

    margin: float = 0.005
    looks: tuple[int, ...] = (3, 5, 8, 12, 18, 27, 40)
    error_rate: float = 0.05
    reference_multiple: int = 3

    def __post_init__(self) -> None:
        """Check the ranges of all values."""
        if not 0 < self.margin < 1:
            raise HfCmimError(
                f"Expected a margin in (0, 1), a fraction of the test samples, got {self.margin}. With it, every gain"
                " or none would count as distilling. Half a point is 0.005."
            )
        is_increasing = all(look < later for look, later in itertools.pairwise(self.looks))
        if not self.looks or self.looks[0] < 2 or not is_increasing:
            raise HfCmimError(
                f"Expected looks that increase from 2 seeds or more, got {self.looks}. One seed has no spread, and a"
                " look without new seeds decides nothing. Sort the looks and remove duplicates."
            )
        if not 0 < self.error_rate < 0.5:
            raise HfCmimError(
                f"Expected an error_rate in (0, 0.5), got {self.error_rate}. From 0.5 on, a lower bound lies above its"
                " estimate. A usual value is 0.05."
            )
        if self.reference_multiple < 1:
            raise HfCmimError(
                f"Expected a reference_multiple of at least 1, got {self.reference_multiple}. The baseline of every"
                " comparison would have no students. The default is 3."
            )

    def errors(self) -> tuple[float, ...]:
        """Return each look's share of the error rate, which is spent by a fixed function of the seeds.

        A share is the increase of error_rate (1 - 2^(-n / 10)) since the look before. It depends on the seeds n so
        far, not on later looks. All shares add up to less than the error rate; 40 seeds spend 15/16 of it. Looks
        are combined by Bonferroni, without their correlation.

        Source: error spending (Lan, DeMets, Biometrika 70(3), 1983) over seeds instead of information; the function is
        ours.
        """
        spent = [self.error_rate * (1 - 2 ** (-look / HALVING_SEEDS)) for look in (0, *self.looks)]
        return tuple(after - before for before, after in itertools.pairwise(spent))


def reachable_margin(design: Design, spread: float, num_attacks: int, leak: float = -0.005) -> float:
    """Estimate the smallest margin for which the last look puts every attack below it with probability .8.

    leak + (z + q) spread sqrt(1 / n + 1 / m), at least 0. n and m are the seeds of attack and baseline at the last
    look, z is the normal quantile of its share of the error rate, and q the .8 quantile of the largest standardised
    error among the attacks. This normal approximation is slightly pessimistic: earlier looks may also decide.

    Args:
        design: design with the last look, the error rate and the seeds of a baseline.
        spread: standard deviation of an arm's accuracy over seeds, a fraction.
        num_attacks: number of attacks that share a baseline, at least 1. The baseline of a single attack has as many
            seeds as the attack.
        leak: true gain of every attack, a fraction.

    Source: ours.
    """
    look = design.looks[-1]
    baseline_seeds = look * (design.reference_multiple if num_attacks > 1 else 1)
    standard_error = spread * math.sqrt(1 / look + 1 / baseline_seeds)
    # Two gains share the baseline's mean, hence their correlation n / (n + m).
    tail = max_t_tail(num_attacks, look / (look + baseline_seeds), 0.2)
    # Both quantiles are of lower tails, hence negative.
    quantiles = float(special.ndtri(design.errors()[-1]) + special.ndtri(tail))
    return max(0.0, leak - quantiles * standard_error)
