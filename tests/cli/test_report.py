"""`hf-cmim report`: pages beside what they show, and no file lost."""

import pytest
from pages.reports import VERDICTS, report, small

from hf_cmim.cli import report as command
from hf_cmim.cli.main import main
from hf_cmim.pages.html import audit_page, comparison_page
from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.pages.terminal import audit_table
from hf_cmim.report import AuditReport


@pytest.fixture
def audits(tmp_path, monkeypatch):
    """Folders `first` and `second` with an audit each, in the working directory."""
    found = {"first": small(), "second": small(VERDICTS[0], title="the other")}
    for name, audit in found.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "audit.json").write_text(audit.to_json())
    monkeypatch.chdir(tmp_path)
    return {name: AuditReport.read(tmp_path / name) for name in found}  # its settings in the file's order


@pytest.mark.parametrize("word", ["first", "first/audit.json"])
def test_one_audit_is_shown_and_its_pages_written_anew(word, audits, tmp_path, capsys):
    """A page of another audit, or one left as it was, would be believed."""
    (tmp_path / "first" / "audit.html").write_text("old")
    assert main(["report", word]) == 0
    assert (tmp_path / "first" / "audit.html").read_text() == audit_page(audits["first"])
    assert (tmp_path / "first" / "audit.md").read_text() == audit_markdown(audits["first"])
    printed = capsys.readouterr().out
    assert audit_table(audits["first"]) in printed
    assert printed.endswith("Written: first/audit.html, first/audit.md\n")
    assert sorted(path.name for path in (tmp_path / "second").iterdir()) == ["audit.json"]


def test_several_audits_become_one_page_under_their_folders_names(audits, tmp_path, capsys):
    """Columns that change places would give one model the other's verdict."""
    assert main(["report", "first", "second/audit.json"]) == 0
    page = (tmp_path / "comparison.html").read_text()
    assert page.startswith(comparison_page(audits).rstrip())
    assert capsys.readouterr().out == "Written: comparison.html\n"
    assert main(["report", "first", "second", "--output", "new/both.html"]) == 0
    assert (tmp_path / "new" / "both.html").read_text() == page


def test_folders_of_one_name_keep_their_paths(audits, tmp_path):
    """Two audits of one name would be one column."""
    (tmp_path / "more" / "first").mkdir(parents=True)
    (tmp_path / "more" / "first" / "audit.json").write_text(audits["second"].to_json())
    assert main(["report", "first", "more/first"]) == 0
    expected = comparison_page({"first": audits["first"], "more/first": audits["second"]})
    assert (tmp_path / "comparison.html").read_text().startswith(expected.rstrip())


def test_comparison_is_written_anew_but_nothing_else_overwritten(audits, tmp_path, capsys):
    """Somebody's own page, or an audit named after --output by mistake, would be gone."""
    assert main(["report", "first", "second"]) == 0
    assert main(["report", "second", "first"]) == 0
    assert main(["report", "first", "second", "--output", "second/audit.json"]) == 2
    assert "got second/audit.json, which is neither" in capsys.readouterr().err
    assert (tmp_path / "second" / "audit.json").read_text() == audits["second"].to_json()
    assert main(["report", "first", "second", "--output", "second"]) == 2


def test_what_cannot_be_shown_is_refused(audits, tmp_path, capsys, monkeypatch):
    """A missing report, an output that one audit does not have, pictures that cannot be drawn: each has a remedy."""
    assert main(["report", "nowhere"]) == 2
    assert "No such file or folder nowhere: no audit can be read from it" in capsys.readouterr().err
    assert main(["report", "first", "--output", "page.html"]) == 2
    assert "is for comparisons, but there is one audit" in capsys.readouterr().err
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["report", "first"]) == 2
    assert "pip install 'hf_cmim[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "first" / "audit.html").exists()


def test_whole_report_fits_the_command(tmp_path):
    """A small report has no pictures; one with all of them takes other ways."""
    (tmp_path / "audit.json").write_text(report(attacks=3).to_json())
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "audit.html").stat().st_size > 10_000
