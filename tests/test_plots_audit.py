"""The pictures of an audit show its numbers, in points, whatever the names are."""

from dataclasses import replace

import pytest
from matplotlib.colors import to_hex
from pages.reports import HOSTILE, VERDICTS, facts, report, small

from hf_cmim.plots import plot_accounting, plot_audit_curves, plot_forest
from hf_cmim.report import CriterionResult
from hf_cmim.statistics import Comparison

BLUE, VERMILION, GREY = "#0072b2", "#d55e00", "#555555"
MARGIN = 0.005
# Above 0 or not, below the margin or not: one comparison for each pair.
STATES = {
    "leaks": (0.004, 0.002, 0.006),
    "leaks less than the margin": (0.003, 0.001, 0.0049),
    "below the margin": (0.001, -0.001, 0.003),
    "undecided": (0.002, -0.002, 0.006),
}


def result(*bounds, names=None):
    names = names or [f"attack {number}" for number in range(len(bounds))]
    rows = tuple(
        Comparison(name, "base", 5, 15, gain, 0.001, lower, upper)
        for name, (gain, lower, upper) in zip(names, bounds, strict=True)
    )
    return CriterionResult("paper", True, "inconclusive", {}, rows, 0.01)


def bars(axes):
    """Row, lower and upper end, and colour of each bar."""
    return sorted(
        (float(start[1]), float(start[0]), float(end[0]), to_hex(lines.get_colors()[0]))
        for lines in axes.collections
        for start, end in lines.get_segments()
    )


def marks(axes, shapes="oD"):
    """Row, place, colour, and whether it is filled, of each mark."""
    return sorted(
        (y, x, to_hex(line.get_color()), line.get_markerfacecolor() != "none")
        for line in axes.lines
        if line.get_marker() in shapes
        for x, y in line.get_xydata().tolist()
    )


def row_names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_rows_are_sorted_and_show_gain_and_bounds():
    """Catches fractions on an axis of points, swapped bounds, names that stay where rows moved."""
    figure = plot_forest(result((0.001, -0.002, 0.003), (0.004, 0.001, 0.006), names=["a, weak", "b, strong"]), MARGIN)
    (axes,) = figure.axes
    assert row_names(axes) == ["b, strong", "a, weak"]
    assert [bar[:3] for bar in bars(axes)] == [pytest.approx(each) for each in ((0, 0.1, 0.6), (1, -0.2, 0.3))]
    assert [mark[:2] for mark in marks(axes)] == [pytest.approx(each) for each in ((0, 0.4), (1, 0.1))]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first row is on top"
    assert [text.get_text() for text in axes.texts] == ["margin", "+0.40", "+0.10"]
    vertical = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert vertical == [0, pytest.approx(0.5)]


@pytest.mark.parametrize(
    ("state", "colour", "shape", "filled"),
    [
        ("leaks", VERMILION, "D", True),
        ("leaks less than the margin", VERMILION, "D", False),
        ("below the margin", BLUE, "o", True),
        ("undecided", GREY, "o", False),
    ],
)
def test_state_has_its_colour_and_shape(state, colour, shape, filled):
    """Catches a leak in the colour of what is below the margin, and a legend of states that are not there."""
    figure = plot_forest(result(STATES[state]), MARGIN)
    (axes,) = figure.axes
    (mark,) = marks(axes, shape)
    assert mark[2:] == (colour, filled)
    assert bars(axes)[0][3] == colour
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [state]


@pytest.mark.parametrize(
    ("bounds", "state"), [((0.001, 0.0, 0.004), "below the margin"), ((0.004, 0.0, MARGIN), "undecided")]
)
def test_bounds_at_the_limit_claim_nothing(bounds, state):
    """Catches a lower bound of 0 taken for a leak, or an upper bound at the margin taken for one below it."""
    (legend,) = plot_forest(result(bounds), MARGIN).legends
    assert [text.get_text() for text in legend.get_texts()] == [state]


def test_far_losses_become_arrows():
    """Catches one failed attack that squeezes all others into a line, and one that vanishes without a trace."""
    figure = plot_forest(result((0.001, -0.001, 0.004), (-0.4, -0.45, -0.35), (-0.012, -0.02, -0.01)), MARGIN)
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    assert left > -2
    assert right > 0.5
    arrows = [tuple(point) for line in axes.lines if line.get_marker() == "<" for point in line.get_xydata()]
    assert arrows == [(left, 1.0), (left, 2.0)]
    assert not [line for line in axes.lines if line.get_marker() == ">"]


def test_gains_are_never_cut():
    """Catches an axis that ends before the strongest leak."""
    (axes,) = plot_forest(result((0.12, 0.1, 0.14), (0.0, -0.1, 0.1)), MARGIN).axes
    assert axes.get_xlim()[1] > 14


@pytest.mark.parametrize("attacks", [1, 5, 31])
def test_rows_have_room_of_their_own(attacks, tmp_path):
    """Catches rows that overlap when there are many, and a layout that collapses, which only warns."""
    audit = small(attacks=attacks)
    figure = plot_forest(audit.primary, audit.margin)
    figure.savefig(tmp_path / "forest.pdf")
    (axes,) = figure.axes
    row_points = 72 * figure.get_figheight() * axes.get_position().height / attacks
    assert row_points > 9, "letters of 7 points need more"
    assert axes.get_position().width > 0.4
    assert len(row_names(axes)) == attacks


def test_names_may_hold_anything(tmp_path):
    """Catches a dollar that starts mathematics, a line break that tears rows apart, a name that fills the picture."""
    names = [name for name in HOSTILE if not {"🦊", "蒸"} & set(name)]  # no letters of such kinds in matplotlib's font
    figure = plot_forest(result(*[(0.0, -0.001, 0.001)] * len(names), names=names), MARGIN)
    figure.savefig(tmp_path / "forest.pdf")
    shown = row_names(figure.axes[0])
    assert "$\\frac$ and $x_1$" in shown
    assert "two lines" in shown
    assert max(map(len, shown)) == 24
    assert plot_audit_curves({"$\\frac$": facts("a"), "_hidden": facts("b")}).savefig(tmp_path / "curves.pdf") is None


def test_accounting_is_shown_term_by_term():
    """Catches terms under another's head, rows in another order than the names, panels of different scales."""
    rows = report(attacks=4).accounting
    figure = plot_accounting(rows[::-1])
    panels = dict(zip((axes.get_title() for axes in figure.axes), figure.axes, strict=True))
    fields = ("gain", "loss_form", "teacher_errors", "class_similarity", "instance_information")
    assert list(panels) == [field.replace("_", " ") for field in fields]
    assert row_names(figure.axes[0]) == [each.attack for each in rows]
    for field, axes in zip(fields, panels.values(), strict=True):
        terms = [getattr(each, field) for each in rows]
        assert [mark[1] for mark in marks(axes)] == pytest.approx([100 * each.estimate for each in terms])
        assert [bar[1] for bar in bars(axes)] == pytest.approx([100 * each.lower for each in terms])
        assert [bar[2] for bar in bars(axes)] == pytest.approx([100 * each.upper for each in terms])
        assert axes.get_xlim() == figure.axes[0].get_xlim()


def test_curves_are_the_models():
    """Catches swapped axes or models, a linear axis, lines that only their colour tells apart."""
    models = {"CE": facts("CE", spread=3.0), "CMIM": facts("CMIM")}
    figure = plot_audit_curves(models)
    (axes,) = figure.axes
    for line, each in zip(axes.lines, models.values(), strict=True):
        assert [tuple(point) for point in line.get_xydata()] == [pytest.approx(pair) for pair in each.curve]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(models)
    assert len({line.get_linestyle() for line in axes.lines}) == 2


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_forest(replace(small(VERDICTS[3]).primary, comparisons=()), MARGIN), "at least one attack, got"),
        (lambda: plot_accounting([]), "at least one attack, got none"),
        (lambda: plot_audit_curves({}), "Expected 1 to 7 models"),
    ],
)
def test_nothing_to_draw_is_explained(draw, message):
    """Catches an empty picture, and an error from inside matplotlib."""
    with pytest.raises(ValueError, match=message):
        draw()
