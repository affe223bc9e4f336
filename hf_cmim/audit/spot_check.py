"""Train some students of a finished audit again, and compare."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from hf_cmim.attacks.suites import NULL_CONFIDENCES
from hf_cmim.audit.arms import Arm
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.pool import StudentPool
from hf_cmim.audit.state import AuditFolder
from hf_cmim.audit.subject import AuditData
from hf_cmim.audit.teacher_audit import TeacherAudit
from hf_cmim.audit.training import Trainees
from hf_cmim.audit.workplace import Teacher, Workplace, fingerprints_of, training_settings
from hf_cmim.errors import HfCmimError
from hf_cmim.report import ArmResult, AuditReport
from hf_cmim.statistics import arm_means
from hf_cmim.trainers.distillation_config import DistillationConfig
from hf_cmim.trainers.transfer_data import Collator

FIRST_SEED = 200_000
"""Seeds of a spot check start here: none of an audit is among them."""
SEEDS = 100_000
FEWEST_SEEDS = 3
"""An arm of fewer students does not say how far they scatter."""
ERROR_RATE = 0.05
"""Probability that an honest audit fails a spot check."""


@dataclass(frozen=True)
class SpotCheck:
    """One student, trained again with a fresh seed.

    Attributes:
        arm: its name.
        seed: that was drawn.
        accuracy: on the test data, a fraction.
        lower: least accuracy that the arm's own students foretell, all spot checks together.
        upper: largest.
    """

    arm: str
    seed: int
    accuracy: float
    lower: float
    upper: float

    @property
    def holds(self) -> bool:
        """Whether it is as foretold."""
        return self.lower <= self.accuracy <= self.upper


def spot_check(
    report: AuditReport,
    teacher: Teacher,
    build_student: Callable[[], nn.Module],
    args: DistillationConfig,
    data: AuditData,
    plan: AuditPlan,
    count: int,
    *,
    data_collator: Collator | None = None,
    teacher_collator: Collator | None = None,
) -> list[SpotCheck]:
    """Train `count` random arms of an audit again, each with a fresh seed, and compare with what they foretell.

    An arm foretells the accuracy of one further student by a t prediction interval, at an error rate of 5 % over all
    arms that are drawn (Bonferroni). The interval knows how far seeds scatter, not what another kind of device does:
    across kinds a failure calls for a look, not for a verdict.

    Args:
        report: of the audit.
        teacher: the audited model.
        build_student: as for `run_audit`.
        args: as for `run_audit`; students are kept in its folder.
        data: as for `run_audit`.
        plan: as for `run_audit`.
        count: arms to draw, at least 1.
        data_collator: as for `run_audit`.
        teacher_collator: as for `run_audit`.

    Raises:
        HfCmimError: other data, students, settings or weights than the audit's, named, before anything is trained.
    """
    pool = StudentPool(build_student, args, data.transfer, data_collator, teacher_collator, stacked=plan.stacked)
    workplace = Workplace.examine(pool, data, {}, {"teacher": teacher}, "")
    subject = workplace.subjects["teacher"]
    _check_same(report, workplace, plan)
    manifest = {**workplace.manifest(plan), "spot check": True}
    with AuditFolder(Path(str(args.output_dir)), manifest, is_main=PartialState().is_main_process) as folder:
        trainees = Trainees(pool, folder, workplace.evaluation_sets, plan.wave_size)
        audit = TeacherAudit(subject, plan, trainees)
        known = {_key(arm): arm for arm in _every_arm(audit.arms, subject.teacher.num_classes)}
        drawn = _draw(report, count, known)
        runs = [(known[_key_of(result)], seed) for result, seed in drawn]
        trainees.train(subject, runs, "test", "training again", is_expected=False)
        accuracies = [trainees.accuracies(subject, arm, "test", [seed])[0] for arm, seed in runs]
    means = arm_means({arm.name: arm.accuracies for arm in report.arms if len(arm.accuracies) >= 2})
    rounding = 0.5 / report.scope.num_test
    found = []
    for (result, seed), accuracy in zip(drawn, accuracies, strict=True):
        lower, upper = means[result.name].prediction(ERROR_RATE / (2 * len(drawn)))
        found.append(SpotCheck(result.name, seed, accuracy, lower - rounding, upper + rounding))
    return found


def _check_same(report: AuditReport, workplace: Workplace, plan: AuditPlan) -> None:
    """Raise an `HfCmimError` that names what differs from the audit."""
    now: dict[str, Any] = {"teacher": workplace.subjects["teacher"].fingerprint}
    then: dict[str, Any] = {"teacher": report.teacher.fingerprint}
    now |= fingerprints_of(workplace.student, workplace.facts) | training_settings(workplace.pool.args)
    then |= report.reproduction.get("fingerprints", {}) | report.scope.training
    now |= {f"plan, {name}": value for name, value in plan.settings().items()}
    known = report.reproduction.get("plan", {})
    then |= {f"plan, {name}": value for name, value in known.items() if name != "looks"}
    differences = [
        f"{name}: {str(then.get(name))[:40]}, now {str(now.get(name))[:40]}"
        for name in sorted({*now, *then})
        if then.get(name) != now.get(name)
    ]
    if differences:
        raise HfCmimError(
            f"Expected the audit's own model, data, student and settings, got others ({'; '.join(differences)}): the"
            " students would be trained for another question. Give the settings that the audit was run with."
        )


def _every_arm(arms: Sequence[Arm], num_classes: int) -> Iterator[Arm]:
    """Yield every arm that an audit may have confirmed or described."""
    for arm in arms:
        yield arm
        if arm.role == "knockoff":
            yield from arm.nulls(num_classes)
            for confidence in NULL_CONFIDENCES:
                yield from arm.diagnostics(confidence)


def _key(arm: Arm) -> tuple[str, str, str]:
    return arm.name, repr(arm.attack), arm.teacher_in_words


def _key_of(result: ArmResult) -> tuple[str, str, str]:
    return result.name, result.setting, result.teacher


def _draw(report: AuditReport, count: int, known: dict[tuple[str, str, str], Arm]) -> list[tuple[ArmResult, int]]:
    """Return random arms with a fresh seed each, the same in every process of a launch."""
    possible = [arm for arm in report.arms if len(arm.accuracies) >= FEWEST_SEEDS and not arm.diverged]
    strange = [arm.name for arm in possible if _key_of(arm) not in known]
    if strange:
        raise HfCmimError(
            f"Expected arms of {report.scope.suite}, got {', '.join(strange)}: their settings are in no grid of it"
            " (or the teacher's scale, and with it a relative temperature, is another on this device): nobody could"
            " train them again."
        )
    if not 1 <= count <= len(possible):
        raise HfCmimError(
            f"Expected 1 to {len(possible)} arms to train again, got {count}: the audit has no more with at least"
            f" {FEWEST_SEEDS} students."
        )
    generator = random.SystemRandom()  # whoever wrote the report could not know which
    drawn = [(each, FIRST_SEED + generator.randrange(SEEDS)) for each in generator.sample(range(len(possible)), count)]
    broadcast_object_list(drawn)
    return [(possible[each], seed) for each, seed in drawn]
