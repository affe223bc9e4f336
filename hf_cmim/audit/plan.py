"""The plan of an audit: screen every setting on validation data, then confirm the best of each kind on test data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import numpy as np

from hf_cmim.attacks.references import CROSS_ENTROPY, LABEL_SMOOTHING
from hf_cmim.attacks.suites import RELEASED_SUITES, SUITES, Suite, released_suite
from hf_cmim.audit.arms import Arm
from hf_cmim.errors import HfCmimError
from hf_cmim.report import UNKNOWN_ATTACKER, Attacker, Criterion, Role
from hf_cmim.statistics import Baselines, Design
from hf_cmim.teachers.fingerprints import digest

FIRST_SCREENING_SEED = 100_000
"""First seed of the screen. Confirming students start at 0, so that no student serves both stages."""


@dataclass(frozen=True)
class AuditPlan:
    """The plan of an audit, fixed before it runs.

    Args:
        suite: suite of attacks: `standard-v2`, `quick-v2`, or your own `Suite`.
        criterion: primary criterion; the others are only described.
        margin: smallest gain that counts as distilling, a fraction.
        looks: numbers of seeds per attack at which verdicts are tried. Append looks to continue a finished audit.
        screening_seeds: seeds of each setting in the screen.
        finalists: number of strongest attack settings, and of strongest settings without the teacher, that get more
            seeds before one is chosen. With few seeds, the best of a hundred settings is also the luckiest.
        final_seeds: further seeds of each finalist.
        reference_multiple: seeds of a shared reference per seed of an attack.
        references: number of references that are confirmed beside label smoothing, the best on validation data.
        null_families: number of families of attacks, strongest on validation data first, whose label-only nulls are
            tuned: every setting with every confidence. Under the criterion `no-leak` the other attacks have nulls of
            their own setting. Students that learn only the teacher's labels are tuned for the best setting of as many
            attacks, at least one under the criterion `beyond-labels`.
        diagnosed: number of attacks, strongest first, whose gain is accounted for.
        stacked: True to stack the passes of students that allow it. This is faster for small students; results equal
            those of `DistillationTrainer` to rounding, without it bit for bit.
        wave_size: students trained at once; None for as many as memory allows, at most 32.
        attackers: attackers by the samples that they have. Each gets a verdict and students of its own. More may be
            added to a finished audit.

    Raises:
        HfCmimError: a value outside its range.
    """

    suite: str | Suite = "standard-v2"
    criterion: Criterion = "teacher-free"
    margin: float = 0.005
    looks: tuple[int, ...] = (3, 5, 8, 12, 18, 27, 40)
    screening_seeds: int = 2
    finalists: int = 8
    final_seeds: int = 4
    reference_multiple: int = 3
    references: int = 2
    null_families: int = 6
    diagnosed: int = 3
    stacked: bool = True
    wave_size: int | None = None
    attackers: tuple[Attacker, ...] = (UNKNOWN_ATTACKER,)

    def __post_init__(self) -> None:
        """Check every value."""
        if isinstance(self.suite, str) and self.suite not in RELEASED_SUITES:
            raise HfCmimError(f"Unknown suite {self.suite!r}: it has no attacks. Use one of {', '.join(SUITES)}.")
        retired = released_suite(self.attacks.name)
        if retired is not None and retired.name not in SUITES:
            raise HfCmimError(
                f"The suite {retired.name!r} cannot be tried again: some of its losses differed from their sources and"
                f" were mended, so new students would not be comparable. Use one of {', '.join(SUITES)}, in a new"
                " output folder."
            )
        if self.criterion not in get_args(Criterion):
            raise HfCmimError(
                f"Unknown criterion {self.criterion!r}: no verdict could be given. Use one of"
                f" {', '.join(get_args(Criterion))}."
            )
        self.design  # noqa: B018 (it checks margin and looks)
        non_negative = ("finalists", "final_seeds", "references", "null_families", "diagnosed")
        for name, least in {"screening_seeds": 1, **dict.fromkeys(non_negative, 0)}.items():
            if getattr(self, name) < least:
                raise HfCmimError(f"Expected {name} of at least {least}, got {getattr(self, name)}.")
        names = [attacker.name for attacker in self.attackers]
        if not names or len(set(names)) < len(names):
            raise HfCmimError(
                f"Expected attackers, each once, got {names or 'none'}: there would be no student, or the same twice."
                ' Use for instance attackers=(Attacker("training"), Attacker("own")).'
            )
        origins = {attacker.origin for attacker in self.attackers}
        if "out-of-domain" in origins and origins & {"own", "own-unlabelled"}:
            raise HfCmimError(
                f"The attackers {', '.join(names)} cannot share one audit: samples of the own kind and of another kind"
                " both come from AuditData(own=...), and one of them would get the other's. Audit out-of-domain in an"
                " output folder of its own."
            )
        if self.wave_size is not None and self.wave_size < 1:
            raise HfCmimError(
                f"Expected a wave_size of at least 1, got {self.wave_size}: no student would be trained."
            )

    @property
    def design(self) -> Design:
        """The sequential design."""
        return Design(margin=self.margin, looks=tuple(self.looks), reference_multiple=self.reference_multiple)

    @property
    def attacks(self) -> Suite:
        """The suite of attacks."""
        return RELEASED_SUITES[self.suite] if isinstance(self.suite, str) else self.suite

    def of(self, attacker: Attacker) -> "AuditPlan":
        """Return the plan for one attacker; without labels only the criterion beyond-labels can be judged."""
        if attacker.is_labelled:
            return replace(self, attackers=(attacker,))
        return replace(self, attackers=(attacker,), criterion="beyond-labels", diagnosed=0)

    def settings(self) -> dict[str, Any]:
        """Return the values that must not change when an audit continues; looks, waves and attackers may change."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        entries = [(entry.family, repr(entry.attack)) for entry in self.attacks.entries]
        values["suite"] = f"{self.attacks.name}, {len(entries)} settings, {digest(entries)[:12]}"
        return {name: value for name, value in values.items() if name not in ("looks", "wave_size", "attackers")}


WITHOUT_SAMPLES: tuple[Role, ...] = ("labels", "class answers")
"""Roles of students that learn nothing of a sample but the class that the teacher predicts."""

Scores = Mapping[Arm, Sequence[float]]
"""Validation accuracies of each setting, one per seed."""


def best_settings(arms: Sequence[Arm], scores: Scores) -> list[Arm]:
    """Return the strongest arm of each family and role; ties go to the first."""
    best: dict[tuple[str, str], Arm] = {}
    for arm in strongest(arms, scores):
        # Strongest come first, so later arms of the same family and role change nothing.
        best.setdefault((arm.role, arm.family), arm)
    return [arm for arm in arms if arm in best.values()]


def strongest(arms: Iterable[Arm], scores: Scores, count: int | None = None) -> list[Arm]:
    """Return the arms with the highest mean validation accuracy, highest first, finalists before all others.

    Finalists had the highest means when all settings had equally many seeds. Their means over more seeds are often
    lower, because luck averages out, and are not compared with means over few seeds.
    """
    return sorted(arms, key=lambda arm: (-len(scores[arm]), -float(np.mean(scores[arm]))))[:count]


def finalists(plan: AuditPlan, arms: Sequence[Arm], scores: Scores) -> list[Arm]:
    """Return the settings that get more seeds: the strongest attacks, as many without the teacher, and of labels."""
    groups: tuple[tuple[Role, ...], ...] = (("knockoff",), ("reference", "null"), WITHOUT_SAMPLES)
    return [
        arm
        for roles in groups
        for arm in strongest([arm for arm in arms if arm.role in roles], scores, plan.finalists)
    ]


@dataclass(frozen=True)
class Confirmation:
    """The arms that are confirmed on the test data.

    Attributes:
        knockoffs: best setting of each family.
        contenders: arms without the teacher that a knockoff has to beat, the best on validation data first; label
            smoothing is always among them. A null may have another setting than its family's knockoff.
        nulls: best label-only null of each knockoff, with its setting.
        without_samples: best arm of the teacher's labels and best arm of class answers; () if none was screened.
        beyond_labels: contenders of the criterion `beyond-labels`, the best on validation data first; () without such
            arms.
        described: cross-entropy, unless it is a contender; no verdict uses it.
    """

    knockoffs: tuple[Arm, ...]
    contenders: tuple[Arm, ...]
    nulls: Mapping[str, Arm]
    without_samples: tuple[Arm, ...] = field(default=())
    beyond_labels: tuple[Arm, ...] = field(default=())
    described: tuple[Arm, ...] = field(default=())

    @classmethod
    def choose(cls, plan: AuditPlan, arms: Sequence[Arm], scores: Scores) -> "Confirmation":
        """Choose the arms to confirm from all screened settings.

        Args:
            plan: plan with the number of references.
            arms: all screened settings, in order.
            scores: validation accuracies of each setting.
        """
        best = best_settings(arms, scores)
        knockoffs = [arm for arm in best if arm.role == "knockoff"]
        own_nulls = best_settings([null for null in arms if null.is_null_of(knockoffs)], scores)
        nulls = {null.family: null for null in own_nulls}
        smoothing = next(arm for arm in best if arm.family == LABEL_SMOOTHING and arm.role == "reference")
        candidates = [arm for arm in best if arm.role in ("reference", "null") and arm is not smoothing]
        contenders = strongest([smoothing, *strongest(candidates, scores, plan.references)], scores)
        cross_entropy = next(arm for arm in best if arm.family == CROSS_ENTROPY)
        described = () if cross_entropy in contenders else (cross_entropy,)
        without_samples = [
            arm for role in WITHOUT_SAMPLES for arm in strongest([arm for arm in best if arm.role == role], scores, 1)
        ]
        beyond_labels = strongest([*contenders, *without_samples], scores) if without_samples else []
        return cls(
            knockoffs=tuple(knockoffs),
            contenders=_named(contenders, nulls),
            nulls=nulls,
            without_samples=tuple(without_samples),
            beyond_labels=_named(beyond_labels, nulls),
            described=described,
        )

    def baselines(self, criterion: Criterion) -> dict[str, Baselines]:
        """Return the baselines of each knockoff, without knockoffs that lack the arms of the criterion.

        The criteria `paper`, `teacher-free` and `beyond-labels` are nested: each adds references to those of the one
        before.
        """
        if criterion == "no-leak":
            with_null = [arm for arm in self.knockoffs if arm.family in self.nulls]
            names = {arm.name: self.nulls[arm.family].name for arm in with_null}
            return {knockoff: Baselines(null, (null,)) for knockoff, null in names.items()}
        if criterion == "paper":
            references: tuple[str, ...] = (LABEL_SMOOTHING,)
        else:
            contenders = self.contenders if criterion == "teacher-free" else self.beyond_labels
            references = tuple(arm.name for arm in contenders)
        return {arm.name: Baselines(references[0], references) for arm in self.knockoffs} if references else {}

    def with_nulls(self, nulls: Mapping[str, Arm]) -> "Confirmation":
        """Return a copy with more label-only nulls; existing ones are kept."""
        return replace(self, nulls={**nulls, **self.nulls})

    def arms(self) -> dict[str, Arm]:
        """Return every arm that may be trained, by name."""
        arms = (
            *self.knockoffs, *self.contenders, *self.without_samples, *self.nulls.values(), *self.described,
        )  # fmt: skip
        return {arm.name: arm for arm in arms}


def _named(arms: Iterable[Arm], nulls: Mapping[str, Arm]) -> tuple[Arm, ...]:
    """Return the arms, a null that is not a knockoff's own with the role `tuned null` and so another name."""
    return tuple(
        replace(arm, role="tuned null") if arm.role == "null" and arm not in nulls.values() else arm for arm in arms
    )


def null_families(plan: AuditPlan) -> int:
    """Return the number of attacks, strongest first, that have a label-only null of their own setting."""
    families = len(plan.attacks.families)
    return families if plan.criterion == "no-leak" else min(plan.null_families, families)


def label_families(plan: AuditPlan) -> int:
    """Return the number of attacks, strongest first, with which students learn only from the teacher's labels."""
    count = min(plan.null_families, len(plan.attacks.families))
    return max(1, count) if plan.criterion == "beyond-labels" else count


def screening_seeds(plan: AuditPlan, final: bool = False) -> range:
    """Return the seeds of the screen, or the further seeds of its finalists if `final`."""
    first = FIRST_SCREENING_SEED + (plan.screening_seeds if final else 0)
    return range(first, first + (plan.final_seeds if final else plan.screening_seeds))
