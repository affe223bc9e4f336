"""Sentences of an audit: every page, card and table says the same, and no more than the verdict's definition."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hf_cmim.pages.quantities import MINUS, bound_text, decimal, margin_text, percent, plain, points
from hf_cmim.report import (
    NOT_CONVERGED,
    AuditReport,
    Check,
    ControlResult,
    Criterion,
    CriterionResult,
    Interval,
    LeakDifference,
    LearningCurve,
    ModelFacts,
)
from hf_cmim.statistics import Verdict, verdict_of
from hf_cmim.statistics.states import state_of


@dataclass(frozen=True)
class Question:
    """What a criterion asks.

    Attributes:
        title: a few words.
        rival: whom an attack's student has to beat.
    """

    title: str
    rival: str


QUESTIONS: dict[Criterion, Question] = {
    "paper": Question("against the label-smoothing student", "the student trained with label smoothing"),
    "teacher-free": Question(
        "against the best student without the teacher", "the best student trained without this teacher"
    ),
    "no-leak": Question(
        "each attack against its own null", "its own null, the same attack on a teacher that knows only the labels"
    ),
}
NO_POWER = (
    "This audit has no power: its positive control, the cross-entropy twin, was not shown to be distilled by the same"
    " attacks, so failing to distil the model says nothing."
)
POWER = "The positive control was distilled by the same attacks: the audit could have shown a leak."
NO_CONTROL = (
    "No positive control was audited beside the model: whether these attacks could have shown a leak at all is not"
    " known."
)
LEFT_ASIDE = "If that is left aside, the numbers read:"
LIMITS = {
    "Other data": "a copier with another, larger or better transfer set, or another test set.",
    "Other students": "another architecture, another size, another start, a longer training.",
    "Copying labels alone": "whoever has no labels of their own can learn from the class that the model names, as from"
    " any accurate classifier.",
    "Attacks not yet invented": "and any that the suite leaves out or tries with other settings.",
    "The method in general": "one checkpoint was audited. A claim about how it was trained needs several, trained"
    " independently.",
}
NOT_COMPARABLE = (
    "These audits differ in what they measured, so their numbers cannot be compared with each other; each stands by"
    " itself. They differ in:"
)
IDENTITY = (
    "The terms add up to the gain because of how they are defined: an identity, not a causal claim. Loss form: the"
    " attack's loss on a teacher that knows only the labels. Teacher errors: what the teacher's own answers, as hard"
    " labels, change. Class similarity: what the mean answer of each class adds. Instance information: what the answer"
    " to each sample adds to that. Intervals are of 95 %, each by itself."
)
EQUAL_SEEDS = (
    "Test accuracy of a control's knockoffs less that of the audited model's, seed by seed, in points: above 0, the"
    " control gives more away. The strongest are those on validation data. Intervals are of 95 %, each by itself; no"
    " verdict rests on them."
)
BOUNDS = (
    "Gain and upper bound are measured against the baseline, the strongest on validation data; the lower bound is over"
    " every baseline that the criterion names, because to leak an attack has to beat them all."
)
STATES = (
    "An attack leaks where its lower bound is above 0, and is below the margin where its upper bound is below the"
    " margin. States come from unrounded numbers."
)


@dataclass(frozen=True)
class Utility:
    """One figure of what a model is worth to its owner.

    Attributes:
        name: as shown.
        field: of `ModelFacts`.
        is_share: whether it is shown in percent.
    """

    name: str
    field: str
    is_share: bool

    def of(self, facts: ModelFacts) -> str:
        """Return the model's figure."""
        value = getattr(facts, self.field)
        return percent(value) if self.is_share else decimal(value, 4)

    def change(self, facts: ModelFacts, twin: ModelFacts) -> str:
        """Return by how much the model's figure differs from the twin's: in points, or in the figure's own unit."""
        difference = getattr(facts, self.field) - getattr(twin, self.field)
        text = points(difference) if self.is_share else decimal(difference, 4)
        return text if text.startswith(("+", MINUS)) or not text.strip("0.") else f"+{text}"


UTILITY = (
    Utility("accuracy", "accuracy", True),
    Utility("top-5 accuracy", "top5_accuracy", True),
    Utility("NLL, nats", "nll", False),
    Utility("NLL after temperature calibration, nats", "nll_calibrated", False),
    Utility("ECE", "ece", True),
    Utility("ECE after temperature calibration", "ece_calibrated", True),
    Utility("AURC", "aurc", False),
    Utility("within-class share of the logits' variance", "within_total_ratio", False),
)


def verdict_name(verdict: Verdict, margin: float) -> str:
    """Return the verdict in a few words, with the margin in points.

    >>> verdict_name("undistillable within the margin", 0.005)
    'Undistillable within 0.5 points'
    """
    match verdict:
        case "distillable":
            return "Distillable"
        case "leaks less than the margin":
            return f"Leaks less than {margin_text(margin)}"
        case "undistillable within the margin":
            return f"Undistillable within {margin_text(margin)}"
        case "inconclusive":
            return f"Inconclusive at a margin of {margin_text(margin)}"


def verdict_sentence(result: CriterionResult, margin: float) -> str:
    """Return what the verdict says about the attacks, as it is defined, and the largest gain."""
    if not result.comparisons:
        return "No attack was compared with a baseline."
    rival, bound, tried = QUESTIONS[result.criterion].rival, margin_text(margin), len(result.comparisons)
    states = Counter(state_of(each, margin) for each in result.comparisons)
    match result.verdict:
        case "distillable":
            said = (
                f"At least one attack ({states['leaks']} of {tried} tried) was shown to beat {rival}, by what may be"
                f" {bound} or more."
            )
        case "leaks less than the margin":
            said = (
                f"At least one attack ({states['leaks less than the margin']} of {tried} tried) was shown to beat"
                f" {rival}, but every one was shown to gain less than {bound}."
            )
        case "undistillable within the margin":
            said = (
                f"No attack (of {tried} tried) was shown to beat {rival}, and every one was shown to gain less than"
                f" {bound}."
            )
        case "inconclusive" if not states["undecided"]:
            said = (
                f"Each attack that was compared with {rival} ({tried}) is decided, but others of the suite were not"
                " compared with it."
            )
        case "inconclusive":
            said = (
                f"At least one attack ({states['undecided']} of {tried} tried) was neither shown to beat {rival} nor"
                f" to gain less than {bound}."
            )
    return f"{said} {_largest_gain(result)}"


def _largest_gain(result: CriterionResult) -> str:
    best = max(result.comparisons, key=lambda each: each.gain)
    return (
        f"The largest gain is that of {best.attack}: {points(best.gain)} points, bounds {points(best.lower)} and"
        f" {points(best.upper)}."
    )


def compared_attacks(each: LeakDifference, is_strongest: bool) -> str:
    """Return whose knockoffs are compared."""
    if not is_strongest:
        return each.attack
    own, other = each.attack, each.control_attack
    return f"the strongest, {own}" if own == other else f"the strongest, {other} against {own}"


def control_verdict(control: ControlResult, margin: float) -> str:
    """Return a control's verdict in a few words, or that a check took it away."""
    return no_verdict(control.checks) or verdict_name(control.verdict, margin)


def control_sentence(control: ControlResult, margin: float) -> str:
    """Return a control's verdict, and how much better its strongest knockoffs are."""
    said = " ".join([f"{control.name}: {control_verdict(control, margin)}.", *_fatal(control.checks)])
    for each in control.differences[:1]:
        said += (
            f" Its knockoffs less those of the audited model ({compared_attacks(each, True)}):"
            f" {interval_text(each.difference)} points, {each.seeds} seeds."
        )
    return said


def interval_text(interval: Interval) -> str:
    """Return an estimate in points with its interval.

    >>> interval_text(Interval(0.011, -0.002, 0.024))
    '+1.10 [−0.20, +2.40]'
    """
    return f"{points(interval.estimate)} [{points(interval.lower)}, {points(interval.upper)}]"


def smallest_margin_sentence(result: CriterionResult) -> str:
    """Return what the smallest margin says."""
    if not result.comparisons:
        return "No margin holds."
    if result.smallest_margin <= 0:
        return "Every margin above 0 would hold: no attack's upper bound is above 0."
    return (
        f"The smallest margin that would hold is {bound_text(result.smallest_margin)}: the largest upper bound of an"
        " attack's gain."
    )


def error_sentence(report: AuditReport) -> str:
    """Return how sure the bounds are, and at how many seeds the audit looked."""
    rate = f"{100 * report.design.error_rate:.6g} %"
    looks = ", ".join(map(str, report.looks))
    return (
        f"Error rate {rate}, spent over looks at {looks} seeds: each upper bound is wrong with at most that"
        " probability, and so is the claim that all attacks are below the margin; so is the claim that some attack"
        " leaks, over all attacks together."
    )


def fatal_sentences(report: AuditReport) -> list[str]:
    """Return what takes the verdict away."""
    return _fatal(report.checks)


def first_doubt(report: AuditReport) -> str:
    """Return what has to be said before any verdict: that students are far from converged; or nothing."""
    return " ".join(each.sentence for each in report.checks if each.name == NOT_CONVERGED)


def curve_sentence(curve: LearningCurve) -> str:
    """Return whether students are trained long enough, in figures."""
    return (
        f"Validation accuracy of a cross-entropy student: {percent(curve.validation[-1])}; trained twice as long"
        f" ({curve.longer_setting}): {percent(curve.longer)}, a gain of {interval_text(curve.gain)} points (95 %"
        " interval). Where the whole interval is above the margin, students are far from converged."
    )


def _fatal(checks: Sequence[Check]) -> list[str]:
    return [each.sentence for each in checks if each.severity == "fatal"]


def no_verdict(checks: Sequence[Check]) -> str:
    """Return which checks took a verdict away, in a few words, or nothing where none did.

    >>> no_verdict([Check("no power", "fatal", "..."), Check("diverged", "warning", "...")])
    'No verdict, because a check failed: no power'
    """
    names = list(dict.fromkeys(each.name for each in checks if each.severity == "fatal"))
    count = "a check" if len(names) == 1 else f"{len(names)} checks"
    return f"No verdict, because {count} failed: {', '.join(names)}" if names else ""


def criterion_verdict(report: AuditReport, result: CriterionResult) -> str:
    """Return a criterion's verdict in a few words, or which checks took it away."""
    return no_verdict(report.checks) or verdict_name(result.verdict, report.margin)


def left_aside(report: AuditReport, result: CriterionResult) -> CriterionResult:
    """Return a criterion's result with the verdict that its numbers give when failed checks are left aside."""
    if not fatal_sentences(report) or not result.comparisons:
        return result
    verdict = verdict_of(result.comparisons, report.margin)
    num_attacks = sum(arm.role == "knockoff" for arm in report.arms)
    if len(result.comparisons) < num_attacks and verdict != "distillable":
        verdict = "inconclusive"  # what holds for some attacks need not hold for all
    return replace(result, verdict=verdict)


def scope_rows(report: AuditReport) -> dict[str, str]:
    """Return what the verdict is about, by name."""
    scope = report.scope
    return {
        "Suite of attacks": scope.suite,
        "Margin": margin_text(report.margin),
        "Criterion": QUESTIONS[report.primary.criterion].title,
        "Student": scope.student,
        "Transfer set": f"{scope.transfer_set} ({scope.num_transfer:,} samples)",
        "Validation set": f"{scope.validation_set} ({scope.num_validation:,} samples)",
        "Test set": f"{scope.test_set} ({scope.num_test:,} samples, {scope.num_classes:,} classes)",
    }


def control_row(report: AuditReport) -> dict[str, str]:
    """Return what became of the positive control, by name."""
    return {"Positive control": {True: "distilled", False: "not distilled", None: "none"}[report.power]}


def scope_differences(reports: Mapping[str, AuditReport]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each part of the scope in which audits differ, with what it is in each."""
    rows = {name: scope_rows(report) | {"Training": plain(report.scope.training)} for name, report in reports.items()}
    for part in next(iter(rows.values()), {}):
        values = {name: row[part] for name, row in rows.items()}
        if len(set(values.values())) > 1:
            yield part, values
