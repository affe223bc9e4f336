"""Pictures of an audit: the gains of all attacks, the terms of a gain, CMI over temperature. Gains are in points."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_cmim.errors import HfCmimError
from hf_cmim.names import shortened
from hf_cmim.plots.style import GREY, MODEL_COLOURS, colours_of, legend_entry, logarithmic, styled
from hf_cmim.report import Accounting, CriterionResult, Interval, ModelFacts
from hf_cmim.statistics.states import State, state_of

# The states also differ in shape or filling, for print in grey.
STATE_MARKS: dict[State, dict[str, Any]] = {
    "leaks": {"color": MODEL_COLOURS[1], "marker": "D", "markerfacecolor": MODEL_COLOURS[1]},
    "leaks less than the margin": {"color": MODEL_COLOURS[1], "marker": "D", "markerfacecolor": "none"},
    "below the margin": {"color": MODEL_COLOURS[0], "marker": "o", "markerfacecolor": MODEL_COLOURS[0]},
    "undecided": {"color": GREY, "marker": "o", "markerfacecolor": "none"},
}
# Marks of a gain and of its terms.
TERM_MARKS: tuple[dict[str, Any], ...] = (
    {"color": GREY, "marker": "o", "markerfacecolor": GREY},
    {"color": MODEL_COLOURS[0], "marker": "o", "markerfacecolor": MODEL_COLOURS[0]},
)
MARK: dict[str, Any] = {"linestyle": "", "markersize": 3.5, "markeredgewidth": 0.9}
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
ROW_HEIGHT = 0.17  # inches
LONGEST_NAME = 24  # characters
# The axis ends at a loss this many times the largest upper bound. Arrows point to larger losses.
LOSS_SHOWN = 3


@styled
def plot_forest(result: CriterionResult, margin: float) -> Figure:
    """Draw each attack's gain over its baseline with its bounds, the largest gain on top.

    Vertical lines mark 0 and the margin. An attack leaks if its lower bound is above 0; it is below the margin if its
    upper bound is. The axis covers all upper bounds but cuts off large losses; an arrow marks a bound that was cut
    off.

    Args:
        result: result of a criterion with at least one comparison, in fractions.
        margin: margin of the audit, a fraction.

    Raises:
        HfCmimError: there is no comparison.
    """
    _check_rows(result.comparisons)
    comparisons = sorted(result.comparisons, key=lambda comparison: comparison.gain, reverse=True)
    figure = Figure(figsize=(3.5, 0.85 + ROW_HEIGHT * len(comparisons)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="gain over the baseline (points)")
    intervals = [Interval(comparison.gain, comparison.lower, comparison.upper) for comparison in comparisons]
    largest_bound = max([margin, *(interval.upper for interval in intervals if math.isfinite(interval.upper))])
    ends = [max(end, -LOSS_SHOWN * largest_bound) for interval in intervals for end in _ends(interval)]
    axes.set_xlim(_window([*ends, margin]))
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.axvline(100 * margin, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.text(100 * margin, 1.01, "margin", transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)
    for row, interval in enumerate(intervals):
        # The format's z turns -0.00 into 0.00.
        gain_text = f"{100 * interval.estimate:+z.2f}".replace("-", "−")
        axes.text(1.02, row, gain_text, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    states = [state_of(comparison, margin) for comparison in comparisons]
    handles = []
    for state, mark in STATE_MARKS.items():
        members = {row: interval for row, interval in enumerate(intervals) if states[row] == state}
        if members:
            _draw_intervals(axes, members, mark)
            handles.append(legend_entry(**mark, **MARK, label=state))
    _name_rows(axes, [comparison.attack for comparison in comparisons])
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@styled
def plot_accounting(accounting: Sequence[Accounting]) -> Figure:
    """Draw each attack's gain and, to its right, the four terms whose sum it is, with 95 % intervals.

    All panels have the same scale, so the lengths in a row add up.

    Args:
        accounting: terms of the gain of at least one attack, in fractions.

    Raises:
        HfCmimError: there is no attack.
    """
    _check_rows(accounting)
    attacks = sorted(accounting, key=lambda attack: attack.gain.estimate, reverse=True)
    figure = Figure(figsize=(7.0, 0.75 + ROW_HEIGHT * len(attacks)), layout="constrained")
    rows = [(attack.gain, *terms_of(attack).values()) for attack in attacks]
    window = _window([end for row in rows for interval in row for end in _ends(interval)])
    titles = ("gain", *terms_of(attacks[0]))
    panels = figure.subplots(1, len(titles), sharey=True)
    for column, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        axes.set_title(title, fontweight="bold" if column == 0 else "normal")
        axes.set_xlim(window)
        axes.axvline(0, color=GREY, linewidth=0.6)
        intervals = {row: terms[column] for row, terms in enumerate(rows)}
        _draw_intervals(axes, intervals, TERM_MARKS[column > 0])
        axes.yaxis.set_visible(column == 0)
    # The first panel names the rows of all.
    _name_rows(figure.axes[0], [attack.attack for attack in attacks])
    figure.supxlabel("points", fontsize=8)
    return figure


@styled
def plot_audit_curves(facts: Mapping[str, ModelFacts]) -> Figure:
    """Draw CMI (nats, logarithmic) over temperature (octaves) on the test data; a CMI of 0 is below the axis.

    Args:
        facts: facts about 1 to 7 models by name, each with a curve.

    Raises:
        HfCmimError: there is no model, or there are more than 7.
    """
    colours = colours_of(facts)
    figure = Figure(figsize=(3.5, 2.5 + 0.14 * len(facts)), layout="constrained")
    axes = figure.add_subplot()
    logarithmic(axes, [cmi for model in facts.values() for _, cmi in model.curve])
    for number, (name, model) in enumerate(facts.items()):
        temperatures, cmi = zip(*model.curve, strict=True)
        dashes = DASHES[number % len(DASHES)]
        axes.plot(temperatures, cmi, color=colours[name], linestyle=dashes, marker="o", markersize=1.6)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda temperature, _: str(Fraction(temperature).limit_denominator(1024)))
    axes.set(xlabel="temperature", ylabel="CMI (nats)")
    handles = [
        legend_entry(color=colours[name], linestyle=DASHES[number % len(DASHES)]) for number, name in enumerate(facts)
    ]
    # A name may contain $, which matplotlib would parse: the names are set without parsing.
    legend = figure.legend(handles, ["model"] * len(facts), loc="outside upper center")
    for text, name in zip(legend.get_texts(), facts, strict=True):
        text.set(text=shortened(name, 2 * LONGEST_NAME), parse_math=False)
    return figure


def terms_of(accounting: Accounting) -> dict[str, Interval]:
    """Return the four terms of a gain by name, in the order in which they are added."""
    return {
        "loss form": accounting.loss_form,
        "teacher errors": accounting.teacher_errors,
        "class similarity": accounting.class_similarity,
        "instance information": accounting.instance_information,
    }


def _check_rows(rows: Sequence[object]) -> None:
    if not rows:
        raise HfCmimError("Expected at least one attack, got none. There is no row to draw. Omit this picture.")


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.estimate, interval.lower, interval.upper


def _window(values: Sequence[float]) -> tuple[float, float]:
    """Return both ends of the axis, in points, for values in fractions."""
    finite_points = [100 * value for value in (*values, 0.0) if math.isfinite(value)]
    lowest, highest = min(finite_points), max(finite_points)
    padding = 0.05 * (highest - lowest) or 0.1
    return lowest - padding, highest + padding


def _draw_intervals(axes: Axes, intervals: Mapping[int, Interval], mark: Mapping[str, Any]) -> None:
    """Draw each interval in its row, in points; set the limits of the axis before."""
    left, right = axes.get_xlim()
    rows = list(intervals)
    estimates = [100 * interval.estimate for interval in intervals.values()]
    lowers = [100 * interval.lower for interval in intervals.values()]
    uppers = [100 * interval.upper for interval in intervals.values()]
    # Lines end at the axis: infinite ends cannot be drawn.
    starts = [min(max(lower, left), right) for lower in lowers]
    stops = [min(max(upper, left), right) for upper in uppers]
    axes.hlines(rows, starts, stops, colors=mark["color"], linewidth=1.1, zorder=2)
    axes.plot(estimates, rows, **mark, **MARK, zorder=3)
    rows_beyond_left = [row for row, lower in zip(rows, lowers, strict=True) if lower < left]
    rows_beyond_right = [row for row, upper in zip(rows, uppers, strict=True) if upper > right]
    for arrow, edge, cut_rows in (("<", left, rows_beyond_left), (">", right, rows_beyond_right)):
        if cut_rows:
            axes.plot([edge] * len(cut_rows), cut_rows, arrow, color=mark["color"], markersize=3, clip_on=False)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [shortened(name, LONGEST_NAME) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
