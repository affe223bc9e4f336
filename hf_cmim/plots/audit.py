"""Pictures of an audit: every attack's gain, what the gain is made of, CMI over temperature. Gains are in points."""

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

# Shape and filling tell the states apart in grey, too.
STATE_MARKS: dict[State, dict[str, Any]] = {
    "leaks": {"color": MODEL_COLOURS[1], "marker": "D", "markerfacecolor": MODEL_COLOURS[1]},
    "leaks less than the margin": {"color": MODEL_COLOURS[1], "marker": "D", "markerfacecolor": "none"},
    "below the margin": {"color": MODEL_COLOURS[0], "marker": "o", "markerfacecolor": MODEL_COLOURS[0]},
    "undecided": {"color": GREY, "marker": "o", "markerfacecolor": "none"},
}
TERM_MARKS: tuple[dict[str, Any], ...] = (  # of a gain, and of what it is made of
    {"color": GREY, "marker": "o", "markerfacecolor": GREY},
    {"color": MODEL_COLOURS[0], "marker": "o", "markerfacecolor": MODEL_COLOURS[0]},
)
MARK: dict[str, Any] = {"linestyle": "", "markersize": 3.5, "markeredgewidth": 0.9}
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
ROW_HEIGHT = 0.17  # inches
LONGEST_NAME = 24  # columns of a name in a picture
LOSS_SHOWN = 3  # the axis shows losses up to this many times the largest bound of a gain, and arrows for the rest


@styled
def plot_forest(result: CriterionResult, margin: float) -> Figure:
    """Draw each attack's gain over its baseline, from lower to upper bound, the largest gain on top.

    Lines stand at 0 and at the margin. An attack leaks where its lower bound is above 0, and is below the margin where
    its upper bound is. The axis shows all that attacks gain but only so much of what they lose; an arrow points to
    what lies beyond.

    Args:
        result: at least one comparison; fractions.
        margin: fraction.

    Raises:
        HfCmimError: no comparison.
    """
    _check_rows(result.comparisons)
    rows = sorted(result.comparisons, key=lambda each: each.gain, reverse=True)
    figure = Figure(figsize=(3.5, 0.85 + ROW_HEIGHT * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="gain over the baseline (points)")
    gained = max([margin, *(each.upper for each in rows if math.isfinite(each.upper))])
    ends = [max(value, -LOSS_SHOWN * gained) for each in rows for value in (each.gain, each.lower, each.upper)]
    axes.set_xlim(_window([*ends, margin]))
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.axvline(100 * margin, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.text(100 * margin, 1.01, "margin", transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=7)
    for row, each in enumerate(rows):
        shown = f"{100 * each.gain:+z.2f}".replace("-", "−")
        axes.text(1.02, row, shown, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    handles = []
    for state, mark in STATE_MARKS.items():
        members = {
            row: Interval(each.gain, each.lower, each.upper)
            for row, each in enumerate(rows)
            if state_of(each, margin) == state
        }
        if members:
            _draw_intervals(axes, members, mark)
            handles.append(legend_entry(**mark, **MARK, label=state))
    _name_rows(axes, [each.attack for each in rows])
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@styled
def plot_accounting(accounting: Sequence[Accounting]) -> Figure:
    """Draw each attack's gain and, to its right, the four terms that it is the sum of, with 95 % intervals.

    All panels share one axis, so that the lengths in a row add up.

    Args:
        accounting: at least one attack's; fractions.

    Raises:
        HfCmimError: no attack.
    """
    _check_rows(accounting)
    rows = sorted(accounting, key=lambda each: each.gain.estimate, reverse=True)
    figure = Figure(figsize=(7.0, 0.75 + ROW_HEIGHT * len(rows)), layout="constrained")
    intervals = [(each.gain, *terms_of(each).values()) for each in rows]
    window = _window([end for row in intervals for each in row for end in (each.estimate, each.lower, each.upper)])
    titles = ("gain", *terms_of(rows[0]))
    for column, (axes, title) in enumerate(zip(figure.subplots(1, len(titles), sharey=True), titles, strict=True)):
        axes.set_title(title, fontweight="bold" if column == 0 else "normal")
        axes.set_xlim(window)
        axes.axvline(0, color=GREY, linewidth=0.6)
        _draw_intervals(axes, {row: each[column] for row, each in enumerate(intervals)}, TERM_MARKS[column > 0])
        axes.yaxis.set_visible(column == 0)
    _name_rows(figure.axes[0], [each.attack for each in rows])
    figure.supxlabel("points", fontsize=8)
    return figure


@styled
def plot_audit_curves(facts: Mapping[str, ModelFacts]) -> Figure:
    """Draw CMI (nats, logarithmic) over temperature (octaves) on the test data; a CMI of 0 leaves the picture.

    Args:
        facts: 1 to 7 models by name, each with a curve.

    Raises:
        HfCmimError: no model, or more than 7.
    """
    colours = colours_of(facts)
    figure = Figure(figsize=(3.5, 2.5 + 0.14 * len(facts)), layout="constrained")
    axes = figure.add_subplot()
    logarithmic(axes, [cmi for each in facts.values() for _, cmi in each.curve])
    for number, (name, each) in enumerate(facts.items()):
        temperatures, cmi = zip(*each.curve, strict=True)
        axes.plot(temperatures, cmi, color=colours[name], linestyle=DASHES[number % len(DASHES)], marker="o",
                  markersize=1.6)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda temperature, _: str(Fraction(temperature).limit_denominator(1024)))
    axes.set(xlabel="temperature", ylabel="CMI (nats)")
    handles = [
        legend_entry(color=colours[name], linestyle=DASHES[number % len(DASHES)]) for number, name in enumerate(facts)
    ]
    legend = figure.legend(handles, ["model"] * len(facts), loc="outside upper center")
    for text, name in zip(legend.get_texts(), facts, strict=True):
        text.set(text=shortened(name, 2 * LONGEST_NAME), parse_math=False)
    return figure


def terms_of(accounting: Accounting) -> dict[str, Interval]:
    """Return the four terms, named in words, in the order in which they are added."""
    return {
        "loss form": accounting.loss_form,
        "teacher errors": accounting.teacher_errors,
        "class similarity": accounting.class_similarity,
        "instance information": accounting.instance_information,
    }


def _check_rows(rows: Sequence[object]) -> None:
    if not rows:
        raise HfCmimError("Expected at least one attack, got none: there is no row to draw. Leave the picture out.")


def _window(values: Sequence[float]) -> tuple[float, float]:
    """Return both ends of the axis, in points."""
    finite = [100 * value for value in (*values, 0.0) if math.isfinite(value)]
    room = 0.05 * (max(finite) - min(finite)) or 0.1
    return min(finite) - room, max(finite) + room


def _draw_intervals(axes: Axes, intervals: Mapping[int, Interval], mark: Mapping[str, Any]) -> None:
    """Draw each interval in its row; the axis must have its limits."""
    left, right = axes.get_xlim()
    lower, estimate, upper = (
        {row: 100 * getattr(each, end) for row, each in intervals.items()} for end in ("lower", "estimate", "upper")
    )
    starts, ends = ([min(max(value, left), right) for value in each.values()] for each in (lower, upper))
    axes.hlines(list(intervals), starts, ends, colors=mark["color"], linewidth=1.1, zorder=2)
    axes.plot(list(estimate.values()), list(estimate), **mark, **MARK, zorder=3)
    beyond = {"<": [row for row in lower if lower[row] < left], ">": [row for row in upper if upper[row] > right]}
    for (arrow, rows), edge in zip(beyond.items(), (left, right), strict=True):
        if rows:
            axes.plot([edge] * len(rows), rows, arrow, color=mark["color"], markersize=3, clip_on=False)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [shortened(name, LONGEST_NAME) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
