"""What an audit's report is made of."""

from dataclasses import dataclass
from typing import Any, Literal, Self

from hf_cmim.measurement import Measurement
from hf_cmim.statistics import Baselines, Comparison, Verdict

Criterion = Literal["paper", "teacher-free", "no-leak"]
Role = Literal["knockoff", "reference", "null", "diagnostic"]
"""A knockoff learns from the teacher; a reference from no teacher; a null from what replaces it under an attack's own
loss; a diagnostic from the teacher's labels or class means alone."""


@dataclass(frozen=True)
class Interval:
    """An estimate with a two-sided 95 % confidence interval that knows nothing of looks or of other intervals."""

    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True)
class ArmResult:
    """The students of one arm.

    Attributes:
        name: unique in the report.
        family: whose settings competed with each other.
        setting: the attack as Python would build it.
        teacher: who answered, in words.
        validation: accuracy of each setting of the family that was screened, on validation data; empty if there was no
            choice.
        seeds: of the confirming students.
        accuracies: `(seeds,)` on the test data, last epoch.
        agreement: `(seeds,)` share of the test samples on which student and teacher name the same class; empty where
            the teacher could not be asked about them.
        diverged: seeds whose loss was not finite; their accuracy counts as 1 / C.
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


@dataclass(frozen=True)
class CriterionResult:
    """One criterion's verdict.

    Attributes:
        primary: whether it was named before the run; the others are described only.
        baselines: what each attack was measured against, by its name; `arms` hold the accuracies.
        comparisons: one for each attack, the largest gain first.
        smallest_margin: the smallest margin within which the model would be called undistillable.
    """

    criterion: Criterion
    primary: bool
    verdict: Verdict
    baselines: dict[str, Baselines]
    comparisons: tuple[Comparison, ...]
    smallest_margin: float


@dataclass(frozen=True)
class Accounting:
    """Where one attack's gain over the baseline comes from: an identity, not a causal claim.

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
    """What a classifier is worth to its owner, on the test data.

    Attributes:
        name: in words.
        path: folder or Hub id, or "" for a model in memory.
        fingerprint: sha256 hex of what determines its answers.
        labels_fingerprint: sha256 hex of the labels it was measured on, in their order.
        curve: CMI in nats at each temperature.
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

    @classmethod
    def of(cls, measured: Measurement, *, name: str = "", path: str = "", fingerprint: str = "") -> Self:
        """Return the facts that a measurement holds."""
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
        )


@dataclass(frozen=True)
class LeakDifference:
    """How much better the knockoffs of a control are than those of the audited teacher: described, no verdict.

    Attributes:
        attack: family that learns from the audited teacher.
        control_attack: family that learns from the control; another one where each teacher's strongest are compared.
        seeds: that both have. Students of one seed begin alike and see the data in the same order.
        difference: test accuracy of the control's knockoffs less that of the audited teacher's, seed by seed.
    """

    attack: str
    control_attack: str
    seeds: int
    difference: Interval


NOT_CONVERGED = "students far from converged"
"""Name of the check that pages show before the verdict."""


@dataclass(frozen=True)
class Check:
    """A reason not to believe a verdict.

    Attributes:
        name: a few words.
        severity: "fatal" takes the verdict away, "warning" qualifies it.
        sentence: what was seen, with numbers.
    """

    name: str
    severity: Literal["fatal", "warning"]
    sentence: str


@dataclass(frozen=True)
class ControlResult:
    """Another teacher audited in the same way.

    Attributes:
        name: "CE twin" is the positive control: an audit that cannot distil it has no power.
        largest_gain: of its attacks under the primary criterion.
        differences: between the attacks that are strongest on validation data first, then of each attack with itself,
            the largest first.
        checks: reasons not to believe its verdict, the same that the audited teacher has to pass.
    """

    name: str
    facts: ModelFacts | None
    verdict: Verdict
    largest_gain: Comparison | None
    smallest_margin: float
    differences: tuple[LeakDifference, ...]
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class LearningCurve:
    """A cross-entropy student of the audit, trained as long as every other and twice as long, on validation data.

    Attributes:
        epochs: epochs after which the student was measured, the last one last.
        validation: accuracy after each.
        longer: accuracy of a student of the same seed that was trained twice as long.
        gain: `longer` minus the last of `validation`, over the same samples.
        longer_setting: setting that trains twice as long, as NAME=VALUE.
        learning_rate: of both.
        most_frequent: share of the validation samples in their most frequent class.
        unnamed: classes that the student never names, though the validation data hold at least ten samples of each.
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
    """What the audit cost.

    Attributes:
        queries_paid: answers that an attacker would have paid for, the most expensive single student.
        queries_asked: the same, added up over all students; the pool itself asked fewer, since students share answers.
        students: trained, in both stages.
        student_steps: optimizer steps of all of them.
        seconds: of training and evaluation, added up over processes.
    """

    queries_paid: int
    queries_asked: int
    students: int
    student_steps: int
    seconds: float


@dataclass(frozen=True)
class Scope:
    """What the verdict is about, and nothing beyond it."""

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
