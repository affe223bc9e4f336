"""Attackers with samples of their own: each is audited as if it were alone, and none sees what it does not have."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import planted
import pytest
import tiny
import torch
from audit_job import without_circumstances

from hf_cmim import (
    Audit,
    AuditData,
    AuditModels,
    AuditPlan,
    Composition,
    DistillationConfig,
    Fraction,
    KCenter,
    Unlabelled,
)
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.audit.state import STUDENTS_NAME
from hf_cmim.report import Attacker, AuditReport

SUITE = Suite("one", (SuiteEntry("kd", Composition(KD(temperature=1.0))),))
TRAINING, OWN = planted.Samples(60, 1), planted.Samples(80, 5)
NAMES = ("transfer", "validation", "test")


class Shuffled(planted.Samples):
    """The same samples with the labels of others."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(size, seed)
        self.labels = self.labels.roll(7)


def audit(folder: Path, *attackers: str, transfer=TRAINING, own=OWN, own_name: str = "own", twin=None) -> Audit:
    data = AuditData(transfer, planted.Samples(100, 3), planted.Samples(700, 2), NAMES, own=own, own_name=own_name)
    args = DistillationConfig(
        **tiny.settings(folder, num_train_epochs=2, learning_rate=0.02, per_device_train_batch_size=20,
                        per_device_eval_batch_size=700, optim="adamw_torch")
    )  # fmt: skip
    plan = AuditPlan(suite=SUITE, screening_seeds=1, final_seeds=0, looks=(2,), reference_multiple=1, null_families=1,
                     diagnosed=0, references=1, wave_size=4)  # fmt: skip
    if attackers:
        plan = replace(plan, attackers=tuple(map(Attacker.parse, attackers)))
    return Audit(AuditModels(planted.LabelTeacher(), lambda: planted.Student(8), twin), data, args, plan)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("attackers")


@pytest.fixture(scope="module")
def report(folder) -> AuditReport:
    return audit(folder, "training", "own:0.5", "own-unlabelled").run()


def students(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / STUDENTS_NAME).glob("*.safetensors")}


def alone(report: AuditReport, attacker: Attacker) -> str:
    """The report without what names the attacker or comes from another, for a comparison."""
    scope = replace(report.scope, attacker=attacker, transfer_set="")
    teacher = replace(report.teacher, membership_auc=None)
    return without_circumstances(replace(report, scope=scope, teacher=teacher, other_attackers=()))


def test_each_attacker_is_judged_as_if_it_were_alone(report, tmp_path):
    """Catches students of one attacker that another is given, and a share that is another part each time."""
    assert list(report.by_attacker) == ["training", "own:0.5", "own-unlabelled"]
    assert [each.scope.num_transfer for each in report.by_attacker.values()] == [60, 40, 80]
    own = audit(tmp_path / "own", transfer=Fraction(OWN, 0.5)).run()
    assert alone(report.by_attacker["own:0.5"], own.scope.attacker) == alone(own, own.scope.attacker)
    training = audit(tmp_path / "training").run()
    assert alone(report, training.scope.attacker) == alone(training, training.scope.attacker)
    assert report.by_attacker["own:0.5"].scope.transfer_set == "own, 50 % of them"


def test_membership_is_that_of_the_training_samples(report, tmp_path):
    """Catches own samples that pass for training samples, and a figure that only one attacker's report has."""
    (found,) = {each.teacher.membership_auc for each in report.by_attacker.values()}
    alone = audit(tmp_path, "own:0.5", "training:0.5")
    (own, training) = alone.plan.attackers
    inputs = {attacker: alone._examined_inputs(attacker) for attacker in (own, training)}
    assert all(each["teacher"].teachers["teacher"].facts().membership_auc is None for each in inputs.values())
    teacher = inputs[training]["teacher"].teachers["teacher"]
    assert found is not None
    assert found != teacher.membership_of_transfer_set()  # of half the samples
    assert AuditReport.from_json(report.to_json()).teacher.membership_auc == found


def test_an_attacker_without_labels_sees_none(report, tmp_path):
    """Catches labels of the data in a reference, in a null or in an attack of an attacker who has none."""
    found = report.by_attacker["own-unlabelled"]
    other = audit(tmp_path, "own-unlabelled", own=Shuffled(80, 5)).run()
    assert alone(found, Attacker()) == alone(other, Attacker())
    assert [result.criterion for result in found.criteria] == ["beyond-labels"]
    assert found.primary.primary
    assert found.label_floor is found.class_answers is None
    assert all(arm.agreement for arm in found.arms)


def test_samples_that_never_had_labels_can_be_asked_about(report, tmp_path):
    """Catches an attacker without labels who needs a column of them."""
    bare = [{"features": sample["features"]} for sample in map(OWN.__getitem__, range(len(OWN)))]
    found = audit(tmp_path, "own-unlabelled", own=bare).run()
    assert alone(found, Attacker()) == alone(report.by_attacker["own-unlabelled"], Attacker())


def test_each_teacher_labels_the_samples_of_an_attacker_without_labels(tmp_path):
    """Catches a control whose students learn the labels of the audited teacher."""
    twin = planted.PlantedTeacher(0.9)
    found = audit(tmp_path / "both", "own-unlabelled", twin=twin).run()
    swapped = audit(tmp_path / "twin", "own-unlabelled")
    by_itself = replace(swapped, models=replace(swapped.models, teacher=twin)).run()
    assert found.controls[0].largest_gain == by_itself.primary.comparisons[0]


def test_an_attacker_can_be_added_to_a_finished_audit(tmp_path):
    """Catches students that are trained again because another attacker joined them."""
    first = audit(tmp_path).run()
    before = students(tmp_path)
    both = audit(tmp_path, "training", "own").run()
    assert before.items() <= students(tmp_path).items()
    assert len(students(tmp_path)) > len(before)
    assert alone(both, Attacker()) == alone(first, Attacker())
    assert AuditReport.read(tmp_path) == both
    with pytest.raises(ValueError, match="attacker, own"):
        audit(tmp_path, "own", own=planted.Samples(80, 6)).run()


@pytest.mark.parametrize(("text", "words"), [
    ("mine", "Unknown attacker 'mine': it has no samples. Use one of training, own, own-unlabelled"),
    ("own:0", r"a share of the samples in \(0, 1\], got 0"), ("own:25", r"in \(0, 1\], got 25"),
    ("own:half", "'half' is no share of the samples"),
])  # fmt: skip
def test_other_attackers_are_refused(text, words):
    """Catches an attacker of no samples that is found undistillable."""
    with pytest.raises(ValueError, match=words):
        Attacker.parse(text)


def test_attackers_without_samples_or_named_twice_are_refused(tmp_path):
    """Catches an audit that starts without the samples of its second attacker."""
    with pytest.raises(ValueError, match=r"attacker 'own' has no samples: .*AuditData\(own=\.\.\.\)"):
        audit(tmp_path, "training", "own", own=None).run()
    assert not (tmp_path / STUDENTS_NAME).exists()
    with pytest.raises(ValueError, match="attackers, each once, got"):
        AuditPlan(attackers=(Attacker("own"), Attacker("own")))
    with pytest.raises(ValueError, match="attackers, each once, got none"):
        AuditPlan(attackers=())


def test_samples_of_another_kind_stand_for_no_own_ones():
    """Catches an attacker who gets the samples of the other, and labels of another task."""
    other_kind = Attacker("out-of-domain")
    assert other_kind.has_own_samples
    assert not other_kind.is_labelled
    assert AuditPlan(attackers=(Attacker("training"), other_kind)).of(other_kind).criterion == "beyond-labels"
    with pytest.raises(ValueError, match="own, out-of-domain cannot share one audit"):
        AuditPlan(attackers=(Attacker("own"), other_kind))


def test_samples_of_another_kind_are_asked_about_without_labels(report, tmp_path):
    """Catches labels of another task that reach a student: the same samples as own-unlabelled give the same report."""
    found = audit(tmp_path, "out-of-domain", own=Shuffled(80, 5)).run()
    assert alone(found, Attacker()) == alone(report.by_attacker["own-unlabelled"], Attacker())


def test_a_chosen_part_of_a_pool_is_named_and_continued_only_with_the_same_samples(tmp_path):
    """Catches another choice that passes for the first one, and a report without the name of the choice."""
    attacker = Attacker("own-unlabelled")
    found = []
    for seed in (0, 0, 1):
        chosen = KCenter(Unlabelled(OWN), OWN.features, share=0.25, seed=seed)
        job = audit(tmp_path, attacker.name, own=chosen, own_name="20 samples that cover the pool")
        inputs = job._examined_inputs(attacker)["teacher"]
        assert (inputs.data.names[0], inputs.facts[0].size) == ("20 samples that cover the pool", 20)
        found.append(inputs.manifest(job.plan)["attacker, own-unlabelled"])
    assert found[0] == found[1] != found[2]


def test_a_preview_counts_the_hours_of_all_attackers(tmp_path):
    """Catches an attacker with a tenth of the samples counted as a whole one, and attackers that cost nothing."""
    costs = audit(tmp_path, "training", "own", "own:0.5").preview().costs
    assert costs.attacker_shares == pytest.approx((1, 80 / 60, 40 / 60))
    plan = AuditPlan(suite=SUITE)
    assert costs.hours(plan, 10) == pytest.approx(3 * replace(costs, attacker_shares=(1.0,)).hours(plan, 10))


def test_other_labels_replace_every_label_of_a_sample():
    """Catches a label of the data that stays under another name, which a collator would take."""
    labels = torch.tensor([1, 2])
    data = AuditData([{"x": 1, "label": 5}, {"x": 2, "label": 6}], None, None).labelled(labels)
    assert [data.transfer[position] for position in range(2)] == [{"x": 1, "labels": 1}, {"x": 2, "labels": 2}]
