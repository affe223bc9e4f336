"""The largest of several comparisons that share a baseline."""

import functools
import math

import numpy as np
from scipy import optimize, special


def max_t_tail(size: int, correlation: float, error: float) -> float:
    """Return p such that some of K comparisons exceeds its own quantile of tail p with probability `error`.

    1 - error = E over z of Phi((c + sqrt(rho) z) / sqrt(1 - rho))^K, and p = 1 - Phi(c). Each comparison takes the
    quantile of p from its own t distribution, so that degrees of freedom may differ. This treats the estimated spreads
    as independent, and is conservative where comparisons share one.

    Args:
        size: K, at least 1.
        correlation: rho in [0, 1], the least of any two comparisons; rounded down to hundredths, and to .95.
        error: in (0, .5).

    Source: Dunnett, JASA 50(272), 1955; going through p to t distributions is ours.

    >>> round(max_t_tail(2, 0.0, 0.0975), 6)
    0.05
    """
    return _normal_tail(size, min(math.floor(100 * correlation) / 100, 0.95), error)


@functools.cache
def _normal_tail(size: int, correlation: float, error: float) -> float:
    """Return `max_t_tail`; the rounded correlation lets looks and comparisons share a solution."""
    if size == 1:
        return error
    nodes = np.linspace(-8.5, 8.5, 205)  # the trapezoidal rule is exact to rounding here: the integrand is smooth
    weights = np.exp(-(nodes**2) / 2)
    weights /= weights.sum()

    def excess(quantile: float) -> float:
        below = special.ndtr((quantile + math.sqrt(correlation) * nodes) / math.sqrt(1 - correlation))
        return float(weights @ below**size) - (1 - error)

    # One comparison alone and Bonferroni enclose the quantile.
    quantile = optimize.brentq(excess, -special.ndtri(error), -special.ndtri(error / size))
    return float(special.ndtr(-quantile))
