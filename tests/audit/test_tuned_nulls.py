"""Nulls are tried with every setting of the strongest families: the best may be another than the attack's."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import planted
import pytest
import tiny

from hf_cmim import Audit, AuditData, AuditModels, AuditPlan, Composition, DistillationConfig
from hf_cmim.attacks import DIST, KD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.audit.arms import Arm
from hf_cmim.audit.students import AuditStudents
from hf_cmim.hub.verified_arms import arm_faults

SETTINGS = {"kd": [KD(temperature=1.0), KD(temperature=4.0)], "dist": [DIST(), DIST(beta=2.0), DIST(beta=4.0)]}
SUITE = Suite("two", tuple(SuiteEntry(family, Composition(loss)) for family in SETTINGS for loss in SETTINGS[family]))
CONFIDENCES = [0.3, 0.5, 0.7, 0.9, 0.99]


def audit_in(folder: Path, final_seeds: int = 0, **values: object) -> Audit:
    data = AuditData(planted.Samples(60, 1), planted.Samples(100, 3), planted.Samples(300, 2))
    args = DistillationConfig(
        **tiny.settings(folder, num_train_epochs=1, learning_rate=0.02, per_device_train_batch_size=30,
                        per_device_eval_batch_size=300, optim="adamw_torch")
    )  # fmt: skip
    plan = AuditPlan(suite=SUITE, screening_seeds=1, final_seeds=final_seeds, looks=(2,), reference_multiple=2,
                     references=1, **values)  # fmt: skip
    return Audit(AuditModels(planted.PlantedTeacher(0.3), lambda: planted.Student(8)), data, args, plan)


@pytest.fixture
def won_by(monkeypatch):
    """Return a function that makes one setting and confidence of a role win on validation data, as in a bad dream."""

    def let_win(**winners: tuple[KD | DIST, float | None]) -> list[Arm]:
        screened: list[Arm] = []
        original = AuditStudents.accuracies

        def accuracies(self, teacher, arm, data, seeds=None):
            if data == "validation":
                screened.append(arm)
                for role, (loss, confidence) in winners.items():
                    if (arm.role, repr(arm.attack.loss), arm.confidence) == (role, repr(loss), confidence):
                        return [1.0] * len(seeds)
            return original(self, teacher, arm, data, seeds)

        monkeypatch.setattr(AuditStudents, "accuracies", accuracies)
        return screened

    return let_win


@pytest.mark.parametrize("criterion", ["teacher-free", "no-leak"])
def test_every_setting_of_a_tuned_family_is_tried_without_the_teacher(criterion, won_by, tmp_path):
    """Catches nulls of the best attack setting alone, and all settings of families that are not to be tuned."""
    screened = won_by(knockoff=(KD(temperature=4.0), None))
    audit_in(tmp_path, null_families=1, diagnosed=0, criterion=criterion).run()
    nulls = [(repr(arm.attack.loss), arm.confidence) for arm in screened if arm.role == "null"]
    expected = set(itertools.product(map(repr, SETTINGS["kd"]), CONFIDENCES))
    others = {attack for attack, _ in set(nulls) - expected}
    assert expected <= set(nulls)
    assert len(others) == (1 if criterion == "no-leak" else 0), "of another family only the attack's own setting"
    assert len(nulls) == len(set(nulls))


def test_a_tuned_null_is_a_reference_with_its_whole_screen(won_by, tmp_path):
    """Catches a reference whose report hides what it won against, and an own null with the other setting."""
    best, other = SETTINGS["kd"]
    won_by(null=(other, 0.7), knockoff=(best, None))
    first, again = (audit_in(tmp_path / name, null_families=2, diagnosed=2) for name in ("first", "again"))
    report = first.run()
    arms = {arm.name: arm for arm in report.arms}
    tuned, own = arms["tuned label null of kd"], arms["label null of kd"]
    assert report.reference == tuned.name
    assert tuned.setting == repr(Composition(other))
    assert own.setting == repr(Composition(best))
    assert tuned.teacher == "the true label, 0.7"
    assert set(tuned.validation) == {
        f"{Composition(loss)!r}, confidence {confidence:g}"
        for loss, confidence in itertools.product(SETTINGS["kd"], CONFIDENCES)
    }
    assert set(own.validation) == {f"confidence {confidence:g}" for confidence in CONFIDENCES}
    assert len(tuned.accuracies) == 4
    assert [fault for fault in arm_faults(report) if "validation samples" not in fault] == []
    lie = replace(report, arms=tuple(replace(arm, setting="untried") if arm is tuned else arm for arm in report.arms))
    assert any("the chosen setting was not screened" in fault for fault in arm_faults(lie))
    possible = sum(len(arm.accuracies) >= 3 for arm in report.arms)
    assert tuned.name in {check.arm for check in again.spot_check(report, possible)}


def test_an_attack_that_changes_its_setting_at_last_gets_a_null_of_that_setting(monkeypatch, tmp_path):
    """Catches an attack without a null, which under no-leak would be left out of the verdict."""
    first, last = SETTINGS["kd"]
    original = AuditStudents.accuracies

    def accuracies(self, teacher, arm, data, seeds=None):
        found = original(self, teacher, arm, data, seeds)
        if data == "validation" and arm.role == "knockoff" and arm.family == "kd":
            favourite = first if 100_000 in seeds else last
            return [0.99 if repr(arm.attack.loss) == repr(favourite) else 0.98 for _ in found]
        return found

    monkeypatch.setattr(AuditStudents, "accuracies", accuracies)
    values = {"null_families": 0, "diagnosed": 0, "finalists": 2, "final_seeds": 2, "criterion": "no-leak"}
    report = audit_in(tmp_path, **values).run()
    settings = {arm.name: arm.setting for arm in report.arms}
    assert settings["kd"] == settings["label null of kd"] == repr(Composition(last))
    assert set(report.primary.baselines) == {"kd", "dist"}
