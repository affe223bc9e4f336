"""What is known of one attack, as pictures and tables mark it; verdicts are about all attacks."""

from typing import Literal

from hf_cmim.statistics.verdicts import Comparison

State = Literal["leaks", "leaks less than the margin", "below the margin", "undecided"]


def state_of(comparison: Comparison, margin: float) -> State:
    """Return what the bounds of one attack's gain say.

    It leaks when its lower bound is above 0, and is below the margin when its upper bound is.

    Args:
        comparison: of one attack.
        margin: fraction.
    """
    if comparison.lower > 0:
        return "leaks less than the margin" if comparison.upper < margin else "leaks"
    return "below the margin" if comparison.upper < margin else "undecided"
