"""The frozen suites: nothing missing, nothing changed, the attacker tuned as hard as the defender."""

import hashlib
from typing import Any

import pytest
import torch

from hf_cmim import attacks, channels
from hf_cmim.attacks import ATTACKS, Composition
from hf_cmim.attacks.suites import NULL_CONFIDENCES, OPT_IN, QUICK_V2, RELEASED_SUITES, STANDARD_V2, SUITES, Suite

NAMES = vars(attacks) | vars(channels)
NUM_CLASSES = 5
WITH_OPT_IN = Suite("standard-v2 + own", (*STANDARD_V2.entries, *OPT_IN))
# A frozen suite never changes: when one of these fails, make a new suite with a new name.
FROZEN = {
    "standard-v1": (155, "558d3f1c4040085b"),
    "quick-v1": (5, "f1aad866047ef19c"),
    "standard-v2": (160, "8941bef6cb02537d"),
    "quick-v2": (5, "d7090993115f285c"),
}


def everything_in(attack: Composition) -> set[type]:
    """Kinds of all parts, those under another loss too."""
    parts: list[Any] = list(attack.active_parts)
    return {type(module) for part in parts for module in part.modules()}


@pytest.mark.parametrize("suite", RELEASED_SUITES.values(), ids=lambda suite: suite.name)
def test_never_changes(suite):
    """Catches a default or a setting edited after certificates were written under the suite's name."""
    digest = hashlib.sha256(repr(suite).encode()).hexdigest()[:16]
    assert (len(suite.entries), digest) == FROZEN[suite.name]


def test_audits_try_the_newest_suites_alone():
    """Catches a suite whose losses were mended and that an audit would still run under its old name."""
    assert list(SUITES) == ["quick-v2", "standard-v2"]
    assert set(RELEASED_SUITES) == set(FROZEN)


def test_no_attack_is_missing():
    """Catches an attack that exists and is never tried."""
    arms = {kind for kind in ATTACKS.values() if not getattr(kind, "needs_teacher", True)}
    tried = set().union(*(everything_in(entry.attack) for entry in WITH_OPT_IN.entries))
    assert set(ATTACKS.values()) - arms - tried == set()
    assert not tried & arms, "an arm without a teacher is no attack"


def test_opt_in_families_are_no_families_of_the_frozen_suite():
    """Catches a family in both, whose settings would compete with each other."""
    assert not {entry.family for entry in OPT_IN} & {*STANDARD_V2.families}


def test_every_family_is_tuned_as_hard_as_the_null():
    """Catches an attack that looks weak because it had one setting and the null five."""
    for family in WITH_OPT_IN.families:
        settings = [repr(attack) for attack in WITH_OPT_IN.of(family)]
        assert len(set(settings)) == len(settings) >= len(NULL_CONFIDENCES), family


@pytest.mark.parametrize("entry", [*WITH_OPT_IN.entries, *QUICK_V2.entries], ids=lambda entry: repr(entry.attack))
def test_every_entry_prints_itself(entry):
    """Catches a composition that a report could not be read back from."""
    assert repr(eval(repr(entry.attack), NAMES)) == repr(entry.attack)


def test_every_entry_gives_a_finite_gradient():
    """Catches settings that were never tried: a loss of nan, or one that teaches nothing."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, NUM_CLASSES, (24,), generator=generator)
    log_probs = (3 * torch.randn(24, NUM_CLASSES, generator=generator)).log_softmax(-1)
    for entry in WITH_OPT_IN.entries:
        if entry.family == "recovery":  # half a second each; tests/attacks/test_transforms.py covers them
            continue
        attack = eval(repr(entry.attack), NAMES)
        attack.prepare(NUM_CLASSES)
        attack.survey([(log_probs, labels)])
        logits = torch.randn(24, NUM_CLASSES, generator=generator).requires_grad_()
        loss = sum(attack(logits, log_probs, labels).values())
        loss.backward()
        assert torch.isfinite(loss), entry
        assert 0 < logits.grad.norm() < 1e3, entry
