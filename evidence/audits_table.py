"""Tables of the reports of evidence/audits.py, for the page that evidence/seeds_table.py writes."""

from collections.abc import Iterator
from pathlib import Path

from hf_cmim.pages.quantities import bound_text, points
from hf_cmim.pages.wording import verdict_name
from hf_cmim.report import AuditReport
from hf_cmim.statistics import Comparison

FOLDER = Path(__file__).parent / "audits"
ATTACKERS = {"training": "the teacher's samples", "own": "own samples"}


def gain(comparison: Comparison | None) -> str:
    """Return the attack with the largest gain and its bounds, in points."""
    if comparison is None:
        return "none"
    bounds = f"[{points(comparison.lower)}, {points(comparison.upper)}]"
    return f"`{comparison.attack}` {points(comparison.gain)} {bounds}"


def teacher_lines(report: AuditReport) -> Iterator[str]:
    """Yield a table row for each teacher of an attacker: accuracy, verdict, largest gain, smallest margin."""
    primary = report.primary
    rows = [("**the default**", report.teacher, primary.verdict, primary.comparisons[0], primary.smallest_margin)]
    rows += [
        (control.name, control.facts, control.verdict, control.largest_gain, control.smallest_margin)
        for control in report.controls
    ]
    for name, facts, verdict, largest, smallest in rows:
        accuracy = "" if facts is None else f"{100 * facts.accuracy:.2f}"
        cells = name, accuracy, verdict_name(verdict, report.margin).lower(), gain(largest), bound_text(smallest)
        yield f"| {' | '.join(cells)} |"


def criterion_lines(report: AuditReport) -> Iterator[str]:
    """Yield a table row for each criterion of the audited teacher."""
    for result in report.criteria:
        largest = result.comparisons[0] if result.comparisons else None
        yield f"| {result.criterion} | {verdict_name(result.verdict, report.margin).lower()} | {gain(largest)} |"


def audit_tables(task: str) -> Iterator[str]:
    """Yield the tables of each audit of a task, one pair for each attacker."""
    for path in sorted(FOLDER.glob(f"{task}-*.json")):
        for name, report in AuditReport.read(path).by_attacker.items():
            title = f"{ATTACKERS[name]}, teachers of seed {path.stem.rpartition('-')[2]}"
            yield "\n".join(
                [
                    f"| audit: {title} | accuracy, % | verdict | largest gain over every teacher-free student"
                    " | smallest margin |",
                    "|---" * 5 + "|",
                    *teacher_lines(report),
                ]
            )
            yield "\n".join(
                ["| the default, by criterion | verdict | largest gain |", "|---" * 3 + "|", *criterion_lines(report)]
            )
