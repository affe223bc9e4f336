"""Temperatures of the objective."""

import math
from collections.abc import Sequence

from hf_cmim.errors import HfCmimError

DEFAULT_TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Powers of two over the usual range of distillation temperatures; ours.

Validation data decided against colder ones. There the CMI tends to the entropy of the errors, which no concentration
removes, and reducing it cost 3 points of accuracy on texts that are hard to classify (docs/evidence/what-failed.md).
"""


def check_temperatures(temperatures: Sequence[float]) -> tuple[float, ...]:
    """Return the temperatures as a tuple of floats, after checking each.

    Raises:
        HfCmimError: no temperature, a temperature that is not a finite number above 0, or two equal ones.
    """
    values = tuple(float(temperature) for temperature in temperatures)
    if not values:
        raise HfCmimError(
            "Expected at least one temperature, got none: there would be no cluster to measure. Give [1.0], for"
            " instance."
        )
    for value in values:
        if not (math.isfinite(value) and value > 0):
            raise HfCmimError(
                f"Expected temperatures above 0 and finite, got {value}: softmax(logits / {value}) is not a"
                " distribution. Remove it; for the limit of hard predictions use a small value such as 0.02."
            )
    if len(set(values)) < len(values):
        repeated = sorted({value for value in values if values.count(value) > 1})
        raise HfCmimError(
            f"Expected distinct temperatures, got {repeated} more than once: they would silently count double. Give"
            " each temperature once."
        )
    return values
