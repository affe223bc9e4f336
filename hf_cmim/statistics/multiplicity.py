"""The max-t correction for several comparisons that share a baseline."""

import functools
import math

import numpy as np
from scipy import optimize, special


def max_t_tail(size: int, correlation: float, error: float) -> float:
    """Return the tail p for each of K comparisons such that any of them exceeds its quantile with probability `error`.

    1 - error = E over z of Phi((c + sqrt(rho) z) / sqrt(1 - rho))^K, and p = 1 - Phi(c). Each comparison takes the
    quantile of p from its own t distribution, so degrees of freedom may differ. The estimated spreads are treated as
    independent, which is conservative if comparisons share one.

    Args:
        size: number K of comparisons, at least 1.
        correlation: smallest correlation rho of two comparisons, in [0, 1]; rounded down to hundredths, at most .95.
        error: probability that any comparison exceeds its quantile, in (0, .5).

    Source: Dunnett, JASA 50(272), 1955; going through p to t distributions is ours.

    >>> round(max_t_tail(2, 0.0, 0.0975), 6)
    0.05
    """
    # A smaller correlation gives a smaller tail, so rounding down is conservative.
    return _normal_tail(size, min(math.floor(100 * correlation) / 100, 0.95), error)


@functools.cache
def _normal_tail(size: int, correlation: float, error: float) -> float:
    """Return `max_t_tail` for a rounded correlation, cached across looks and comparisons."""
    if size == 1:
        return error
    # The integrand is smooth and vanishes at both ends: the trapezoidal rule is exact to rounding.
    nodes = np.linspace(-8.5, 8.5, 205)
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()

    def excess(quantile: float) -> float:
        below = special.ndtr((quantile + math.sqrt(correlation) * nodes) / math.sqrt(1 - correlation))
        return float(weights @ below**size) - (1 - error)

    # The quantile lies between that of a single comparison and that of Bonferroni.
    quantile = optimize.brentq(excess, -special.ndtri(error), -special.ndtri(error / size))
    return float(special.ndtr(-quantile))
