"""Write docs/evidence/defaults.md from the results of evidence/study.py.

    python evidence/study_table.py > docs/evidence/defaults.md

The words around the tables are in evidence/study_page.md, where {tables} stands for those of evidence/study,
{unlabelled} for those of evidence/study_unlabelled, and {runs} for the number of teachers.
"""

import json
import statistics
from pathlib import Path

FOLDER = Path(__file__).parent
TASKS = {
    "debian_sections": "Debian sections",
    "debian_sections_noisy": "Debian sections, 30 % of the training labels wrong",
    "wordnet_lexnames": "WordNet glosses",
    "fashion_mnist": "Fashion-MNIST at 14x14",
    "emoji_images": "Colour emoji at 16x16",
    "digits": "Digits",
    "digits_noisy": "Digits, 30 % of the training labels wrong",
}
HEAD = (
    "form and weight",
    "seeds",
    "accuracy, %",
    "minus CE, points",
    "ECE, %",
    "calibration temperature",
    "training CMI at T = 4",
    "leak, teacher's samples",
    "leak, own samples",
    "beyond labels, teacher's",
    "beyond labels, own",
)


def runs_of(task: str, study: str) -> dict[tuple[str, float], dict[int, dict]]:
    """Return a study's runs of a task by form and weight, then by seed."""
    runs: dict[tuple[str, float], dict[int, dict]] = {}
    for path in sorted((FOLDER / study / task).glob("*_*_*.json")):
        run = json.loads(path.read_text())
        runs.setdefault((run["form"], run["weight"]), {})[run["seed"]] = run
    return runs


def table(runs: dict[tuple[str, float], dict[int, dict]]) -> str:
    """Return the table of a task: cross-entropy, then by form and weight."""
    reference = runs.get(("ce", 0.0), {})
    rows = [row(form, weight, seeds, reference) for (form, weight), seeds in sorted(runs.items(), key=place)]
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|", *rows]
    return "\n".join(lines)


def place(item: tuple[tuple[str, float], dict[int, dict]]) -> tuple[bool, str, float]:
    """Return the order of a row: cross-entropy first, then by form and weight."""
    (form, weight), _ = item
    return form != "ce", form, weight


def row(form: str, weight: float, seeds: dict[int, dict], reference: dict[int, dict]) -> str:
    """Return a row of means over seeds."""
    shared = sorted(set(seeds) & set(reference))
    difference = mean([100 * (seeds[seed]["accuracy"] - reference[seed]["accuracy"]) for seed in shared])
    cells = [
        "CE" if form == "ce" else f"{form}, {weight:g}",
        str(len(seeds)),
        f"{100 * values(seeds, 'accuracy'):.2f}",
    ]
    cells += ["" if form == "ce" else f"{difference:+.2f}", f"{100 * values(seeds, 'ece'):.1f}"]
    cells += [f"{values(seeds, 'calibration_temperature'):.2f}", f"{values(seeds, 'train_cmi_T4'):.4f}"]
    for name in ("leak", "beyond"):
        for attacker in ("training", "own"):
            cells.append(gain([seed[attacker] for seed in seeds.values() if attacker in seed], name))
    return f"| {' | '.join(cells)} |"


def gain(found: list[dict], name: str) -> str:
    """Return a mean gain in points with its standard error over students, or a dash for a teacher not probed."""
    if not found:
        return "-"
    error = sum(each[f"{name}_error"] ** 2 for each in found) ** 0.5 / len(found)
    return f"{mean([each[name] for each in found]):+.2f} ± {error:.2f}"


def values(seeds: dict[int, dict], name: str) -> float:
    """Return the mean of a figure over seeds."""
    return mean([seed[name] for seed in seeds.values()])


def mean(numbers: list[float]) -> float:
    """Return the mean, or 0 of nothing."""
    return statistics.fmean(numbers) if numbers else 0.0


def main() -> None:
    """Print the page."""
    page, count = (FOLDER / "study_page.md").read_text(), 0
    for place_of, study in (("{tables}", "study"), ("{unlabelled}", "study_unlabelled")):
        tasks = {title: runs for task, title in TASKS.items() if (runs := runs_of(task, study))}
        count += sum(len(seeds) for runs in tasks.values() for seeds in runs.values())
        tables = [f"### {title}\n\n{table(runs)}\n" for title, runs in tasks.items()]
        page = page.replace(place_of, "\n".join(tables))
    print(page.replace("{runs}", str(count)), end="")


if __name__ == "__main__":
    main()
