"""Attackers on page, card and terminal: each has its row, and a question that was not asked is named."""

from dataclasses import replace

import pytest
from pages.reports import report

from hf_cmim.errors import HfCmimError
from hf_cmim.pages.html import audit_page
from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.pages.terminal import audit_table
from hf_cmim.plots import AttackerLeak, plot_attackers
from hf_cmim.report import Attacker

NOT_TRIED = "An attacker with data of its own was not tried"
NOT_KNOWN = "It is not known to this audit if the model was trained on the transfer set"


def audited(*attackers: Attacker):
    """One report for each attacker, with a thousand samples more each time."""
    reports = [
        replace(each, scope=replace(each.scope, attacker=attacker, num_transfer=1000 * (1 + number)))
        for number, attacker in enumerate(attackers)
        for each in [report(attacks=3, seed=number)]
    ]
    return replace(reports[0], other_attackers=tuple(reports[1:]))


@pytest.mark.parametrize("show", [audit_page, audit_markdown, lambda each: " ".join(audit_table(each).split())])
def test_what_was_not_asked_is_named(show):
    """Catches a verdict about training samples that reads like one about every attacker."""
    shown = show(audited(Attacker()))
    assert NOT_TRIED in shown
    assert NOT_KNOWN in shown
    known = show(audited(Attacker("training")))
    assert NOT_TRIED in known
    assert NOT_KNOWN not in known
    both = show(audited(Attacker("training"), Attacker("own", 0.25)))
    assert NOT_TRIED not in both
    assert "samples of its own with labels, 25 % of them" in both
    other_kind = show(audited(Attacker("training"), Attacker("out-of-domain", 0.5)))
    assert "samples of another kind without labels, 50 % of them" in other_kind
    assert NOT_TRIED in other_kind, "samples of another kind are poor queries"


def test_the_page_has_a_row_and_a_point_for_each_attacker():
    """Catches an attacker whose verdict is not shown."""
    attackers = (Attacker("training"), Attacker("own"), Attacker("own", 0.25), Attacker("own-unlabelled"))
    page = audit_page(audited(*attackers))
    for samples in ("1,000", "2,000", "3,000", "4,000"):
        assert f"<td>{samples}</td>" in page
    assert page.count("samples of its own with labels") >= 2
    assert "attackers-" in page or "Largest gain of each attacker" in page


def test_points_of_one_origin_are_joined_in_the_order_of_their_samples():
    """Catches a line that runs back and forth, and whiskers of another attacker."""
    rows = report(attacks=3).primary.comparisons
    leaks = [AttackerLeak("own", samples, row) for samples, row in zip((300, 100, 200), rows, strict=True)]
    figure = plot_attackers([*leaks, AttackerLeak("training", 50, rows[0])], 0.005)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert [list(line.get_xdata()) for line in lines] == [[100, 200, 300]]
    assert list(lines[0].get_ydata()) == pytest.approx([100 * row.gain for row in (rows[1], rows[2], rows[0])])
    assert len(figure.legends[0].get_texts()) == 2
    with pytest.raises(HfCmimError, match="attackers of 1 to 4 names, got 0"):
        plot_attackers([], 0.005)
