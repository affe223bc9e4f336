"""Write docs/evidence/defences-compared.md from the report of recipes/compare_defences.py.

    PYTHONPATH=. python evidence/defences_table.py > docs/evidence/defences-compared.md

The report is a copy of OUTPUT_DIR/audit/audit.json in evidence/defences. The words around the table are in
evidence/defences_page.md.
"""

from pathlib import Path

from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.pages.wording import scope_rows
from hf_cmim.report import AuditReport

FOLDER = Path(__file__).parent


def main() -> None:
    """Print the page."""
    report = AuditReport.read(FOLDER / "defences" / "fashion_mnist.json")
    compared = audit_markdown(report).partition("### Defences compared\n")[2].partition("\n### ")[0]
    scope = "\n".join(f"| {name} | {value} |" for name, value in scope_rows(report).items())
    page = (FOLDER / "defences_page.md").read_text(encoding="utf-8")
    parts = {"table": compared.strip(), "scope": f"| audit | |\n|---|---|\n{scope}"}
    print(page.format(**parts, students=f"{report.costs.students:,}"), end="")


if __name__ == "__main__":
    main()
