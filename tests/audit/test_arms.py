"""The arms: the same student under the same name everywhere, and an attack that stays itself as numbers."""

import json
import os
import subprocess
import sys

import pytest
import reference
import torch

from hf_cmim import attacks, channels
from hf_cmim.attacks import DKD, JSD, KD, MLKD, ClassCentroid, Composition, LogitStandardization, MarkovKD, Relative
from hf_cmim.attacks.composition import Answers
from hf_cmim.attacks.suites import NULL_CONFIDENCES, QUICK_V2, STANDARD_V2, SuiteEntry
from hf_cmim.audit.arms import Arm, knockoffs, references, with_numbers

NAMES = vars(attacks) | vars(channels)
NUM_CLASSES = 5
LOGITS, LABELS = reference.random_samples(3, size=20, num_classes=NUM_CLASSES, ignored=0)
SCALE = reference.root_mean_square(LOGITS, LABELS)


def answers(scale: float = 1.0) -> Answers:
    """Two unequal batches of answers whose logits have this many times the scale."""
    log_probs, labels = (scale * torch.tensor(LOGITS)).log_softmax(-1).float(), torch.tensor(LABELS)
    return list(zip(log_probs.split([13, 7]), labels.split([13, 7]), strict=True))


def of(entry: SuiteEntry) -> Composition:
    """A copy, so that what one test surveys stays out of the suite."""
    return eval(repr(entry.attack), NAMES)


# Temperatures


def test_a_relative_temperature_becomes_its_number():
    """Catches a scale of one batch alone, of raw logits, or of probabilities, and a factor that is lost."""
    for factor in (0.5, 2.0):
        attack = with_numbers(Composition(KD(temperature=Relative(factor))), answers())
        assert attack.loss.temperature == float(f"{factor * SCALE:.4g}")
        assert attack.loss.ce_weight == KD().ce_weight
    assert with_numbers(Composition(KD(temperature=Relative(1.0))), answers(3.0)).loss.temperature == pytest.approx(
        3 * SCALE, rel=1e-3
    )


def test_nested_temperatures_become_numbers():
    """Catches temperatures in a tuple that are left relative, or numbers among them that are scaled."""
    attack = with_numbers(Composition(MLKD(temperatures=(Relative(0.5), 3.0, Relative(2.0)))), answers())
    assert attack.loss.temperatures == (float(f"{SCALE / 2:.4g}"), 3.0, float(f"{2 * SCALE:.4g}"))
    assert not attack.needs_survey


def test_each_part_has_the_scale_of_the_answers_it_sees():
    """Catches one scale for all parts: the loss sees what the transforms before it leave."""
    attack = Composition(KD(temperature=Relative(1.0)), ClassCentroid(), MarkovKD(temperature=Relative(1.0)))
    found = with_numbers(attack, answers())
    centroid = Composition(KD(), ClassCentroid())
    centroid.prepare(NUM_CLASSES)
    centroid.survey(answers())
    seen = torch.cat([centroid.transforms[0](*batch) for batch in answers()])
    scale = reference.root_mean_square(seen.tolist(), LABELS)
    assert abs(scale - SCALE) > 0.01
    markov = next(part for part in found.transforms if isinstance(part, MarkovKD))
    assert markov.temperature == pytest.approx(scale, rel=1e-3)
    assert found.loss.temperature != markov.temperature


def test_the_attack_itself_stays_as_it_is():
    """Catches a survey that writes into the frozen suite, or a result that shares parts with it."""
    attack = Composition(DKD(temperature=Relative(1.0)))
    before = repr(attack)
    found = with_numbers(attack, answers())
    assert repr(attack) == before
    assert torch.isnan(attack.loss.teacher_scale)
    assert not {id(module) for module in attack.modules()} & {id(module) for module in found.modules()}
    plain = Composition(LogitStandardization(base=KD(temperature=2.0)))
    copied = with_numbers(plain, answers())
    assert not {id(module) for module in plain.modules()} & {id(module) for module in copied.modules()}


@pytest.mark.parametrize("suite", [STANDARD_V2, QUICK_V2], ids=lambda suite: suite.name)
def test_every_entry_becomes_one_that_prints_itself(suite):
    """Catches a part that cannot be rebuilt, a temperature left relative, or a name that changes when read back."""
    for entry in suite.entries:
        attack = with_numbers(entry.attack, answers())
        assert "Relative" not in repr(attack), entry
        assert isinstance(attack.loss.nominal_temperature, float | int), entry
        assert repr(with_numbers(attack, answers(2.0))) == repr(attack), entry
        assert repr(eval(repr(attack), NAMES)) == repr(attack), entry
        kinds = [{type(part) for part in each.active_parts} for each in (attack, entry.attack)]
        assert kinds[0] == kinds[1], entry


def test_every_entry_keeps_what_it_does():
    """Catches a setting, part or order that is lost on the way: components, transforms and gradients are the same.

    Logits are scaled to a root mean square of 1, so that the first four digits are all there are; behind a transform
    the scale is another one, and its four digits leave 5e-4 of a temperature, twice that of its square.
    """
    known = answers(1 / SCALE)
    log_probs, labels = (torch.cat(parts) for parts in zip(*known, strict=True))
    generator = torch.Generator().manual_seed(0)
    student_logits = torch.randn(len(labels), NUM_CLASSES, generator=generator)
    for entry in STANDARD_V2.entries:
        if entry.family == "recovery":  # half a second each, and no temperature in them is relative
            continue
        results = []
        for attack in (of(entry), with_numbers(entry.attack, known)):
            attack.prepare(NUM_CLASSES)
            if attack.needs_survey:
                attack.survey(known)
            logits = student_logits.clone().requires_grad_()
            components = attack(logits, log_probs, labels, progress=0.5)
            torch.stack(list(components.values())).sum().backward()
            results.append((components, logits.grad))
        (original, gradient), (numbers, found) = results
        assert original.keys() == numbers.keys(), entry
        tolerance = 2e-3 if len(entry.attack.transforms) else 1e-4
        for name, value in original.items():
            assert torch.allclose(numbers[name], value, rtol=tolerance, atol=1e-6), (entry, name)
        assert torch.allclose(found, gradient, rtol=tolerance, atol=tolerance * gradient.abs().max().item()), entry
        for protocol in ("query_protocol", "student_protocol", "optimizer_protocol"):
            assert repr(getattr(with_numbers(entry.attack, known), protocol)) == repr(getattr(entry.attack, protocol))


# Arms


def test_knockoffs_are_the_suite_in_its_order():
    """Catches a setting that is left out or tried twice."""
    arms = knockoffs(STANDARD_V2.entries, answers())
    assert [arm.family for arm in arms] == [entry.family for entry in STANDARD_V2.entries]
    assert {(arm.role, arm.answering, arm.confidence) for arm in arms} == {("knockoff", "teacher", None)}
    assert arms[0].name == "label-only"


def test_references_are_the_named_arms_without_a_teacher():
    """Catches a named arm that is missing, or one of them that a teacher answers."""
    arms = references()
    families = {arm.family: [each for each in arms if each.family == arm.family] for arm in arms}
    assert {family: len(found) for family, found in families.items()} == {
        "CE": 1, "LS": 5, "mixup": 2, "teacher-free KD": 2, "self-distillation": 2,
    }  # fmt: skip
    assert {arm.role for arm in arms} == {"reference"}
    assert all(arm.attack.needs_teacher is (arm.answering == "self") for arm in arms)
    assert {arm.answering for arm in families["self-distillation"]} == {"self"}
    assert len({arm.key("a") for arm in arms}) == len(arms)


@pytest.mark.parametrize(("num_classes", "expected"), [(2, [0.7, 0.9, 0.99]), (3, [0.5, 0.7, 0.9, 0.99]),
                                                       (4, list(NULL_CONFIDENCES))])  # fmt: skip
def test_nulls_name_the_label(num_classes, expected):
    """Catches a null that gives the label no more than any other class, which is no label-only teacher."""
    arm = Arm("kd", "knockoff", Composition(KD()), "teacher")
    nulls = arm.nulls(num_classes)
    assert [null.confidence for null in nulls] == expected
    assert {(null.family, null.role, null.answering, null.name) for null in nulls} == {
        ("kd", "null", "label", "label null of kd")
    }
    assert all(null.attack is arm.attack for null in nulls)


def test_arms_of_one_attack_have_different_names():
    """Catches results of two arms under one name, and an answering that people could not tell."""
    arm = Arm("kd", "knockoff", Composition(KD()), "teacher")
    argmax, centroid = arm.diagnostics(0.9)
    names = {each.name: each.teacher_in_words for each in (arm, arm.null(0.9), argmax, centroid)}
    assert names == {
        "kd": "the teacher", "label null of kd": "the true label, 0.9",
        "argmax null of kd": "the teacher's label, 0.9", "centroid null of kd": "the teacher's class means",
    }  # fmt: skip
    assert {each.attack for each in (argmax, centroid)} == {arm.attack}
    assert {each.role for each in (argmax, centroid)} == {"diagnostic"}


# Keys


def test_the_key_knows_the_teacher_where_anything_of_it_arrives():
    """Catches students of another teacher taken for this one's, and ones without a teacher trained once for each."""
    arm = Arm("kd", "knockoff", Composition(KD()), "teacher")
    for each in [*references(), *arm.nulls(5)]:
        assert each.key("first") == each.key("second"), each.name
    for each in [arm, *arm.diagnostics(0.9)]:
        assert each.key("first") != each.key("second"), each.name


def test_the_key_knows_everything_else():
    """Catches two kinds of students under one name."""
    arm = Arm("kd", "knockoff", Composition(KD()), "teacher")
    arms = [
        arm, *arm.nulls(5), *arm.diagnostics(0.9), arm.diagnostics(0.5)[0], *references(),
        Arm("kd", "knockoff", Composition(KD(temperature=3.999)), "teacher"),
        Arm("kd", "knockoff", Composition(KD(), ClassCentroid()), "teacher"),
        Arm("kd", "knockoff", Composition(JSD()), "teacher"),
    ]  # fmt: skip
    assert len({each.key("same") for each in arms}) == len(arms)


KEYS = """
import json, sys
from audit.test_arms import keys
print(json.dumps(keys()))
"""


def keys() -> list[str]:
    arms = [*references(), *knockoffs(STANDARD_V2.entries, answers())]
    nulls = [null for arm in arms[-20:] for null in (*arm.nulls(NUM_CLASSES), *arm.diagnostics(0.9))]
    return [arm.key("teacher") for arm in (*arms, *nulls)]


def test_keys_are_the_same_in_every_process():
    """Catches a key of addresses, of Python's own hash, or of the order of a set: nothing would be found again."""
    hashing = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", KEYS], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == keys()
