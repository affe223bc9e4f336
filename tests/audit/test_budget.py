"""A plan that fits a budget: as large as possible, and honest about what it leaves out."""

import pytest

from hf_cmim.attacks.suites import QUICK_V2, STANDARD_V2, Suite, SuiteEntry
from hf_cmim.audit.budget import affordable_plan, budget_hours, suggested_epochs
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.preview import StudentCosts, preview_of
from hf_cmim.errors import HfCmimError

COSTS = StudentCosts(steps=100, batches=100, batch_size=8, seconds=36.0, asking_seconds=0.0, varies=False,
                     num_classes=10, teachers=2, sizes=(800, 100, 1000), processes=1)  # fmt: skip
"""A student is a hundredth of an hour."""
WHOLE = preview_of(AuditPlan(), COSTS)


def fitting(hours, plan=None):
    return affordable_plan(preview_of(plan or AuditPlan(), COSTS), hours)


@pytest.mark.parametrize(
    ("text", "hours"), [("1h", 1), ("30m", 0.5), ("2h30m", 2.5), ("90s", 0.025), ("1.5h", 1.5), ("2h 15min", 2.25)]
)
def test_times_are_read(text, hours):
    """Catches minutes taken for hours."""
    assert budget_hours(text) == pytest.approx(hours)


@pytest.mark.parametrize("text", ["", "1", "h", "1d", "1h30", "-1h", "0h", "soon"])
def test_what_is_no_time_is_refused(text):
    """Catches a budget of nothing, and one of which a part is passed over."""
    with pytest.raises(HfCmimError, match="Expected a budget such as 1h"):
        budget_hours(text)


@pytest.mark.parametrize("share", [2.0, 1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02])
def test_the_plan_fits_and_the_next_larger_one_does_not(share):
    """Catches a plan that takes longer than it may, and one that leaves out more than it must."""
    hours = share * WHOLE.hours
    chosen = fitting(hours)
    assert chosen.preview.hours <= hours
    assert chosen.preview == preview_of(chosen.preview.plan, COSTS)
    slightly_more = fitting(min(WHOLE.hours, chosen.full.hours) * 1.0) if share >= 1 else fitting(hours * 1.5)
    assert slightly_more.preview.hours >= chosen.preview.hours
    assert bool(chosen.dropped) == bool(chosen.limits) == (share < 1)


def test_late_looks_go_first_then_families_and_the_quick_ones_last():
    """Catches an audit of all attacks at a number of seeds that decides nothing."""
    chosen = [fitting(share * WHOLE.hours).preview for share in (0.9, 0.4, 0.2, 0.1, 0.05)]
    assert len(chosen[0].families) == 32
    assert 8 <= chosen[0].plan.looks[-1] < 40
    for preview in chosen[1:]:
        assert preview.plan.looks[-1] <= 8
        assert {*QUICK_V2.families} & {*STANDARD_V2.families} <= {*preview.families} or len(preview.families) <= 5
    counts = [len(preview.families) for preview in chosen]
    assert counts == sorted(counts, reverse=True)


def test_what_was_left_out_is_named_and_what_it_means():
    """Catches a cheap audit that reads like the whole one."""
    chosen = fitting(0.25 * WHOLE.hours)
    missing = [family for family in STANDARD_V2.families if family not in chosen.preview.families]
    assert missing
    assert f"{len(missing)} of 32 attacks: {', '.join(missing)}" in chosen.dropped
    assert "looks at 12, 18, 27, 40 seeds" in " ".join(chosen.dropped)
    assert any("One of them may be the strongest" in sentence for sentence in chosen.limits)
    assert any("may well end inconclusive" in sentence for sentence in chosen.limits)
    assert chosen.preview.plan.attacks.name == f"standard-v2, {32 - len(missing)} of 32 families"


def test_own_attacks_are_the_last_to_go():
    """Catches a budget that drops the attack for which the audit is run."""
    (kd, *_) = STANDARD_V2.of("kd")
    suite = Suite("standard-v2 + own", (*STANDARD_V2.entries, SuiteEntry("mine", kd)))
    assert "mine" in fitting(0.02 * WHOLE.hours, AuditPlan(suite=suite)).preview.families


def test_epochs_are_only_suggested():
    """Catches students that are trained for less without a word."""
    chosen = fitting(0.25 * WHOLE.hours)
    assert chosen.preview.costs == COSTS
    assert suggested_epochs(chosen, 20) == 5
    assert suggested_epochs(fitting(0.02 * WHOLE.hours), 20) == 1
    assert suggested_epochs(fitting(2 * WHOLE.hours), 20) == 20


def test_a_budget_for_nothing_is_refused_with_the_smallest_there_is():
    """Catches a plan without attacks."""
    with pytest.raises(HfCmimError, match=r"one attack at 3 seeds, takes \d+\.\d min, and the budget is 0.6 min"):
        fitting(0.01)
