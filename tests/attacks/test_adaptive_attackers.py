"""The attackers that adapt to what an answer says: exact limits, and answers whose value is known."""

import math

import attack_reference as twins
import pytest
import reference
import torch
from torch.nn import functional

from hf_cmim.attacks import KD, BeyondLabelKD, Composition, Knockoff, RepairedAnswers
from hf_cmim.attacks.beyond_label_kd import value_weights
from hf_cmim.attacks.repaired_answers import is_misleading

CLASSES = 5
RULES = ("wrong-class", "below-chance")


def draw(seed, size=40, dtype=torch.float64):
    """Student logits, teacher log-probabilities, labels."""
    student, _ = reference.random_samples(seed + 1000, size=size, num_classes=CLASSES)
    teacher, labels = reference.random_samples(seed, size=size, num_classes=CLASSES, ignored=0)
    return torch.tensor(student, dtype=dtype), torch.tensor(teacher, dtype=dtype).log_softmax(-1), torch.tensor(labels)


def surveyed(attack, teacher, labels):
    attack.prepare(CLASSES)
    attack.survey(teacher, labels)
    attack.settle()
    return attack


def gradient(attack, student, teacher, labels):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(sum(attack(student, teacher, labels).values()), student)[0]


# More weight on informative answers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_emphasis_is_kd_bit_for_bit(dtype):
    """Catches a second path through the loss, and a survey that nobody needs."""
    samples = draw(0, dtype=dtype)
    attack = BeyondLabelKD(emphasis=0.0)
    assert not attack.needs_survey
    assert gradient(attack, *samples).equal(gradient(KD(), *samples))


@pytest.mark.parametrize("emphasis", [0.3, 1.0])
def test_answers_of_equal_value_are_kd_bit_for_bit(emphasis):
    """Catches 0 / 0, and weights of rounding noise, where every answer is its class's: the value of all is 0."""
    student, teacher, labels = draw(1, dtype=torch.float32)
    teacher = teacher[torch.arange(CLASSES)][labels]
    attack = surveyed(BeyondLabelKD(emphasis=emphasis), teacher, labels)
    assert gradient(attack, student, teacher, labels).equal(gradient(KD(), student, teacher, labels))


def test_mean_value_is_the_cmi_of_the_answers():
    """Catches a value beyond something else than the label, and another temperature."""
    _, teacher, labels = draw(2)
    for temperature in (1.0, 4.0):
        attack = surveyed(BeyondLabelKD(measured_at=temperature), teacher, labels)
        expected = reference.cmi(teacher.tolist(), labels.tolist(), temperature)
        assert attack.mean_information.item() == pytest.approx(expected, rel=1e-9)


def test_weights_have_mean_one_over_the_transfer_set():
    """Catches weights that raise or lower the loss as a whole: a tuned kd_weight would mean something else."""
    _, teacher, labels = draw(3)
    attack = surveyed(BeyondLabelKD(emphasis=1.0), teacher, labels)
    weights = value_weights(attack._information(teacher, labels), attack.mean_information, 1.0)
    assert weights.mean().item() == pytest.approx(1, rel=1e-9)
    assert weights.min() >= 0
    assert weights.max() > 2


def test_only_the_informative_answers_count_at_full_emphasis():
    """Catches weights that fall with the information, and a value within all classes together."""
    student, teacher, labels = draw(4)
    collapsed = teacher[torch.arange(CLASSES)][labels]
    # Two samples of one class move apart from its centroid; all others stay on theirs.
    pair = (labels == labels.mode().values).nonzero().flatten()[:2]
    collapsed[pair[0]], collapsed[pair[1]] = teacher[pair[0]], teacher[pair[1]]
    attack = surveyed(BeyondLabelKD(emphasis=1.0), collapsed, labels)
    moved = gradient(attack, student, collapsed, labels) - 0.1 * gradient_of_labels(student, labels)
    other_class = labels != labels.mode().values
    assert moved[pair].abs().amax(dim=-1).min() > 1e-3
    assert moved[other_class].abs().max() < 1e-12


def gradient_of_labels(student, labels):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(student, labels), student)[0]


def test_a_class_without_surveyed_answers_keeps_the_rest_of_its_weight():
    """Catches nan for a class that the survey did not see: its value is 0."""
    student, teacher, labels = draw(5)
    attack = surveyed(BeyondLabelKD(emphasis=0.25), teacher[labels != 2], labels[labels != 2])
    seen, plain = (gradient(each, student, teacher, labels)[labels == 2] for each in (attack, KD()))
    labels_only = 0.1 * gradient_of_labels(student, labels)[labels == 2]
    torch.testing.assert_close(seen - labels_only, 0.75 * (plain - labels_only))


def test_a_missing_survey_is_refused():
    """Catches weights from class means that nobody surveyed."""
    attack = BeyondLabelKD()
    attack.prepare(CLASSES)
    with pytest.raises(ValueError, match=r"Expected a survey.*got none"):
        attack(*draw(6))


# Answers that mislead


@pytest.mark.parametrize("rule", RULES)
def test_misleading_answers_are_those_of_the_equation(rule):
    """Catches a tie that counts as wrong, and chance that is not 1 / C."""
    _, teacher, labels = draw(7, size=200)
    rows = [*teacher.tolist(), [0.0] * CLASSES]
    labels = torch.cat([labels, torch.tensor([3])])
    expected = [twins.misleads(row, label, rule) for row, label in zip(rows, labels.tolist(), strict=True)]
    assert 10 < sum(expected) < 190
    teacher = torch.cat([teacher, torch.zeros(1, CLASSES, dtype=torch.float64).log_softmax(-1)])
    assert is_misleading(teacher, labels, rule)[:-1].tolist() == expected[:-1]
    assert not is_misleading(teacher, labels, "wrong-class")[-1], "a tie names the label too"


@pytest.mark.parametrize("repair", ["label", "swap"])
def test_answers_that_do_not_mislead_keep_every_bit(repair):
    """Catches an honest teacher that becomes another one: the attack must then be the plain loss, bit for bit."""
    student, teacher, labels = draw(8, dtype=torch.float32)
    labels = teacher.argmax(dim=-1)
    for rule in RULES:
        repaired = Composition(KD(), RepairedAnswers(rule=rule, repair=repair))
        assert gradient(repaired, student, teacher, labels).equal(gradient(KD(), student, teacher, labels))


def test_misleading_answers_alone_are_cross_entropy():
    """Catches a part of the answer that is left in: where all mislead, only labels are learned."""
    student, teacher, labels = draw(9)
    labels = teacher.argmin(dim=-1)
    attack = Composition(Knockoff(), RepairedAnswers())
    torch.testing.assert_close(
        gradient(attack, student, teacher, labels), gradient_of_labels(student, labels), rtol=1e-9, atol=1e-10
    )


def test_each_sample_gets_its_own_teacher():
    """Catches a batch that is judged as one: right answers teach beside wrong ones."""
    student, teacher, labels = draw(10)
    wrong = is_misleading(teacher, labels, "wrong-class")
    assert 5 < wrong.sum() < 35
    found = gradient(Composition(Knockoff(), RepairedAnswers()), student, teacher, labels)
    torch.testing.assert_close(found[wrong], gradient_of_labels(student, labels)[wrong], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found[~wrong], gradient(Knockoff(), student, teacher, labels)[~wrong])


def test_a_swap_makes_every_answer_right_and_keeps_the_others():
    """Catches a swap with another class than the largest, and other classes that change."""
    _, teacher, labels = draw(11)
    swapped = RepairedAnswers(repair="swap")(teacher, labels)
    for before, after, label in zip(teacher.tolist(), swapped.tolist(), labels.tolist(), strict=True):
        expected = list(before)
        best = before.index(max(before))
        expected[label], expected[best] = before[best], before[label]
        assert after == pytest.approx(expected, rel=1e-12)
        assert math.isclose(math.fsum(map(math.exp, after)), 1, rel_tol=1e-9)
    assert swapped.argmax(dim=-1).equal(labels)
