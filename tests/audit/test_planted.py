"""Verdicts on teachers of whom it is known how much of the truth they give away."""

import json

import planted
import pytest
import tiny
import torch

from hf_cmim import Composition, DistillationConfig
from hf_cmim.attacks.dkd import DKD
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.audit.audit import Audit
from hf_cmim.audit.inputs import TWIN, AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.report import AuditReport

SUITE = Suite("planted", (
    SuiteEntry("kd", Composition(KD(temperature=1.0))),
    SuiteEntry("dkd", Composition(DKD(temperature=1.0, beta=2.0))),
))  # fmt: skip
# Of one-hot answers with noise, the share of the true posterior that lets KD gain about so many points on its null.
SHARES = {"1 point": 0.27, "2 points": 0.36, TWIN: 0.8}


def audit(folder, teacher, controls, num_test: int = 50_000, **plan) -> AuditReport:
    data = AuditData(planted.Samples(250, 1), planted.Samples(5_000, 3), planted.Samples(num_test, 2))
    args = DistillationConfig(
        **tiny.settings(folder, num_train_epochs=18, learning_rate=0.02, per_device_train_batch_size=125,
                        per_device_eval_batch_size=50_000, optim="adamw_torch", lr_scheduler_type="linear")
    )  # fmt: skip
    settings = {"suite": SUITE, "criterion": "no-leak", "screening_seeds": 1, "references": 0, "reference_multiple": 1,
                "diagnosed": 1, "looks": (3, 5, 8, 12)} | plan  # fmt: skip
    twin = controls.pop(TWIN, None)
    models = AuditModels(teacher, planted.Student, twin, controls)
    return Audit(models, data, args, AuditPlan(**settings)).run()


class NoisyTeacher(planted.PlantedTeacher):
    """Knows the truth, and adds noise to each answer anew."""

    wants_labels = True

    def _answer(self, inputs, labels):
        log_probs = super()._answer(inputs, labels)
        return (log_probs + 0.5 * torch.randn_like(log_probs)).log_softmax(-1)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> AuditReport:
    controls = {name: planted.PlantedTeacher(share) for name, share in SHARES.items()}
    return audit(tmp_path_factory.mktemp("audit"), planted.PlantedTeacher(0.0), controls)


def test_answers_that_carry_nothing_are_undistillable(report):
    """Catches an audit that takes what a loss gains from labels and noise for what the teacher knows."""
    assert report.primary.criterion == "no-leak"
    assert report.primary.verdict == "undistillable within the margin"
    assert {each.attack for each in report.primary.comparisons} == {"kd", "dkd"}
    assert report.primary.smallest_margin < report.margin
    assert not [check for check in report.checks if check.severity == "fatal"]


def test_planted_leaks_are_found_in_their_order(report):
    """Catches an audit that never finds anything, or ranks by something else than what leaks."""
    found = {control.name: control for control in report.controls}
    assert [found[name].verdict for name in SHARES] == ["distillable"] * 3
    gains = [found[name].largest_gain.gain for name in SHARES]
    assert gains == sorted(gains)
    assert report.power is True


def test_the_audited_model_gives_away_less_than_each_control_at_equal_seeds(report):
    """Catches a difference of the wrong sign, of other seeds, or between arms that are not knockoffs."""
    accuracies = {arm.name: arm.accuracies for arm in report.arms}
    found = {control.name: control.differences for control in report.controls}
    for name in SHARES:
        strongest, *each = found[name]
        assert {one.attack for one in each} == {"kd", "dkd"}
        assert {strongest.attack, strongest.control_attack} <= {"kd", "dkd"}
        assert all(3 <= one.seeds <= len(accuracies[one.attack]) for one in each)
    kd = [next(one for one in found[name][1:] if one.attack == "kd").difference for name in SHARES]
    assert all(one.lower > 0 for one in kd)
    assert [one.estimate for one in kd] == sorted(one.estimate for one in kd)


def test_instance_information_is_what_was_planted(report):
    """Catches an accounting whose terms do not add up, or that finds instances where none are."""
    (terms,) = report.accounting
    parts = (terms.loss_form, terms.teacher_errors, terms.class_similarity, terms.instance_information)
    assert sum(part.estimate for part in parts) == pytest.approx(terms.gain.estimate, abs=1e-12)
    assert terms.loss_form.estimate == 0  # the baseline of no-leak is the null itself
    assert terms.instance_information.lower < 0.005


def test_a_teacher_that_answers_at_random_is_flagged(tmp_path):
    """Catches a verdict about a teacher that knows nothing and never answers the same."""
    found = audit(tmp_path, planted.RandomTeacher(), {}, num_test=3_000, looks=(3,), diagnosed=0)
    fatal = {check.name for check in found.checks if check.severity == "fatal"}
    assert {"answers change", "teacher knows nothing"} <= fatal
    assert found.primary.verdict == "inconclusive"


@pytest.fixture(scope="module")
def with_noisy_controls(tmp_path_factory) -> AuditReport:
    """An audit whose twin and another control answer with noise."""
    controls = {TWIN: NoisyTeacher(0.8), "noisy": NoisyTeacher(0.8)}
    plan = {"num_test": 3_000, "looks": (2,), "diagnosed": 0, "margin": 0.4}  # all upper bounds are below
    return audit(tmp_path_factory.mktemp("noisy"), planted.PlantedTeacher(0.0), controls, **plan)


def test_a_control_passes_the_same_checks_as_the_teacher(with_noisy_controls):
    """Catches a control that adds noise and is called undistillable, where as the model it would be fatal."""
    for control in with_noisy_controls.controls:
        (fault,) = [check for check in control.checks if check.severity == "fatal"]
        assert (fault.name, control.verdict) == ("answers change", "inconclusive")
        assert "changed a probability by up to 0." in fault.sentence


def test_a_twin_without_a_verdict_gives_no_power(with_noisy_controls):
    """Catches power claimed from a control whose answers change, and a report that does not say why it has none."""
    assert with_noisy_controls.power is False
    (no_power,) = [check for check in with_noisy_controls.checks if check.name == "no power"]
    assert "has no verdict of its own. Asked the same question twice" in no_power.sentence
    assert AuditReport.from_json(with_noisy_controls.to_json()) == with_noisy_controls


def test_a_report_of_an_earlier_release_is_read(with_noisy_controls):
    """Catches a field added later that makes every certificate before it unreadable."""
    values = json.loads(with_noisy_controls.to_json())
    for control in values["controls"]:
        del control["checks"]
    read = AuditReport.from_json(json.dumps(values))
    assert [control.checks for control in read.controls] == [(), ()]
