"""What the papers say of the losses: exact identities between methods, limits, and invariances."""

import math

import attack_reference as twins
import pytest
import reference
import scipy.optimize
import torch
from torch.nn import functional

from hf_cmim.attacks import (
    CTKD,
    DIST,
    DKD,
    GDKD,
    IKL,
    JSD,
    KD,
    MLKD,
    NKD,
    PKT,
    RKD,
    RLD,
    SKD,
    SP,
    TTM,
    WKD,
    WSLD,
    WTTM,
    CrossEntropy,
    FunctionMatching,
    Knockoff,
    LabelOnly,
    LabelSmoothing,
    LogitMSE,
    LogitStandardization,
    NormKD,
    TeacherFreeKD,
)

CLASSES = 5
by_temperature = pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])


def draw(seed, size=9, classes=CLASSES):
    """Student logits, teacher log-probabilities, labels."""
    student, _ = reference.random_samples(seed + 1000, size=size, num_classes=classes)
    teacher, labels = reference.random_samples(seed, size=size, num_classes=classes, ignored=0)
    double = torch.float64
    return (
        torch.tensor(student, dtype=double),
        torch.tensor(teacher, dtype=double).log_softmax(dim=-1),
        torch.tensor(labels),
    )


def right(teacher, labels):
    """The answers with their largest class exchanged for the label: a teacher that is always right."""
    swapped = teacher.clone()
    for row, label in zip(swapped, labels.tolist(), strict=True):
        largest = row.argmax().item()
        row[[label, largest]] = row[[largest, label]]
    return swapped


def confident(labels, confidence, classes=CLASSES):
    """Log-probabilities with one confidence on the label and the rest spread evenly."""
    probs = torch.full((len(labels), classes), (1 - confidence) / (classes - 1), dtype=torch.float64)
    return probs.scatter(-1, labels.unsqueeze(-1), confidence).log()


def value(attack, student, teacher, labels):
    return torch.stack(list(attack(student, teacher, labels).values())).sum()


def each(attack, student, teacher, labels):
    """The loss of each sample as a batch of its own."""
    batches = zip(*(tensor.split(1) for tensor in (student, teacher, labels)), strict=True)
    return torch.stack([value(attack, *batch) for batch in batches])


def gradient(attack, student, teacher, labels):
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(value(attack, student, teacher, labels), student)[0]


def entropies(log_probs):
    return torch.as_tensor([reference.entropy(row) for row in log_probs.exp().tolist()], dtype=torch.float64)


def close(first, second, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(first, second, rtol=rtol, atol=atol)


# KD and its neighbours


def test_kd_of_a_high_temperature_is_half_the_logit_mse():
    """Catches a missing T^2, the mean over classes in KD, and uncentred logits in the regression."""
    samples = draw(0)
    regression = value(LogitMSE(ce_weight=0), *samples)
    close(value(KD(temperature=1e5, ce_weight=0, kd_weight=1), *samples), regression / 2, rtol=1e-3)
    centred = [logits - logits.mean(dim=-1, keepdim=True) for logits in samples[:2]]
    close(regression, (centred[0] - centred[1]).square().mean())


@by_temperature
def test_kd_gradient_is_the_difference_of_the_softened_answers(temperature):
    """Catches T^2 where its gradient would be T times the difference no more, and a swapped divergence."""
    student, teacher, labels = draw(1)
    difference = (student / temperature).softmax(dim=-1) - (teacher / temperature).softmax(dim=-1)
    found = gradient(KD(temperature=temperature, ce_weight=0, kd_weight=2), student, teacher, labels)
    close(found, 2 * temperature * difference / len(labels))


@pytest.mark.parametrize("smoothing", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_label_only_null_is_label_smoothing(smoothing, temperature):
    """Catches a KD from which a null, parametrised at its temperature, would not be the LS student at T = 1."""
    student, _, labels = draw(2)
    null = confident(labels, 1 - smoothing + smoothing / CLASSES)
    teacher = temperature * null  # its answer at this temperature is the null
    student = student / temperature
    smoothed = functional.cross_entropy(student, labels, label_smoothing=smoothing)
    found = value(KD(temperature=temperature, ce_weight=0, kd_weight=1), student * temperature, teacher, labels)
    close(found / temperature**2, smoothed - entropies(null).mean())
    if temperature == 1:
        arm = LabelSmoothing(smoothing=smoothing)
        close(
            gradient(KD(temperature=1, ce_weight=0, kd_weight=1), student, teacher, labels),
            gradient(arm, student, null, labels),
        )
        close(value(Knockoff(), student, teacher, labels), value(arm, student, null, labels))


def test_label_only_of_a_right_teacher_is_cross_entropy():
    """Catches reading more of the answer than its largest class, or another class."""
    student, teacher, labels = draw(3)
    for scale in (1e-3, 1, 1e3):
        close(
            value(LabelOnly(), student, scale * right(teacher, labels), labels),
            functional.cross_entropy(student, labels),
        )


def test_knockoff_is_function_matching_up_to_the_answers_entropy():
    """Catches a gradient of the answers' own entropy, and labels in an attack that has none."""
    student, teacher, labels = draw(4)
    close(
        value(Knockoff(), student, teacher, labels) - value(FunctionMatching(), student, teacher, labels),
        entropies(teacher).mean(),
    )
    close(gradient(Knockoff(), student, teacher, labels), gradient(FunctionMatching(), student, teacher, labels))
    others = (labels + 1) % CLASSES
    close(value(Knockoff(), student, teacher, others), value(Knockoff(), student, teacher, labels))


@pytest.mark.parametrize("attack", [CrossEntropy(), LabelSmoothing(), TeacherFreeKD()], ids=repr)
def test_teacher_free_arms_never_read_the_answers(attack):
    """Catches an arm without a teacher that learns from one."""
    student, teacher, labels = draw(5)
    assert not attack.needs_teacher
    close(value(attack, student, teacher.flip(0, 1), labels), value(attack, student, teacher, labels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("attack", "temperature"),
    [
        (KD(temperature=3), 3),
        (DKD(), 4),
        (LabelOnly(), 1),
        (TTM(gamma=0.1), 10),
        (WTTM(gamma=0.5), 2),
        (LogitStandardization(base=KD(temperature=7)), 7),
    ],
    ids=repr,
)
def test_nominal_temperature_is_where_the_answer_is_read(attack, temperature):
    """Catches a null whose confidence is meant at the attack's temperature and lands at another."""
    assert attack.nominal_temperature == pytest.approx(temperature)


# Losses that treat the target apart


def test_dkd_terms_make_up_the_divergence():
    """Catches others that are not renormalised, and a binary distribution at another temperature."""
    samples = draw(6)
    _, teacher, labels = samples
    target, rest = (each(DKD(temperature=1, alpha=a, beta=1 - a, ce_weight=0), *samples) for a in (1, 0))
    other_mass = 1 - teacher.exp().gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    close(target + other_mass * rest, each(KD(temperature=1, ce_weight=0, kd_weight=1), *samples))


def test_gdkd_of_one_top_class_of_a_right_teacher_is_dkd():
    """Catches the least likely classes as the top, and a weight on the wrong term."""
    student, teacher, labels = draw(6)
    teacher = right(teacher, labels)
    split = {"top": 1, "mass_weight": 2, "rest_weight": 3}
    close(
        value(GDKD(**split), student, teacher, labels),
        value(DKD(alpha=2, beta=3), student, teacher, labels),
    )


def test_gdkd_leaves_a_class_outside_the_top():
    """Catches nan from an empty group, where there are fewer classes than the default of top classes."""
    samples = draw(6)
    assert GDKD().top == CLASSES == 5
    close(value(GDKD(), *samples), value(GDKD(top=CLASSES - 1), *samples))


def test_nkd_of_a_sure_teacher_is_cross_entropy():
    """Catches a target term that is not a cross-entropy, or that is weighed by the student's own confidence."""
    student, _, labels = draw(7)
    sure = confident(labels, 1 - 1e-14)
    close(value(NKD(gamma=0, ce_weight=0), student, sure, labels), functional.cross_entropy(student, labels))


@by_temperature
def test_nkd_rest_is_that_of_dkd_up_to_the_answers_entropy(temperature):
    """Catches others at the wrong temperature, and gamma on the target term."""
    _, teacher, labels = samples = draw(8)
    rest = value(NKD(temperature=temperature, gamma=1, ce_weight=0), *samples)
    rest = rest - value(NKD(temperature=temperature, gamma=0, ce_weight=0), *samples)
    hidden = functional.one_hot(labels, CLASSES).bool()
    others = (teacher / temperature).masked_fill(hidden, -torch.inf).log_softmax(dim=-1)
    constant = temperature**2 * entropies(others).mean()
    close(rest - constant, value(DKD(temperature=temperature, alpha=0, beta=1, ce_weight=0), *samples))


@by_temperature
def test_rld_of_a_right_teacher_is_dkd(temperature):
    """Catches a mask that hides more than the label where the teacher is right."""
    student, teacher, labels = draw(9)
    teacher = right(teacher, labels)
    rld = RLD(temperature=temperature, target_temperature=temperature, alpha=2, beta=3)
    close(
        value(rld, student, teacher, labels),
        value(DKD(temperature=temperature, alpha=2, beta=3), student, teacher, labels),
    )


def test_rld_hides_every_class_at_or_above_the_label():
    """Catches a wrong class that is taught, a hidden class that still takes mass, and nan where all are hidden."""
    teacher = torch.tensor([[3.0, 2.0, 1.0, 2.0, 0.0]], dtype=torch.float64).log_softmax(dim=-1)
    student = torch.tensor([[0.3, -1.0, 0.0, 0.5, 1.0]], dtype=torch.float64)
    attack = RLD(temperature=2, alpha=0, beta=1, ce_weight=0)
    label = torch.tensor([1])  # as high as class 3, below class 0
    below = [2, 4]
    expected = KD(temperature=2, ce_weight=0, kd_weight=1)
    close(
        value(attack, student, teacher, label),
        value(expected, student[:, below], teacher[:, below], torch.tensor([0])),
    )
    slopes = gradient(attack, student, teacher, label)[0]
    assert slopes[[0, 1, 3]].tolist() == [0, 0, 0]
    assert slopes[below].abs().min() > 0
    lowest = torch.tensor([4])
    assert value(attack, student, teacher, lowest).item() == 0
    assert (gradient(attack, student, teacher, lowest) == 0).all()


def test_rld_teaches_how_sure_the_teacher_is_of_whatever_it_prefers():
    """Catches confidence that is read at the label of a wrong teacher: the student then learns its doubt."""
    student, teacher, labels = draw(10)
    attack = RLD(alpha=1, beta=0, ce_weight=0)
    close(value(attack, student, teacher, labels), value(attack, student, right(teacher, labels), labels))
    wrong = (labels + 1) % CLASSES
    sure = confident(wrong, 1 - 1e-14)
    close(value(attack, student, sure, labels), functional.cross_entropy(student, labels), rtol=1e-9)


def test_wsld_weight_runs_from_nothing_to_kd():
    """Catches an inverted ratio of the cross-entropies: the weight would vanish where the teacher knows best."""
    student, teacher, labels = draw(11)
    attack = WSLD(temperature=2, alpha=1, ce_weight=0)
    kd = KD(temperature=2, ce_weight=0, kd_weight=1)
    sure = confident(labels, 1 - 1e-14)
    softened = (sure / 2).log_softmax(dim=-1)
    close(
        value(attack, student, sure, labels),
        value(kd, student, sure, labels) + 4 * entropies(softened).mean(),
        rtol=1e-6,
    )
    knowing = confident(labels, 1 - 1e-14)
    assert value(attack, knowing, teacher, labels).item() == pytest.approx(0, abs=1e-9)
    equal = value(attack, teacher, teacher, labels)
    close(equal, (1 - 1 / math.e) * 4 * entropies((teacher / 2).log_softmax(dim=-1)).mean(), rtol=1e-5)


def test_wsld_weight_is_held_constant():
    """Catches a student that lowers the loss by knowing the label less well."""
    student, teacher, labels = draw(12)
    own, other = (-logits.log_softmax(dim=-1).gather(-1, labels.unsqueeze(-1)) for logits in (student, teacher))
    weights = 1 - torch.exp(-own / other)
    difference = (student / 4).softmax(dim=-1) - (teacher / 4).softmax(dim=-1)
    found = gradient(WSLD(temperature=4, alpha=2, ce_weight=0), student, teacher, labels)
    close(found, 2 * 4 * weights * difference / len(labels), rtol=1e-5, atol=1e-8)


# Losses that transform the answers


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
def test_ttm_is_kd_with_the_teacher_alone_softened(gamma):
    """Catches a student that is softened as well, a factor T^2, and a power of logits instead of probabilities."""
    student, teacher, labels = draw(13)
    attack = TTM(gamma=gamma, ttm_weight=1, ce_weight=0)
    softened = (gamma * teacher).log_softmax(dim=-1)
    close(
        value(attack, student, teacher, labels),
        value(KD(temperature=1, ce_weight=0, kd_weight=1), student, softened, labels),
    )
    difference = student.softmax(dim=-1) - softened.exp()
    close(gradient(attack, student, teacher, labels), difference / len(labels))


def test_wttm_weight_runs_from_one_to_the_number_of_classes():
    """Catches weights that are normalised over the batch, or applied to the batch's mean."""
    samples = draw(14)
    for gamma, weight in [(1.0, 1.0), (1e-7, CLASSES)]:
        weighted = each(WTTM(gamma=gamma, wttm_weight=1, ce_weight=0), *samples)
        plain = each(TTM(gamma=gamma, ttm_weight=1, ce_weight=0), *samples)
        close(weighted, weight * plain, rtol=1e-5)
    student, _, labels = samples
    sure = torch.full((len(labels), CLASSES), -1000.0, dtype=torch.float64).scatter(-1, labels.unsqueeze(-1), 0)
    close(value(WTTM(wttm_weight=1, ce_weight=0), student, sure, labels), functional.cross_entropy(student, labels))


def test_standardization_undoes_any_positive_scale():
    """Catches a scale that still tells: division by the norm of uncentred logits, or by one side's deviation."""
    student, teacher, labels = draw(15)
    attack = LogitStandardization(base=KD(temperature=2, ce_weight=0, kd_weight=1))
    expected = value(attack, student, teacher, labels)
    for scale in (0.01, 0.5, 30.0):
        close(value(attack, student, scale * teacher, labels), expected, rtol=1e-4)
        close(value(attack, scale * student + 7, teacher, labels), expected, rtol=1e-4)
    assert value(attack, teacher, -teacher, labels) > 0.1


def test_normkd_is_standardized_kd_weighed_by_the_variance_of_the_answer():
    """Catches the squared temperature outside the mean, of the student, or of the base without the deviation."""
    student, teacher, labels = samples = draw(16)
    attack = NormKD(scale=1.5, ce_weight=0, kd_weight=1)
    standardized = LogitStandardization(base=KD(temperature=1.5, ce_weight=0, kd_weight=1))
    close(each(attack, *samples), teacher.var(dim=-1) * each(standardized, *samples), rtol=1e-6)
    for scale in (0.1, 7.0):
        close(value(attack, student, scale * teacher, labels), scale**2 * value(attack, *samples), rtol=1e-5)


def test_ikl_of_equal_weights_is_half_the_variance_of_the_difference():
    """Catches a quarter that is a half, an unbiased variance, and weights of pairs that are not a product."""
    student, teacher, labels = draw(17)
    attack = IKL(weight_temperature=1e7, alpha=1, beta=0, ce_weight=0)
    close(
        value(attack, student, teacher, labels), (teacher - student).var(dim=-1, unbiased=False).mean() / 2, rtol=1e-5
    )


def test_ikl_gradient_at_temperature_one_is_that_of_kd():
    """Catches a soft cross-entropy whose gradient is not that of the divergence."""
    samples = draw(18)
    close(
        gradient(IKL(alpha=0, ce_weight=0), *samples), gradient(KD(temperature=1, ce_weight=0, kd_weight=1), *samples)
    )


@by_temperature
def test_jsd_ends_are_the_two_divergences(temperature):
    """Catches beta the wrong way round, and a special case that is missing: the formula itself gives 0 there."""
    student, teacher, labels = draw(19)
    forward, reverse = (
        value(JSD(temperature=temperature, beta=beta, jsd_weight=1, ce_weight=0), student, teacher, labels)
        for beta in (0.0, 1.0)
    )
    matching = FunctionMatching(temperature=temperature)
    close(forward, value(matching, student, teacher, labels))
    close(reverse, value(matching, teacher, student.log_softmax(dim=-1), labels))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_jsd_is_bounded_and_mirrors_beta(beta):
    """Catches a mixture with its weights exchanged, which no bound holds."""
    student, teacher, labels = draw(20)

    def jsd(beta, *samples):
        return value(JSD(beta=beta, jsd_weight=1, ce_weight=0), *samples)

    close(jsd(beta, student, teacher, labels), jsd(1 - beta, teacher, student, labels))
    bound = reference.entropy([beta, 1 - beta])
    assert (each(JSD(beta=beta, jsd_weight=1, ce_weight=0), student, teacher, labels) < bound).all()
    apart = [confident(classes, 1 - 1e-14) for classes in (labels, (labels + 1) % CLASSES)]
    assert jsd(beta, *apart, labels).item() == pytest.approx(bound, rel=1e-9)


# A learned temperature


@pytest.mark.parametrize(
    ("progress", "strength"), [(0.0, 0.0), (0.1, 0.5 - 0.25 * math.sqrt(2)), (0.4, 1.0), (1.0, 1.0)]
)
def test_ctkd_temperature_climbs_the_loss(progress, strength):
    """Catches a gradient that is not reversed, or not scheduled, and a factor T^2 outside of it."""
    samples = draw(21)
    attack = CTKD(lowest=2, span=5, curriculum=0.4, ce_weight=1, kd_weight=0.7).double()
    (raw,) = attack.parameters()
    torch.stack(list(attack(*samples, progress=progress).values())).sum().backward()

    def loss(point):
        with torch.no_grad():
            raw.fill_(point[0])
        return value(attack, *samples).item()

    (slope,) = reference.slopes(loss, [raw.item()])
    assert abs(slope) > 1e-2
    assert raw.grad.item() == pytest.approx(-strength * slope, rel=1e-5, abs=1e-9)


# Losses of whole batches


def test_dist_ignores_affine_changes_of_the_probabilities():
    """Catches a distance between probabilities where their correlation is meant, within samples and within classes."""
    student, teacher, labels = draw(22)
    blurred = (0.3 * teacher.exp() + 0.7 / CLASSES).log()
    for beta, gamma in [(1, 0), (0, 1)]:
        attack = DIST(beta=beta, gamma=gamma, dist_weight=1, ce_weight=0)
        expected = value(attack, student, teacher, labels)
        close(value(attack, student, blurred, labels), expected, rtol=1e-6)
        assert 0 < expected < 2


@by_temperature
def test_dist_of_opposite_answers_is_two(temperature):
    """Catches 1 - rho that is clipped or squared, and a factor T^2 on one of the terms alone."""
    student, _, labels = draw(23, classes=2)
    for beta, gamma in [(1, 0), (0, 1)]:
        attack = DIST(temperature=temperature, beta=beta, gamma=gamma, dist_weight=1, ce_weight=0)
        opposite = student.flip(-1).log_softmax(dim=-1)
        close(
            value(attack, student, opposite, labels % 2),
            torch.tensor(2 * temperature**2, dtype=torch.float64),
            rtol=1e-5,
        )


RELATIONAL = [
    RKD(distance_weight=1, angle_weight=0, ce_weight=0),
    RKD(distance_weight=0, angle_weight=1, ce_weight=0),
    PKT(pkt_weight=1, ce_weight=0),
    SP(sp_weight=1, ce_weight=0),
    SKD(kd_weight=0, gram_weight=1, ce_weight=0),
]
by_relation = pytest.mark.parametrize("attack", RELATIONAL, ids=repr)


@by_relation
def test_relations_know_no_classes_and_no_scale(attack):
    """Catches relations of uncentred logits, or that compare a sample with the other side instead of its own."""
    student, teacher, labels = draw(24)
    expected = value(attack, student, teacher, labels)
    assert expected > 1e-3
    close(value(attack, student, 3 * teacher[:, [2, 0, 1, 4, 3]] + 1, labels), expected)
    close(value(attack, 0.2 * student, teacher, labels), expected)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    close(value(attack, student[order], teacher[order], labels[order]), expected)


@by_relation
def test_relations_of_single_directions_ignore_each_samples_scale(attack):
    """Catches Gram matrices of unnormalised outputs in PKT and SKD; the others do tell the norms."""
    student, teacher, labels = draw(25)
    scales = torch.linspace(0.1, 3, len(labels), dtype=torch.float64).unsqueeze(-1)
    changed = value(attack, student, scales * teacher, labels) - value(attack, student, teacher, labels)
    assert (changed.abs() < 1e-9) == isinstance(attack, PKT | SKD)


def test_rkd_of_samples_on_a_line():
    """Catches a mean distance that counts a sample with itself, and angles at another corner; worked by hand."""
    line = torch.tensor([1.0, -1.0], dtype=torch.float64)
    student, teacher = (torch.outer(torch.tensor(places).double(), line) for places in ([0, 1, 3], [0, 2, 1]))
    labels = torch.tensor([0, 1, 0])
    # Distances 1, 3, 2 over their mean 2, and 2, 1, 1 over 4 / 3: pairs differ by 1, 3 / 4 and 1 / 4.
    distances = value(RKD(distance_weight=1, angle_weight=0, ce_weight=0), student, teacher, labels)
    assert distances.item() == pytest.approx(2 * (1 / 2 + 9 / 32 + 1 / 32) / 9)
    # On a line every angle is 0 or 180 degrees: 180 at the student's second sample, at the teacher's third.
    angles = value(RKD(distance_weight=0, angle_weight=1, ce_weight=0), student, teacher, labels)
    assert angles.item() == pytest.approx(4 * (2 - 1 / 2) / 27)


def test_sp_of_unlike_and_like_samples():
    """Catches rows of the Gram matrix that are not normalised, and a mean over both indices; worked by hand."""
    apart = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
    alike = torch.tensor([[1.0, -1.0, 0.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
    found = value(SP(sp_weight=1, ce_weight=0), apart, alike, torch.tensor([0, 1]))
    close(found, torch.tensor(2 - math.sqrt(2), dtype=torch.float64))  # (1, 0) against (1, 1) / sqrt 2


def test_pkt_of_unlike_and_like_samples():
    """Catches the divergence the wrong way round, and cosines that are not moved to [0, 1]; worked by hand."""
    apart = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
    alike = torch.tensor([[1.0, -1.0, 0.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
    found = value(PKT(pkt_weight=1, ce_weight=0), apart, alike, torch.tensor([0, 1]))
    expected = reference.kl([1 / 2, 1 / 2], [2 / 3, 1 / 3])  # cosines 1 and 0 become 1 and 1 / 2
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_skd_of_a_large_ridge_is_the_length_of_the_differences():
    """Catches the squared norm, a ridge that is not used, and an average over the batch instead of C."""
    student, teacher, labels = draw(26)
    differences = torch.tensor(twins.cosines(student.tolist())) - torch.tensor(twins.cosines(teacher.tolist()))
    expected = (differences / CLASSES).norm(dim=-1).mean() / math.sqrt(1e6)
    found = value(SKD(kd_weight=0, gram_weight=1, tikhonov=1e6, ce_weight=0), student, teacher, labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_mlkd_of_one_sample():
    """Catches a relation to the other side; of one sample only the lengths of both distributions are left."""
    student, teacher, labels = draw(27, size=1)
    squares = [(logits / 2).softmax(dim=-1).square().sum() for logits in (student, teacher)]
    attack = MLKD(temperatures=(2.0,), ce_weight=0, kd_weight=0, class_weight=0, batch_weight=1)
    close(value(attack, student, teacher, labels), (squares[0] - squares[1]) ** 2)


def test_mlkd_teaches_what_the_teacher_is_unsure_of():
    """Catches the sure half, a mask that multiplies the mean, and a mean over the masked samples alone."""
    student, teacher, labels = draw(28, size=8)
    confidences = teacher.exp().amax(dim=-1)
    unsure = confidences <= confidences.quantile(0.5)
    attack = MLKD(temperatures=(3.0,), ce_weight=0, kd_weight=1, class_weight=0, batch_weight=0)
    divergences = each(KD(temperature=3, ce_weight=0, kd_weight=1), student, teacher, labels)
    close(value(attack, student, teacher, labels), (divergences * unsure).mean())
    slopes = gradient(attack, student, teacher, labels).abs().amax(dim=-1)
    assert ((slopes > 0) == unsure).all()


def surveyed(attack, teacher, labels):
    attack.prepare(num_classes=CLASSES)
    attack.survey(teacher, labels)
    attack.settle()
    return attack


def test_wkd_cost_is_that_of_optimal_transport():
    """Catches marginals that are exchanged or not reached, and the label among the classes that are moved."""
    student, teacher, labels = draw(29)
    attack = surveyed(WKD(temperature=1, gamma=1, epsilon=0.05, iterations=400, ce_weight=0), teacher, labels)
    target = value(NKD(gamma=0, ce_weight=0), student, teacher, labels)
    costs = twins.class_costs(teacher.tolist(), labels.tolist())
    optimal = twins.over_samples(
        lambda s, t, y: transport_cost(s, t, y, costs), student.tolist(), teacher.tolist(), labels.tolist()
    )
    found = (value(attack, student, teacher, labels) - target).item()
    assert optimal > 0.1
    assert optimal - 1e-4 < found < optimal + 0.05 * math.log(CLASSES - 1)


def transport_cost(student, teacher, label, costs):
    """Least cost of moving the student's other classes to the teacher's, by linear programming."""
    source, target = (twins.renormalised(twins.without(reference.softmax(row), label)) for row in (student, teacher))
    size = len(source)
    own = [twins.without(row, label) for k, row in enumerate(costs) if k != label]
    rows = [[float(k // size == i) for k in range(size**2)] for i in range(size)]
    columns = [[float(k % size == j) for k in range(size**2)] for j in range(size)]
    flat = [cost for row in own for cost in row]
    return scipy.optimize.linprog(flat, A_eq=rows + columns, b_eq=source + target, bounds=(0, None)).fun


@pytest.mark.parametrize("absent", [None, 2])
def test_wkd_costs_come_from_the_survey(absent):
    """Catches costs of one class shifted to another, and nan where a class has no sample."""
    teacher, labels = reference.random_samples(30, size=40, num_classes=CLASSES, ignored=0, absent=absent)
    log_probs = torch.tensor(teacher, dtype=torch.float64).log_softmax(dim=-1)
    attack = surveyed(WKD(), log_probs, torch.tensor(labels))
    expected = torch.tensor(twins.class_costs(teacher, labels), dtype=torch.float64)
    close(attack.class_costs(), expected, rtol=1e-6, atol=1e-9)
    if absent is not None:
        far = pytest.approx(1 - math.exp(-1))
        assert attack.class_costs()[absent].tolist() == [far, far, 0, far, far]
