"""Every information quantity against the slow twin, scipy, its limits and its invariances."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import reference
import scipy.special
import scipy.stats
import torch

from hf_cmim.functional import (
    class_centroids,
    cmi_curve,
    conditional_mutual_information,
    normalized_cmi,
    prediction_entropy,
    separation,
    within_class_variance,
    within_total_ratio,
)

CASES = [
    {"seed": 0},
    {"seed": 1, "size": 31, "num_classes": 2, "scale": 4.0},
    {"seed": 2, "size": 97, "num_classes": 9, "scale": 1.0},
    {"seed": 3, "size": 40, "num_classes": 6, "absent": 2},
    {"seed": 4, "size": 25, "num_classes": 3, "scale": 8.0, "ignored": 0.5},
]
AT_A_TEMPERATURE = [
    (conditional_mutual_information, reference.cmi),
    (separation, reference.separation),
    (normalized_cmi, reference.ncmi),
]
WITHOUT_TEMPERATURE = [
    (within_class_variance, reference.within_class_variance),
    (within_total_ratio, reference.within_total_ratio),
]
DIFFERENTIABLE = {
    "cmi": conditional_mutual_information,
    "cmi at 0.5": partial(conditional_mutual_information, temperature=0.5),
    "curve": partial(cmi_curve, temperatures=[0.5, 4.0]),
    "centroids": partial(class_centroids, temperatures=[0.5, 4.0]),
    "separation": partial(separation, temperature=2.0),
    "ncmi": partial(normalized_cmi, temperature=2.0),
    "variance": within_class_variance,
    "ratio": within_total_ratio,
}
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed{case['seed']}")


def samples(dtype=torch.float64, **settings):
    logits, labels = reference.random_samples(**settings)
    return torch.tensor(logits, dtype=dtype), torch.tensor(labels)


def lists(logits, labels, correct_only=False):
    return reference.valid_samples(logits.tolist(), labels.tolist(), correct_only)


# Against the twin and scipy


@by_case
@pytest.mark.parametrize("correct_only", [False, True])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 7.0])
@pytest.mark.parametrize(("function", "twin"), AT_A_TEMPERATURE, ids=lambda f: f.__name__)
def test_tempered_quantity_equals_twin(function, twin, temperature, correct_only, case):
    """Catches a wrong normaliser, -100 that counts, absent classes that count, and unfiltered wrong answers."""
    logits, labels = samples(**case)
    value = function(logits, labels, temperature, correct_only=correct_only)
    assert value.shape == ()
    assert value.item() == pytest.approx(twin(*lists(logits, labels, correct_only), temperature), rel=1e-9)


@by_case
@pytest.mark.parametrize("correct_only", [False, True])
@pytest.mark.parametrize(("function", "twin"), WITHOUT_TEMPERATURE, ids=lambda f: f.__name__)
def test_variance_equals_twin(function, twin, correct_only, case):
    """Catches logits that are not centred, an unbiased variance, and a mean over classes instead of samples."""
    logits, labels = samples(**case)
    value = function(logits, labels, correct_only=correct_only)
    assert value.shape == ()
    assert value.item() == pytest.approx(twin(*lists(logits, labels, correct_only)), rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("correct_only", [False, True])
def test_masked_classes_equal_twin(seed, correct_only):
    """Catches a mask taken for a logit, classes masked in some samples only, and a mean over all classes."""
    logits, labels = samples(seed=seed, size=50, num_classes=4, masked=0.4)
    rows = lists(logits, labels, correct_only)
    for fill in (-torch.inf, -1e4):
        filled = logits.masked_fill(logits == -torch.inf, fill)
        for temperature, (function, twin) in product([0.25, 1.0, 700.0], AT_A_TEMPERATURE):
            value = function(filled, labels, temperature, correct_only=correct_only)
            assert value.item() == pytest.approx(twin(*rows, temperature), rel=1e-9)
        for function, twin in WITHOUT_TEMPERATURE:
            value = function(filled, labels, correct_only=correct_only)
            assert value.item() == pytest.approx(twin(*rows), rel=1e-9)
        expected = reference.prediction_entropy(*lists(logits, labels))
        assert prediction_entropy(filled, labels).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_masked_classes_get_no_gradient(name, dtype):
    """Catches 0 * inf in a gradient, and a gradient that differs by how a class is masked."""
    logits, labels = samples(seed=6, size=14, num_classes=3)
    function = partial(DIFFERENTIABLE[name], labels=labels)
    mask = torch.zeros_like(logits, dtype=torch.bool).index_fill_(0, torch.arange(0, 14, 3), 1) & (
        torch.arange(3) == 1
    )
    gradients = []
    for fill in (-torch.inf, -1e4):
        filled = logits.to(dtype).masked_fill(mask, fill).requires_grad_()
        gradients += torch.autograd.grad(function(filled).sum(), filled)
        assert gradients[-1].isfinite().all()
        assert not gradients[-1][mask].any()
    assert torch.equal(*gradients)
    if dtype == torch.float64:
        assert torch.autograd.gradcheck(
            lambda varied: function(varied.masked_fill(mask, -1e9)), logits.requires_grad_()
        )


def test_normalized_cmi_of_one_class_is_zero():
    """Catches CMI / 0: infinite or nan, and with it every gradient."""
    logits, labels = samples(seed=6, size=14)
    value = normalized_cmi(logits.requires_grad_(), torch.zeros_like(labels))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0
    assert not gradient.any()


@by_case
def test_prediction_entropy_equals_twin(case):
    """Catches H(label | argmax), a plain H(argmax), and classes that weigh the same whatever their size."""
    logits, labels = samples(**case)
    twin = reference.prediction_entropy(*lists(logits, labels))
    assert twin > 0
    assert prediction_entropy(logits, labels).item() == pytest.approx(twin, rel=1e-9)


@by_case
@pytest.mark.parametrize("correct_only", [False, True])
def test_curve_and_centroids_equal_twin_at_each_temperature(case, correct_only):
    """Catches levels in another order than the temperatures, and centroids transposed."""
    logits, labels = samples(**case)
    temperatures = [4.0, 0.5, 1.0]
    curve = cmi_curve(logits, labels, temperatures, correct_only=correct_only)
    centroids = class_centroids(logits, labels, temperatures, correct_only=correct_only)
    rows = lists(logits, labels, correct_only)
    twin = torch.tensor([reference.cmi(*rows, t) for t in temperatures], dtype=torch.float64)
    torch.testing.assert_close(curve, twin, rtol=1e-9, atol=0)
    twins = torch.tensor([reference.centroids(*rows, t) for t in temperatures], dtype=torch.float64)
    torch.testing.assert_close(centroids, twins, rtol=1e-12, atol=1e-15)


@by_case
def test_quantities_equal_scipy(case):
    """Catches an error that the twin's author made as well: scipy's entropies know nothing of ours."""
    logits, labels = samples(**case)
    rows, kept = (np.array(values) for values in lists(logits, labels))
    probs = np.exp(scipy.special.log_softmax(rows / 2, axis=1))
    means = np.stack([probs[kept == label].mean(axis=0) for label in kept])
    cmi = scipy.stats.entropy(probs, means, axis=1).mean()
    assert conditional_mutual_information(logits, labels, 2.0).item() == pytest.approx(cmi, rel=1e-9)
    pairs = scipy.stats.entropy(probs, axis=1)[:, None] + scipy.special.rel_entr(probs[:, None], probs).sum(axis=-1)
    gamma = (pairs * (kept[:, None] != kept)).mean()
    assert separation(logits, labels, 2.0).item() == pytest.approx(gamma, rel=1e-9)
    variance = sum((kept == c).mean() * (rows - rows.mean(axis=1, keepdims=True))[kept == c].var(axis=0).sum()
                   for c in set(kept))  # fmt: skip
    assert within_class_variance(logits, labels).item() == pytest.approx(variance, rel=1e-9)


# Limits


@pytest.mark.parametrize("correct_only", [False, True])
def test_identical_outputs_have_no_information(correct_only):
    """Catches an estimator with an offset: a collapsed cluster must measure 0."""
    logits = 3 * torch.eye(4, dtype=torch.float64).repeat(5, 1) + 0.1
    labels = torch.arange(4).repeat(5)
    for temperature in (0.02, 1.0, 500.0):
        value = conditional_mutual_information(logits, labels, temperature, correct_only=correct_only).item()
        assert 0 <= value < 1e-14
    assert within_class_variance(logits, labels, correct_only=correct_only).item() < 1e-14


def test_one_sample_a_class_has_no_information():
    """Catches an unbiased-looking correction: a sample is its own centroid."""
    logits, _ = samples(seed=5, size=6, num_classes=6)
    assert 0 <= conditional_mutual_information(logits, torch.arange(6)).item() < 1e-14
    assert within_class_variance(logits, torch.arange(6)).item() < 1e-12


def test_cmi_reaches_log_of_the_number_of_classes_and_not_more():
    """Catches another logarithm: one class answered with every class, certainly, is the largest CMI there is."""
    logits = 100 * torch.eye(5, dtype=torch.float64)
    largest = conditional_mutual_information(logits, torch.zeros(5, dtype=torch.long)).item()
    assert largest == pytest.approx(math.log(5), rel=1e-12)
    for case in CASES:
        logits, labels = samples(**case)
        assert cmi_curve(100 * logits, labels, [0.5, 2.0, 8.0]).max().item() <= math.log(logits.shape[1])


@by_case
def test_high_temperatures_see_the_variance(case):
    """Catches uncentred logits and a wrong constant: T^2 CMI_T tends to the within-class trace over 2 C."""
    logits, labels = samples(**case)
    limit = within_class_variance(logits, labels) / (2 * logits.shape[1])
    scaled = 1e8 * conditional_mutual_information(logits, labels, 1e4)
    assert scaled.item() == pytest.approx(limit.item(), rel=5e-3)


@by_case
def test_low_temperatures_see_the_hard_predictions(case):
    """Catches H(argmax) in place of H(argmax | label), and a CMI that vanishes where answers are wrong."""
    logits, labels = samples(**case)
    limit = prediction_entropy(logits, labels).item()
    assert limit > 0.01
    assert conditional_mutual_information(logits, labels, 1e-5).item() == pytest.approx(limit, rel=1e-9)
    assert conditional_mutual_information(logits, labels, 1e-5, correct_only=True).item() < 1e-12


# Invariances


def test_renaming_classes_changes_nothing():
    """Catches an order of classes that matters; centroids are renamed along both of their axes."""
    logits, labels = samples(seed=0)
    new_names = torch.tensor([3, 0, 4, 1, 2])  # class c is now called new_names[c]
    renamed_labels = torch.where(labels < 0, labels, new_names[labels.clamp_min(0)])
    renamed_logits = torch.empty_like(logits).index_copy_(1, new_names, logits)
    for function, _ in (*AT_A_TEMPERATURE, *WITHOUT_TEMPERATURE, (prediction_entropy, None)):
        assert function(renamed_logits, renamed_labels).item() == pytest.approx(function(logits, labels).item())
    renamed = class_centroids(renamed_logits, renamed_labels, [1.0])[0]
    torch.testing.assert_close(renamed[new_names][:, new_names], class_centroids(logits, labels, [1.0])[0])


def test_order_of_samples_changes_nothing():
    """Catches an accumulation that weighs later samples more."""
    logits, labels = samples(seed=0)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    for function, _ in (*AT_A_TEMPERATURE, *WITHOUT_TEMPERATURE, (prediction_entropy, None)):
        assert function(logits[order], labels[order]).item() == pytest.approx(function(logits, labels).item())


def test_shift_of_each_row_changes_nothing():
    """Catches raw logits where only their differences mean something."""
    logits, labels = samples(seed=0)
    shifts = torch.randn(len(labels), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shifted = logits + 30 * shifts
    for function, _ in (*AT_A_TEMPERATURE, *WITHOUT_TEMPERATURE, (prediction_entropy, None)):
        assert function(shifted, labels).item() == pytest.approx(function(logits, labels).item(), rel=1e-9)


@pytest.mark.parametrize("scale", [16.0, 7.3])
def test_scaling_the_logits_only_shifts_the_curve(scale):
    """Catches a temperature that is not relative to the logits: cmi(s z, s T) = cmi(z, T), so the largest stays."""
    logits, labels = samples(seed=0)
    temperatures = [2.0**k for k in range(-6, 10)]
    curve = cmi_curve(logits, labels, temperatures, correct_only=True)
    shifted = cmi_curve(scale * logits, labels, [scale * t for t in temperatures], correct_only=True)
    torch.testing.assert_close(shifted, curve, rtol=0 if scale == 16 else 1e-9, atol=0)
    assert 0 < curve.argmax() < len(temperatures) - 1
    ratio = within_total_ratio(scale * logits, labels).item()
    assert ratio == pytest.approx(within_total_ratio(logits, labels).item(), rel=1e-12)


@by_case
def test_correct_only_equals_filtering_by_hand(case):
    """Catches a filter after the sums, which would leave the wrong answers in the centroids."""
    logits, labels = samples(**case)
    correct = logits.argmax(dim=1) == labels
    assert 0 < correct.sum() < (labels >= 0).sum()
    for function, _ in (*AT_A_TEMPERATURE, *WITHOUT_TEMPERATURE):
        value = function(logits, labels, correct_only=True)
        assert torch.equal(value, function(logits[correct], labels[correct]))


def test_token_classification_is_flattened():
    """Catches statistics per sentence: positions are the samples."""
    logits, labels = samples(seed=0)
    for function, _ in (*AT_A_TEMPERATURE, *WITHOUT_TEMPERATURE, (prediction_entropy, None)):
        value = function(logits.reshape(6, 10, 5), labels.reshape(6, 10))
        assert torch.equal(value, function(logits, labels))


def test_row_of_an_absent_class_is_zero():
    """Catches 0 / 0 in the centroid of a class without a sample."""
    logits, labels = samples(seed=3, num_classes=6, absent=2)
    sums = class_centroids(logits, labels, [0.5, 2.0]).sum(dim=-1)
    torch.testing.assert_close(sums, torch.tensor([[1.0, 1, 0, 1, 1, 1]], dtype=torch.float64).expand(2, 6))


@pytest.mark.parametrize("row", [[0.3, -1.7, 2.9], [0.1, 0.2, 0.4], [5.0, 5.0, 5.0]], ids=str)
def test_ratio_is_zero_when_nothing_varies(row):
    """Catches 0 / 0 = nan, and rounding noise over rounding noise, in a model whose output is constant."""
    for size in (7, 10, 33):
        ratio = within_total_ratio(torch.tensor([row] * size), torch.arange(size) % 3).item()
        assert ratio == pytest.approx(0, abs=1e-6)


def test_small_variance_beside_large_logits_is_measured():
    """Catches a threshold for rounding noise that swallows a real variance."""
    logits, labels = samples(seed=0)
    logits = 0.05 * logits + torch.tensor([100.0, -50.0, 0.0, 20.0, -70.0], dtype=torch.float64)
    twin = reference.within_total_ratio(*lists(logits, labels))
    assert 0.1 < twin < 0.9
    assert within_total_ratio(logits, labels).item() == pytest.approx(twin, rel=1e-6)


# Numbers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.02, 1.0, 500.0])
def test_extreme_logits_stay_finite(dtype, temperature):
    """Catches overflow in half precision, log 0, and gradients of log 0."""
    signs = torch.tensor([[1, -1, 0], [-1, 1, 0], [0, 0, 1], [-1, -1, -1]])
    labels = torch.tensor([0, 0, 1, 1])
    logits = (1e4 * signs).to(dtype).requires_grad_()
    tempered = [partial(function, temperature=temperature) for function, _ in AT_A_TEMPERATURE]
    tempered += [partial(function, temperatures=[temperature]) for function in (cmi_curve, class_centroids)]
    for function in (*tempered, within_class_variance, within_total_ratio):
        value = function(logits, labels)
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.isfinite().all()
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert gradient.isfinite().all()
    assert prediction_entropy(logits, labels).isfinite()


def test_half_precision_is_raised_before_any_arithmetic():
    """Catches sums in bf16, which has three digits: the value must be that of the rounded logits, exactly."""
    logits, labels = samples(torch.bfloat16, seed=2, size=200)
    rows = lists(logits, labels)
    for function, twin in AT_A_TEMPERATURE:
        assert function(logits, labels).item() == pytest.approx(twin(*rows), rel=1e-6)


@pytest.mark.parametrize("correct_only", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_equal_finite_differences(name, correct_only):
    """Catches a detached centroid or count inside a quantity that is said to be differentiable."""
    logits, labels = samples(seed=6, size=14, num_classes=3)
    function = partial(DIFFERENTIABLE[name], labels=labels, correct_only=correct_only)
    assert torch.autograd.gradcheck(lambda varied: function(varied), logits.requires_grad_())
