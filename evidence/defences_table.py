"""Write docs/evidence/defences-compared.md from the reports of evidence/audits.py and recipes/compare_defences.py.

    python evidence/defences_table.py > docs/evidence/defences-compared.md

The recipe's report is a copy of OUTPUT_DIR/audit/audit.json in evidence/defences. The words around the tables are in
evidence/defences_page.md. `--picture docs/images/defences.png` draws the page's picture instead.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

from audits_table import ATTACKERS, Audited, audited, report_of

from hf_cmim.pages.defences import VOID
from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.pages.wording import scope_rows
from hf_cmim.plots.defences import DefendedLeak, plot_defences
from hf_cmim.report import AuditReport

FOLDER = Path(__file__).parent
TASKS = {
    "fashion_mnist": "Fashion-MNIST at 14x14, 10 classes",
    "emoji_images": "Colour emoji at 16x16, 21 classes",
    "debian_sections": "Debian package descriptions, 27 classes",
}
DEFENCES = {
    "CE": "cross-entropy",
    "default": "**the default of `CMIMTrainer`**",
    "variance ratio": "CE + variance ratio",
    "LS": "label smoothing .1",
    "nasty": "nasty teacher",
    "squared error": "squared error (control)",
    "maximised CMI": "maximised CMI (control)",
    "argmax": "only the label",
    "class answers": "class answers",
    "top 3": "three best classes",
    "rounded": "rounded to one decimal",
    "reverse sigmoid": "reverse sigmoid",
    "ModelGuard-W": "ModelGuard-W",
    "ModelGuard-S": "ModelGuard-S",
    "linear map": "linear map",
    "confidence temperature": "confidence temperature",
    "MAD": "MAD",
}
"""Rows in order: trained models, then changes of the cross-entropy model's answers."""
MARKS = {
    "distillable": "D",
    "leaks less": "L",
    "undistillable": "**U**",
    "inconclusive": "?",
    VOID: "void",
}


def seeds_of(report: AuditReport) -> list[int]:
    """Return the seeds whose teachers got every defence."""
    return sorted(seed for name, seed in audited(report) if name == "argmax")


def utility(each: list[Audited]) -> list[str]:
    """Return means of accuracy, NLL and ECE over teachers."""
    facts = [one.facts for one in each]
    means = [statistics.fmean(getattr(one, name) for one in facts) for name in ("accuracy", "nll", "ece")]
    return [f"{100 * means[0]:.2f}", f"{means[1]:.2f}", f"{100 * means[2]:.1f}"]


def task_table(report: AuditReport) -> Iterator[str]:
    """Yield the lines of a task's table: a row for each defence, a cell for each attacker and teacher."""
    seeds = seeds_of(report)
    attackers = {ATTACKERS[name]: audited(each) for name, each in report.by_attacker.items()}
    columns = [f"{words}, teacher {seed}" for words in attackers for seed in seeds]
    yield f"| | accuracy, % | NLL | ECE, % | {' | '.join(columns)} |"
    yield "|---" * (4 + len(columns)) + "|"
    for name, title in DEFENCES.items():
        first = next(iter(attackers.values()))
        cells = [title, *utility([first[name, seed] for seed in seeds])]
        cells += [
            f"{teachers[name, seed].gain} {MARKS[teachers[name, seed].verdict]}"
            for teachers in attackers.values()
            for seed in seeds
        ]
        yield f"| {' | '.join(cells)} |"


def draw(path: Path) -> None:
    """Draw the defences of Debian's first teacher, to an attacker with samples of its own."""
    report = report_of("debian_sections")
    assert report is not None
    (seed, *_), teachers = seeds_of(report), audited(report.by_attacker["own"])
    leaks = [
        DefendedLeak(name, teachers[name, seed].facts.nll, largest)
        for name in DEFENCES
        if (largest := teachers[name, seed].largest) is not None
    ]
    plot_defences(leaks, report.margin).savefig(path, dpi=200)


def recipe_table() -> tuple[str, str, str]:
    """Return table, scope and number of students of the recipe's own run."""
    report = AuditReport.read(FOLDER / "defences" / "fashion_mnist.json")
    compared = audit_markdown(report).partition("### Defences compared\n")[2].partition("\n### ")[0]
    scope = "\n".join(f"| {name} | {value} |" for name, value in scope_rows(report).items())
    return compared.strip(), f"| audit | |\n|---|---|\n{scope}", f"{report.costs.students:,}"


def main() -> None:
    """Print the page, or draw its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="file of the picture to draw")
    path = parser.parse_args().picture
    if path is not None:
        draw(path)
        return
    sections = []
    for task, title in TASKS.items():
        report = report_of(task)
        if report is not None:
            students = sum(each.costs.students for each in report.by_attacker.values())
            sections.append(f"### {title}\n\n" + "\n".join(task_table(report)) + f"\n\n{students:,} students.\n")
    table, scope, students = recipe_table()
    page = (FOLDER / "defences_page.md").read_text(encoding="utf-8")
    print(page.format(tasks="\n".join(sections), table=table, scope=scope, students=students), end="")


if __name__ == "__main__":
    main()
