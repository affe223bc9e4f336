"""A picture of the leak to attackers with different samples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_cmim.errors import HfCmimError
from hf_cmim.plots.style import GREY, MODEL_COLOURS, legend_entry, styled
from hf_cmim.statistics import Comparison

MARKERS = ("o", "D", "s", "^")
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class AttackerLeak:
    """The largest gain of one attacker.

    Attributes:
        name: name of the line, shared by attackers who differ only in their number of samples.
        samples: number of the attacker's samples.
        largest: comparison of the attack with the largest gain, in fractions.
    """

    name: str
    samples: int
    largest: Comparison


@styled
def plot_attackers(leaks: Sequence[AttackerLeak], margin: float) -> Figure:
    """Draw the largest gain of each attacker over the number of its samples, with whiskers from lower to upper bound.

    Points of one name are joined by a line. Horizontal lines mark 0 and the margin. Bounds beyond the largest gain by
    far end at the axis.

    Args:
        leaks: gains of at least one attacker and at most four names.
        margin: margin of the audit, a fraction.

    Raises:
        HfCmimError: there is no attacker, or there are more than four names.
    """
    names = list(dict.fromkeys(leak.name for leak in leaks))
    if not 1 <= len(names) <= len(MARKERS):
        raise HfCmimError(
            f"Expected attackers of 1 to {len(MARKERS)} names, got {len(names)}: lines could not be told apart. Draw"
            " fewer, or omit this picture."
        )
    figure = Figure(figsize=(3.5, 2.6 + 0.14 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="samples of the attacker", ylabel="largest gain (points)")
    axes.set_xscale("log")
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.axhline(100 * margin, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.text(1.01, 100 * margin, "margin", transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    axes.set_ylim(gain_limits([leak.largest for leak in leaks], margin))
    samples = [leak.samples for leak in leaks]
    axes.set_xlim(min(samples) / 1.3, max(samples) * 1.3)
    handles = []
    for number, name in enumerate(names):
        mark: dict[str, Any] = {"color": MODEL_COLOURS[number], "marker": MARKERS[number], "linestyle": DASHES[number]}
        members = sorted((leak for leak in leaks if leak.name == name), key=lambda leak: leak.samples)
        _draw_line(axes, members, mark)
        handles.append(legend_entry(**mark, markersize=3.5, label=name))
    figure.legend(handles=handles, loc="outside upper center")
    return figure


def gain_limits(comparisons: Sequence[Comparison], margin: float) -> tuple[float, float]:
    """Return the ends of an axis of gains, in points: all gains, and bounds up to three times the largest of them."""
    gains = [100 * comparison.gain for comparison in comparisons]
    reach = 3 * max(*map(abs, gains), 100 * margin)
    ends = [100 * bound for comparison in comparisons for bound in (comparison.lower, comparison.upper)]
    clipped = [min(max(end, -reach), reach) for end in ends if math.isfinite(end)]
    lowest, highest = min([*gains, *clipped, 0.0]), max([*gains, *clipped, 100 * margin])
    padding = 0.05 * (highest - lowest)
    return lowest - padding, highest + padding


def _draw_line(axes: Axes, leaks: Sequence[AttackerLeak], mark: Mapping[str, Any]) -> None:
    low, high = axes.get_ylim()
    positions = [leak.samples for leak in leaks]
    axes.plot(positions, [100 * leak.largest.gain for leak in leaks], markersize=3.5, linewidth=1.0, zorder=3, **mark)
    starts = [min(max(100 * leak.largest.lower, low), high) for leak in leaks]
    stops = [min(max(100 * leak.largest.upper, low), high) for leak in leaks]
    axes.vlines(positions, starts, stops, colors=mark["color"], linewidth=1.1, zorder=2)
