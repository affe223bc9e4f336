"""Reasons to doubt a verdict: observation with numbers, consequence, remedy. A fatal one voids the verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_cmim.audit.arms import Arm
from hf_cmim.audit.data import DataFacts
from hf_cmim.report import NOT_CONVERGED, ArmResult, Check, LearningCurve, ModelFacts

LARGEST_CHANGE = 1e-3
"""Largest change of a probability between two answers to one question that rounding may explain."""
KNOWING = 0.1
"""Share of the way from guessing to perfect accuracy, below which a teacher has nothing to protect."""
NEAR = 0.01
"""Difference of accuracy between teacher and student, a fraction, below which little is left to distil."""
LISTED_CLASSES = 10
"""Classes that a sentence lists."""


@dataclass(frozen=True)
class Evidence:
    """Results and facts that the checks examine.

    Attributes:
        asked_twice: largest change of a probability when the teacher was asked again.
        teacher: figures of the teacher on the test data.
        num_classes: number of classes C.
        baseline: result of label smoothing under the criterion `paper`, of the best arm without the teacher otherwise.
        arms: results of all arms.
        chosen: confirmed knockoffs.
        screened: all screened settings, those of a family in the order of its grid.
        scores: validation accuracies of each screened setting.
        margin: margin, a fraction.
        data: facts about transfer, validation and test set.
        power: True if the control was distilled; None without a control.
        has_pretrained_student: True if students start from trained weights.
        skipped: families that this teacher or student does not allow, with the reason.
        control_fault: sentence of the check that voids the control's own verdict, or "".
        curve: learning curve of a cross-entropy student.
        class_names: names of the classes in the order of the labels, or () if they have none.
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
    class_names: Sequence[str] = ()


def find_faults(evidence: Evidence) -> tuple[Check, ...]:
    """Return every reason to doubt the audit, fatal ones first."""
    checks: list[Check] = []
    if evidence.curve is not None:
        checks += _of_convergence(evidence.curve, evidence.margin, evidence.class_names)
    checks += _of_teacher(evidence)
    checks += _of_data(evidence)
    checks += _of_arms(evidence)
    checks += _of_design(evidence)
    return _fatal_first(checks)


def find_faults_of_control(evidence: Evidence) -> tuple[Check, ...]:
    """Return every reason to doubt a control's verdict, fatal ones first.

    A control shares data and kind of student with the audited teacher; `find_faults` checks these.
    """
    return _fatal_first([*_of_teacher(evidence), *_of_arms(evidence)])


def is_void(checks: Iterable[Check]) -> bool:
    """Return True if a check voids the verdict."""
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
            " students learn different things at different times, and an attacker who averages answers was not"
            f" tried. Give a teacher whose answers change by at most {LARGEST_CHANGE:g}: no dropout, no random"
            " channel.",
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
            f"The teacher reaches {_points(teacher.accuracy)} %, students without it {_points(baseline)} %: if"
            " no attack gains from it, the reason may be that it knows less than they do.",
        )
    elif teacher.accuracy - baseline < NEAR:
        yield Check(
            "student as good as teacher",
            "warning",
            f"The teacher reaches {_points(teacher.accuracy)} %, students without it {_points(baseline)} %: there is"
            " little to distil. Audit with a smaller student or fewer transfer samples.",
        )


def _of_convergence(curve: LearningCurve, margin: float, class_names: Sequence[str]) -> Iterable[Check]:
    has_learned_nothing = curve.validation[-1] <= curve.most_frequent
    if has_learned_nothing or curve.gain.lower > margin:
        points = zip(curve.epochs, curve.validation, strict=True)
        course = ", ".join(f"{100 * accuracy:.1f} % after {epoch}" for epoch, accuracy in points)
        guessing = f" Always predicting the most frequent class gives {100 * curve.most_frequent:.1f} %."
        yield Check(
            NOT_CONVERGED,
            "warning",
            f"Students are far from converged. Validation accuracy of a cross-entropy student by epoch: {course}."
            f" Trained twice as long it reaches {100 * curve.longer:.1f} %, a gain of {_points(curve.gain.estimate)}"
            f" points (95 % interval {_points(curve.gain.lower)} to {_points(curve.gain.upper)})."
            f"{guessing if has_learned_nothing else ''} The verdict may change with longer training. Train with"
            f" {curve.longer_setting} or more, or with another learning_rate than {curve.learning_rate:g}, until"
            f" training twice as long gains less than the margin of {_points(margin)} points.",
        )
    if curve.unnamed:
        yield Check(
            "classes never predicted",
            "warning",
            f"A cross-entropy student never predicts {len(curve.unnamed)} of the classes in the validation data"
            f" ({_listed_classes(curve.unnamed, class_names)}): the audit says nothing about these. Give more transfer"
            f" samples of these classes, a larger student, or another learning_rate than {curve.learning_rate:g}.",
        )


def _listed_classes(numbers: Sequence[int], class_names: Sequence[str]) -> str:
    """Return the names of the first classes, or their numbers where classes have no names."""
    listed = [class_names[number] if class_names else str(number) for number in numbers[:LISTED_CLASSES]]
    end = ", ..." if len(numbers) > LISTED_CLASSES else ""
    return f"{'' if class_names else 'numbers '}{', '.join(listed)}{end}"


def convergence_warning(curve: LearningCurve, margin: float, class_names: Sequence[str] = ()) -> str:
    """Return the warnings that students are far from converged, or leave out classes; "" if they do neither.

    Args:
        curve: learning curve of a cross-entropy student.
        margin: margin, a fraction.
        class_names: names of the classes in the order of the labels, or () if they have none.
    """
    return " ".join(check.sentence for check in _of_convergence(curve, margin, class_names))


def _of_data(evidence: Evidence) -> Iterable[Check]:
    transfer, validation, test = evidence.data
    for name, facts in (("transfer", transfer), ("validation", validation)):
        if num_shared := len(facts.samples & test.samples):
            yield Check(
                "test samples seen",
                "fatal",
                f"{num_shared} of {test.size} test samples are also in the {name} set, bit for bit: students are"
                f" measured on samples that trained or selected them. Remove these samples from the {name} set.",
            )
    if num_shared := len(transfer.samples & validation.samples):
        yield Check(
            "validation samples seen",
            "warning",
            f"{num_shared} of {validation.size} validation samples are also in the transfer set: settings were chosen"
            " on samples that students memorised. Remove them from one of the two sets.",
        )
    if evidence.margin < 3 / len(test.labels):
        yield Check(
            "margin too fine",
            "fatal",
            f"{len(test.labels)} test samples cannot resolve a margin of {_points(evidence.margin)} points (3 samples"
            f" are {_points(3 / len(test.labels))} points). Use at least {int(np.ceil(3 / evidence.margin))} test"
            " samples or a larger margin.",
        )


def _of_arms(evidence: Evidence) -> Iterable[Check]:
    for arm in evidence.arms:
        if arm.diverged:
            yield Check(
                "diverged",
                "warning",
                f"{len(arm.diverged)} of {len(arm.seeds)} students of {arm.name} diverged and count as guessing:"
                " the arm was not really tried. Lower the learning rate, or clip gradients.",
            )
    nulls = [arm for arm in evidence.arms if arm.role in ("null", "tuned null") and arm.accuracies]
    knockoffs = [arm for arm in evidence.arms if arm.role == "knockoff" and arm.accuracies]
    if nulls and knockoffs:
        null = max(nulls, key=_mean_accuracy)
        best = max(knockoffs, key=_mean_accuracy)
        if _mean_accuracy(null) > _mean_accuracy(best):
            yield Check(
                "a null beats every teacher",
                "warning",
                f"{null.name} reaches {_points(_mean_accuracy(null))} %, the best knockoff, {best.name},"
                f" {_points(_mean_accuracy(best))} %: these losses work better with only the labels.",
            )
    if edges := [*_edges(evidence)]:
        yield Check(
            "best setting at the edge",
            "warning",
            f"The best setting is the first or the last of those tried for {', '.join(edges)}: settings beyond might"
            " do better.",
        )


def _edges(evidence: Evidence) -> Iterable[str]:
    """Yield each family whose best setting is at an end of its grid, with the end."""
    for knockoff in evidence.chosen:
        grid = [arm for arm in evidence.screened if (arm.family, arm.role) == (knockoff.family, "knockoff")]
        if len(grid) > 2 and knockoff in (grid[0], grid[-1]) and not _is_flat(grid, evidence.scores):
            yield f"{knockoff.family} ({'first' if knockoff is grid[0] else 'last'} of {len(grid)})"


def _mean_accuracy(result: ArmResult) -> float:
    return float(np.mean(result.accuracies))


def _is_flat(grid: Sequence[Arm], scores: Mapping[Arm, Sequence[float]]) -> bool:
    """Return True if settings differ no more than the seeds of one setting on average, or than 0.1 points."""
    means = [float(np.mean(scores[arm])) for arm in grid]
    spread = float(np.mean([np.ptp(scores[arm]) for arm in grid]))
    return max(means) - min(means) <= max(spread, 0.001)


def _of_design(evidence: Evidence) -> Iterable[Check]:
    if evidence.power is None:
        yield Check(
            "no control teacher",
            "warning",
            "No control teacher was audited. If these attacks cannot distil an unprotected model of this kind"
            " either, the verdict says nothing. Give the same model trained with plain cross-entropy (twin).",
        )
    elif not evidence.power:
        yield Check("no power", "fatal", _no_power(evidence.control_fault))
    if evidence.has_pretrained_student:
        yield Check(
            "pretrained student",
            "warning",
            "Students of every arm start from trained weights. Accuracies of students trained from random weights are"
            " no baseline for them.",
        )
    if evidence.skipped:
        yield Check(
            "attacks left out",
            "warning",
            f"These attacks could not be tried: {', '.join(evidence.skipped)}.",
        )


def _no_power(control_fault: str) -> str:
    """Return the reason why the positive control shows no power."""
    if control_fault:
        return f"The control teacher, trained with plain cross-entropy, has no verdict of its own. {control_fault}"
    return (
        "The control teacher, trained with plain cross-entropy, was not distilled either: with this student, these"
        " data and this number of seeds the audit misses a leak that is known to exist. Train students longer, use"
        " more transfer samples, or append looks."
    )
