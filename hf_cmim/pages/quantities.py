"""Numbers formatted for readers: gains in points, shares in percent, a true minus sign."""

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

MINUS = "−"


def decimal(value: float, digits: int) -> str:
    """Return a number with `digits` decimals, never "−0.00".

    >>> decimal(-0.0001, 2), decimal(-1.5, 2), decimal(float("-inf"), 2)
    ('0.00', '−1.50', '−∞')
    """
    # The z of the format turns a rounded −0.00 into 0.00.
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
    """Return a margin in points, without rounding to two decimals.

    >>> margin_text(0.005), margin_text(0.01)
    ('0.5 points', '1 point')
    """
    number = f"{100 * margin:.6g}"
    return f"{number} point" if number == "1" else f"{number} points"


def bound_text(bound: float) -> str:
    """Return an upper bound in points, rounded up, so that the shown bound still holds.

    An upper bound of 1 or more says nothing about an accuracy.

    >>> bound_text(0.003101), bound_text(1.0)
    ('0.32 points', 'no number of points')
    """
    if not bound < 1:
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
    """Return mean ± standard deviation of fractions in percent; only the mean of a single value.

    >>> spread([0.91, 0.93]), spread([0.91])
    ('92.00 ± 1.41', '91.00')
    """
    mean = decimal(100 * statistics.fmean(values), 2)
    return f"{mean} ± {decimal(100 * statistics.stdev(values), 2)}" if len(values) > 1 else mean


def duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> duration(42), duration(200), duration(12_000)
    ('42 s', '3 min 20 s', '3 h 20 min')
    """
    minutes, remaining_seconds = divmod(round(seconds), 60)
    hours, remaining_minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {remaining_minutes} min"
    return f"{minutes} min {remaining_seconds} s" if minutes else f"{remaining_seconds} s"


def plain(value: Any) -> str:
    """Return a setting as text: strings unchanged, dictionaries as "name: value, ...", other values as JSON.

    >>> plain({"torch": "2.13.0", "threads": 1}), plain([1, 2]), plain(None)
    ('torch: 2.13.0, threads: 1', '[1, 2]', 'null')
    """
    if isinstance(value, dict) and value:
        return ", ".join(f"{name}: {plain(entry)}" for name, entry in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
