"""Defences side by side on page, card and terminal: each with its own figures, in the column of its attacker."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pages.page_reader import number, read, rows, section
from pages.reports import VERDICTS, comparisons, facts, report, small
from pages.test_markdown import table

from hf_cmim.errors import HfCmimError
from hf_cmim.pages.defences import ON_THE_WAY_OUT
from hf_cmim.pages.html import audit_page
from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.pages.terminal import audit_table
from hf_cmim.plots import DefendedLeak, plot_defences
from hf_cmim.plots.defences import spread_out
from hf_cmim.report import Attacker, Check, ControlResult, Leak

NAMES = ("argmax", 'top-k:{"k": 3}', "label smoothing")


def defence(name, verdict, rng, *, channel=""):
    """A control with a leak of its own under two criteria."""
    primary, paper = (comparisons(("kd",), "LS", verdict, 0.005, rng)[0] for _ in range(2))
    figures = facts(name, float(rng.uniform(0.8, 0.9)), nll=float(rng.uniform(0.2, 2)), channel=channel)
    leak = Leak("paper", verdict, paper, paper.upper)
    return ControlResult(name, figures, verdict, primary, primary.upper, (), (), (leak,), int(rng.integers(1e3, 9e3)))


@pytest.fixture(scope="module")
def audit():
    """Two attackers, three defences beside the twin, each with other numbers."""
    rng = np.random.default_rng(0)
    reports = []
    for attacker in (Attacker("training"), Attacker("own", 0.25)):
        whole = report(attacks=2, seed=len(reports), accounting=(), teacher=facts("Hardened model", curve=()))
        controls = [whole.controls[0]]
        controls += [
            defence(name, verdict, rng, channel="Argmax()" if name == "argmax" else "")
            for name, verdict in zip(NAMES, VERDICTS, strict=False)
        ]
        whole = replace(whole, criteria=whole.criteria[:2], twin=replace(whole.twin, curve=()))
        reports.append(replace(whole, scope=replace(whole.scope, attacker=attacker), controls=tuple(controls)))
    return replace(reports[0], other_attackers=(reports[1],))


@pytest.fixture(scope="module")
def part(audit):
    """The section of the page."""
    return section(read(audit_page(audit)), "Defences compared")


def expected(audit):
    """Cells of each row, in the order of the report: model, twin, defences."""
    yield from (
        (each.name, each.facts, [part.controls[position].largest_gain for part in (audit, *audit.other_attackers)])
        for position, each in enumerate(audit.controls)
    )


def test_few_teachers_are_not_compared():
    """Catches a table of one defence, or of the twin alone, which the section of controls already has."""
    for show in (audit_page, audit_markdown, audit_table):
        assert "Defences compared" not in show(small())


def test_page_and_card_have_each_defence_with_its_own_numbers(audit, part):
    """Catches figures of another defence, a leak under another attacker or criterion, and a lost price."""
    on_page = next(part.all("table"))
    titles = [cell.text for cell in next(on_page.all("thead")).all("th")]
    card = table(audit_markdown(audit), "### Defences compared")
    assert card[0] == titles
    assert titles[5:9] == [
        "leak, teacher-free, the model's own training samples",
        "leak, paper, the model's own training samples",
        "leak, teacher-free, samples of its own with labels, 25 % of them",
        "leak, paper, samples of its own with labels, 25 % of them",
    ]
    for shown in (rows(on_page), card[2:]):
        assert [row[0] for row in shown] == ["Hardened model", "CE twin", *NAMES]
        assert [row[1] for row in shown] == [
            "undistillable",
            "distillable",
            "distillable",
            "leaks less",
            "undistillable",
        ]
        for row, (_, figures, leaks) in zip(shown[1:], expected(audit), strict=True):
            assert number(row[2]) == pytest.approx(100 * figures.accuracy, abs=0.00501)
            assert number(row[3]) == pytest.approx(figures.nll, abs=0.000501)
            assert number(row[4]) == pytest.approx(100 * figures.ece, abs=0.00501)
            for cell, leak in zip((row[5], row[7]), leaks, strict=True):
                values = [number(part) for part in cell.replace("[", "").replace("]", "").replace(",", "").split()]
                assert values == pytest.approx([100 * leak.gain, 100 * leak.lower, 100 * leak.upper], abs=0.00501)
        for row, control in zip(shown[2:], audit.controls[1:], strict=True):
            assert number(row[9]) == control.queries
            assert number(row[6].split()[0]) == pytest.approx(
                100 * control.described[0].largest_gain.gain, abs=0.00501
            )


def test_terminal_has_a_table_for_each_attacker_and_criterion(audit):
    """Catches a row that wraps, and a table that is left out."""
    lines = audit_table(audit).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("leak, ") for line in lines) == 4
    for name, figures, leaks in list(expected(audit))[1:]:
        found = [line for line in lines if line.startswith(f"{name} ")]
        assert len(found) == 4
        assert f"{100 * figures.accuracy:.2f}" in found[0]
        for line, leak in zip((found[0], found[2]), leaks, strict=True):
            assert f"{100 * leak.gain:+.2f}" in line


def test_a_channel_is_said_to_protect_no_weights(audit, part):
    """Catches a comparison that reads as if published weights had the leak of a channel."""
    weights = replace(audit, controls=tuple(each for each in audit.controls if each.name != "argmax"))
    assert ON_THE_WAY_OUT in part.text
    for show in (audit_markdown, lambda each: " ".join(audit_table(each).split())):
        assert ON_THE_WAY_OUT in show(audit)
        assert "Defences compared" in show(weights)
        assert ON_THE_WAY_OUT not in show(weights)


def test_a_failed_check_takes_a_defences_verdict_away(audit):
    """Catches a verdict that a check voided."""
    spoilt = replace(audit.controls[2], checks=(Check("random answers", "fatal", "It answers at random."),))
    changed = replace(audit, controls=(*audit.controls[:2], spoilt, audit.controls[3]))
    shown = table(audit_markdown(changed), "### Defences compared")[2:]
    assert [row[1] for row in shown][2:] == ["distillable", "no verdict", "undistillable"]


# The picture


def test_each_point_has_its_place_whiskers_and_name(audit):
    """Catches points of another defence, bounds in fractions, and names in another order than the points."""
    leaks = [DefendedLeak(each.name, each.facts.nll, each.largest_gain) for each in audit.controls]
    figure = plot_defences(leaks, audit.margin)
    axes = figure.axes[0]
    points = [tuple(point) for line in axes.lines if line.get_linestyle() == "None" for point in line.get_xydata()]
    expected_points = sorted((each.nll, 100 * each.largest.gain) for each in leaks)
    assert np.array(sorted(points)) == pytest.approx(np.array(expected_points))
    whiskers = [segment for each in axes.collections for segment in each.get_segments()]
    ends = {(round(start[0], 6), round(stop[1], 6)) for start, stop in whiskers}
    assert ends == {(round(each.nll, 6), round(100 * each.largest.upper, 6)) for each in leaks}
    named = {text.get_text(): text.xy for text in axes.texts if hasattr(text, "xy")}
    for each in leaks:
        assert named[each.name] == pytest.approx((each.nll, 100 * each.largest.gain))
    heights = [text.get_position()[1] for text in axes.texts if hasattr(text, "xy")]
    assert min(later - earlier for earlier, later in pairwise(heights)) > 0.05


def test_names_keep_their_distance_and_stay_inside():
    """Catches names that cover each other, or leave the picture though there is room."""
    for heights in ([0.5] * 4, [0.0, 0.9, 0.95, 1.0], [0.1, 0.12, 0.5, 0.98, 1.0]):
        moved = spread_out(heights, 0.2)
        assert all(later - earlier >= 0.2 - 1e-9 for earlier, later in pairwise(moved))
        assert min(moved) >= 0
        assert max(moved) <= 1
    assert spread_out([0.1, 0.6], 0.2) == [0.1, 0.6], "names that have room are beside their points"


def test_a_picture_needs_two_defences():
    """Catches an empty picture, or a raw error of matplotlib."""
    with pytest.raises(HfCmimError, match="at least 2 defences in one picture, got 0"):
        plot_defences([], 0.005)


def test_the_page_has_one_picture_of_all_defences(part):
    """Catches a picture without some defence, and one for each attacker."""
    (svg,) = part.all("svg")
    for name in ("Hardened model", "CE twin", *NAMES):
        assert name in svg.text
