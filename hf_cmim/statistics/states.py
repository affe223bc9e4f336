"""The state of one attack, as pictures and tables mark it. A verdict is about all attacks together."""

from typing import Literal

from hf_cmim.statistics.verdicts import Comparison

State = Literal["leaks", "leaks less than the margin", "below the margin", "undecided"]


def state_of(comparison: Comparison, margin: float) -> State:
    """Return the state of one attack from the bounds of its gain.

    An attack leaks if its lower bound is above 0. It is below the margin if its upper bound is below the margin.

    Args:
        comparison: comparison of the attack with its baselines.
        margin: margin of the audit, a fraction.
    """
    if comparison.lower > 0:
        return "leaks less than the margin" if comparison.upper < margin else "leaks"
    return "below the margin" if comparison.upper < margin else "undecided"
