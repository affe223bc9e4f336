"""A picture of what each defence costs its users, and of what it still gives away."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_cmim.errors import HfCmimError
from hf_cmim.names import shortened
from hf_cmim.plots.attackers import gain_limits
from hf_cmim.plots.audit import LONGEST_NAME, MARK, STATE_MARKS
from hf_cmim.plots.style import GREY, legend_entry, styled
from hf_cmim.statistics import Comparison
from hf_cmim.statistics.states import state_of

LINE = 0.13
"""Distance between two names, in inches."""
AROUND = 1.0
"""Height of axis labels and legend, in inches."""
SMALLEST_NLL = 1e-4
"""Smallest NLL that the logarithmic axis shows, in nats."""

MARGIN: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (4, 3))}


@dataclass(frozen=True)
class DefendedLeak:
    """What one defence costs and gives away.

    Attributes:
        name: name of the defence.
        nll: negative log-likelihood of the answers that a user gets, in nats.
        largest: comparison of the attack with the largest gain, in fractions.
    """

    name: str
    nll: float
    largest: Comparison


@styled
def plot_defences(leaks: Sequence[DefendedLeak], margin: float) -> Figure:
    """Draw the largest gain of each defence over the NLL of its answers, with whiskers from lower to upper bound.

    The best place is on the left at the bottom: answers that users can trust, and nothing to gain from them.
    Horizontal lines mark 0 and the margin. Marks differ by the state of the attack. A thin line joins each point to
    its name.

    Args:
        leaks: leaks of at least two defences.
        margin: margin of the audit, a fraction.

    Raises:
        HfCmimError: there are fewer than two defences.
    """
    if len(leaks) < 2:
        raise HfCmimError(
            f"Expected at least 2 defences in one picture, got {len(leaks)}: there is nothing to compare. Omit this"
            " picture."
        )
    height = max(2.0, LINE * len(leaks))
    figure = Figure(figsize=(3.5, AROUND + height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="NLL of the answers (nats)", ylabel="largest gain (points)")
    axes.set_ylim(gain_limits([leak.largest for leak in leaks], margin))
    _set_nll_axis(axes, [max(leak.nll, SMALLEST_NLL) for leak in leaks])
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.axhline(100 * margin, **MARGIN)
    low, high = axes.get_ylim()
    handles = []
    for state, mark in STATE_MARKS.items():
        members = [leak for leak in leaks if state_of(leak.largest, margin) == state]
        if members:
            positions = [max(leak.nll, SMALLEST_NLL) for leak in members]
            starts = [min(max(100 * leak.largest.lower, low), high) for leak in members]
            stops = [min(max(100 * leak.largest.upper, low), high) for leak in members]
            axes.vlines(positions, starts, stops, colors=mark["color"], linewidth=1.1, zorder=2)
            axes.plot(positions, [100 * leak.largest.gain for leak in members], **mark, **MARK, zorder=3)
            handles.append(legend_entry(**mark, **MARK, label=state))
    handles.append(legend_entry(**MARGIN, label="margin"))
    _name_points(axes, leaks, LINE / height)
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=1.6)
    return figure


def _set_nll_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make the x axis logarithmic, with room on both sides and readable numbers."""
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 1.25, max(values) * 1.25)
    left, right = axes.get_xlim()
    ticks = [digit * 10.0**power for power in range(-5, 5) for digit in (1, 2, 5)]
    axes.set_xticks([tick for tick in ticks if left <= tick <= right])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _name_points(axes: Axes, leaks: Sequence[DefendedLeak], spacing: float) -> None:
    """Write the names in a column right of the axes, in the order of the gains."""
    low, high = axes.get_ylim()
    ordered = sorted(leaks, key=lambda leak: leak.largest.gain)
    heights = spread_out([(100 * leak.largest.gain - low) / (high - low) for leak in ordered], spacing)
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)}
    for leak, height in zip(ordered, heights, strict=True):
        axes.annotate(
            shortened(leak.name, LONGEST_NAME),
            xy=(max(leak.nll, SMALLEST_NLL), 100 * leak.largest.gain),
            xytext=(1.06, height),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            arrowprops=line,
            annotation_clip=False,
            parse_math=False,
        )


def spread_out(heights: Sequence[float], spacing: float) -> list[float]:
    """Return increasing heights moved as far apart as the spacing, inside 0 to 1 where there is room.

    >>> [round(height, 2) for height in spread_out([0.5, 0.5, 0.9], 0.2)]
    [0.5, 0.7, 0.9]
    """
    moved: list[float] = []
    for height in heights:
        moved.append(height if not moved else max(height, moved[-1] + spacing))
    ceiling = 1.0
    for position in reversed(range(len(moved))):
        moved[position] = min(moved[position], ceiling)
        ceiling = moved[position] - spacing
    return moved
