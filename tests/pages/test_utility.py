"""The membership-inference AUC of a model on pages that show its utility."""

from dataclasses import replace

from pages.page_reader import read, rows, section
from pages.reports import facts, small

from hf_cmim.pages import utility
from hf_cmim.pages.html import audit_page, comparison_page
from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.report import Interval


def test_membership_is_a_row_of_its_own_with_its_meaning():
    """Catches a figure without its interval or meaning, the twin's in the model's place, a row without a figure."""
    auc, of_twin = Interval(0.5312, 0.5203, 0.5421), Interval(0.6, 0.59, 0.61)
    audit = small(teacher=facts("m", curve=(), membership_auc=auc), twin=facts("t", curve=(), membership_auc=of_twin))
    part = section(read(audit_page(audit)), "Utility to its owner")
    cells = ["membership-inference AUC", "0.531 [0.520, 0.542]", "0.600 [0.590, 0.610]", ""]
    assert rows(next(part.all("table")))[-1] == cells
    assert utility.MEMBERSHIP_NOTE in part.text
    assert "| " + " | ".join(cells[:1]) in audit_markdown(audit)
    assert utility.MEMBERSHIP_NOTE in audit_markdown(audit)
    without = replace(audit, twin=None, controls=())
    assert rows(next(section(read(audit_page(without)), "Utility to its owner").all("table")))[-1] == cells[:2]
    nobody = small()
    assert "embership" not in audit_page(nobody) + audit_markdown(nobody)
    both = section(read(comparison_page({"one": audit, "two": nobody})), "Utility to their owners")
    assert rows(next(both.all("table")))[-1] == [cells[0], cells[1], "", ""]
    assert utility.MEMBERSHIP_NOTE in both.text
