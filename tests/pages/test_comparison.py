"""One page of several audits compares only what can be compared, and says so."""

from dataclasses import replace

import pytest
from pages.page_reader import number, read, rows, section
from pages.reports import HOSTILE, VERDICTS, facts, hostile, report, small

from hf_cmim.pages import wording
from hf_cmim.pages.html import comparison_page
from hf_cmim.report import Check
from hf_cmim.statistics import Design


def test_verdicts_stand_side_by_side():
    """Catches a verdict under another audit's name, a margin that is another's, a fatal check that is not seen."""
    fatal = Check("test data seen", "fatal", "812 samples stand in both sets.")
    audits = {verdict: small(verdict) for verdict in VERDICTS} | {"broken": small(checks=(fatal,))}
    document = read(comparison_page(audits))
    names = [
        "Distillable",
        "Leaks less than 0.5 points",
        "Undistillable within 0.5 points",
        "Inconclusive at a margin of 0.5 points",
        "No verdict, because a check failed: test data seen.",
    ]
    table = rows(next(section(document, "Verdicts").all("table")))
    assert [row[:2] for row in table] == [list(each) for each in zip(audits, names, strict=True)]
    for row, audit in zip(table, audits.values(), strict=True):
        assert number(row[2]) == pytest.approx(100 * audit.primary.comparisons[0].gain, abs=0.00501)
        shown = float(row[3].removesuffix(" points"))
        assert 0 <= shown - 100 * audit.primary.smallest_margin < 0.01 + 1e-9, "must be rounded up"
    assert document.text.index(fatal.sentence) < document.text.index(wording.LEFT_ASIDE)
    assert document.text.count(wording.LEFT_ASIDE) == 1


def test_every_attack_of_every_audit_has_its_gain():
    """Catches a table of common attacks only, shifted columns, and a gap that reads like a gain of 0."""
    first, second = small(attacks=3), small(VERDICTS[0], attacks=5)
    document = read(comparison_page({"first": first, "second": second}))
    table = rows(next(section(document, "Gains of the attacks").all("table")))
    gains = [{each.attack: each for each in audit.primary.comparisons} for audit in (first, second)]
    assert [row[0] for row in table] == list(gains[1])
    for name, *shown in table:
        for cell, column in zip(shown, gains, strict=True):
            if name in column:
                values = [number(piece) for piece in cell.replace("(", "").replace(")", "").replace(",", "").split()]
                each = column[name]
                assert values == pytest.approx([100 * each.gain, 100 * each.lower, 100 * each.upper], abs=0.00501)
            else:
                assert cell == "not tried"


SCOPE = small().scope
DIFFERENCES = {
    "Suite of attacks": {"scope": replace(SCOPE, suite="quick-v2")},
    "Student": {"scope": replace(SCOPE, student="MobileNet")},
    "Transfer set": {"scope": replace(SCOPE, num_transfer=10)},
    "Validation set": {"scope": replace(SCOPE, validation_set="other")},
    "Test set": {"scope": replace(SCOPE, test_set="other")},
    "Training": {"scope": replace(SCOPE, training={"num_train_epochs": 3})},
    "Margin": {"design": Design(0.01)},
    "Criterion": {"criteria": (replace(small().primary, criterion="paper"),)},
}


@pytest.mark.parametrize("part", DIFFERENCES)
def test_different_scopes_are_warned_of_first(part):
    """Catches numbers of different data, students or suites side by side as if they measured the same."""
    document = read(comparison_page({"one": small(), "two": small(**DIFFERENCES[part])}))
    (header,) = document.all("header")
    assert wording.NOT_COMPARABLE in header.text
    assert [each.text for each in header.all("dt")] == [part]
    (values,) = header.all("dd")
    assert values.text.startswith("one: ")
    assert " two: " in values.text


def test_equal_scopes_are_not_warned_of():
    """Catches a warning that always stands there and so is read by nobody."""
    audits = {"one": small(), "two": small(VERDICTS[0], title="other", date="2027-01-01", power=None)}
    document = read(comparison_page(audits))
    assert wording.NOT_COMPARABLE not in document.text
    (shared,) = document.all("details")
    assert SCOPE.student in shared.text


def test_only_settings_that_differ_are_shown_at_once():
    """Catches a list of equal settings between the verdicts, in which the one that differs is lost."""
    document = read(comparison_page({"one": small(), "two": small(**DIFFERENCES["Student"])}))
    (shared,) = document.all("details")
    (header,) = document.all("header")
    assert [each.text for each in header.all("dt")] == ["Student"]
    assert "Student" not in [each.text for each in shared.all("dt")]
    assert all(each in [*header.all("dl"), *shared.all("dl")] for each in document.all("dl"))


def test_utility_of_each_model():
    """Catches one model's figures under another's name, or a difference from another's twin."""
    twin = facts("twin", 0.90)
    audits = {"one": small(twin=twin), "two": small(teacher=facts("other", 0.95))}
    table = rows(next(section(read(comparison_page(audits)), "Utility to their owners").all("table")))
    assert table[0] == ["accuracy", "93.00 %", "+3.00", "95.00 %"]


def test_missing_power_comes_first():
    """Catches the sentence without the audit's name, or below the verdicts."""
    document = read(comparison_page({"one": small(), "two": small(power=False)}))
    (main,) = document.all("main")
    assert next(main.all("p")).text == f"two: {wording.NO_POWER}"


def test_names_are_text():
    """Catches an audit's name that becomes markup."""
    names = [*HOSTILE[:3], HOSTILE[3]]
    document = read(comparison_page(dict(zip(names, [hostile(), small(), report(attacks=1), small()], strict=True))))
    assert not list(document.all("script"))
    shown = [row[0] for row in rows(next(section(document, "Verdicts").all("table")))]
    assert shown == [" ".join(name.split()) for name in names]


def test_no_report_is_explained():
    """Catches an empty page."""
    with pytest.raises(ValueError, match="No report was given, so the page would be empty"):
        comparison_page({})
