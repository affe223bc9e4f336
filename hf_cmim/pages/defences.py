"""Teachers of one audit side by side: what each is worth to its users, and what it gives away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_cmim.pages import wording
from hf_cmim.pages.attackers import attacker_text
from hf_cmim.pages.quantities import decimal, margin_text, percent
from hf_cmim.report import AuditReport, Check, ControlResult, Criterion, Interval, Leak, ModelFacts
from hf_cmim.statistics import Verdict

TWIN = "CE twin"
FEWEST = 2
"""Smallest number of teachers beside the model and its twin that are compared."""
NOTE = (
    "Accuracy, NLL (nats) and ECE are those of the answers that a user gets, on the test data. Each leak is the"
    " largest gain of an attack in points of test accuracy, with its lower and upper bound. The price is the number of"
    " answers that one student of this attack paid for."
)
ON_THE_WAY_OUT = (
    "Behind a channel, somebody has to change the answers on their way out. Nothing follows from it for weights that"
    " others can download."
)
SHORT: dict[Verdict, str] = {
    "distillable": "distillable",
    "leaks less than the margin": "leaks less",
    "undistillable within the margin": "undistillable",
    "inconclusive": "inconclusive",
}
"""Verdicts in one or two words, for narrow tables."""
VOID = "no verdict"
"""Verdict that a failed check voided."""
Column = tuple[str, Criterion]
"""An attacker's name and a criterion."""


@dataclass(frozen=True)
class Defence:
    """One teacher of an audit, as its owner compares it with others.

    Attributes:
        name: name for readers.
        facts: figures of the answers that a user gets.
        leaks: leak under each attacker and criterion that was tried on it.
        verdict: verdict under the primary criterion of the first attacker, in one or two words.
        queries: answers that one student of its strongest attack paid for; 0 if unknown.
    """

    name: str
    facts: ModelFacts | None
    leaks: Mapping[Column, Leak]
    verdict: str
    queries: int

    @property
    def utility(self) -> tuple[str, str, str]:
        """Accuracy, NLL and ECE as texts."""
        if self.facts is None:
            return "", "", ""
        return percent(self.facts.accuracy), decimal(self.facts.nll, 3), percent(self.facts.ece)

    @property
    def price(self) -> str:
        """Number of answers as text."""
        return f"{self.queries:,}" if self.queries else ""

    def leak(self, column: Column) -> str:
        """Return a leak in points with its bounds, or "" where it was not measured."""
        if column not in self.leaks:
            return ""
        largest = self.leaks[column].largest_gain
        return wording.interval_text(Interval(largest.gain, largest.lower, largest.upper))


def defences_of(report: AuditReport) -> list[Defence]:
    """Return the audited model and all other teachers; [] with fewer than two beside the twin."""
    if sum(control.name != TWIN for control in report.controls) < FEWEST:
        return []
    leaks = _leaks_of_model(report)
    queries = {arm.name: arm.queries for arm in report.arms}
    largest = leaks.get(primary_column(report))
    price = 0 if largest is None else queries.get(largest.largest_gain.attack, 0)
    verdict = _in_short(report.primary.verdict, report.checks)
    model = Defence(report.teacher.name or "the model", report.teacher, leaks, verdict, price)
    return [model, *(_of_control(report, control) for control in report.controls)]


def columns_of(report: AuditReport) -> dict[Column, str]:
    """Return the titles of the leaks that were measured on other teachers too, the primary criterion first."""
    titles = {}
    for name, part in report.by_attacker.items():
        for result in part.criteria:
            is_compared = any((name, result.criterion) in _leaks_of(report, control) for control in report.controls)
            if is_compared:
                attacker = f", {attacker_text(part.scope.attacker)}" if report.other_attackers else ""
                titles[name, result.criterion] = f"leak, {result.criterion}{attacker}"
    return titles


def primary_column(report: AuditReport) -> Column:
    """Return the column of the primary criterion and the first attacker."""
    return report.scope.attacker.name, report.primary.criterion


def _leaks_of_model(report: AuditReport) -> dict[Column, Leak]:
    return {
        (name, result.criterion): Leak(result.criterion, result.verdict, result.comparisons[0], result.smallest_margin)
        for name, part in report.by_attacker.items()
        for result in part.criteria
        if result.comparisons
    }


def _leaks_of(report: AuditReport, control: ControlResult) -> dict[Column, Leak]:
    """Return the leaks of a control, by the same name in the report for each attacker."""
    leaks = {}
    for name, part in report.by_attacker.items():
        for same in part.controls:
            if same.name == control.name:
                criterion = part.primary.criterion
                if same.largest_gain is not None:
                    leaks[name, criterion] = Leak(criterion, same.verdict, same.largest_gain, same.smallest_margin)
                leaks |= {(name, leak.criterion): leak for leak in same.described}
    return leaks


def _of_control(report: AuditReport, control: ControlResult) -> Defence:
    verdict = _in_short(control.verdict, control.checks)
    return Defence(control.name, control.facts, _leaks_of(report, control), verdict, control.queries)


def _in_short(verdict: Verdict, checks: Sequence[Check]) -> str:
    return VOID if any(check.severity == "fatal" for check in checks) else SHORT[verdict]


def note(report: AuditReport) -> str:
    """Return what the columns mean."""
    first = wording.QUESTIONS[report.primary.criterion].title
    return f"{NOTE} Verdicts are those {first}, at a margin of {margin_text(report.margin)}."


def has_channel(report: AuditReport) -> bool:
    """Return True if any compared teacher answers through a channel."""
    return any(defence.facts is not None and defence.facts.channel for defence in defences_of(report))
