"""Students of several teachers train side by side: none of them notices, and the same attacks share a wave."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import planted
import pytest
import tiny
from audit_job import without_circumstances

from hf_cmim import Audit, AuditData, AuditModels, AuditPlan, Composition, DistillationConfig
from hf_cmim.attacks import DIST, KD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.report import Attacker, AuditReport
from hf_cmim.report.parts import Costs

ATTACKS = {"kd": KD(temperature=1.0), "dist": DIST()}
SUITE = Suite("two", tuple(SuiteEntry(family, Composition(attack)) for family, attack in ATTACKS.items()))
TEACHERS = {name: planted.PlantedTeacher(share) for name, share in (("a", 0.3), ("b", 0.5), ("c", 0.8))}


def audit(folder: Path, *controls: str, attacker: str = "training") -> AuditReport:
    data = AuditData(
        planted.Samples(60, 1), planted.Samples(100, 3), planted.Samples(300, 2), own=planted.Samples(60, 5)
    )
    args = DistillationConfig(
        **tiny.settings(folder, num_train_epochs=2, learning_rate=0.02, per_device_train_batch_size=20,
                        per_device_eval_batch_size=300, optim="adamw_torch")
    )  # fmt: skip
    plan = AuditPlan(
        suite=SUITE, screening_seeds=1, final_seeds=1, finalists=1, looks=(2, 3), reference_multiple=1,
        null_families=1, diagnosed=0, references=1, wave_size=4, attackers=(Attacker.parse(attacker),),
    )  # fmt: skip
    models = AuditModels(
        planted.PlantedTeacher(0.1), lambda: planted.Student(8), None, {name: TEACHERS[name] for name in controls}
    )
    return Audit(models, data, args, plan).run()


@pytest.fixture(scope="module")
def waves(tmp_path_factory) -> tuple[AuditReport, list[list[tuple[str, str]]]]:
    """The report of four teachers, and attack and teacher of each student by wave."""
    seen: list[list[tuple[str, str]]] = []

    original = StudentPool.run

    def run(self, arms, *others, **keywords):
        seen.append([(arm.name, "" if arm.teacher is None else arm.teacher.fingerprint()) for arm in arms])
        return original(self, arms, *others, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudentPool, "run", run)
        report = audit(tmp_path_factory.mktemp("together"), *TEACHERS)
    return report, seen


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_same_attacks_of_several_teachers_share_a_wave(attack, waves):
    """Catches teachers audited one after the other, and a wave whose equal attacks are dealt to several."""
    shared = [[teacher for name, teacher in wave if name == attack] for wave in waves[1]]
    assert max(map(len, shared)) >= 3
    assert all(len({*teachers}) == len(teachers) for teachers in shared)


def test_each_teacher_is_judged_as_if_it_were_alone(waves, tmp_path):
    """Catches a student that gets the answers of the teacher beside it, and a choice made by another's results."""
    report = waves[0]
    for name in TEACHERS:
        alone = audit(tmp_path / name, name)
        assert comparable(report, name) == comparable(alone, name)


def test_samples_that_each_teacher_labels_itself(tmp_path):
    """Catches students of one teacher that train on another's labels."""
    report = audit(tmp_path / "both", "c", attacker="own-unlabelled")
    alone = audit(tmp_path / "alone", attacker="own-unlabelled")
    assert results(report) == results(alone)


def results(report: AuditReport) -> str:
    """What the report says about the audited teacher alone."""
    return without_circumstances(replace(report, controls=(), costs=Costs(0, 0, 0, 0, 0.0)))


def comparable(report: AuditReport, name: str) -> tuple[str, object]:
    """Results of the audited teacher and of one control."""
    (control,) = (control for control in report.controls if control.name == name)
    return results(report), control
