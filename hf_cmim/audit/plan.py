"""Which students an audit trains: everything in a screen on validation data, then the best of each kind on test."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

import numpy as np

from hf_cmim.attacks.references import CROSS_ENTROPY, LABEL_SMOOTHING
from hf_cmim.attacks.suites import SUITES, Suite
from hf_cmim.audit.arms import Arm
from hf_cmim.errors import HfCmimError
from hf_cmim.report import Criterion
from hf_cmim.statistics import Baselines, Design
from hf_cmim.teachers.fingerprints import digest

FIRST_SCREENING_SEED = 100_000
"""Seeds of the screen start here, those of the confirming students at 0: no student is both."""


@dataclass(frozen=True)
class AuditPlan:
    """What an audit does, decided before it runs.

    Args:
        suite: the attacks: `standard-v1`, `quick-v1`, or a `Suite` of your own.
        criterion: the primary one; the other two are described.
        margin: gain that counts as distilling, a fraction.
        looks: seeds of each attack at which verdicts are tried; longer later to continue an audit.
        screening_seeds: seeds of each setting in the screen.
        finalists: settings, the strongest in the screen of the attacks and as many of those without the teacher, that
            are tried again before one is chosen: of a hundred settings the best of few seeds was also the luckiest.
        final_seeds: further seeds of each finalist.
        reference_multiple: seeds of a shared reference for each seed of an attack.
        references: reference arms that go on beside label smoothing, the best on validation data.
        null_families: attacks, strongest on validation data first, whose label-only nulls are tuned and go on; all of
            them where the criterion is `no-leak`.
        diagnosed: attacks, strongest first, whose gain is accounted for.
        stacked: run the students that allow it as one, equal to `DistillationTrainer`'s to rounding instead of to the
            bit, and faster where students are small.
        wave_size: students trained at once; None: as many as memory allows, at most 16.

    Raises:
        HfCmimError: a value out of its range.
    """

    suite: str | Suite = "standard-v1"
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

    def __post_init__(self) -> None:
        """Check every value."""
        if isinstance(self.suite, str) and self.suite not in SUITES:
            raise HfCmimError(f"Expected a suite among {', '.join(SUITES)}, got {self.suite!r}: it names no attacks.")
        if self.criterion not in get_args(Criterion):
            raise HfCmimError(
                f"Expected a criterion among {', '.join(get_args(Criterion))}, got {self.criterion!r}: no verdict"
                " could be given."
            )
        self.design  # noqa: B018 (it checks margin and looks)
        smallest = {"screening_seeds": 1, "finalists": 0, "final_seeds": 0, "references": 0, "null_families": 0,
                    "diagnosed": 0}  # fmt: skip
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise HfCmimError(f"Expected {name} of at least {least}, got {getattr(self, name)}.")
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
        """The suite itself."""
        return SUITES[self.suite] if isinstance(self.suite, str) else self.suite

    def settings(self) -> dict[str, Any]:
        """Return what must stay the same when an audit goes on; looks and waves may change."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        entries = [(entry.family, repr(entry.attack)) for entry in self.attacks.entries]
        values["suite"] = f"{self.attacks.name}, {len(entries)} settings, {digest(entries)[:12]}"
        return {name: value for name, value in values.items() if name not in ("looks", "wave_size")}


Scores = Mapping[Arm, Sequence[float]]


def best_settings(arms: Sequence[Arm], scores: Scores) -> list[Arm]:
    """Return for each family and role its strongest arm; the first among equals."""
    best: dict[tuple[str, str], Arm] = {}
    for arm in strongest(arms, scores):
        best.setdefault((arm.role, arm.family), arm)
    return [arm for arm in arms if arm in best.values()]


def strongest(arms: Iterable[Arm], scores: Scores, count: int | None = None) -> list[Arm]:
    """Return the arms of the highest mean validation accuracy, highest first, finalists before all others.

    Finalists had the highest means when all had as many seeds; that a mean of more seeds is lower says nothing.
    """
    return sorted(arms, key=lambda arm: (-len(scores[arm]), -float(np.mean(scores[arm]))))[:count]


def finalists(plan: AuditPlan, arms: Sequence[Arm], scores: Scores) -> list[Arm]:
    """Return the settings that are tried again: the strongest attacks, and as many arms that know no teacher."""
    attacks = [arm for arm in arms if arm.role == "knockoff"]
    others = [arm for arm in arms if arm.role in ("reference", "null")]
    return [arm for kind in (attacks, others) for arm in strongest(kind, scores, plan.finalists)]


@dataclass(frozen=True)
class Confirmation:
    """The arms that go on to the test data.

    Attributes:
        knockoffs: the best setting of each family.
        contenders: teacher-free arms that a knockoff has to beat, the best on validation data first, label smoothing
            always among them.
        nulls: the best label-only null of a knockoff's family.
        described: cross-entropy, which is compared with nothing.
    """

    knockoffs: tuple[Arm, ...]
    contenders: tuple[Arm, ...]
    nulls: Mapping[str, Arm]
    described: tuple[Arm, ...] = field(default=())

    @classmethod
    def choose(cls, plan: AuditPlan, arms: Sequence[Arm], scores: Scores) -> "Confirmation":
        """Choose from everything that was screened.

        Args:
            plan: how many of each.
            arms: all settings, in order.
            scores: validation accuracies of each.
        """
        best = best_settings(arms, scores)
        knockoffs = [arm for arm in best if arm.role == "knockoff"]
        nulls = {arm.family: arm for arm in best if arm.role == "null"}
        smoothing = next(arm for arm in best if arm.family == LABEL_SMOOTHING and arm.role == "reference")
        others = [arm for arm in best if arm.role in ("reference", "null") and arm is not smoothing]
        contenders = strongest([smoothing, *strongest(others, scores, plan.references)], scores, len(best))
        cross_entropy = next(arm for arm in best if arm.family == CROSS_ENTROPY)
        described = () if cross_entropy in contenders else (cross_entropy,)
        return cls(tuple(knockoffs), tuple(contenders), nulls, described)

    def baselines(self, criterion: Criterion) -> dict[str, Baselines]:
        """Return what each knockoff is compared with; those without the null that a criterion needs are left out."""
        if criterion == "no-leak":
            with_null = [arm for arm in self.knockoffs if arm.family in self.nulls]
            names = {arm.name: self.nulls[arm.family].name for arm in with_null}
            return {knockoff: Baselines(null, (null,)) for knockoff, null in names.items()}
        if criterion == "paper":
            named: tuple[str, ...] = (LABEL_SMOOTHING,)
        else:
            named = tuple(arm.name for arm in self.contenders)
        return {arm.name: Baselines(named[0], named) for arm in self.knockoffs}

    def with_nulls(self, nulls: Mapping[str, Arm]) -> "Confirmation":
        """Return the same with more label-only nulls; those there are stay."""
        return replace(self, nulls={**nulls, **self.nulls})

    def arms(self) -> dict[str, Arm]:
        """Return every arm that may be trained, by name."""
        every = (*self.knockoffs, *self.contenders, *self.nulls.values(), *self.described)
        return {arm.name: arm for arm in every}


def screening_seeds(plan: AuditPlan, final: bool = False) -> range:
    """Return the seeds of the screen, or the further ones of its finalists."""
    first = FIRST_SCREENING_SEED + (plan.screening_seeds if final else 0)
    return range(first, first + (plan.final_seeds if final else plan.screening_seeds))
