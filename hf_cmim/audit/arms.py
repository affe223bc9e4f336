"""Arms of an audit: an attack with settings, and the source of its answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hf_cmim.attacks.base import AttackPart, Relative
from hf_cmim.attacks.composition import Answers, Composition
from hf_cmim.attacks.references import SELF_DISTILLATION, reference_settings
from hf_cmim.attacks.suites import NULL_CONFIDENCES, SuiteEntry
from hf_cmim.report import Role
from hf_cmim.report.arm_names import Answering, answering_words, arm_name
from hf_cmim.teachers.fingerprints import digest


@dataclass(frozen=True)
class Arm:
    """One kind of student; an arm with a seed is one student.

    Attributes:
        family: name shared by settings of one method; validation data choose among those of equal role.
        role: purpose of the arm.
        attack: attack with every temperature as a number.
        answering: source of the answers.
        confidence: confidence of a null teacher at the attack's temperature; None for other sources.
    """

    family: str
    role: Role
    attack: Composition
    answering: Answering
    confidence: float | None = None

    @property
    def name(self) -> str:
        """Name in a report, unique once one setting per family and role is chosen."""
        return arm_name(self.family, self.role, self.answering)

    @property
    def knows_teacher(self) -> bool:
        """True if students receive information from the audited teacher."""
        return self.answering in ("teacher", "argmax", "centroid", "class answers")

    @property
    def teacher_in_words(self) -> str:
        """Source of the answers in words."""
        return answering_words(self.answering, self.confidence)

    def key(self, teacher_fingerprint: str) -> str:
        """Return the key under which students are stored; arms without the teacher share keys across teachers."""
        fingerprint = teacher_fingerprint if self.knows_teacher else None
        return digest(repr(self.attack), self.answering, self.confidence, fingerprint)[:24]

    def null(self, confidence: float) -> "Arm":
        """Return the label-only null with this arm's loss."""
        return Arm(self.family, "null", self.attack, "label", confidence)

    def nulls(self, num_classes: int) -> list["Arm"]:
        """Return the label-only nulls of every confidence above that of guessing."""
        return [self.null(confidence) for confidence in null_confidences(num_classes)]

    def is_null_of(self, attacks: Iterable["Arm"]) -> bool:
        """Return True for a label-only null with the setting of one of these attacks."""
        settings = [(attack.family, attack.attack) for attack in attacks]
        return self.role == "null" and (self.family, self.attack) in settings

    def without_samples(self, num_classes: int) -> list["Arm"]:
        """Return the arms with this arm's loss that learn nothing of a sample but the class that the teacher predicts.

        The teacher's label is given with every confidence above that of guessing; class answers have their own.
        """
        return [
            *(
                Arm(self.family, "labels", self.attack, "argmax", confidence)
                for confidence in null_confidences(num_classes)
            ),
            Arm(self.family, "class answers", self.attack, "class answers"),
        ]

    def diagnostics(self, confidence: float) -> list["Arm"]:
        """Return the argmax and centroid nulls, which separate the terms of a gain."""
        return [
            Arm(self.family, "diagnostic", self.attack, "argmax", confidence),
            Arm(self.family, "diagnostic", self.attack, "centroid"),
        ]


def null_confidences(num_classes: int) -> list[float]:
    """Return the confidences of a null teacher that are above that of guessing."""
    return [confidence for confidence in NULL_CONFIDENCES if confidence > 1 / num_classes]


def references() -> list[Arm]:
    """Return every setting of every reference; settings of one family compete."""
    return [
        Arm(family, "reference", attack, "self" if family == SELF_DISTILLATION else "nobody")
        for family, attacks in reference_settings().items()
        for attack in attacks
    ]


def knockoffs(entries: Iterable[SuiteEntry], answers: Answers) -> list[Arm]:
    """Return a suite's settings as arms, with relative temperatures computed from the teacher's answers.

    Args:
        entries: entries of the suite.
        answers: batches of `(N, C)` log-probabilities and `(N,)` labels over the transfer set.
    """
    return [Arm(entry.family, "knockoff", with_numbers(entry.attack, answers), "teacher") for entry in entries]


def with_numbers(attack: Composition, answers: Answers) -> Composition:
    """Return the attack with relative temperatures as numbers, computed from these answers to four digits.

    A null then uses the same temperature as the teacher, and a student of one arm is the same in every audit.
    """
    # Parts are rebuilt, because a survey changes them and the suite's own must stay as they are.
    surveyed = Composition(*(_rebuilt(part, None) for part in attack.active_parts))
    if not any(_is_relative(part.settings()) for part in surveyed.active_parts):
        return surveyed
    surveyed.prepare(answers[0][0].shape[-1])
    surveyed.survey(answers)
    return Composition(*(_rebuilt(part, float(part.teacher_scale)) for part in surveyed.active_parts))


def _is_relative(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_relative, value.values()))
    return isinstance(value, Relative) or (isinstance(value, tuple) and any(map(_is_relative, value)))


def _rebuilt(part: AttackPart, scale: float | None) -> AttackPart:
    """Return a new part with the same settings; a scale turns relative temperatures into numbers."""
    values = {name: _number(value, scale) for name, value in part.settings().items()}
    return type(part)(**values)


def _number(value: Any, scale: float | None) -> Any:
    if isinstance(value, Relative) and scale is not None:
        return float(f"{value.factor * scale:.4g}")
    if isinstance(value, tuple):
        return tuple(_number(entry, scale) for entry in value)
    return _rebuilt(value, scale) if isinstance(value, AttackPart) else value
