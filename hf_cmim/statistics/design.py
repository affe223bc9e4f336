"""When an audit looks at its students, and how sure it wants to be."""

import itertools
import math
from dataclasses import dataclass

from scipy import special

from hf_cmim.errors import HfCmimError
from hf_cmim.statistics.multiplicity import max_t_tail

HALVING_SEEDS = 10
"""Every ten seeds spend half of the error rate that is left; ours."""


@dataclass(frozen=True)
class Design:
    """When to look, and how sure to be.

    Args:
        margin: gain that counts as distilling, a fraction of the test samples in (0, 1).
        looks: seeds of each attack at which a verdict is tried, rising, at least 2. Looks may be appended later: no
            earlier decision changes.
        error_rate: probability of a false claim of each kind over all looks, however many, in (0, 0.5).
        reference_multiple: seeds of a baseline that several attacks share, for each seed of an attack, at least 1.

    Raises:
        HfCmimError: a value out of its range.
    """

    margin: float = 0.005
    looks: tuple[int, ...] = (3, 5, 8, 12, 18, 27, 40)
    error_rate: float = 0.05
    reference_multiple: int = 3

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 < self.margin < 1:
            raise HfCmimError(
                f"Expected a margin in (0, 1), a fraction of the test samples, got {self.margin}: every gain or none"
                " would count as distilling. Half a point is 0.005."
            )
        if not self.looks or self.looks[0] < 2 or any(later <= look for look, later in itertools.pairwise(self.looks)):
            raise HfCmimError(
                f"Expected looks that rise from 2 seeds or more, got {self.looks}: one seed has no spread, and a look"
                " without new seeds decides nothing. Sort them and drop the copies."
            )
        if not 0 < self.error_rate < 0.5:
            raise HfCmimError(
                f"Expected an error_rate in (0, 0.5), got {self.error_rate}: a bound would lie beyond its"
                " estimate. The usual one is 0.05."
            )
        if self.reference_multiple < 1:
            raise HfCmimError(
                f"Expected a reference_multiple of at least 1, got {self.reference_multiple}: the baseline, on which"
                " every comparison rests, would have no students."
            )

    def errors(self) -> tuple[float, ...]:
        """Return each look's share of the error rate: the rise of error_rate (1 - 2^(-n / 10)) since the look before.

        It depends on the seeds n so far, not on later looks, and never adds up to more than the error rate; 40 seeds
        spend 15/16 of it. Looks are combined by Bonferroni: their correlation is not used.

        Source: error spending (Lan, DeMets, Biometrika 70(3), 1983) over seeds instead of information; the function is
        ours.
        """
        spent = [self.error_rate * (1 - 2 ** (-look / HALVING_SEEDS)) for look in (0, *self.looks)]
        return tuple(after - before for before, after in itertools.pairwise(spent))


def reachable_margin(design: Design, spread: float, num_attacks: int, leak: float = -0.005) -> float:
    """Return about the smallest margin that the last look finds every attack below, with probability .8.

    leak + (z + q) spread sqrt(1 / n + 1 / m), at least 0: n and m the seeds of the last look, z the normal quantile of
    its share of the error rate, q the .8 quantile of the largest of the attacks' standardised errors. This is a normal
    approximation, and a little pessimistic: earlier looks may decide as well.

    Args:
        design: its last look, its error rate, and the seeds of a baseline.
        spread: standard deviation of an arm's accuracy over seeds, a fraction.
        num_attacks: attacks that share a baseline, at least 1; the baseline of a single one has as many seeds as it.
        leak: true gain of every attack, a fraction.

    Source: ours.
    """
    look = design.looks[-1]
    reference = look * (design.reference_multiple if num_attacks > 1 else 1)
    standard_error = spread * math.sqrt(1 / look + 1 / reference)
    tail = max_t_tail(num_attacks, look / (look + reference), 0.2)
    return max(0.0, leak - float(special.ndtri(design.errors()[-1]) + special.ndtri(tail)) * standard_error)
