"""Sentences about an audit, shared by page, card and table; none claims more than the verdict's definition."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from hf_cmim.pages.attackers import attacker_text
from hf_cmim.pages.quantities import bound_text, margin_text, percent, plain, points
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
)
from hf_cmim.statistics import Verdict, verdict_of
from hf_cmim.statistics.states import state_of


@dataclass(frozen=True)
class Question:
    """A criterion in words.

    Attributes:
        title: title of a few words.
        rival: student that an attack's student has to beat.
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
    "beyond-labels": Question(
        "against the best student of the teacher's labels",
        "the best student trained without this teacher or only on its labels",
    ),
}
NO_POWER = (
    "This audit has no power: its positive control, the cross-entropy twin, was not shown to be distilled by the same"
    " attacks. Failing to distil the model therefore says nothing."
)
POWER = "The positive control was distilled by the same attacks: the audit could have shown a leak."
NO_CONTROL = (
    "No positive control was audited beside the model, so it is unknown whether these attacks could have shown a leak"
    " at all."
)
LEFT_ASIDE = "Without the failed checks, the numbers would give:"
LIMITS = {
    "Other data": "an attacker with another, larger or better transfer set, or another test set.",
    "Other students": "another architecture, another size, another initialisation, longer training.",
    "Copying only the labels": "an attacker without labels can learn from the class that the model predicts, as from"
    " any accurate classifier.",
    "Attacks not yet invented": "and attacks that the suite leaves out or tries with other settings.",
    "The method in general": "one checkpoint was audited. A claim about how it was trained needs several, trained"
    " independently.",
}
NOT_COMPARABLE = (
    "These audits measured different things, so their numbers cannot be compared with each other. They differ in:"
)
LABELS = (
    "Test accuracy, paired by seed, with 95 % intervals. No verdict uses these intervals. The channel ClassAnswers"
    " needs somebody who changes answers on their way out. Weights that anybody can download have to be better than it"
    " in another way."
)
IDENTITY = (
    "The terms add up to the gain by definition: an identity, not a causal claim. Loss form: gain of the attack's loss"
    " on a teacher that knows only the labels. Teacher errors: change when the teacher's predicted labels replace the"
    " true ones. Class similarity: change when the mean answer of each class replaces its label. Instance information:"
    " change when the answer to each sample replaces that mean. Intervals are 95 %, not corrected for each other."
)
EQUAL_SEEDS = (
    "Test accuracy of a control's knockoffs minus that of the audited model's, paired by seed, in points. Above 0, the"
    " control leaks more. Strongest attacks are chosen on validation data. Intervals are 95 %, not corrected for each"
    " other; no verdict uses them."
)
BOUNDS = (
    "Gain and upper bound are measured against the baseline that is strongest on validation data. The lower bound"
    " holds against every baseline of the criterion, because an attack leaks only if it beats them all."
)
STATES = (
    "An attack leaks where its lower bound is above 0, and is below the margin where its upper bound is below the"
    " margin. States come from unrounded numbers."
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
    """Return the definition of the verdict with counts of attacks, and the largest gain."""
    return f"{verdict_definition(result, margin)} {largest_gain(result)}".rstrip()


def verdict_definition(result: CriterionResult, margin: float) -> str:
    """Return one sentence that defines the verdict, with counts of attacks."""
    if not result.comparisons:
        return "No attack was compared with a baseline."
    rival = QUESTIONS[result.criterion].rival
    bound = margin_text(margin)
    tried = len(result.comparisons)
    states = Counter(state_of(comparison, margin) for comparison in result.comparisons)
    match result.verdict:
        # "May be", because only the lower bound is proven to be above 0, and nothing about the margin.
        case "distillable":
            return (
                f"At least one attack ({states['leaks']} of {tried} tried) was shown to beat {rival}; the gain may be"
                f" {bound} or more."
            )
        case "leaks less than the margin":
            return (
                f"At least one attack ({states['leaks less than the margin']} of {tried} tried) was shown to beat"
                f" {rival}, but every one was shown to gain less than {bound}."
            )
        case "undistillable within the margin":
            return (
                f"No attack (of {tried} tried) was shown to beat {rival}, and every one was shown to gain less than"
                f" {bound}."
            )
        # Possible although every comparison is decided: an attack without a baseline of its own could still leak.
        case "inconclusive" if not states["undecided"]:
            return (
                f"Each attack that was compared with {rival} ({tried}) is decided, but other attacks of the suite were"
                " not compared with it."
            )
        case "inconclusive":
            return (
                f"At least one attack ({states['undecided']} of {tried} tried) was neither shown to beat {rival} nor"
                f" to gain less than {bound}."
            )


def attacker_verdict(report: AuditReport) -> str:
    """Return the verdict for one attacker in a few words, with its criterion."""
    return f"{criterion_verdict(report, report.primary)} ({report.primary.criterion})"


def label_sentences(report: AuditReport) -> list[str]:
    """Return the gains from the teacher's labels and from class answers, one sentence or two each."""
    sentences = []
    if (floor := report.label_floor) is not None:
        sentences.append(
            f"The teacher's labels alone give away {interval_text(floor.gain)} points: {floor.labels} minus"
            f" {floor.reference}. A classifier must name a class, so no training removes this floor."
        )
    if (control := report.class_answers) is not None:
        sentences.append(
            f"Class answers (one answer for each predicted class, at the same accuracy) would give away"
            f" {interval_text(control.gain)} points: {control.arm} minus {control.reference}. Beyond them, the"
            f" strongest attack on the model itself, {control.attack}, gains {interval_text(control.beyond)} points."
        )
    return sentences


def largest_gain(result: CriterionResult) -> str:
    """Return the attack with the largest gain, with its bounds, as a sentence; "" without attacks."""
    if not result.comparisons:
        return ""
    best = max(result.comparisons, key=lambda comparison: comparison.gain)
    return (
        f"The largest gain is that of {best.attack}: {points(best.gain)} points, bounds {points(best.lower)} and"
        f" {points(best.upper)}."
    )


def compared_attacks(difference: LeakDifference, is_strongest: bool) -> str:
    """Return the attacks whose knockoffs are compared, in words."""
    attack, control_attack = difference.attack, difference.control_attack
    if not is_strongest:
        return attack
    if attack == control_attack:
        return f"the strongest, {attack}"
    return f"the strongest, {control_attack} against {attack}"


def control_verdict(control: ControlResult, margin: float) -> str:
    """Return a control's verdict in a few words, or the checks that voided it."""
    return no_verdict(control.checks) or verdict_name(control.verdict, margin)


def control_sentence(control: ControlResult, margin: float) -> str:
    """Return a control's verdict, and the difference between its strongest knockoffs and the audited model's."""
    sentence = " ".join([f"{control.name}: {control_verdict(control, margin)}.", *_fatal(control.checks)])
    for strongest in control.differences[:1]:
        sentence += (
            f" Accuracy of its knockoffs minus that of the audited model's ({compared_attacks(strongest, True)}):"
            f" {interval_text(strongest.difference)} points, {strongest.seeds} seeds."
        )
    return sentence


def interval_text(interval: Interval) -> str:
    """Return an estimate in points with its interval.

    >>> interval_text(Interval(0.011, -0.002, 0.024))
    '+1.10 [−0.20, +2.40]'
    """
    return f"{points(interval.estimate)} [{points(interval.lower)}, {points(interval.upper)}]"


def smallest_margin_sentence(result: CriterionResult) -> str:
    """Return the smallest margin that would hold, in words."""
    if not result.comparisons:
        return "No margin holds."
    if result.smallest_margin >= 1:
        return "No margin is known to hold: not every attack was compared."
    if result.smallest_margin <= 0:
        return "Every margin above 0 would hold: no attack's upper bound is above 0."
    return (
        f"The smallest margin that would hold is {bound_text(result.smallest_margin)}: the largest upper bound of an"
        " attack's gain."
    )


def error_sentence(report: AuditReport) -> str:
    """Return the error rate of the bounds, and the looks in seeds over which it is spent."""
    rate = f"{100 * report.design.error_rate:.6g} %"
    looks = ", ".join(map(str, report.looks))
    return (
        f"Error rate {rate}, spent over looks at {looks} seeds. Each of these claims is wrong with at most this"
        " probability: a single upper bound; that all attacks are below the margin; that some attack leaks, over all"
        " attacks together."
    )


def fatal_sentences(report: AuditReport) -> list[str]:
    """Return the sentences of the checks that void the verdict."""
    return _fatal(report.checks)


def first_doubt(report: AuditReport) -> str:
    """Return the warning that students are far from converged, shown before any verdict; "" without it."""
    return " ".join(check.sentence for check in report.checks if check.name == NOT_CONVERGED)


def curve_sentence(curve: LearningCurve) -> str:
    """Return the accuracy gained by training twice as long, in words."""
    return (
        f"Validation accuracy of a cross-entropy student: {percent(curve.validation[-1])}; trained twice as long"
        f" ({curve.longer_setting}): {percent(curve.longer)}, a gain of {interval_text(curve.gain)} points (95 %"
        " interval). Where the whole interval is above the margin, students are far from converged."
    )


def _fatal(checks: Sequence[Check]) -> list[str]:
    return [check.sentence for check in checks if check.severity == "fatal"]


def no_verdict(checks: Sequence[Check]) -> str:
    """Return the names of the checks that voided a verdict; "" if none did.

    >>> no_verdict([Check("no power", "fatal", "..."), Check("diverged", "warning", "...")])
    'No verdict, because a check failed: no power'
    """
    names = list(dict.fromkeys(check.name for check in checks if check.severity == "fatal"))
    count = "a check" if len(names) == 1 else f"{len(names)} checks"
    return f"No verdict, because {count} failed: {', '.join(names)}" if names else ""


def criterion_verdict(report: AuditReport, result: CriterionResult) -> str:
    """Return a criterion's verdict in a few words, or the checks that voided it."""
    return no_verdict(report.checks) or verdict_name(result.verdict, report.margin)


def left_aside(report: AuditReport, result: CriterionResult) -> CriterionResult:
    """Return a criterion's result with the verdict that its numbers give without the failed checks."""
    if not fatal_sentences(report) or not result.comparisons:
        return result
    verdict = verdict_of(result.comparisons, report.margin)
    num_attacks = sum(arm.role == "knockoff" for arm in report.arms)
    if len(result.comparisons) < num_attacks and verdict != "distillable":
        # An attack that was not compared could still leak.
        verdict = "inconclusive"
    return replace(result, verdict=verdict)


def scope_rows(report: AuditReport) -> dict[str, str]:
    """Return suite, margin, criterion, student and data that the verdict is limited to, by name."""
    scope = report.scope
    return {
        "Suite of attacks": scope.suite,
        "Margin": margin_text(report.margin),
        "Criterion": QUESTIONS[report.primary.criterion].title,
        "Attacker": attacker_text(scope.attacker),
        "Student": scope.student,
        "Transfer set": f"{scope.transfer_set} ({scope.num_transfer:,} samples)",
        "Validation set": f"{scope.validation_set} ({scope.num_validation:,} samples)",
        "Test set": f"{scope.test_set} ({scope.num_test:,} samples, {scope.num_classes:,} classes)",
    }


def control_row(report: AuditReport) -> dict[str, str]:
    """Return the outcome of the positive control, by name."""
    return {"Positive control": {True: "distilled", False: "not distilled", None: "none"}[report.power]}


def scope_differences(reports: Mapping[str, AuditReport]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each part of the scope in which audits differ, with its value in each audit."""
    # Dates, seeds and costs may differ between audits whose numbers can be compared; these parts may not.
    rows = {name: scope_rows(report) | {"Training": plain(report.scope.training)} for name, report in reports.items()}
    for part in next(iter(rows.values()), {}):
        values = {name: row[part] for name, row in rows.items()}
        if len(set(values.values())) > 1:
            yield part, values
