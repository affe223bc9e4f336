"""Write docs/evidence/several-teachers.md from the results of evidence/seeds.py and evidence/audits.py.

    python evidence/seeds_table.py > docs/evidence/several-teachers.md

The words around the tables are in evidence/seeds_page.md, where {tables} stands for them, {summary} for the table of
all tasks, and {runs} for the number of trained sets of teachers.
"""

import json
import statistics
from pathlib import Path

from audits_table import ATTACKERS, audit_tables, interval

FOLDER = Path(__file__).parent
TASKS = {
    "fashion_mnist": "Fashion-MNIST at 14x14",
    "emoji_images": "Colour emoji at 16x16",
    "digits": "Digits",
    "debian_sections": "Debian sections",
    "wordnet_lexnames": "WordNet glosses",
}
ROWS = {
    "ce": "cross-entropy",
    "ce twice": "cross-entropy, twice as long",
    "ls": "label smoothing .1",
    "ratio": "CE + variance ratio",
    "default": "**the default**",
    "0": "budget of 0 points",
    "0.5": "budget of half a point",
    "1": "budget of 1 point",
    "2": "budget of 2 points",
}
COLUMNS = {
    "leak": "leak",
    "over_label_smoothing": "over label smoothing",
    "over_own_null": "over its own null",
    "beyond": "beyond labels",
}


def runs_of(task: str) -> list[dict]:
    """Return the results of all finished seeds of a task."""
    runs = [json.loads(path.read_text()) for path in sorted((FOLDER / "seeds" / task).glob("*.json"))]
    return [run for run in runs if "budgets" in run]


def teacher_of(run: dict, row: str) -> dict:
    """Return the figures of a row's teacher; a budget that no hardened teacher fits chooses the twin."""
    if row in run:
        return run[row]
    rung = run["budgets"]["chosen"][row]
    return run["budgets"]["teachers"][rung] if rung else run["ce"]


def accuracy_table(runs: list[dict]) -> str:
    """Return accuracy, calibration and concentration of each row."""
    lines = [
        "| teacher | accuracy, % | minus CE, points | ECE, % | training CMI at T = 4 | chosen |",
        "|---" * 6 + "|",
    ]
    for row, name in ROWS.items():
        teachers = [teacher_of(run, row) for run in runs]
        differences = [
            100 * (teacher["accuracy"] - run["ce"]["accuracy"]) for teacher, run in zip(teachers, runs, strict=True)
        ]
        rungs = [run["budgets"]["chosen"].get(row) for run in runs]
        rungs = ["none" if rung == "" else rung for rung in rungs if rung is not None]
        cells = [name, f"{100 * mean(teachers, 'accuracy'):.2f}", "" if row == "ce" else interval(differences)]
        cells += [f"{100 * mean(teachers, 'ece'):.1f}", f"{mean(teachers, 'train_cmi_T4'):.4f}", ", ".join(rungs)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gain_table(runs: list[dict], attacker: str) -> str:
    """Return what the strongest student of an attacker gains, by each criterion."""
    lines = [f"| teacher, asked about {ATTACKERS[attacker]} | {' | '.join(COLUMNS.values())} |", "|---" * 5 + "|"]
    for row, name in ROWS.items():
        gains = [teacher_of(run, row)[attacker] for run in runs]
        cells = [interval([gain[column] for gain in gains]) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for key, name in (("class_answers_leak", "CE through class answers"), ("labels_leak", "CE's labels alone")):
        leak = interval([run["ce"][attacker][key] for run in runs])
        lines.append(f"| {name} | {leak} | | | 0 by construction |")
    return "\n".join(lines)


def summary_table() -> str:
    """Return the accuracy minus that of cross-entropy, and the leaks to both attackers, of every task; means."""
    tasks = {task: runs for task in TASKS if (runs := runs_of(task))}
    names = [TASKS[task].partition(" at ")[0] for task in tasks]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(tasks) + 1) + "|"]
    for row in ("ce", "ls", "ratio", "default", "0.5", "1", "2"):
        cells = []
        for runs in tasks.values():
            teachers = [teacher_of(run, row) for run in runs]
            lost = 100 * statistics.fmean(
                teacher["accuracy"] - run["ce"]["accuracy"] for teacher, run in zip(teachers, runs, strict=True)
            )
            leaks = [statistics.fmean(teacher[attacker]["leak"] for teacher in teachers) for attacker in ATTACKERS]
            cells.append(f"{lost:+.2f}: {leaks[0]:+.2f}, {leaks[1]:+.2f}")
        lines.append(f"| {ROWS[row]} | {' | '.join(cells)} |")
    cells = []
    for runs in tasks.values():
        leaks = [statistics.fmean(run["ce"][each]["class_answers_leak"] for run in runs) for each in ATTACKERS]
        cells.append(f"+0.00: {leaks[0]:+.2f}, {leaks[1]:+.2f}")
    return "\n".join([*lines, f"| CE through class answers | {' | '.join(cells)} |"])


def mean(teachers: list[dict], name: str) -> float:
    """Return the mean of a figure over teachers."""
    return statistics.fmean(teacher[name] for teacher in teachers)


def main() -> None:
    """Print the page."""
    tables, count = [], 0
    for task, title in TASKS.items():
        if runs := runs_of(task):
            count += len(runs)
            parts = [accuracy_table(runs), *(gain_table(runs, attacker) for attacker in ATTACKERS)]
            parts += audit_tables(task)
            tables.append(f"### {title}, n = {len(runs)}\n\n" + "\n\n".join(parts) + "\n")
    page = (FOLDER / "seeds_page.md").read_text()
    page = page.replace("{tables}", "\n".join(tables)).replace("{summary}", summary_table())
    print(page.replace("{runs}", str(count)), end="")


if __name__ == "__main__":
    main()
