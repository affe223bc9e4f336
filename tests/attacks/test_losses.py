"""Every distillation loss against its slow twin, and the contract that all of them keep: one table, a row per attack.

The twin of a row knows its settings by value, so it also guards the documented defaults.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import attack_reference as twins
import pytest
import reference
import torch
from torch.nn import functional

from hf_cmim import attacks
from hf_cmim.attacks import (
    ATTACKS,
    BKL,
    CTKD,
    DIST,
    DKD,
    GDKD,
    GKL,
    HTC,
    IKL,
    JSD,
    KD,
    MLKD,
    NKD,
    PKT,
    PLD,
    RKD,
    RLD,
    SKD,
    SP,
    TTM,
    WKD,
    WSLD,
    WTTM,
    BeyondLabelKD,
    CrossEntropy,
    FunctionMatching,
    Knockoff,
    LabelOnly,
    LabelSmoothing,
    LogitMSE,
    LogitStandardization,
    NormKD,
    Relative,
    TeacherFreeKD,
)
from hf_cmim.attacks.base import AbstractAttack

SURVEYED = reference.random_samples(77, size=40, num_classes=5, ignored=0)
COSTS = twins.class_costs(*SURVEYED)
STANDARDIZED_COSTS = twins.class_costs(twins.standardized_rows(SURVEYED[0]), SURVEYED[1])
EQUAL, STATIONARY, NEITHER = "zero loss and gradient", "zero gradient alone", "neither"


@dataclass(frozen=True)
class Case:
    """An attack with what is true of it.

    Attributes:
        ce: its weight of the cross-entropy on the labels.
        twin: its other components' sum for (student, teacher, labels), at the end of training.
        at_teacher: what those are where the student equals the teacher.
        smooth: whether autograd is the derivative: no part is detached.
        warmup: fraction of training over which all but the cross-entropy rises from 0.
        smallest: samples without which it has nothing to compare.
        smoothing: share of that cross-entropy's target that is spread over all classes.
        tolerance: relative, in fp32.
        floor: largest value or gradient at the teacher, by a floor that the source adds.
    """

    attack: AbstractAttack
    ce: float
    twin: Callable[..., float]
    at_teacher: str = EQUAL
    smooth: bool = True
    warmup: float = 0.0
    smallest: int = 1
    smoothing: float = 0.0
    tolerance: float = 1e-5
    floor: float = 0.0


def nothing(student, teacher, labels):
    return 0.0


def on_standardized(twin):
    return lambda student, teacher, labels: twin(*map(twins.standardized_rows, (student, teacher)), labels)


CASES = [
    Case(KD(), 0.1, partial(twins.kd, temperature=4, weight=0.9)),
    Case(KD(temperature=0.5, ce_weight=0, kd_weight=2), 0, partial(twins.kd, temperature=0.5, weight=2)),
    Case(
        BeyondLabelKD(),
        0.1,
        partial(twins.beyond_label_kd, surveyed=SURVEYED, temperature=4, emphasis=0.5, measured_at=4, weight=0.9),
    ),
    Case(
        BeyondLabelKD(temperature=2, emphasis=1, measured_at=1, ce_weight=1, kd_weight=2),
        1,
        partial(twins.beyond_label_kd, surveyed=SURVEYED, temperature=2, emphasis=1, measured_at=1, weight=2),
    ),
    Case(BKL(), 0.1, partial(twins.bkl, temperature=2, alpha=0.5, beta=0.2, weight=0.9)),
    Case(
        BKL(temperature=1, beta=0.7, ce_weight=0, kd_weight=3),
        0,
        partial(twins.bkl, temperature=1, alpha=0.5, beta=0.7, weight=3),
    ),
    Case(PLD(), 0, partial(twins.pld, temperature=1, weight=1), NEITHER),
    Case(PLD(temperature=3, pld_weight=2, ce_weight=0.5), 0.5, partial(twins.pld, temperature=3, weight=2), NEITHER),
    Case(DKD(), 1, partial(twins.dkd, temperature=4, alpha=1, beta=8), warmup=20 / 240),
    Case(
        DKD(temperature=2, alpha=3, beta=0.5, warmup=0.5, ce_weight=0.2),
        0.2,
        partial(twins.dkd, temperature=2, alpha=3, beta=0.5),
        warmup=0.5,
    ),
    Case(
        GDKD(top=3),
        1,
        partial(twins.gdkd, temperature=4, top=3, mass_weight=1, top_weight=8, rest_weight=8),
        warmup=20 / 240,
    ),
    Case(
        GDKD(temperature=1.5, top=2, mass_weight=2, top_weight=0.5, rest_weight=3, warmup=0.5, ce_weight=0.2),
        0.2,
        partial(twins.gdkd, temperature=1.5, top=2, mass_weight=2, top_weight=0.5, rest_weight=3),
        warmup=0.5,
    ),
    Case(LabelOnly(), 0, partial(twins.label_only, weight=1), NEITHER),
    Case(LabelOnly(ce_weight=0.5, hard_weight=0.3), 0.5, partial(twins.label_only, weight=0.3), NEITHER),
    Case(LogitMSE(), 1, partial(twins.logit_mse, weight=1, normalized=False)),
    Case(
        LogitMSE(mse_weight=3, normalized=True, ce_weight=0.5),
        0.5,
        partial(twins.logit_mse, weight=3, normalized=True),
    ),
    Case(Knockoff(), 0, twins.knockoff, STATIONARY),
    Case(FunctionMatching(), 0, partial(twins.divergence, temperature=1)),
    Case(FunctionMatching(temperature=3), 0, partial(twins.divergence, temperature=3)),
    # T^2 = 2500 magnifies the roundings of log-probabilities.
    Case(HTC(), 1, partial(twins.kd, temperature=50, weight=1), tolerance=5e-5),
    Case(HTC(temperature=8, kd_weight=0.5, ce_weight=2), 2, partial(twins.kd, temperature=8, weight=0.5)),
    Case(NKD(), 1, partial(twins.nkd, temperature=1, gamma=1.5), NEITHER),
    Case(NKD(temperature=3, gamma=3.5, ce_weight=0.5), 0.5, partial(twins.nkd, temperature=3, gamma=3.5), NEITHER),
    Case(TTM(), 1, partial(twins.ttm, gamma=0.1, weight=45, by_power=False), NEITHER),
    Case(TTM(gamma=1, ttm_weight=2, ce_weight=0), 0, partial(twins.ttm, gamma=1, weight=2, by_power=False)),
    Case(WTTM(), 1, partial(twins.ttm, gamma=0.2, weight=4, by_power=True), NEITHER),
    Case(WTTM(gamma=1, wttm_weight=2, ce_weight=0), 0, partial(twins.ttm, gamma=1, weight=2, by_power=True)),
    Case(LogitStandardization(), 0.1, on_standardized(partial(twins.kd, temperature=2, weight=9))),
    Case(
        LogitStandardization(base=DKD(temperature=1.5, alpha=2, beta=3, warmup=0.25, ce_weight=0.5)),
        0.5,
        on_standardized(partial(twins.dkd, temperature=1.5, alpha=2, beta=3)),
        warmup=0.25,
    ),
    Case(NormKD(), 0.1, partial(twins.normkd, scale=2, weight=0.9)),
    Case(NormKD(scale=0.7, ce_weight=1, kd_weight=0.5), 1, partial(twins.normkd, scale=0.7, weight=0.5)),
    # Its temperature is learned; it starts at 1 + 20 sigmoid(1).
    Case(CTKD(), 0.1, partial(twins.kd, temperature=twins.curriculum_temperature(1, 1, 20), weight=0.9)),
    Case(
        CTKD(lowest=0.5, span=3, curriculum=0.5, ce_weight=1, kd_weight=0.4),
        1,
        partial(twins.kd, temperature=twins.curriculum_temperature(1, 0.5, 3), weight=0.4),
    ),
    Case(WSLD(), 1, partial(twins.wsld, temperature=4, alpha=2.25), STATIONARY, smooth=False),
    Case(
        WSLD(temperature=2, alpha=1, ce_weight=0.5),
        0.5,
        partial(twins.wsld, temperature=2, alpha=1),
        STATIONARY,
        smooth=False,
    ),
    Case(RLD(), 1, partial(twins.rld, temperature=4, alpha=1, beta=8, target_temperature=1), NEITHER, warmup=20 / 240),
    Case(
        RLD(temperature=2, alpha=3, beta=0.5, target_temperature=2.5, warmup=0.5, ce_weight=0.2),
        0.2,
        partial(twins.rld, temperature=2, alpha=3, beta=0.5, target_temperature=2.5),
        NEITHER,
        warmup=0.5,
    ),
    Case(IKL(), 1, partial(twins.ikl, temperature=1, weight_temperature=100, alpha=1, beta=1), STATIONARY),
    Case(
        IKL(temperature=3, weight_temperature=2, alpha=2, beta=0.5, ce_weight=0.3),
        0.3,
        partial(twins.ikl, temperature=3, weight_temperature=2, alpha=2, beta=0.5),
        STATIONARY,
    ),
    Case(IKL(beta=0, ce_weight=0), 0, partial(twins.ikl, temperature=1, weight_temperature=100, alpha=1, beta=0)),
    Case(
        GKL(),
        1,
        partial(twins.gkl, surveyed=SURVEYED, temperature=4, measured_at=4, gamma=0.05, alpha=16, beta=1),
        STATIONARY,
        warmup=20 / 240,
    ),
    Case(
        GKL(temperature=1, measured_at=0.5, gamma=0.6, alpha=0.5, beta=3, warmup=0.5, ce_weight=0.3),
        0.3,
        partial(twins.gkl, surveyed=SURVEYED, temperature=1, measured_at=0.5, gamma=0.6, alpha=0.5, beta=3),
        STATIONARY,
        warmup=0.5,
    ),
    *(
        Case(
            JSD(temperature=2, beta=beta, jsd_weight=3, ce_weight=0.5),
            0.5,
            partial(twins.jsd, temperature=2, beta=beta, weight=3),
        )
        for beta in (0.0, 0.2, 1.0)
    ),
    Case(JSD(), 0.1, partial(twins.jsd, temperature=1, beta=0.5, weight=0.9)),
    Case(DIST(), 1, partial(twins.dist, temperature=1, beta=1, gamma=1, weight=2), smallest=2, floor=1e-5),
    Case(
        DIST(temperature=4, beta=2, gamma=0.5, dist_weight=1, ce_weight=0.5),
        0.5,
        partial(twins.dist, temperature=4, beta=2, gamma=0.5, weight=1),
        smallest=2,
        floor=1e-5,
    ),
    Case(
        LogitStandardization(base=DIST(temperature=0.5, beta=1, gamma=2, dist_weight=1, ce_weight=0.5)),
        0.5,
        on_standardized(partial(twins.dist, temperature=0.5, beta=1, gamma=2, weight=1)),
        smallest=2,
        floor=1e-5,
    ),
    Case(
        MLKD(),
        0.1,
        partial(twins.mlkd, temperatures=(2, 3, 4, 5, 6), kd_weight=0.9, class_weight=0.9, batch_weight=0.9),
    ),
    Case(
        MLKD(temperatures=(1.5, 0.5), ce_weight=0.5, kd_weight=0.3, class_weight=2, batch_weight=3),
        0.5,
        partial(twins.mlkd, temperatures=(1.5, 0.5), kd_weight=0.3, class_weight=2, batch_weight=3),
    ),
    Case(
        LogitStandardization(base=MLKD(temperatures=(1.0, 2.0), ce_weight=0.5, kd_weight=0.3, class_weight=2)),
        0.5,
        partial(
            twins.mlkd,
            temperatures=(1, 2),
            kd_weight=0.3,
            class_weight=2,
            batch_weight=0.9,
            view=twins.standardized,
        ),
    ),
    Case(PKT(), 1, partial(twins.pkt, weight=5), smallest=2, floor=1e-5),
    Case(PKT(pkt_weight=100, ce_weight=0.1), 0.1, partial(twins.pkt, weight=100), smallest=2, floor=1e-5),
    Case(RKD(), 1, partial(twins.rkd, distance_weight=2.5, angle_weight=5), smallest=2),
    Case(
        RKD(distance_weight=25, angle_weight=0.5, ce_weight=0.1),
        0.1,
        partial(twins.rkd, distance_weight=25, angle_weight=0.5),
        smallest=2,
    ),
    Case(SKD(), 0.5, partial(twins.skd, temperature=4, kd_weight=0.5, gram_weight=0.5, tikhonov=0.1), smallest=2),
    Case(
        SKD(temperature=2, kd_weight=0.1, gram_weight=20, tikhonov=0.01, ce_weight=0.1),
        0.1,
        partial(twins.skd, temperature=2, kd_weight=0.1, gram_weight=20, tikhonov=0.01),
        smallest=2,
    ),
    Case(SP(), 1, partial(twins.sp, weight=0.3), smallest=2),
    Case(SP(sp_weight=30, ce_weight=0.1), 0.1, partial(twins.sp, weight=30), smallest=2),
    Case(WKD(), 1, partial(twins.wkd, costs=COSTS, temperature=4, gamma=10, epsilon=0.05, iterations=10), NEITHER),
    Case(
        WKD(temperature=1, gamma=3, epsilon=0.2, iterations=3, ce_weight=0.5),
        0.5,
        partial(twins.wkd, costs=COSTS, temperature=1, gamma=3, epsilon=0.2, iterations=3),
        NEITHER,
    ),
    Case(
        LogitStandardization(base=WKD(temperature=0.5, gamma=3, epsilon=0.1, iterations=5, ce_weight=0.5)),
        0.5,
        on_standardized(
            partial(twins.wkd, costs=STANDARDIZED_COSTS, temperature=0.5, gamma=3, epsilon=0.1, iterations=5)
        ),
        NEITHER,
    ),
    Case(CrossEntropy(), 1, nothing),
    Case(LabelSmoothing(), 1, nothing, smoothing=0.1),
    Case(LabelSmoothing(smoothing=0.4), 1, nothing, smoothing=0.4),
    Case(
        TeacherFreeKD(), 0.9, partial(twins.virtual_teacher_kd, temperature=20, confidence=0.99, weight=0.1), NEITHER
    ),
    Case(
        TeacherFreeKD(temperature=0.2, confidence=0.8, kd_weight=2, ce_weight=0.5),
        0.5,
        partial(twins.virtual_teacher_kd, temperature=0.2, confidence=0.8, weight=2),
        NEITHER,
    ),
]


def surveyed(attack, logits=SURVEYED[0], labels=SURVEYED[1]):
    """The attack after a survey of a teacher's answers, in two batches, where it needs one."""
    if not attack.needs_survey:
        return attack
    log_probs, labels = torch.tensor(logits, dtype=torch.float64).log_softmax(dim=-1), torch.tensor(labels)
    attack.prepare(num_classes=log_probs.shape[-1])
    for batch in (slice(0, 5), slice(5, None)):
        attack.survey(log_probs[batch], labels[batch])
    attack.settle()
    return attack


@pytest.fixture(params=CASES, ids=lambda case: repr(case.attack))
def case(request):
    """A row of the table with an attack of its own."""
    return Case(**{**vars(request.param), "attack": surveyed(deepcopy(request.param.attack))})


def test_every_loss_has_a_row():
    """Catches a new loss that nobody tests."""
    losses = {kind for kind in ATTACKS.values() if issubclass(kind, AbstractAttack)}
    assert losses == {type(case.attack) for case in CASES}


def draw(seed, dtype=torch.float64, size=12, classes=5, ignored=0.2, shift=True):
    """Student logits, teacher logits (log-probabilities without the shift), and labels of which some are -100."""
    student, _ = reference.random_samples(seed + 1000, size=size, num_classes=classes)
    teacher, labels = reference.random_samples(seed, size=size, num_classes=classes, ignored=ignored)
    student, teacher = torch.tensor(student, dtype=dtype), torch.tensor(teacher, dtype=dtype)
    return student, teacher if shift else teacher.log_softmax(dim=-1), torch.tensor(labels)


def valid(student, teacher, labels):
    keep = labels != -100
    return student[keep].tolist(), teacher[keep].tolist(), labels[keep].tolist()


def total(parts):
    return torch.stack(list(parts.values())).sum()


def distillation(parts):
    """The sum of the components other than the cross-entropy."""
    return sum((value for name, value in parts.items() if name != "ce"), torch.zeros(()))


def loss_and_gradient(attack, student, teacher, labels, **settings):
    student = student.detach().clone().requires_grad_()
    loss = total(attack(student, teacher, labels, **settings))
    return loss.detach(), torch.autograd.grad(loss, student)[0]


# Values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_equals_twin(case, dtype):
    """Catches every wrong formula, weight, default, factor T^2, reduction, and ignored samples that count."""
    attack = case.attack.to(dtype)
    for seed in range(3):
        samples = draw(seed, dtype)
        student, teacher, labels = valid(*samples)
        cross_entropy = reference.smoothed_cross_entropy(student, labels, label_smoothing=case.smoothing) / len(labels)
        expected = case.ce * cross_entropy + case.twin(student, teacher, labels)
        tolerance = case.tolerance if dtype == torch.float32 else 1e-10
        assert total(attack(*samples)).item() == pytest.approx(expected, rel=tolerance)


def test_cross_entropy_component_is_that_of_torch(case):
    """Catches a cross-entropy on standardised or tempered logits, and one that is computed though its weight is 0."""
    student, teacher, labels = draw(3)
    parts = case.attack(student, teacher, labels)
    assert ("ce" in parts) == (case.ce > 0)
    if case.ce:
        cross_entropy = functional.cross_entropy(student, labels, label_smoothing=case.smoothing)
        torch.testing.assert_close(parts["ce"], case.ce * cross_entropy)


def test_vanishes_at_the_teacher(case):
    """Catches a divergence between different views of the two sides, which pulls even a perfect student away."""
    _, teacher, labels = draw(4, ignored=0)
    student = teacher.clone().requires_grad_()
    loss = distillation(case.attack(student, teacher, labels))
    if case.at_teacher == EQUAL:
        assert loss.item() == pytest.approx(0, abs=1e-12 + case.floor)
    else:
        assert loss.item() > 1e-3
    gradient = torch.autograd.grad(loss, student, allow_unused=True)[0] if loss.requires_grad else None
    largest = 0.0 if gradient is None else gradient.abs().max().item()
    assert (largest > 1e-4) == (case.at_teacher == NEITHER)
    assert largest < 1e-10 + case.floor or case.at_teacher == NEITHER


def test_a_constant_on_the_teachers_logits_changes_nothing(case):
    """Catches use of logits that a black box tells only up to a constant for each sample."""
    student, teacher, labels = draw(5)
    log_probs = teacher.log_softmax(dim=-1)
    shifts = torch.linspace(-30, 30, len(labels), dtype=torch.float64).unsqueeze(-1)
    expected = loss_and_gradient(case.attack, student, log_probs, labels)
    torch.testing.assert_close(
        loss_and_gradient(case.attack, student, log_probs + shifts, labels), expected, rtol=1e-9, atol=1e-12
    )


def test_warm_up(case):
    """Catches terms that start at full weight, never reach it, or a cross-entropy that is warmed up as well."""
    samples = draw(6)
    parts = case.attack(*samples)
    for progress, factor in [(0.0, 0.0), (case.warmup / 2, 0.5), (case.warmup, 1.0), (1.0, 1.0)]:
        expected = {name: value * (factor if case.warmup and name != "ce" else 1) for name, value in parts.items()}
        torch.testing.assert_close(case.attack(*samples, progress=progress), expected)


def test_relative_temperature_is_in_units_of_the_surveyed_teacher(case):
    """Catches a temperature that is read before the survey, or that ignores the scale, or an uncentred scale."""
    settings = case.attack.settings()
    student, teacher, labels = draw(7, ignored=0)
    scale = reference.root_mean_square(teacher.tolist(), labels.tolist())
    for name in [name for name in settings if "temperature" in name and case.attack.needs_teacher]:
        several = isinstance(settings[name], tuple)
        relative, absolute = (
            type(case.attack)(**settings | {name: (2.0, value) if several else value})
            for value in (Relative(0.7), 0.7 * scale)
        )
        assert relative.needs_survey
        samples = teacher.tolist(), labels.tolist()
        torch.testing.assert_close(
            surveyed(relative, *samples)(student, teacher, labels),
            surveyed(absolute, *samples)(student, teacher, labels),
            rtol=1e-5,
            atol=1e-7,
        )


# Gradients


def test_gradients_reach_the_student_and_never_the_teacher(case):
    """Catches a detached student, and a teacher that would be trained to be easy to imitate."""
    student, teacher, labels = draw(8)
    student.requires_grad_()
    teacher.requires_grad_()
    total(case.attack(student, teacher, labels)).backward()
    assert (student.grad[labels != -100].abs().amax(dim=-1) > 0).all()
    assert (student.grad[labels == -100] == 0).all()
    assert teacher.grad is None
    for parameter in case.attack.parameters():
        assert parameter.grad.abs().min() > 0


def test_gradients_equal_finite_differences(case):
    """Catches a detach in the middle of a differentiable loss, and a missing one where the source detaches."""
    student, teacher, labels = draw(9, size=3, ignored=0)
    student.requires_grad_()
    equal = torch.autograd.gradcheck(
        lambda logits: total(case.attack(logits, teacher, labels)), student, raise_exception=False
    )
    assert equal == case.smooth


# Numerics


EXTREME_ROWS = [
    [1e4, -1e4, 0.0, 0.0, 1.0],
    [-1e4, 1e4, 0.0, -1.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0],
    [1e4, 1e4, 1e4, 1e4, 1e4],
    [-1e4, -1e4, -1e4, 1e4, 1e4],
]


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_extreme_logits_stay_finite(case, scale):
    """Catches log 0, 0 / 0 of a constant row, and overflow, in the value or only in the gradient."""
    pairs = [(s, t, y) for s in EXTREME_ROWS for t in EXTREME_ROWS for y in range(0, 5, 2)]
    student, teacher = (scale * torch.tensor(rows) for rows in list(zip(*pairs, strict=True))[:2])
    labels = torch.tensor([y for *_, y in pairs])
    loss, gradient = loss_and_gradient(case.attack, student, teacher.log_softmax(dim=-1), labels)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_small_outputs_have_directions():
    """Catches a floor on squared logits, under which a student with small ones learns no relations."""
    student, teacher, labels = draw(19, ignored=0)
    small = 1e-3 * student
    expected = twins.sp(small.tolist(), teacher.tolist(), labels.tolist(), weight=0.3)
    assert SP()(small, teacher, labels)["sp"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("attack", [PKT(), SP(), SKD()], ids=repr)
def test_one_tiny_output_has_a_bounded_gradient(attack):
    """Catches a floor on something else than its own norm: others make that large, and 1 / norm undoes training."""
    student, teacher, labels = draw(19, ignored=0)
    student[0] *= 5e-5 / student[0].norm()
    _, gradient = loss_and_gradient(attack, student, teacher, labels)
    assert gradient[0].norm() < 10


def test_two_classes_are_enough(case):
    """Catches nan from the single class that is left beside the label."""
    logits, labels = reference.random_samples(10, size=8, num_classes=2, ignored=0)
    attack = surveyed(deepcopy(case.attack), logits, labels)
    loss, gradient = loss_and_gradient(attack, *draw(18, torch.float32, classes=2))
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_arithmetic_is_fp32_for_half_precision_and_autocast(case):
    """Catches arithmetic in bf16, by its type or by its roundings."""
    student, teacher, labels = draw(10, torch.float32, shift=False)
    student = student.bfloat16()
    expected = case.attack(student.float(), teacher, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = case.attack(student, teacher, labels)
    for parts in (found, case.attack(student, teacher, labels)):
        assert {(value.dtype, value.ndim) for value in parts.values()} == {(torch.float32, 0)}
        torch.testing.assert_close(parts, expected)


# Batches


def test_ignored_samples_change_nothing(case):
    """Catches a mean over all samples, and statistics of a batch that include ignored ones."""
    student, teacher, labels = draw(11, ignored=0.4)
    keep = labels != -100
    assert 1 < keep.sum() < len(keep)
    loss, gradient = loss_and_gradient(case.attack, student, teacher, labels)
    torch.testing.assert_close(
        (loss, gradient[keep]), loss_and_gradient(case.attack, student[keep], teacher[keep], labels[keep])
    )


def test_batch_without_labels_is_a_differentiable_zero(case):
    """Catches 0 / 0 in a micro-batch of ignored samples, which would poison the whole step."""
    student, teacher, _ = draw(12, torch.float32)
    student.requires_grad_()
    loss = total(case.attack(student, teacher, torch.full((len(student),), -100)))
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()
    for parameter in case.attack.parameters():
        assert parameter.grad is None or (parameter.grad == 0).all()


def test_only_batch_level_losses_depend_on_the_split(case):
    """Catches a per-sample loss that compares samples, and a flag that warns of nothing."""
    student, teacher, labels = draw(13, ignored=0)
    whole = total(case.attack(student, teacher, labels)).item()
    splits = [(2, 10), (5, 7), (4, 4, 4), (6, 2, 4)]
    weighted = []
    for split in splits:
        chunks = zip(student.split(split), teacher.split(split), labels.split(split), strict=True)
        losses = [total(case.attack(*chunk)).item() for chunk in chunks]
        weighted.append(math.fsum(size * loss for size, loss in zip(split, losses, strict=True)) / len(labels))
    agree = [value == pytest.approx(whole, rel=1e-9) for value in weighted]
    assert all(agree) if not case.attack.batch_level else not any(agree)


def test_smallest_batch(case):
    """Catches a loss that silently teaches nothing, or nan, from a batch that it cannot compare."""
    student, teacher, _ = draw(14)
    labels = torch.full((len(student),), -100)
    labels[3] = 2
    assert case.attack.smallest_batch == case.smallest
    if case.smallest > 1:
        with pytest.raises(ValueError, match="Expected at least 2 valid samples in a batch, got 1"):
            case.attack(student, teacher, labels)
    else:
        assert total(case.attack(student, teacher, labels)).isfinite()
    labels[4] = 0
    assert total(case.attack(student, teacher, labels)).isfinite()


def test_token_classification_is_flattened(case):
    """Catches a sum over positions, or a softmax along them."""
    student, teacher, labels = draw(15)
    expected = case.attack(student, teacher, labels)
    shaped = case.attack(student.reshape(2, 6, 5), teacher.reshape(2, 6, 5), labels.reshape(2, 6))
    torch.testing.assert_close(shaped, expected)


# Settings


def test_repr_gives_the_attack_back(case):
    """Catches a setting that is not kept, or is kept changed: reports name attacks by their repr."""
    again = surveyed(eval(repr(case.attack), vars(attacks)))
    assert type(again) is type(case.attack)
    assert repr(again) == repr(case.attack)
    samples = draw(16)
    torch.testing.assert_close(again(*samples), case.attack(*samples))


def test_every_weight_scales_its_component_alone(case):
    """Catches a weight that is not used, is used twice, or belongs to another term."""
    settings = case.attack.settings()
    samples = draw(17)
    parts = case.attack(*samples)
    for name in (name for name in settings if name.endswith("_weight") and settings[name]):
        doubled = surveyed(type(case.attack)(**settings | {name: 2 * settings[name]}))(*samples)
        ratios = {part: round((doubled[part] / parts[part]).item(), 6) for part in parts}
        assert ratios.pop("ce", None) in (None, 2 if name == "ce_weight" else 1)
        assert set(ratios.values()) <= {1, 2}
        assert (2 in ratios.values()) == (name != "ce_weight")
