"""The terminal's table fits, whatever the names are."""

import re
import unicodedata
from dataclasses import replace

import pytest
from pages.reports import FAMILIES, VERDICTS, hostile, report, small

from hf_cmim.pages import wording
from hf_cmim.pages.terminal import audit_table
from hf_cmim.report import Check

NO_VERDICT = "No verdict, because a check failed: seen."


def columns(line):
    """Columns of a line of letters and wide letters, without combining marks."""
    return len(line) + sum(unicodedata.east_asian_width(letter) in "WF" for letter in line)


@pytest.mark.parametrize("audit", [small(attacks=31), hostile(), small(VERDICTS[3], power=False)])
def test_no_line_is_too_wide(audit):
    """Catches a long name, a wide letter counted as one column, a sentence that is not wrapped."""
    table = audit_table(audit)
    assert max(map(columns, table.splitlines())) <= 100
    assert max(map(columns, table.splitlines())) > 80, "the sentences are wrapped too early"


def test_names_cannot_steer_the_terminal():
    """Catches an escape sequence that reaches the terminal, and a name that makes a row of its own."""
    table = audit_table(hostile())
    assert all(letter == "\n" or letter.isprintable() for letter in table)
    assert "two lines" in table


def test_every_attack_has_a_row_with_its_numbers():
    """Catches a cut table, a lost sign, a minus sign that a program cannot read, columns that do not line up."""
    audit = small(VERDICTS[3], attacks=31)
    table = audit_table(audit).split("\nattack ", 1)[1].splitlines()
    for row, each in zip(table[1:32], audit.primary.comparisons, strict=True):
        name, gain, lower, upper, seeds, state = re.split(r" {2,}", row)
        assert (name, seeds) == (each.attack, str(each.seeds))
        values = [float(gain), float(lower), float(upper)]
        assert values == pytest.approx([100 * each.gain, 100 * each.lower, 100 * each.upper], abs=0.00501)
        assert state == ("undecided" if each.upper >= audit.margin else "below the margin")
    assert len({row.rindex(".") for row in table[1:32]}) == 1


def test_long_name_is_cut_with_an_ellipsis_and_columns_stay():
    """Catches a long or wide name that pushes its numbers to the right."""
    rows = audit_table(hostile()).split("\nattack ", 1)[1].splitlines()[1:14]
    assert sum("…" in row for row in rows) == 2
    ends = {columns(re.match(r".*?[-+]?\d+\.\d\d(?=\s)", row).group()) for row in rows}
    assert ends == {52}


def test_order_of_what_is_said():
    """Catches a verdict before the sentence that there was no power, or before the check that takes it away."""
    table = audit_table(small(power=False, checks=(Check("seen", "fatal", "Both sets share 812 samples."),)))
    flat = " ".join(table.split())
    places = [
        flat.index(words)
        for words in (wording.NO_POWER, NO_VERDICT, "Both sets share", "Undistillable within 0.5 points.")
    ]
    assert places == sorted(places)
    assert flat.startswith(wording.NO_POWER)
    assert "No verdict" not in audit_table(small())


def test_described_criteria_are_told_from_the_primary_one():
    """Catches a table that drops them, or shows a described verdict as the audit's."""
    audit = report(VERDICTS[2], attacks=2)
    audit = replace(audit, criteria=(audit.criteria[0], replace(audit.criteria[1], verdict=VERDICTS[0])))
    table = audit_table(audit)
    assert "Described only, against the label-smoothing student: Distillable." in table
    assert table.count("Described only") == 1


def test_controls_say_what_they_give_away_more():
    """Catches a difference with the wrong sign or the wrong seeds, and a control without one left out."""
    flat = " ".join(audit_table(report(attacks=2)).split())
    assert (
        "CE twin: Distillable. Accuracy of its knockoffs minus that of the audited model's (the strongest,"
        f" {FAMILIES[1]} against {FAMILIES[0]}): +0.71 [+0.12, +1.30] points, 12 seeds."
    ) in flat
    assert "CE model behind argmax: Undistillable within 0.5 points." in flat


VOID = Check("test samples seen", "fatal", "812 of 45,000 test samples are in the transfer set as well. Remove them.")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_verdict_that_a_check_took_away_is_not_called_inconclusive(verdict):
    """Catches "Inconclusive ... (0 of 1 tried)": the check, its figure and its fix come first, then the numbers."""
    decided = report(verdict, attacks=1)
    void = tuple(replace(each, verdict="inconclusive") for each in decided.criteria)  # as an audit stores it
    flat = " ".join(audit_table(replace(decided, criteria=void, checks=(VOID,))).split())
    assert f"No verdict, because a check failed: test samples seen. {VOID.sentence}" in flat
    after = flat.split(wording.LEFT_ASIDE)[1].strip()
    assert after.startswith(wording.verdict_name(verdict, decided.margin))
    assert "(0 of" not in flat
    assert "Described only, against the label-smoothing student: No verdict, because a check failed" in flat


def test_attacks_that_were_not_compared_leave_a_criterion_open():
    """Catches the same nonsense where a criterion has no baseline for some attacks, and an overclaim when aside."""
    audit = report(VERDICTS[2], attacks=3)
    part = replace(audit.primary, comparisons=audit.primary.comparisons[:2], verdict="inconclusive")
    for checks in ((), (VOID,)):
        flat = " ".join(audit_table(replace(audit, criteria=(part,), checks=checks)).split())
        assert "(2) is decided, but other attacks of the suite were not compared with it." in flat
        assert "Inconclusive at a margin of 0.5 points." in flat


def test_a_control_without_a_verdict_says_why():
    """Catches a control that is called undistillable because it answers at random."""
    audit = report(attacks=2)
    noisy = Check("answers change", "fatal", "A probability changed by up to 0.2.")
    weak = Check("teacher worse than student", "warning", "It reaches 80 %.")
    control = replace(audit.controls[1], verdict="inconclusive", checks=(noisy, weak))
    flat = " ".join(audit_table(replace(audit, controls=(control,))).split())
    assert f"{control.name}: No verdict, because a check failed: answers change. {noisy.sentence}" in flat
    assert f"warning, {control.name}, teacher worse than student: It reaches 80 %." in flat
