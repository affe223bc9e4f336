"""The preview counts what an audit trains; the clock is a fake that ticks once each time it is read."""

import itertools
from statistics import NormalDist

import pytest
import tiny
import torch

from hf_cmim import DistillationConfig
from hf_cmim.attacks.suites import QUICK_V2, STANDARD_V2
from hf_cmim.audit import preview as module
from hf_cmim.audit.audit import Audit
from hf_cmim.audit.inputs import AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.preview import SPREADS

LOOKS = (2, 4)
SETTINGS = {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 16, "num_train_epochs": 2}


def student():
    return tiny.vit(seed=torch.initial_seed() % 2**32)


@pytest.fixture
def preview(tmp_path, monkeypatch):
    """Preview an audit of a tiny ViT with 40 transfer, 24 validation and 96 test samples."""
    ticks = itertools.count()
    monkeypatch.setattr(module, "_now", lambda device: float(next(ticks)))

    def build(plan, *, transfer=None, others=0, **changes):
        args = DistillationConfig(**tiny.settings(tmp_path, **(SETTINGS | changes)))
        data = AuditData(transfer or tiny.images(40, 1), tiny.images(24, 2), tiny.images(96, 3))
        controls = {str(number): tiny.vit(seed=60 + number).eval() for number in range(others)}
        models = AuditModels(tiny.vit(seed=50).eval(), student, controls=controls)
        return Audit(models, data, args, plan).preview()

    return build


@pytest.mark.slow
def test_students_are_those_that_a_real_audit_trains(preview, tmp_path):
    """A stage that is left out or counted twice would promise hours for days.

    The margin is so fine that no attack stops early, and nothing is accounted for.
    """
    plan = AuditPlan("quick-v2", margin=1e-6, looks=(2, 3), screening_seeds=1, null_families=1, diagnosed=0)
    foretold = preview(plan, max_steps=2)
    args = DistillationConfig(**tiny.settings(tmp_path / "audit", **SETTINGS, max_steps=2))
    data = AuditData(tiny.images(40, 1), tiny.images(24, 2), tiny.images(96, 3))
    report = Audit(AuditModels(tiny.vit(seed=50).eval(), student), data, args, plan).run()
    students = [path.name for path in (tmp_path / "audit" / "students").iterdir()]
    assert foretold.screen_students == sum("-validation-" in name for name in students)
    assert [look.seeds for look in foretold.looks] == [2, 3] == list(report.looks)
    described = max(len(arm.seeds) for arm in report.arms if arm.name == "CE")
    is_contender = described == plan.reference_multiple * 3
    labels = sum(len(arm.seeds) for arm in report.arms if arm.role in ("labels", "class answers"))
    confirmed = sum("-test-" in name for name in students) - labels - (0 if is_contender else described)
    assert labels == 2 * plan.reference_multiple * 3
    assert foretold.looks[-1].students == confirmed
    assert foretold.costs.steps == report.costs.student_steps / report.costs.students == 2


@pytest.mark.parametrize(
    ("criterion", "nulls", "baselines", "first_look", "described"),
    [
        # 32 attacks of 160 settings, 12 settings without a teacher; with 4 classes all 5 confidences name the label.
        ("teacher-free", 30 * 5, 3, 3 * 32 + 9 * 3, 2),
        ("paper", 30 * 5, 1, 3 * 32 + 9, 4),
        ("no-leak", (30 + 26 + 4) * 5, 32, 3 * 32 + 3 * 32, 5),
        ("beyond-labels", 30 * 5, 5, 3 * 32 + 9 * 5, 0),
    ],
)
def test_each_criterion_needs_its_own_students(criterion, nulls, baselines, first_look, described, preview):
    """Nulls of six families have all five settings, others only serve one criterion; baselines have more seeds."""
    found = preview(AuditPlan(criterion=criterion))
    assert found.families == STANDARD_V2.families
    assert found.screened == {
        "settings of teacher-free students": 12, "settings of attacks": 160, "label-only nulls": nulls,
        "settings of the teacher's labels": 6 * 6, "finalists among them, tried again": 24,
    }  # fmt: skip
    assert found.screen_students == 2 * (12 + 160 + nulls + 36) + 4 * (8 + 8 + 8)
    assert found.confirmed == {"attacks": 32, "baselines": baselines}
    assert found.looks[0].students == first_look
    assert found.accounting_students == 3 * (2 * 5 + 3 * 40) + 40 + described * 3 * 40


def test_other_teachers_train_attacks_anew_but_share_what_knows_no_teacher(preview):
    """A twin that cost nothing, or everything twice."""
    found = preview(AuditPlan("quick-v2", looks=LOOKS, screening_seeds=1), others=2)
    assert found.costs.teachers == 3
    of_labels = 5 * 6 + 4 * 8  # of the audited teacher alone
    assert found.screen_students == 12 + 3 * (5 + 5 * 5) + 3 * 4 * (5 + 8) + of_labels, "five attacks, all finalists"
    assert [look.students for look in found.looks] == [3 * 5 * n + 3 * 3 * n for n in LOOKS]


def test_time_is_that_of_steps_and_evaluation(preview):
    """An estimate that forgets a pass over the data, the second student or the test set is wrong by its factor.

    10 steps of two students and one pass over 64 of 96 test samples: the clock ticks once for each.
    """
    found = preview(AuditPlan("quick-v2", looks=LOOKS, screening_seeds=1))
    assert found.costs.steps == 2 * 40 / 8
    assert found.costs.seconds == pytest.approx((10 + 96 / 64) / 2)
    assert found.live_seconds == 0
    assert found.screen_hours == pytest.approx((found.screen_students + 3) * found.costs.seconds / 3600)
    last = found.looks[-1]
    assert last.hours == pytest.approx((found.screen_students + 3 + last.students) * found.costs.seconds / 3600)


def test_attacks_that_ask_live_cost_the_teachers_time_and_more_answers(preview):
    """A large teacher may cost more than the students; its answers are not all stored."""
    found = preview(AuditPlan(looks=LOOKS))
    views = sum(_views(entry.attack) for entry in STANDARD_V2.entries)
    most = max(_views(entry.attack) for entry in STANDARD_V2.entries)
    assert found.live_seconds == pytest.approx(10 * views / 160)  # one tick for each batch that is answered
    assert found.queries == (40, most * 2 * 40)


def _views(attack):
    return getattr(attack.query_protocol, "queries_per_sample", 0)


class Augmented(torch.utils.data.Dataset):
    """Another view each time."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, position):
        sample = self.samples[position]
        return sample | {"pixel_values": sample["pixel_values"] + torch.randn(1, 8, 8)}


def test_augmented_samples_are_asked_about_in_every_epoch(preview):
    """Answers to other views of a sample cannot be looked up."""
    found = preview(AuditPlan("quick-v2", looks=LOOKS, wave_size=4), transfer=Augmented(tiny.images(40, 1)))
    assert found.queries == (80, 80)
    assert found.live_seconds == pytest.approx(10 / 4)  # one answer serves a wave


def test_margins_fall_with_seeds_and_rise_with_the_spread(preview):
    """Margins of the last look at every look, or of the wrong spread, would promise what is not reached.

    A single attack and its own baseline, by the normal approximation: z of the look's share of the error, .8 quantile.
    """
    found = preview(AuditPlan("quick-v2", looks=(3, 5, 8)))
    rows = [look.margins for look in found.looks]
    assert all(
        first >= second
        for above, below in itertools.pairwise(rows)
        for first, second in zip(above, below, strict=True)
    )
    assert all(first <= second for row in rows for first, second in itertools.pairwise(row))
    assert rows[0][-1] > rows[-1][-1] > 0
    shares = [0.05 * (2 ** (-before / 10) - 2 ** (-look / 10)) for before, look in ((0, 3), (3, 5), (5, 8))]
    for look, share, margins in zip((3, 5, 8), shares, rows, strict=True):
        error = SPREADS[-1] * (1 / look + 1 / (3 * look)) ** 0.5
        z = NormalDist().inv_cdf(1 - share)
        single = -0.005 + error * (z + NormalDist().inv_cdf(0.8))
        five = -0.005 + error * (z + NormalDist().inv_cdf(0.8 ** (1 / len(QUICK_V2.families))))
        assert max(0, single) <= margins[-1] <= max(0, five) + 1e-9  # errors of attacks with one baseline are tied
