"""Differences between the knockoffs of two teachers, against scipy."""

import numpy as np
import pytest
from scipy import stats

from hf_cmim.audit.findings import leak_differences

ATTACKS = ("kd", "dist", "dkd", "late")
OWN = {"kd": [0.80, 0.81, 0.79], "dist": [0.82, 0.81, 0.83, 0.99], "dkd": [0.70, 0.72, 0.73], "late": [0.5]}
CONTROL = {"kd": [0.83, 0.82, 0.84, 0.1], "dist": [0.82, 0.83, 0.82], "dkd": [0.75, 0.77, 0.65], "late": [0.9, 0.9]}


def test_each_difference_is_scipy_s_paired_interval():
    """Catches the wrong sign, seeds that only one teacher has, and another order than strongest, then largest."""
    strongest, *each = leak_differences(OWN, "dist", CONTROL, "kd", ATTACKS)
    assert (strongest.attack, strongest.control_attack, strongest.seeds) == ("dist", "kd", 4)
    for found in (strongest, *each):
        seeds = min(len(OWN[found.attack]), len(CONTROL[found.control_attack]))
        test = stats.ttest_rel(CONTROL[found.control_attack][:seeds], OWN[found.attack][:seeds])
        interval = test.confidence_interval(0.95)
        assert found.seeds == seeds
        values = (found.difference.estimate, found.difference.lower, found.difference.upper)
        mean = np.mean(np.subtract(CONTROL[found.control_attack][:seeds], OWN[found.attack][:seeds]))
        assert values == pytest.approx((mean, interval.low, interval.high), abs=1e-12)
    assert [found.attack for found in each] == ["kd", "dkd", "dist"]  # "late" has one seed


def test_without_the_strongest_there_is_no_difference():
    """Catches an attack that is shown as the strongest because the strongest has too few seeds."""
    assert leak_differences(OWN, "late", CONTROL, "kd", ATTACKS) == ()
    assert leak_differences({}, "kd", {}, "kd", ATTACKS) == ()
