"""The next steps after an audit fit its verdict and its weaknesses."""

from dataclasses import replace

import pytest
from pages.reports import VERDICTS, small

from hf_cmim.pages.next_steps import next_steps
from hf_cmim.report import NOT_CONVERGED, Check

WORDS = {
    "distillable": "Harden the model more",
    "leaks less than the margin": "Decide whether a gain below 0.5 points matters",
    "undistillable within the margin": "Publish the model",
    "inconclusive": "--looks",
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_has_its_step(verdict):
    """Catches the advice to publish a model that can be distilled, or that was not shown to resist."""
    text = " ".join(next_steps(small(verdict)))
    assert WORDS[verdict] in text
    assert ("hf-cmim push" in text) == (verdict in VERDICTS[1:3])


def test_a_failed_check_comes_first_and_replaces_the_step_of_the_verdict():
    """Catches "publish it" below a verdict that a check voided."""
    first, *others = next_steps(small(checks=(Check("test data seen", "fatal", "..."),)))
    assert "test data seen" in first
    assert not any("hf-cmim push" in step for step in others)


def test_a_missing_control_and_short_training_are_named():
    """Catches advice that leaves out why the verdict may be worth little."""
    steps = next_steps(small(power=None, checks=(Check(NOT_CONVERGED, "warning", "..."),)))
    assert "Train students longer" in steps[0]
    assert "--twin" in steps[1]


def test_the_attack_to_stop_is_the_one_with_the_largest_gain():
    """Catches the first attack of the list taken for the strongest."""
    audit = small(VERDICTS[0], attacks=3)
    first, *others = audit.primary.comparisons
    assert len(others) == 2
    criteria = (replace(audit.primary, comparisons=(*others, first)),)
    assert f"stop first is {first.attack}." in next_steps(replace(audit, criteria=criteria))[0]
