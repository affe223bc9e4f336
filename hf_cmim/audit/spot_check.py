"""Spot check of a finished audit: retrain some students and compare."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hf_cmim.attacks.suites import NULL_CONFIDENCES
from hf_cmim.audit.arms import Arm
from hf_cmim.audit.examined_inputs import ExaminedInputs, fingerprints_of, training_settings
from hf_cmim.audit.inputs import TEACHER
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.state import AuditFolder
from hf_cmim.audit.students import AuditStudents, WantedStudents
from hf_cmim.audit.teacher_audit import TeacherAudit
from hf_cmim.errors import HfCmimError
from hf_cmim.report import ArmResult, AuditReport
from hf_cmim.statistics import arm_means

FIRST_SEED = 200_000
"""First seed of spot checks, above all seeds of an audit."""
SEEDS = 100_000
"""Number of seeds from which spot checks draw."""
FEWEST_SEEDS = 3
"""Fewest students of an arm that can be checked; fewer do not show how far they scatter."""
ERROR_RATE = 0.05
"""Probability that an honest audit fails a spot check."""


@dataclass(frozen=True)
class SpotCheck:
    """One student, retrained with a fresh seed.

    Attributes:
        arm: name of its arm.
        seed: fresh seed.
        accuracy: accuracy on the test data, a fraction.
        lower: lower end of the prediction interval from the arm's students, corrected for all spot checks.
        upper: upper end of that interval.
    """

    arm: str
    seed: int
    accuracy: float
    lower: float
    upper: float

    @property
    def holds(self) -> bool:
        """True if the accuracy lies in the prediction interval."""
        return self.lower <= self.accuracy <= self.upper


def spot_check(
    report: AuditReport, inputs: ExaminedInputs, plan: AuditPlan, output_dir: Path, count: int
) -> list[SpotCheck]:
    """Retrain students for `Audit.spot_check`.

    Args:
        report: report of the audit.
        inputs: data, student and the audited teacher.
        plan: plan of the audit.
        output_dir: folder of the retrained students.
        count: number of arms to draw, at least 1.

    Raises:
        HfCmimError: data, students, settings or weights that differ from the audit's, before anything is trained.
    """
    teacher = inputs.teachers[TEACHER]
    _check_same(report, inputs, plan)
    manifest = {**inputs.manifest(plan), "spot check": True}
    with AuditFolder(output_dir, manifest, is_main=PartialState().is_main_process) as folder:
        students = AuditStudents(inputs.pool, folder, inputs.evaluation_sets, plan.wave_size)
        audit = TeacherAudit(teacher, plan, students)
        arms = {_key(arm): arm for arm in _every_arm(audit.arms, teacher.black_box.num_classes)}
        drawn = _draw(report, count, arms)
        runs = tuple((arms[_key_of(result)], seed) for result, seed in drawn)
        students.train([WantedStudents(teacher, runs, "test", "training again", is_expected=False)])
        accuracies = [students.accuracies(teacher, arm, "test", [seed])[0] for arm, seed in runs]
    means = arm_means({arm.name: arm.accuracies for arm in report.arms if len(arm.accuracies) >= 2})
    # Accuracies are multiples of 1 / N, the interval is continuous.
    rounding = 0.5 / report.scope.num_test
    spot_checks = []
    for (result, seed), accuracy in zip(drawn, accuracies, strict=True):
        lower, upper = means[result.name].prediction(ERROR_RATE / (2 * len(drawn)))
        spot_checks.append(SpotCheck(result.name, seed, accuracy, lower - rounding, upper + rounding))
    return spot_checks


def _check_same(report: AuditReport, inputs: ExaminedInputs, plan: AuditPlan) -> None:
    """Raise an `HfCmimError` that lists all differences from the audit."""
    now: dict[str, Any] = {"teacher": inputs.teachers[TEACHER].fingerprint}
    then: dict[str, Any] = {"teacher": report.teacher.fingerprint}
    now |= fingerprints_of(inputs.student, inputs.facts) | training_settings(inputs.pool.args)
    then |= report.reproduction.get("fingerprints", {}) | report.scope.training
    now |= {f"plan, {name}": value for name, value in plan.settings().items()}
    audited_plan = report.reproduction.get("plan", {})
    then |= {f"plan, {name}": value for name, value in audited_plan.items() if name != "looks"}
    differences = [
        f"{name}: {str(then.get(name))[:40]}, now {str(now.get(name))[:40]}"
        for name in sorted({*now, *then})
        if then.get(name) != now.get(name)
    ]
    if differences:
        raise HfCmimError(
            f"Model, data, student or settings differ from the audit's ({'; '.join(differences)}): retrained students"
            " would not be comparable. Give the model, data and settings of the audit."
        )


def _every_arm(arms: Sequence[Arm], num_classes: int) -> Iterator[Arm]:
    """Yield every arm that may be in an audit's report."""
    for arm in arms:
        yield arm
        if arm.role == "knockoff":
            yield from arm.nulls(num_classes)
            yield from (replace(null, role="tuned null") for null in arm.nulls(num_classes))
            yield from arm.without_samples(num_classes)
            for confidence in NULL_CONFIDENCES:
                yield from arm.diagnostics(confidence)


def _key(arm: Arm) -> tuple[str, str, str]:
    return arm.name, repr(arm.attack), arm.teacher_in_words


def _key_of(result: ArmResult) -> tuple[str, str, str]:
    return result.name, result.setting, result.teacher


def _draw(report: AuditReport, count: int, arms: dict[tuple[str, str, str], Arm]) -> list[tuple[ArmResult, int]]:
    """Return random arms, each with a fresh seed, the same in every process of a launch."""
    possible = [arm for arm in report.arms if len(arm.accuracies) >= FEWEST_SEEDS and not arm.diverged]
    unknown_arms = [arm.name for arm in possible if _key_of(arm) not in arms]
    if unknown_arms:
        raise HfCmimError(
            f"The suite {report.scope.suite} has no arm with the settings of {', '.join(unknown_arms)}, so these"
            " cannot be retrained. Either the report was changed, or the teacher's scale, and with it a relative"
            " temperature, is different on this device. Run the check on the kind of device of the audit."
        )
    if not 1 <= count <= len(possible):
        raise HfCmimError(
            f"Expected 1 to {len(possible)} arms to retrain, got {count}: only these arms have at least {FEWEST_SEEDS}"
            " students. Give a number in this range."
        )
    # Not from a fixed seed: an author of a report must not know which arms will be checked.
    generator = random.SystemRandom()
    positions = generator.sample(range(len(possible)), count)
    drawn = [(position, FIRST_SEED + generator.randrange(SEEDS)) for position in positions]
    broadcast_object_list(drawn)
    return [(possible[position], seed) for position, seed in drawn]
