"""Numbers as a reader sees them: gains in points, shares in percent, a true minus sign."""

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

MINUS = "−"


def decimal(value: float, digits: int) -> str:
    """Return a number with so many decimals, never "−0.00".

    >>> decimal(-0.0001, 2), decimal(-1.5, 2), decimal(float("-inf"), 2)
    ('0.00', '−1.50', '−∞')
    """
    text = f"{value:z.{digits}f}" if math.isfinite(value) else str(value).replace("inf", "∞")
    return text.replace("-", MINUS)


def points(value: float) -> str:
    """Return a difference of fractions in points, with its sign.

    >>> points(0.0031), points(-0.012), points(-0.00001)
    ('+0.31', '−1.20', '0.00')
    """
    text = decimal(100 * value, 2)
    return f"+{text}" if value > 0 and text != "0.00" else text


def margin_text(margin: float) -> str:
    """Return a margin in points, as it was given.

    >>> margin_text(0.005), margin_text(0.01)
    ('0.5 points', '1 point')
    """
    number = f"{100 * margin:.6g}"
    return f"{number} point" if number == "1" else f"{number} points"


def bound_text(bound: float) -> str:
    """Return an upper bound in points, rounded up: what is shown still holds.

    >>> bound_text(0.003101)
    '0.32 points'
    """
    if not math.isfinite(bound):
        return "no number of points"
    # The inner rounding keeps 0.29 from becoming 0.30 because 100 * 0.0029 is a little above it.
    return f"{decimal(math.ceil(round(1e4 * bound, 6)) / 100, 2)} points"


def percent(value: float, digits: int = 2) -> str:
    """Return a fraction in percent.

    >>> percent(0.9307)
    '93.07 %'
    """
    return f"{decimal(100 * value, digits)} %"


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation of fractions in percent; without the latter for a single value.

    >>> spread([0.91, 0.93]), spread([0.91])
    ('92.00 ± 1.41', '91.00')
    """
    mean = decimal(100 * statistics.fmean(values), 2)
    return f"{mean} ± {decimal(100 * statistics.stdev(values), 2)}" if len(values) > 1 else mean


def duration(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> duration(42), duration(200), duration(12_000)
    ('42 s', '3 min 20 s', '3 h 20 min')
    """
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours:,} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def plain(value: Any) -> str:
    """Return a setting as a reader sees it: text as it is, names with their values one after the other, else JSON.

    >>> plain({"torch": "2.13.0", "threads": 1}), plain([1, 2]), plain(None)
    ('torch: 2.13.0, threads: 1', '[1, 2]', 'null')
    """
    if isinstance(value, dict) and value:
        return ", ".join(f"{name}: {plain(each)}" for name, each in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
