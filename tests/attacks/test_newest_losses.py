"""What the papers say of the losses outside the frozen suites: limits and identities."""

import attack_reference as twins
import pytest
import reference
import torch
from torch.nn import functional

from hf_cmim.attacks import BKL, GKL, IKL, JSD, KD, PLD
from hf_cmim.attacks.pld import ranking_loss


def draw(seed, size=9, classes=5):
    """Student logits, teacher log-probabilities, labels."""
    student, _ = reference.random_samples(seed + 1000, size=size, num_classes=classes)
    teacher, labels = reference.random_samples(seed, size=size, num_classes=classes, ignored=0)
    double = torch.float64
    return (
        torch.tensor(student, dtype=double),
        torch.tensor(teacher, dtype=double).log_softmax(-1),
        torch.tensor(labels),
    )


@pytest.mark.parametrize(("alpha", "jsd_beta"), [(1.0, 0.0), (0.0, 1.0)])
def test_bkl_without_weights_of_classes_is_one_divergence(alpha, jsd_beta):
    """Catches alpha on the wrong side, and divisors that stay at beta = 1."""
    samples = draw(0)
    found = BKL(temperature=1.0, alpha=alpha, beta=1.0, ce_weight=0, kd_weight=1)(*samples)["kd"]
    expected = JSD(temperature=1.0, beta=jsd_beta, ce_weight=0, jsd_weight=1)(*samples)
    torch.testing.assert_close(found, sum(expected.values()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_bkl_of_unequal_shares_equals_the_twin(alpha):
    """Catches shares that are fixed at a half, which every row of the table of losses has."""
    student, teacher, labels = draw(1)
    expected = twins.bkl(student.tolist(), teacher.tolist(), labels.tolist(), 2, alpha, 0.2, 0.9)
    found = BKL(alpha=alpha)(student, teacher, labels)["kd"]
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_bkl_hears_improbable_classes_where_kd_does_not():
    """Catches divisors that grow where the probabilities shrink."""
    teacher = torch.tensor([[0.0, -12.0, -14.0]], dtype=torch.float64)
    student = torch.tensor([[0.0, -14.0, -12.0]], dtype=torch.float64)
    labels = torch.tensor([0])
    heard = BKL(temperature=1.0, kd_weight=1.0)(student, teacher, labels)["kd"]
    assert heard > 100 * KD(temperature=1.0, kd_weight=1.0)(student, teacher, labels)["kd"]


def test_pld_of_a_sure_and_right_teacher_is_cross_entropy():
    """Catches a label that is not the first rank, and ranks of equal weight."""
    student, teacher, _ = draw(2)
    labels = teacher.argmax(dim=-1)
    found = PLD()(student, (1000 * teacher).log_softmax(dim=-1), labels)["pld"]
    assert found.item() == pytest.approx(functional.cross_entropy(student, labels).item(), rel=1e-9)


def test_pld_knows_the_order_of_the_classes_alone_but_for_its_weights():
    """Catches a ranking by something else: with equal weights, every teacher of one order teaches the same."""
    student, teacher, labels = draw(3)
    flat = 1e9
    torch.testing.assert_close(
        ranking_loss(student, teacher, labels, flat),
        ranking_loss(student, 3 * teacher, labels, flat),
        rtol=1e-6,
        atol=1e-6,
    )
    other = ranking_loss(student, teacher.flip(-1), labels, flat)
    assert not torch.allclose(other, ranking_loss(student, teacher, labels, flat))


def test_pld_is_small_for_a_student_that_ranks_like_its_teacher():
    """Catches a likelihood of the reverse order."""
    _, teacher, _ = draw(4)
    labels = teacher.argmax(dim=-1)
    same, reverse = (PLD()(30 * sign * teacher, teacher, labels)["pld"].item() for sign in (1, -1))
    assert same < 0.1 < 10 < reverse


def surveyed(attack, answers, labels, classes=5):
    attack.prepare(num_classes=classes)
    attack.survey(answers, labels)
    attack.settle()
    return attack


def test_gkl_without_an_exponent_is_ikl_with_equal_weights():
    """Catches class means that weigh although gamma is 0, a mean over pairs, and weights whose names are swapped."""
    samples = draw(5)
    attack = GKL(temperature=3, gamma=0, alpha=2, beta=0.7, warmup=0, ce_weight=0)
    expected = IKL(temperature=3, weight_temperature=1e9, alpha=2, beta=0.7, ce_weight=0)(*samples)
    torch.testing.assert_close(surveyed(attack, *samples[1:])(*samples), expected, rtol=1e-6, atol=1e-9)


def test_gkl_of_the_means_alone_is_ikl_of_a_teacher_that_answers_with_its_class_means():
    """Catches weights of single answers, of all samples, and of other classes: in a batch of one class both agree."""
    student, teacher, labels = draw(6)
    agreed = teacher[labels]
    attack = surveyed(GKL(measured_at=2, gamma=0.5, alpha=1, beta=0, warmup=0, ce_weight=0), agreed, labels)
    expected = IKL(weight_temperature=4, alpha=1, beta=0, ce_weight=0)
    for label in labels.unique():
        batch = student[labels == label], agreed[labels == label], labels[labels == label]
        torch.testing.assert_close(attack(*batch)["mse"], expected(*batch)["mse"], rtol=1e-9, atol=1e-12)


def test_gkl_of_a_class_without_a_surveyed_sample_takes_the_answer_itself():
    """Catches the mean of nothing, which would weigh by 0 / 0, or weights of another class."""
    student, teacher, _ = draw(7, size=1)
    attack = surveyed(GKL(measured_at=2, gamma=0.5, alpha=1, beta=0, warmup=0), teacher.flip(-1), torch.tensor([0]))
    expected = IKL(weight_temperature=4, alpha=1, beta=0)(student, teacher, torch.tensor([3]))
    found = attack(student, teacher, torch.tensor([3]))
    torch.testing.assert_close(found["mse"], expected["mse"], rtol=1e-9, atol=1e-12)
