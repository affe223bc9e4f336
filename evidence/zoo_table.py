"""Write docs/evidence/gallery.md from the audits of recipes/zoo.py, copied to evidence/zoo/ENTRY.json.

    PYTHONPATH=. python evidence/zoo_table.py > docs/evidence/gallery.md

The words around the tables are in evidence/zoo_page.md.
"""

from pathlib import Path

from hf_cmim.pages.wording import scope_rows
from hf_cmim.report import AuditReport
from recipes.zoo import Entry, gallery_table

FOLDER = Path(__file__).parent


def scope_table(reports: dict[str, AuditReport]) -> str:
    """Return the limits of each verdict as a table, a column for each entry."""
    rows = {name: scope_rows(report) for name, report in reports.items()}
    for name, report in reports.items():
        rows[name] |= {"Students trained": f"{report.costs.students:,}", "Date": report.date}
    lines = [["audit", *rows], ["---"] * (1 + len(rows))]
    lines += [[part, *(row[part] for row in rows.values())] for part in next(iter(rows.values()))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the page."""
    reports = {path.stem: AuditReport.read(path) for path in sorted((FOLDER / "zoo").glob("*.json"))}
    entries = [Entry(name, report, f"recipes/zoo/{name}.yaml") for name, report in reports.items()]
    page = (FOLDER / "zoo_page.md").read_text(encoding="utf-8")
    command = f"python recipes/zoo.py {' '.join(entry.where for entry in entries)}"
    tables = {"table": gallery_table(entries), "scope": scope_table(reports), "command": command}
    print(page.format(**tables), end="")


if __name__ == "__main__":
    main()
