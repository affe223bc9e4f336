"""Tables of the reports of evidence/audits.py, for the pages that seeds_table.py and defences_table.py write.

The name of a teacher in a report ends with the seed of its training.
"""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from audit_tasks import BUDGETS
from scipy import stats

from hf_cmim.pages.defences import SHORT, VOID
from hf_cmim.pages.quantities import points
from hf_cmim.pages.wording import no_verdict
from hf_cmim.report import AuditReport, Criterion, ModelFacts
from hf_cmim.statistics import Comparison, Verdict

FOLDER = Path(__file__).parent / "audits"
ATTACKERS = {"training": "the teacher's samples", "own": "own samples"}
COMPARED = {
    "CE": "cross-entropy",
    "LS": "label smoothing .1",
    "variance ratio": "CE + variance ratio",
    "default": "**the default**",
    **{name: name for name in BUDGETS},
    "class answers": "CE through class answers",
}
"""Teachers of several seeds; the budgets have fewer than the others."""


@dataclass(frozen=True)
class Audited:
    """One teacher as an attacker of an audit finds it.

    Attributes:
        name: name without the seed.
        seed: seed of its training.
        facts: figures of its answers to the test split.
        verdict: verdict in a word or two; "no verdict" where a check voids it.
        largest: comparison of the attack with the largest gain, or None without one.
        described: verdict and largest gain under each criterion that it has students for, the primary one first.
    """

    name: str
    seed: int
    facts: ModelFacts
    verdict: str
    largest: Comparison | None
    described: dict[Criterion, tuple[Verdict, Comparison | None]]

    @property
    def gain(self) -> str:
        """Largest gain with its bounds, in points."""
        return "none" if self.largest is None else bounds(self.largest)


Attackers = dict[str, dict[tuple[str, int], Audited]]
"""Teachers as each attacker finds them, by name and seed."""


def bounds(comparison: Comparison) -> str:
    """Return a gain with its bounds, in points."""
    return f"{points(comparison.gain)} [{points(comparison.lower)}, {points(comparison.upper)}]"


def report_of(task: str, audit: str = "strongest") -> AuditReport | None:
    """Return the report of an audit of a task, or None if there is none."""
    path = FOLDER / audit / f"{task}.json"
    return AuditReport.read(path) if path.is_file() else None


def audited(report: AuditReport) -> dict[tuple[str, int], Audited]:
    """Return every teacher of an attacker's report, by name and seed; the audited one is the default, its twin CE."""
    first = int(report.title.rpartition(" ")[2])
    primary = report.primary
    by_criterion = {
        result.criterion: (result.verdict, next(iter(result.comparisons), None)) for result in report.criteria
    }
    found = {("default", first): (report.teacher, report.checks, by_criterion)}
    for control in report.controls:
        name, _, seed = f"CE {first}".rpartition(" ") if control.name == "CE twin" else control.name.rpartition(" ")
        assert control.facts is not None  # reports of today have them
        described = {leak.criterion: (leak.verdict, leak.largest_gain) for leak in control.described}
        decided = {primary.criterion: (control.verdict, control.largest_gain)}
        found[name, int(seed)] = control.facts, control.checks, decided | described
    return {
        key: Audited(
            *key, facts, VOID if no_verdict(checks) else SHORT[verdicts[primary.criterion][0]],
            verdicts[primary.criterion][1], verdicts,
        )
        for key, (facts, checks, verdicts) in found.items()
    }  # fmt: skip


def interval(values: list[float]) -> str:
    """Return the mean with its 95 % t interval over teachers."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:+.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def counted(verdicts: list[str]) -> str:
    """Return how often each verdict was given, the most frequent first."""
    counts = Counter(sorted(verdicts))
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def seeds_of(teachers: dict[tuple[str, int], Audited], name: str) -> list[int]:
    """Return the seeds of the teachers of a name."""
    return sorted(seed for each, seed in teachers if each == name)


def verdict_lines(attackers: Attackers) -> Iterator[str]:
    """Yield a table row for each kind of teacher: accuracy, then for each attacker verdicts and gain over seeds."""
    first = attackers["training"]
    most = seeds_of(first, "default")
    for name, title in COMPARED.items():
        seeds = seeds_of(first, name)
        if not seeds:
            continue
        title += "" if len(seeds) == len(most) else f", {len(seeds)} teachers"
        accuracies = [100 * first[name, seed].facts.accuracy for seed in seeds]
        lost = [100 * (first[name, seed].facts.accuracy - first["CE", seed].facts.accuracy) for seed in seeds]
        cells = [title, f"{statistics.fmean(accuracies):.2f}", "" if name == "CE" else interval(lost)]
        for teachers in attackers.values():
            each = [teachers[name, seed] for seed in seeds]
            gains = [100 * one.largest.gain for one in each if one.largest is not None]
            cells += [interval(gains), counted([one.verdict for one in each])]
        yield f"| {' | '.join(cells)} |"


def cells_of(each: list[Audited], criterion: Criterion) -> list[str]:
    """Return the mean of the largest gains over teachers, and how often each verdict was given."""
    decided = [one for one in each if criterion in one.described]
    gains = [100 * largest.gain for one in decided if (largest := one.described[criterion][1]) is not None]
    verdicts = [VOID if one.verdict == VOID else SHORT[one.described[criterion][0]] for one in decided]
    return [interval(gains) if gains else "none", counted(verdicts)]


def audit_tables(task: str) -> Iterator[str]:
    """Yield the tables of a task's audits that there are."""
    for audit, table in (("strongest", strongest_tables), ("beyond-labels", beyond_table), ("full", full_table)):
        report = report_of(task, audit)
        if report is not None:
            yield from table({name: audited(each) for name, each in report.by_attacker.items()}, report)


def strongest_tables(attackers: Attackers, report: AuditReport) -> Iterator[str]:
    """Yield the tables of the strongest attacks: teachers of all seeds, and those of the default by criterion."""
    seeds = seeds_of(attackers["training"], "default")
    columns = [f"largest gain, {words} | verdicts" for words in ATTACKERS.values()]
    yield "\n".join(
        [
            f"| audit, {len(seeds)} teachers each | accuracy, % | minus CE, points | {' | '.join(columns)} |",
            "|---" * 7 + "|",
            *verdict_lines(attackers),
        ]
    )
    lines = [f"| the default by criterion | {' | '.join(columns)} |", "|---" * 5 + "|"]
    for result in report.criteria:
        if result.criterion != "beyond-labels":  # it has an audit of its own, with all seeds
            each = [[teachers["default", seed] for seed in seeds] for teachers in attackers.values()]
            cells = [cell for teachers in each for cell in cells_of(teachers, result.criterion)]
            lines.append(f"| {' | '.join([result.criterion, *cells])} |")
    yield "\n".join(lines)


def beyond_table(attackers: Attackers, report: AuditReport) -> Iterator[str]:
    """Yield the table of what students learn beyond the teacher's labels."""
    seeds = seeds_of(attackers["training"], "default")
    columns = [f"largest gain, {words} | verdicts" for words in ATTACKERS.values()]
    lines = [f"| beyond labels, {len(seeds)} teachers each | {' | '.join(columns)} |", "|---" * 5 + "|"]
    for name in ("CE", "default", "class answers"):
        each = [[teachers[name, seed] for seed in seeds] for teachers in attackers.values()]
        cells = [cell for teachers in each for cell in cells_of(teachers, "beyond-labels")]
        lines.append(f"| {' | '.join([COMPARED[name], *cells])} |")
    yield "\n".join(lines)


def full_table(attackers: Attackers, report: AuditReport) -> Iterator[str]:
    """Yield the table of the whole suite: the default by criterion, and its twin."""
    ((_, seed),) = [key for key in attackers["training"] if key[0] == "default"]
    columns = [f"largest gain, {words} | verdict" for words in ATTACKERS.values()]
    lines = [f"| {report.scope.suite}, seed {seed} | {' | '.join(columns)} |", "|---" * 5 + "|"]
    rows = [("CE", report.primary.criterion), *(("default", result.criterion) for result in report.criteria)]
    for name, criterion in rows:
        cells = [f"{COMPARED[name]}, {criterion}"]
        for teachers in attackers.values():
            verdict, largest = teachers[name, seed].described.get(criterion, ("inconclusive", None))
            is_void = teachers[name, seed].verdict == VOID
            cells += [
                f"{largest.attack}: {bounds(largest)}" if largest else "none",
                VOID if is_void else SHORT[verdict],
            ]
        lines.append(f"| {' | '.join(cells)} |")
    yield "\n".join(lines)
