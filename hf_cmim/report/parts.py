"""Parts of an audit report."""

from dataclasses import dataclass
from typing import Any, Literal, Self

from hf_cmim.measurement import Measurement
from hf_cmim.report.attackers import UNKNOWN_ATTACKER, Attacker
from hf_cmim.statistics import Baselines, Comparison, Verdict

Criterion = Literal["paper", "teacher-free", "no-leak", "beyond-labels"]
Role = Literal["knockoff", "reference", "null", "tuned null", "labels", "class answers", "diagnostic"]
"""Purpose of an arm, by the source its students learn from.

A knockoff learns from the teacher, a reference from no teacher. A null learns from a null teacher under an attack's
own loss, a tuned null under another setting of that loss, where another does better without the teacher. Labels learn
only from the teacher's labels, with a confidence chosen on validation data; class answers only from one answer per
predicted class. A diagnostic learns from the teacher's labels or class means with the confidence of the null, to
account for a gain.
"""


@dataclass(frozen=True)
class Interval:
    """An estimate with a two-sided 95 % confidence interval, not corrected for looks or for other intervals."""

    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True)
class ArmResult:
    """The students of one arm.

    Attributes:
        name: name, unique in the report.
        family: name shared by the settings that competed with each other.
        setting: attack as the Python expression that builds it.
        teacher: source of the answers, in words.
        validation: validation accuracy of each screened setting of the family; empty if there was no choice.
        seeds: seeds of the confirming students.
        accuracies: `(seeds,)` accuracies on the test data after the last epoch.
        agreement: `(seeds,)` share of the test samples on which student and teacher predict the same class; empty
            where the teacher could not answer the test samples.
        diverged: seeds whose loss was not finite; their accuracy counts as 1 / C.
        queries: answers that one student of this arm paid for; 0 in reports of earlier releases.
    """

    name: str
    role: Role
    family: str
    setting: str
    teacher: str
    validation: dict[str, float]
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    agreement: tuple[float, ...]
    diverged: tuple[int, ...]
    queries: int = 0


@dataclass(frozen=True)
class CriterionResult:
    """The verdict under one criterion.

    Attributes:
        primary: True for the criterion chosen before the run; the others are described only.
        baselines: references of each attack, by its name; the report's `arms` hold their accuracies.
        comparisons: comparison of each attack with its baselines, the largest gain first.
        smallest_margin: smallest margin within which the model would be called undistillable.
    """

    criterion: Criterion
    primary: bool
    verdict: Verdict
    baselines: dict[str, Baselines]
    comparisons: tuple[Comparison, ...]
    smallest_margin: float


@dataclass(frozen=True)
class LabelFloor:
    """The gain from nothing but the teacher's labels; no training of the teacher removes it.

    Attributes:
        labels: name of the best arm that learned only from the teacher's labels.
        reference: name of the best arm that was trained without the teacher.
        gain: test accuracy of `labels` minus that of `reference`, paired by seed.
    """

    labels: str
    reference: str
    gain: Interval


@dataclass(frozen=True)
class ClassAnswersControl:
    """The gain from the channel `ClassAnswers`: one answer per predicted class, at the teacher's accuracy.

    Attributes:
        arm: name of the best arm that learned from class answers.
        reference: name of the best arm that was trained without the teacher.
        attack: name of the strongest attack on the teacher's own answers, chosen on validation data.
        gain: test accuracy of `arm` minus that of `reference`, paired by seed.
        beyond: test accuracy of `attack` minus that of `arm`, paired by seed.
    """

    arm: str
    reference: str
    attack: str
    gain: Interval
    beyond: Interval


@dataclass(frozen=True)
class Accounting:
    """One attack's gain over the baseline as a sum of four terms: an identity, not a causal claim.

    gain = loss_form + teacher_errors + class_similarity + instance_information.
    """

    attack: str
    gain: Interval
    loss_form: Interval
    teacher_errors: Interval
    class_similarity: Interval
    instance_information: Interval


@dataclass(frozen=True)
class ModelFacts:
    """A classifier's utility to its owner, on the test data, as a user gets its answers: through its channel.

    Attributes:
        name: name for readers.
        path: folder or Hub id, or "" for a model in memory.
        fingerprint: sha256 hex of everything that determines its answers.
        labels_fingerprint: sha256 hex of the test labels, in order.
        curve: pairs of temperature and CMI in nats.
        channel: change of its answers on their way out, as the Python expression; "" without one.
        membership_auc: AUC of telling the samples of the attacker `training` from test samples by the loss of the
            answers; None without this attacker, and in reports of earlier releases.
    """

    name: str
    path: str
    fingerprint: str
    labels_fingerprint: str
    accuracy: float
    top5_accuracy: float
    nll: float
    ece: float
    nll_calibrated: float
    ece_calibrated: float
    aurc: float
    within_total_ratio: float
    curve: tuple[tuple[float, float], ...]
    channel: str = ""
    membership_auc: Interval | None = None

    @classmethod
    def of(
        cls,
        measured: Measurement,
        *,
        name: str = "",
        path: str = "",
        fingerprint: str = "",
        channel: str = "",
        membership_auc: Interval | None = None,
    ) -> Self:
        """Return the facts from a measurement."""
        calibration = measured.calibration
        return cls(
            name=name,
            path=path,
            fingerprint=fingerprint,
            labels_fingerprint=measured.labels_fingerprint,
            accuracy=measured.accuracy,
            top5_accuracy=measured.top5_accuracy,
            nll=calibration.nll,
            ece=calibration.ece,
            nll_calibrated=calibration.nll_calibrated,
            ece_calibrated=calibration.ece_calibrated,
            aurc=calibration.aurc,
            within_total_ratio=measured.within_total_ratio,
            curve=tuple(zip(measured.temperatures, measured.cmi, strict=True)),
            channel=channel,
            membership_auc=membership_auc,
        )


@dataclass(frozen=True)
class LeakDifference:
    """Accuracy of a control's knockoffs minus that of the audited teacher's; descriptive, no verdict uses it.

    Attributes:
        attack: family that learns from the audited teacher.
        control_attack: family that learns from the control; it differs where each teacher's strongest are compared.
        seeds: number of common seeds. Students of one seed have the same initial weights and order of data.
        difference: difference of test accuracies, control minus audited teacher, paired by seed.
    """

    attack: str
    control_attack: str
    seeds: int
    difference: Interval


NOT_CONVERGED = "students far from converged"
"""Name of the check that pages show above the verdict."""


@dataclass(frozen=True)
class Check:
    """A reason to doubt a verdict.

    Attributes:
        name: name of a few words.
        severity: "fatal" if it voids the verdict, "warning" if it qualifies it.
        sentence: observation with numbers, consequence and remedy.
    """

    name: str
    severity: Literal["fatal", "warning"]
    sentence: str


@dataclass(frozen=True)
class Leak:
    """The leak of another teacher under a criterion that is only described.

    Attributes:
        largest_gain: comparison of its attack with the largest gain.
    """

    criterion: Criterion
    verdict: Verdict
    largest_gain: Comparison
    smallest_margin: float


@dataclass(frozen=True)
class ControlResult:
    """The result for another teacher, audited in the same way.

    Attributes:
        name: name; "CE twin" is the positive control, and an audit that cannot distil it has no power.
        largest_gain: comparison of its attack with the largest gain under the primary criterion.
        differences: differences from the audited teacher. First between the attacks that are strongest on validation
            data, then for each attack, the largest first.
        checks: reasons to doubt its verdict, by the same checks as for the audited teacher.
        described: its leak under each other criterion for which it has students.
        queries: answers that one student of its attack with the largest gain paid for.
    """

    name: str
    facts: ModelFacts | None
    verdict: Verdict
    largest_gain: Comparison | None
    smallest_margin: float
    differences: tuple[LeakDifference, ...]
    checks: tuple[Check, ...] = ()
    described: tuple[Leak, ...] = ()
    queries: int = 0


@dataclass(frozen=True)
class LearningCurve:
    """Validation accuracy of a cross-entropy student, trained as long as the audit's students and twice as long.

    Attributes:
        epochs: epochs after which the student was measured, the last one last.
        validation: accuracy after each of `epochs`.
        longer: accuracy of a student of the same seed, trained twice as long.
        gain: `longer` minus the last of `validation`, over the same samples.
        longer_setting: setting that trains twice as long, as NAME=VALUE.
        learning_rate: learning rate of both students.
        most_frequent: share of the validation samples in their most frequent class.
        unnamed: numbers of the classes that the student never predicts, although the validation data have at least ten
            samples of each.
    """

    epochs: tuple[int, ...]
    validation: tuple[float, ...]
    longer: float
    gain: Interval
    longer_setting: str
    learning_rate: float
    most_frequent: float
    unnamed: tuple[int, ...]


@dataclass(frozen=True)
class Costs:
    """The cost of an audit.

    Attributes:
        queries_paid: answers that an attacker would pay for, for the most expensive single student.
        queries_asked: answers that all students paid for together; the audit itself asked fewer, since students share
            answers.
        students: number of trained students, in both stages.
        student_steps: optimizer steps of all students.
        seconds: time of training and evaluation, summed over processes.
    """

    queries_paid: int
    queries_asked: int
    students: int
    student_steps: int
    seconds: float


@dataclass(frozen=True)
class Scope:
    """The suite, student, attacker, data and training that a verdict is limited to."""

    suite: str
    student: str
    transfer_set: str
    validation_set: str
    test_set: str
    num_transfer: int
    num_validation: int
    num_test: int
    num_classes: int
    training: dict[str, Any]
    attacker: Attacker = UNKNOWN_ATTACKER
