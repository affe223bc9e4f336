"""The section of a model card says what the report says, and a name in it stays a name."""

import html
import re
from dataclasses import replace

import pytest
from pages.page_reader import number
from pages.reports import HOSTILE, VERDICTS, hostile, report, small

from hf_cmim.pages import wording
from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.report import Check


def table(section, heading):
    """Cells of the first table after a heading, as a reader sees them; every row must have as many as its head."""
    lines = section.split(f"{heading}\n", 1)[1].split("\n| ", 1)[1].split("\n\n", 1)[0]
    split = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in f"| {lines}".split("\n")]
    assert {len(row) for row in split} == {len(split[0])}, heading
    return [[html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)).strip() for cell in row] for row in split]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdict_is_the_first_thing_said(verdict):
    """Catches another criterion's verdict, and one without its margin and scope."""
    audit = small(verdict)
    section = audit_markdown(audit)
    bold = re.findall(r"\*\*(.+?)\*\*", section)[0]
    assert bold == wording.verdict_name(verdict, audit.margin) + "."
    rows = dict(table(section, "## Distillation audit"))
    assert rows["Margin"] == "0.5 points"
    assert rows["Student"] == audit.scope.student
    assert rows["Test set"].startswith(audit.scope.test_set)
    assert rows["Date"] == audit.date


@pytest.mark.parametrize("power", [False, None, True])
def test_missing_power_comes_before_the_verdict(power):
    """Catches a card that praises a model after an audit that could show nothing."""
    section = audit_markdown(small(power=power))
    assert section.startswith(f"## Distillation audit\n\n**{wording.NO_POWER}**") == (power is False)
    assert (wording.NO_CONTROL in section) == (power is None)


def test_fatal_check_replaces_the_verdict():
    """Catches the verdict in bold beside the check that takes it away."""
    section = audit_markdown(small(checks=(Check("seen", "fatal", "812 samples stand in both sets."),)))
    assert re.findall(r"\*\*(.+?)\*\*", section) == ["No verdict, because a check failed: seen."]
    assert section.index("812 samples") < section.index("Undistillable")


@pytest.mark.parametrize(("attacks", "shown"), [(1, 1), (10, 10), (31, 10)])
def test_strongest_attacks_with_their_numbers(attacks, shown):
    """Catches the weakest ones, a lost row, swapped bounds."""
    audit = small(attacks=attacks)
    mixed = replace(audit.primary, comparisons=audit.primary.comparisons[::-1])
    rows = table(audit_markdown(replace(audit, criteria=(mixed,))), "### Attacks")[2:]
    assert len(rows) == shown
    for row, each in zip(rows, audit.primary.comparisons, strict=False):
        assert (row[0], row[1], row[5]) == (each.attack, "below the margin", str(each.seeds))
        values = [number(cell) for cell in row[2:5]]
        assert values == pytest.approx([100 * each.gain, 100 * each.lower, 100 * each.upper], abs=0.00501)


def test_criteria_and_utility_are_the_report_s():
    """Catches a criterion's verdict in another's row, and a twin's figure in the model's column."""
    audit = report(attacks=3)
    audit = replace(audit, criteria=(audit.criteria[0], replace(audit.criteria[1], verdict=VERDICTS[0])))
    section = audit_markdown(audit)
    criteria = table(section, "### Criteria")[2:]
    assert [row[1] for row in criteria] == ["Undistillable within 0.5 points", "Distillable"]
    assert "chosen before the run" in criteria[0][0]
    assert "chosen before the run" not in criteria[1][0]
    assert table(section, "### Utility to its owner")[2] == ["accuracy", "93.07 %", "92.81 %", "+0.26"]


def test_controls_stand_beside_the_model():
    """Catches an attack's difference in the place of that of the strongest, and a control without one left out."""
    audit = report(attacks=3)
    first = audit.controls[0].differences[0]
    twin, argmax = table(audit_markdown(audit), "### Beside other teachers")[2:]
    assert twin == [
        "CE twin", "Distillable", f"the strongest, {first.control_attack} against {first.attack}",
        "+0.71 [+0.12, +1.30]", "12",
    ]  # fmt: skip
    assert argmax == ["CE model behind argmax", "Undistillable within 0.5 points", "", "", ""]


def test_names_are_no_markup():
    """Catches a pipe that opens a cell, a tag, a code span, emphasis, a link, and a line that ends a table."""
    section = audit_markdown(hostile())
    assert "<" not in section.replace(hostile().reproduction["command"], "")
    shown = [row[0] for row in table(section, "### Attacks")[2:]]
    expected = [" ".join("".join(c if c.isprintable() else " " for c in name).split()) for name in HOSTILE]
    assert set(shown) <= set(expected)
    assert len(shown) == 10
    for row in table(section, "### Criteria") + table(section, "### Utility to its owner"):
        assert row
    prose = re.sub(r"(?s)^(`{3,})\n.*?\n\1$", "", section, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)[`\[\]$~_]", prose)


def test_command_cannot_leave_its_fence():
    """Catches a fence that the command closes itself."""
    command = "audit `` ```` ```"
    section = audit_markdown(small(reproduction={"command": command}))
    assert f"\n`````\n{command}\n`````" in section


def test_headings_without_data_are_left_out():
    """Catches empty headings."""
    section = audit_markdown(small(checks=(), reproduction={}, controls=()))
    assert re.findall("^#+ (.+)$", section, flags=re.MULTILINE) == [
        "Distillation audit", "Criteria", "Attacks", "What labels alone give away", "Attackers",
        "Utility to its owner",
    ]  # fmt: skip
