"""What an audit found, as plain data: nothing here trains, decides or draws.

Accuracies, gains and bounds are fractions, CMI is in nats, times in seconds. `AuditReport.write` and
`AuditReport.read` keep it as JSON; `hf_cmim.pages` shows it.
"""

import json
import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Self

from hf_cmim.statistics import Comparison, Verdict

SCHEMA = 1
"""Version of the JSON; a reader refuses a later one."""

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
        comparisons: one for each attack, the largest gain first.
        smallest_margin: the smallest margin within which the model would be called undistillable.
    """

    criterion: Criterion
    primary: bool
    verdict: Verdict
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
        curve: CMI in nats at each temperature.
    """

    name: str
    path: str
    fingerprint: str
    accuracy: float
    top5_accuracy: float
    nll: float
    ece: float
    nll_calibrated: float
    ece_calibrated: float
    aurc: float
    within_total_ratio: float
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ControlResult:
    """Another teacher audited in the same way.

    Attributes:
        name: "CE twin" is the positive control: an audit that cannot distil it has no power.
        largest_gain: of its attacks under the primary criterion.
    """

    name: str
    facts: ModelFacts | None
    verdict: Verdict
    largest_gain: Comparison | None
    smallest_margin: float


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


@dataclass(frozen=True)
class AuditReport:
    """Everything an audit found.

    Attributes:
        teacher: the audited model.
        twin: its cross-entropy twin, or None.
        power: whether the positive control was distilled; None without one.
        criteria: the primary one first.
        reference: name of the arm that the primary criterion measures against, where one serves all attacks.
        looks: numbers of seeds at which the audit looked.
        sittings: how many times it was started or continued.
        checks: what speaks against believing it.
        reproduction: command, versions, device, date, digests: what is needed to repeat it.
    """

    title: str
    date: str
    scope: Scope
    teacher: ModelFacts
    twin: ModelFacts | None
    power: bool | None
    margin: float
    error_rate: float
    criteria: tuple[CriterionResult, ...]
    reference: str
    arms: tuple[ArmResult, ...]
    accounting: tuple[Accounting, ...]
    controls: tuple[ControlResult, ...]
    costs: Costs
    checks: tuple[Check, ...]
    looks: tuple[int, ...]
    sittings: int
    reproduction: dict[str, Any]
    schema: int = SCHEMA

    @property
    def primary(self) -> CriterionResult:
        """The criterion that was named before the run."""
        return next(each for each in self.criteria if each.primary)

    def to_json(self) -> str:
        """Return it as JSON that `from_json` turns into an equal report."""
        return json.dumps(asdict(self), indent=1, allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the report that `to_json` wrote.

        Raises:
            ValueError: something that is no such report, or one of a later version.
        """
        values = json.loads(text)
        schema = values.get("schema") if isinstance(values, dict) else None
        if not isinstance(schema, int) or schema > SCHEMA:
            raise ValueError(
                f"Expected an audit report of schema {SCHEMA}, got {schema}: its fields could be misread. Install the"
                " release of hf_cmim that wrote it, or a later one."
            )
        report: Self = _build(cls, values, "report")
        return report

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the report in a file, or in a folder's audit.json.

        Raises:
            ValueError: no report there.
        """
        path = Path(path)
        path = path / REPORT_NAME if path.is_dir() else path
        if not path.is_file():
            raise ValueError(
                f"Expected an audit's {REPORT_NAME}, got nothing at {path}: an audit writes it when it ends. Run the"
                " same audit again; it goes on where it was."
            )
        return cls.from_json(path.read_text(encoding="utf-8"))


REPORT_NAME = "audit.json"


def _build(kind: Any, value: Any, where: str) -> Any:
    """Return the value as the annotation says it is."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        expected = {field.name for field in fields(kind)}
        if not isinstance(value, dict) or set(value) != expected:
            found = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise ValueError(f"Expected {where} with {sorted(expected)}, got {found}: it is no {kind.__name__}.")
        return kind(**{name: _build(hints[name], value[name], f"{where}.{name}") for name in expected})
    if origin is types.UnionType:
        inner = next(part for part in parts if part is not type(None))
        return None if value is None else _build(inner, value, where)
    if origin is tuple:
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_build(each, item, where) for each, item in zip(kinds, value, strict=True))
    if origin is dict and parts[1] is not Any:
        return {name: _build(parts[1], item, where) for name, item in value.items()}
    return value
