"""Reasons not to believe a verdict. Each says what was seen, with numbers; a fatal one takes the verdict away."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_cmim.audit.arms import Arm
from hf_cmim.audit.data import DataFacts
from hf_cmim.report import NOT_CONVERGED, ArmResult, Check, LearningCurve, ModelFacts

LARGEST_CHANGE = 1e-3
"""Difference of a probability between two answers to the same question that rounding may explain."""
KNOWING = 0.1
"""Share of the way from guessing to knowing all, under which a teacher has nothing to protect."""
NEAR = 0.01
"""A student this near to its teacher, a fraction of the test samples, leaves little to distil."""


@dataclass(frozen=True)
class Evidence:
    """What the checks look at.

    Attributes:
        asked_twice: largest change of a probability when the teacher was asked again.
        teacher: what it is worth on the test data.
        num_classes: C.
        baseline: result of the arm that the primary criterion measures against, or of the strongest null.
        arms: all results.
        chosen: the confirmed knockoffs; `screened` their families' settings in the grid's order.
        scores: validation accuracies of what was screened.
        margin: a fraction.
        data: of transfer, validation and test set.
        power: whether the control was distilled, or None without one.
        curve: a cross-entropy student's learning curve.
        control_fault: the check that takes away the control's own verdict, in a sentence, or "".
        has_pretrained_student: whether students start from trained weights.
        skipped: families that this teacher or student does not allow, with the reason.
    """

    asked_twice: float
    teacher: ModelFacts
    num_classes: int
    baseline: ArmResult
    arms: Sequence[ArmResult]
    chosen: Sequence[Arm]
    screened: Sequence[Arm]
    scores: Mapping[Arm, Sequence[float]]
    margin: float
    data: tuple[DataFacts, DataFacts, DataFacts]
    power: bool | None
    has_pretrained_student: bool
    skipped: Sequence[str]
    control_fault: str = ""
    curve: LearningCurve | None = None


def find_faults(evidence: Evidence) -> tuple[Check, ...]:
    """Return every reason not to believe the audit, fatal ones first."""
    converged = [] if evidence.curve is None else _of_convergence(evidence.curve, evidence.margin)
    others = [*_of_teacher(evidence), *_of_data(evidence), *_of_arms(evidence), *_of_design(evidence)]
    return _fatal_first([*converged, *others])


def find_faults_of_control(evidence: Evidence) -> tuple[Check, ...]:
    """Return every reason not to believe what an audit says of a control, fatal ones first.

    A control answers the same data and trains the same kind of student. What concerns these is in `find_faults`.
    """
    return _fatal_first([*_of_teacher(evidence), *_of_arms(evidence)])


def is_void(checks: Iterable[Check]) -> bool:
    """Return whether a check takes the verdict away."""
    return any(check.severity == "fatal" for check in checks)


def _fatal_first(checks: Iterable[Check]) -> tuple[Check, ...]:
    return tuple(sorted(checks, key=lambda check: check.severity != "fatal"))


def _points(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _of_teacher(evidence: Evidence) -> Iterable[Check]:
    teacher, baseline = evidence.teacher, float(np.mean(evidence.baseline.accuracies))
    if evidence.asked_twice > LARGEST_CHANGE:
        yield Check(
            "answers change",
            "fatal",
            f"Asked the same question twice, the teacher changed a probability by up to {evidence.asked_twice:.2g}:"
            " what a student learns depends on when it asks, and an attacker who averages answers was not tried. Give"
            f" a teacher whose answers change by at most {LARGEST_CHANGE:g}: no dropout, no random channel.",
        )
    guessing = 1 / evidence.num_classes
    if teacher.accuracy < guessing + KNOWING * (1 - guessing):
        yield Check(
            "teacher knows nothing",
            "fatal",
            f"The teacher is right on {_points(teacher.accuracy)} % of the test samples, where guessing one of"
            f" {evidence.num_classes} classes gives {_points(guessing)} %: there is nothing to protect. Check that its"
            " classes are named as the data's are (id2label), and that it is the trained checkpoint.",
        )
    elif teacher.accuracy < baseline:
        yield Check(
            "teacher worse than student",
            "warning",
            f"The teacher reaches {_points(teacher.accuracy)} %, students without it {_points(baseline)} %: that"
            " nobody gains from it may only mean that it knows less than they do.",
        )
    elif teacher.accuracy - baseline < NEAR:
        yield Check(
            "student as good as teacher",
            "warning",
            f"The teacher reaches {_points(teacher.accuracy)} %, students without it {_points(baseline)} %: there is"
            " little to distil. Audit with a smaller student or fewer transfer samples.",
        )


def _of_convergence(curve: LearningCurve, margin: float) -> Iterable[Check]:
    has_learned_nothing = curve.validation[-1] <= curve.most_frequent
    if curve.gain.lower <= margin and not curve.unnamed and not has_learned_nothing:
        return
    shown = zip(curve.epochs, curve.validation, strict=True)
    course = ", ".join(f"{100 * accuracy:.1f} % after {epoch}" for epoch, accuracy in shown)
    sentence = (
        f"Students are far from converged. Validation accuracy of a cross-entropy student by epoch: {course}. Trained"
        f" twice as long it reaches {100 * curve.longer:.1f} %, a gain of {_points(curve.gain.estimate)} points (95 %"
        f" interval {_points(curve.gain.lower)} to {_points(curve.gain.upper)})."
    )
    if has_learned_nothing:
        sentence += f" Always naming the most frequent class gives {100 * curve.most_frequent:.1f} %."
    if curve.unnamed:
        numbers = ", ".join(map(str, curve.unnamed[:10]))
        sentence += (
            f" It never names {len(curve.unnamed)} of the classes in the validation data (numbers {numbers}): the"
            " audit says nothing about these."
        )
    yield Check(
        NOT_CONVERGED,
        "warning",
        f"{sentence} The verdict may change with longer training. Train with {curve.longer_setting} or more, or with"
        f" another learning_rate than {curve.learning_rate:g}, until training twice as long gains less than the"
        f" margin of {_points(margin)} points.",
    )


def convergence_warning(curve: LearningCurve, margin: float) -> str:
    """Return why students are not trained to the end, or nothing where they are."""
    return " ".join(check.sentence for check in _of_convergence(curve, margin))


def _of_data(evidence: Evidence) -> Iterable[Check]:
    transfer, validation, test = evidence.data
    for name, other in (("transfer", transfer), ("validation", validation)):
        if both := len(other.samples & test.samples):
            yield Check(
                "test samples seen",
                "fatal",
                f"{both} of {test.size} test samples are in the {name} set as well, to the last bit: students are"
                f" measured on what they learned or were chosen by. Remove them from the {name} set.",
            )
    if both := len(transfer.samples & validation.samples):
        yield Check(
            "validation samples seen",
            "warning",
            f"{both} of {validation.size} validation samples are in the transfer set as well: settings were chosen on"
            " what students learned by heart. Remove them from one of the two.",
        )
    if evidence.margin < 3 / len(test.labels):
        yield Check(
            "margin too fine",
            "fatal",
            f"A margin of {_points(evidence.margin)} points is under 3 of the {len(test.labels)} test samples"
            f" ({_points(3 / len(test.labels))} points): so small a test set cannot decide it. Use at least"
            f" {int(np.ceil(3 / evidence.margin))} samples.",
        )


def _of_arms(evidence: Evidence) -> Iterable[Check]:
    for arm in evidence.arms:
        if arm.diverged:
            yield Check(
                "diverged",
                "warning",
                f"{len(arm.diverged)} of {len(arm.seeds)} students of {arm.name} diverged and count as guessing: it"
                " was not really tried. Lower the learning rate, or clip.",
            )
    nulls = [arm for arm in evidence.arms if arm.role == "null" and arm.accuracies]
    knockoffs = [arm for arm in evidence.arms if arm.role == "knockoff" and arm.accuracies]
    if nulls and knockoffs:
        null = max(nulls, key=lambda arm: float(np.mean(arm.accuracies)))
        best = max(knockoffs, key=lambda arm: float(np.mean(arm.accuracies)))
        if np.mean(null.accuracies) > np.mean(best.accuracies):
            yield Check(
                "a null beats every teacher",
                "warning",
                f"{null.name} reaches {_points(float(np.mean(null.accuracies)))} %, the best knockoff, {best.name},"
                f" {_points(float(np.mean(best.accuracies)))} %: these losses work better on the labels alone.",
            )
    for knockoff in evidence.chosen:
        grid = [each for each in evidence.screened if (each.family, each.role) == (knockoff.family, "knockoff")]
        if len(grid) > 2 and knockoff in (grid[0], grid[-1]) and not _is_flat(grid, evidence.scores):
            yield Check(
                "best setting at the edge",
                "warning",
                f"The best setting of {knockoff.family}, {knockoff.attack!r}, is the"
                f" {'first' if knockoff is grid[0] else 'last'} of its {len(grid)}: another might do better.",
            )


def _is_flat(grid: Sequence[Arm], scores: Mapping[Arm, Sequence[float]]) -> bool:
    """Return whether settings differ by no more than the seeds of one do on average, or than a tenth of a point."""
    means = [float(np.mean(scores[arm])) for arm in grid]
    spread = float(np.mean([np.ptp(scores[arm]) for arm in grid]))
    return max(means) - min(means) <= max(spread, 0.001)


def _of_design(evidence: Evidence) -> Iterable[Check]:
    if evidence.power is None:
        yield Check(
            "no control teacher",
            "warning",
            "No control teacher was audited: if these attacks could not distil an unprotected model of this kind"
            " either, the verdict says nothing. Give the same model trained with plain cross-entropy.",
        )
    elif not evidence.power:
        yield Check("no power", "fatal", _no_power(evidence.control_fault))
    if evidence.has_pretrained_student:
        yield Check(
            "pretrained student",
            "warning",
            "Students start from trained weights. Every arm here does; a figure for students trained from nothing is"
            " no baseline for these.",
        )
    if evidence.skipped:
        yield Check(
            "attacks left out",
            "warning",
            f"These attacks could not be tried: {', '.join(evidence.skipped)}.",
        )


def _no_power(control_fault: str) -> str:
    """Return why the positive control shows nothing."""
    if control_fault:
        return f"The control teacher, trained with plain cross-entropy, has no verdict of its own. {control_fault}"
    return (
        "The control teacher, trained with plain cross-entropy, was not distilled either: with this student, these"
        " data and this number of seeds the audit sees no leak where one is known to be. Train students for longer,"
        " ask about more samples, or append looks."
    )
