"""CMIMLoss against the slow twin, its closed-form gradient, torch's cross-entropy, and splits of a batch."""

import math
from types import SimpleNamespace

import pytest
import reference
import torch
from plain_loop import trained_classifier
from torch.nn import functional

from hf_cmim import CentroidBank, CMIMLoss
from hf_cmim.functional import class_centroids, cmi_curve, conditional_mutual_information, within_total_ratio
from hf_cmim.functional.label_information import label_information
from hf_cmim.functional.scaling import Scaling
from hf_cmim.functional.temperatures import DEFAULT_TEMPERATURES, reconstruction_temperatures
from hf_cmim.trainers.hardening.ramp import ramped_weight

CLASSES = 5
OCTAVES = [2.0**k for k in range(-2, 5)]  # both sides of max(1, T^2)
REDUCTIONS = ["mean", "power_mean", "max"]
WEIGHTINGS = ["squared", "none"]
by_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
by_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def samples(seed=0, dtype=torch.float64, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=dtype), torch.tensor(labels)


def log_centroids_of(loss, seed=9, unseen=None):
    """Centroids of other samples than the loss is asked about, as the bank's are."""
    centroids = class_centroids(*samples(seed, scale=1.0), loss.temperatures).log()
    if unseen is not None:
        centroids[:, unseen] = -torch.inf
    return centroids


def twin_terms(loss, logits, labels, log_centroids):
    """Mean divergence at each temperature, by the twin."""
    tables = [
        [None if row[0] == -math.inf else [math.exp(value) for value in row] for row in level]
        for level in log_centroids.tolist()
    ]
    sums = reference.divergence_terms(logits.tolist(), labels.tolist(), tables, loss.temperatures)
    count = sum(label >= 0 for label in labels.tolist())
    return [value / count for value in sums]


def weighted(loss, terms, weighting):
    return [
        reference.temperature_factor(t, weighting) * term for t, term in zip(loss.temperatures, terms, strict=True)
    ]


# Values


@by_reduction
@by_weighting
@pytest.mark.parametrize("unseen", [None, 3])
def test_components_equal_twin(reduction, weighting, unseen):
    """Catches a wrong factor max(1, T^2), a sum over temperatures, a mean over seen classes only, a lost weight."""
    loss = CMIMLoss(OCTAVES, temperature_weighting=weighting, reduction=reduction, order=3.0)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss, unseen=unseen)
    found = loss(logits, labels, log_centroids, weight=0.7)
    terms = twin_terms(loss, logits, labels, log_centroids)
    assert found["cmi_per_temperature"].tolist() == pytest.approx(terms, rel=1e-9)
    expected = 0.7 * reference.reduce_terms(weighted(loss, terms, weighting), reduction, order=3.0)
    assert found["cmi"].item() == pytest.approx(expected, rel=1e-6)
    count = (labels >= 0).sum().item()
    cross_entropy = reference.smoothed_cross_entropy(logits.tolist(), labels.tolist()) / count
    assert found["ce"].item() == pytest.approx(cross_entropy, rel=1e-12)


@by_reduction
@by_weighting
def test_previous_terms_weigh_the_temperatures(reduction, weighting):
    """Catches weights from this batch's own terms, which depend on how the step was split."""
    loss = CMIMLoss(OCTAVES, temperature_weighting=weighting, reduction=reduction, order=3.0)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    previous = [0.3, 0.1, 0.2, 0.15, 0.05, 0.01, 0.004]
    found = loss(logits, labels, log_centroids, previous_terms=torch.tensor(previous, dtype=torch.float64))
    slopes = reference.slopes(
        lambda terms: reference.reduce_terms(terms, reduction, order=3.0), weighted(loss, previous, weighting)
    )
    terms = weighted(loss, twin_terms(loss, logits, labels, log_centroids), weighting)
    expected = math.fsum(slope * term for slope, term in zip(slopes, terms, strict=True))
    assert found["cmi"].item() == pytest.approx(expected, rel=1e-5)


@by_reduction
def test_first_step_weighs_all_temperatures_alike(reduction):
    """Catches a first step without any CMI in its loss, or with that of the first temperature alone."""
    loss = CMIMLoss(OCTAVES, reduction=reduction)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    found = loss(logits, labels, log_centroids, previous_terms=torch.zeros(7))
    terms = weighted(loss, twin_terms(loss, logits, labels, log_centroids), "squared")
    assert found["cmi"].item() == pytest.approx(reference.reduce_terms(terms, "mean"), rel=1e-6)


@by_weighting
def test_default_is_the_mean_over_powers_of_two(weighting):
    """Catches defaults that drift away from the documented ones."""
    loss = CMIMLoss(temperature_weighting=weighting)
    assert loss.temperatures == DEFAULT_TEMPERATURES
    assert loss.temperatures == tuple(2.0**k for k in range(5))
    factors = [reference.temperature_factor(t, weighting) / 5 for t in DEFAULT_TEMPERATURES]
    assert loss.temperature_weights(torch.rand(5)).tolist() == pytest.approx(factors)


def test_exact_centroids_give_the_conditional_mutual_information():
    """Catches a divergence the wrong way round: from the centroid to the sample it is another quantity."""
    loss = CMIMLoss([1.0, 4.0])
    logits, labels = samples()
    terms = loss(logits, labels, class_centroids(logits, labels, [1.0, 4.0]).log())["cmi_per_temperature"]
    for term, temperature in zip(terms, [1.0, 4.0], strict=True):
        expected = conditional_mutual_information(logits, labels, temperature)
        assert term.item() == pytest.approx(expected.item(), rel=1e-9)


@by_reduction
def test_large_orders_approach_the_maximum(reduction):
    """Catches overflow, and a power mean that is not homogeneous, at terms of any size."""
    logits, labels = samples()
    for scale in (1e-3, 1.0, 1e3):
        loss = CMIMLoss([0.5, 1.0], temperature_weighting="none", reduction=reduction, order=2000.0)
        terms = torch.tensor([0.5 * scale, 0.2 * scale])
        weights = loss.temperature_weights(terms)
        expected = {"mean": 0.35, "power_mean": 0.5, "max": 0.5}[reduction] * scale
        assert (weights * terms).sum().item() == pytest.approx(expected, rel=1e-3)
    assert loss(logits, labels, log_centroids_of(loss))["cmi"].isfinite()


@pytest.mark.parametrize("order", [1.0, 1.5, 2.5, 4.0, 7.3])
def test_power_mean_takes_terms_that_rounding_made_negative(order):
    """Catches a negative number to a broken power = nan: fp32 puts the CMI of a collapsed cluster at about -1e-8."""
    loss = CMIMLoss([0.25, 1.0, 4.0], reduction="power_mean", order=order)
    weights = loss.temperature_weights(torch.tensor([-1e-8, 0.1, 0.02]))
    assert weights.isfinite().all()
    generator = torch.Generator().manual_seed(1)
    row = torch.randn(1, 4, generator=generator).repeat(8, 1)
    labels = torch.zeros(8, dtype=torch.long)
    assert loss(row, labels, class_centroids(row, labels, loss.temperatures).log())["cmi"].isfinite()


# The contract


@by_reduction
def test_loss_is_the_sum_of_its_two_components(reduction):
    """Catches a third differentiable part, and per-temperature terms that keep the graph alive in the logs."""
    loss = CMIMLoss(OCTAVES, reduction=reduction)
    logits, labels = samples()
    found = loss(logits.requires_grad_(), labels, log_centroids_of(loss))
    assert list(found) == ["ce", "cmi", "cmi_per_temperature"]
    assert found["ce"].shape == found["cmi"].shape == ()
    assert found["ce"].requires_grad
    assert found["cmi"].requires_grad
    assert not found["cmi_per_temperature"].requires_grad
    assert found["cmi_per_temperature"].shape == (7,)


def test_token_classification_is_flattened():
    """Catches a loss per sentence."""
    loss = CMIMLoss(OCTAVES)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    flat = loss(logits, labels, log_centroids)
    shaped = loss(logits.reshape(6, 10, CLASSES), labels.reshape(6, 10), log_centroids)
    assert {name: value.tolist() for name, value in shaped.items()} == {k: v.tolist() for k, v in flat.items()}


@by_reduction
@pytest.mark.parametrize("previous", [[0.3, 0.1, 0.2, 0.15, 0.05, 0.01, 0.004], [0.0] * 7], ids=["later", "first"])
@pytest.mark.parametrize("sizes", [[20] * 3, [7, 1, 30, 0, 22]], ids=["equal", "ragged"])
def test_parts_of_a_batch_add_up_to_it(sizes, previous, reduction):
    """Catches a division by the part's own count, and weights over temperatures that differ from part to part."""
    loss = CMIMLoss(
        OCTAVES, reduction=reduction, class_weights=[1.0, 2.0, 0.5, 1.0, 3.0], label_smoothing=0.1
    ).double()
    logits, labels = samples()
    labels[20:28] = -100  # one part is nearly empty
    log_centroids = log_centroids_of(loss, unseen=1)
    settings = {
        "num_items": (labels >= 0).sum(),
        "previous_terms": torch.tensor(previous, dtype=torch.float64),
    }
    whole = loss(logits, labels, log_centroids, 0.5, **settings)
    split = list(zip(logits.split(sizes), labels.split(sizes), strict=True))
    parts = [loss(*part, log_centroids, 0.5, **settings) for part in split]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-12, atol=0)


def test_without_num_items_the_batch_divides_by_its_valid_labels():
    """Catches a division by the batch size, under which padding would weaken the loss."""
    loss = CMIMLoss(OCTAVES)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    kept = loss(logits[labels >= 0], labels[labels >= 0], log_centroids, num_items=int((labels >= 0).sum()))
    found = loss(logits, labels, log_centroids)
    for name, value in kept.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=0)


@by_reduction
def test_ignored_labels_alone_give_zero(reduction):
    """Catches 0 / 0 = nan where a micro-batch holds only padding."""
    loss = CMIMLoss(OCTAVES, reduction=reduction)
    logits, labels = samples()
    found = loss(logits.requires_grad_(), torch.full_like(labels, -100), log_centroids_of(loss))
    assert found["ce"].item() == found["cmi"].item() == 0
    (gradient,) = torch.autograd.grad(found["ce"] + found["cmi"], logits)
    assert not gradient.any()


@by_reduction
def test_weight_zero_leaves_exactly_the_cross_entropy(reduction):
    """Catches a gradient of rounding size: with weight 0 the training must be plain Trainer's, bit for bit."""
    loss = CMIMLoss(OCTAVES, reduction=reduction)
    logits, labels = samples(dtype=torch.float32)
    logits.requires_grad_()
    found = loss(logits, labels, log_centroids_of(loss, unseen=0).float(), weight=0.0)
    assert found["cmi"].item() == 0
    (gradient,) = torch.autograd.grad(found["cmi"], logits, retain_graph=True)
    assert not gradient.any()
    plain = functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / (labels >= 0).sum()
    assert torch.equal(found["ce"] + found["cmi"], plain)


def test_class_without_centroid_adds_neither_value_nor_gradient():
    """Catches nan from 0 * -inf, in the value or only in the gradient, and a divisor that leaves the class out."""
    loss = CMIMLoss(OCTAVES)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    hidden = log_centroids.clone()
    hidden[:, 3] = -torch.inf
    logits.requires_grad_()
    found = loss(logits, labels, hidden)
    (gradient,) = torch.autograd.grad(found["cmi"], logits)
    assert not gradient[labels == 3].any()
    assert gradient[(labels >= 0) & (labels != 3)].any(dim=1).all()
    others = torch.where(labels == 3, -100, labels)
    alone = loss(logits, others, log_centroids, num_items=(labels >= 0).sum())
    assert found["cmi"].item() == pytest.approx(alone["cmi"].item(), rel=1e-12)
    nothing = loss(logits, labels, torch.full_like(log_centroids, -torch.inf))
    assert nothing["cmi"].item() == 0


def test_class_unseen_at_one_temperature_is_left_out_at_all():
    """Catches a class judged by a centroid of log 0 everywhere, which is as far from its samples as can be."""
    loss = CMIMLoss([1.0, 4.0])
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    everywhere, at_one = log_centroids.clone(), log_centroids.clone()
    everywhere[:, 3] = at_one[0, 3] = -torch.inf
    assert torch.equal(loss(logits, labels, at_one)["cmi"], loss(logits, labels, everywhere)["cmi"])


def test_zero_probability_in_a_centroid_stays_finite():
    """Catches an infinite loss where a class centroid computed without a floor holds a 0."""
    loss = CMIMLoss([0.25, 1.0])
    logits = torch.tensor([[0.0, 3.0], [9.0, 0.0]], requires_grad=True)
    log_centroids = torch.tensor([[0.0, -torch.inf], [-1.0, -0.5]]).expand(2, 2, 2)
    found = loss(logits, torch.tensor([0, 0]), log_centroids)
    (gradient,) = torch.autograd.grad(found["cmi"], logits)
    assert found["cmi"].isfinite()
    assert found["cmi"] > 10
    assert gradient.isfinite().all()


# Gradients


@pytest.mark.parametrize("temperature", [0.25, 1.0, 8.0])
def test_gradient_equals_closed_form(temperature):
    """Catches a gradient through only one of the two places of p, or 1 / T missing: alpha p (log p - log q - KL)."""
    loss = CMIMLoss([temperature], temperature_weighting="none")
    logits, labels = samples(ignored=0.0)
    log_centroids = log_centroids_of(loss)
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), labels, log_centroids)["cmi"], logits)
    for row, label, found in zip(logits.tolist(), labels.tolist(), gradient.tolist(), strict=True):
        probs, log_probs = reference.softmax(row, temperature), reference.log_softmax(row, temperature)
        log_centroid = log_centroids[0, label].tolist()
        divergence = reference.kl(probs, [math.exp(value) for value in log_centroid])
        for k, value in enumerate(found):
            expected = probs[k] * (log_probs[k] - log_centroid[k] - divergence) / temperature / len(labels)
            assert value == pytest.approx(expected, rel=1e-7, abs=1e-12)


@by_reduction
@pytest.mark.parametrize("previous", [None, [0.1, 0.3, 0.2]], ids=["own", "previous"])
def test_gradient_equals_finite_differences(reduction, previous):
    """Catches weights over temperatures that are no derivative: at its own terms the reduction's gradient is exact."""
    loss = CMIMLoss([0.5, 1.0, 4.0], reduction=reduction, class_weights=[1, 2, 3, 1, 2], label_smoothing=0.2)
    loss = loss.double()
    logits, labels = samples(size=12)
    log_centroids = log_centroids_of(loss, unseen=4)
    terms = None if previous is None else torch.tensor(previous, dtype=torch.float64)

    def total(varied):
        found = loss(varied, labels, log_centroids, previous_terms=terms)
        return found["ce"] + found["cmi"]

    assert torch.autograd.gradcheck(total, logits.requires_grad_())


def test_centroids_are_held_constant():
    """Catches a gradient into the centroids, which would chase the bank instead of concentrating the outputs."""
    loss = CMIMLoss([1.0, 4.0])
    logits, labels = samples()
    log_centroids = log_centroids_of(loss).requires_grad_()
    logits.requires_grad_()
    loss(logits, labels, log_centroids)["cmi"].backward()
    assert log_centroids.grad is None


# Precision and the cross-entropy


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_raised_under_autocast(dtype):
    """Catches a softmax in bf16: the loss must be exactly that of the rounded logits in fp32."""
    loss = CMIMLoss(OCTAVES)
    logits, labels = samples(dtype=dtype)
    log_centroids = log_centroids_of(loss).float()
    with torch.autocast("cpu", dtype=dtype):
        found = loss(logits, labels, log_centroids)
    expected = loss(logits.float(), labels, log_centroids)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_logits_stay_finite(dtype):
    """Catches overflow at 1e4 / 0.02 and in T^2 at 500."""
    loss = CMIMLoss([0.02, 1.0, 500.0])
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    bank = CentroidBank(3, loss.temperatures)
    bank.accumulate(logits, torch.tensor([0, 0]))
    bank.step()
    found = loss(logits, torch.tensor([0, 0]), bank.log_centroids)
    assert all(value.isfinite().all() for value in found.values())
    (gradient,) = torch.autograd.grad(found["ce"] + found["cmi"], logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.6])
def test_label_smoothing_is_that_of_torch(label_smoothing):
    """Catches smoothing over the C - 1 wrong classes instead of all C."""
    loss = CMIMLoss(OCTAVES, label_smoothing=label_smoothing)
    logits, labels = samples()
    expected = torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing)(logits, labels)
    assert loss(logits, labels, log_centroids_of(loss))["ce"].item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_class_weights_divide_by_the_number_of_labels(label_smoothing):
    """Catches torch's division by the sum of the weights, which depends on how a batch is split."""
    class_weights = [0.5, 2.0, 1.0, 3.0, 0.1]
    loss = CMIMLoss(OCTAVES, class_weights=class_weights, label_smoothing=label_smoothing)
    logits, labels = samples()
    twin = reference.smoothed_cross_entropy(logits.tolist(), labels.tolist(), class_weights, label_smoothing)
    found = loss(logits.float(), labels, log_centroids_of(loss).float())["ce"].item()
    assert found == pytest.approx(twin / (labels >= 0).sum().item(), rel=1e-5)


def test_class_weights_take_double_precision_logits():
    """Catches fp32 weights beside fp64 logits, which torch refuses though fp64 is promised to stay."""
    loss = CMIMLoss(OCTAVES, class_weights=[0.5, 2.0, 1.0, 3.0, 0.1])
    logits, labels = samples()
    found = loss(logits, labels, log_centroids_of(loss))
    assert found["ce"].dtype == torch.float64


# Schedules, presets, errors


@pytest.mark.parametrize(
    ("progress", "warmup", "ramp", "expected"),
    [
        (0.0, 0.2, 0.4, 0.0),
        (0.19, 0.2, 0.4, 0.0),
        (0.2, 0.2, 0.4, 0.0),
        (0.3, 0.2, 0.4, 0.5),
        (0.4, 0.2, 0.4, 1.0),
        (0.6, 0.2, 0.4, 2.0),
        (1.0, 0.2, 0.4, 2.0),
        (0.0, 0.0, 0.0, 2.0),
        (0.49, 0.5, 0.0, 0.0),
        (0.5, 0.5, 0.0, 2.0),
        (0.0, 0.0, 1.0, 0.0),
        (0.75, 0.0, 1.0, 1.5),
        (1.0, 0.5, 0.5, 2.0),
        (1.0, 1.0, 0.0, 2.0),
    ],
)
def test_weight_waits_rises_and_stays(progress, warmup, ramp, expected):
    """Catches a ramp that starts at 0 instead of the end of the warm-up, overshoots, or divides by 0."""
    assert ramped_weight(2.0, progress, warmup, ramp) == pytest.approx(expected)


def test_reconstruction_is_a_uniform_grid_of_powers():
    """Catches a grid uniform in T, one that holds alpha = 0, and a T^2 factor the preset does not have."""
    powers = [1 / t for t in reconstruction_temperatures(3.0, 6)]
    assert powers == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    loss = CMIMLoss.reconstruction(largest_power=3.0, num_powers=6, order=5.0)
    assert loss.temperatures == reconstruction_temperatures(3.0, 6)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    terms = twin_terms(loss, logits, labels, log_centroids)
    expected = reference.reduce_terms(terms, "power_mean", order=5.0)
    assert loss(logits, labels, log_centroids)["cmi"].item() == pytest.approx(expected, rel=1e-6)


def test_settings_show():
    """Catches a printed loss that hides what it is."""
    shown = repr(CMIMLoss([1.0, 2.0], reduction="power_mean", order=3.0, label_smoothing=0.1))
    for part in ("(1.0, 2.0)", "'squared'", "'power_mean'", "order=3.0", "label_smoothing=0.1"):
        assert part in shown


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"temperatures": []}, "at least one temperature"),
        ({"temperatures": [1.0, -1.0]}, "above 0 and finite, got -1.0"),
        ({"temperature_weighting": "square"}, "temperature_weighting.*got 'square'"),
        ({"reduction": "median"}, "reduction.*got 'median'"),
        ({"order": 0.5}, "at least 1 and finite, got 0.5"),
        ({"order": math.nan}, "at least 1 and finite, got nan"),
        ({"order": math.inf}, "order.*got inf"),
        ({"label_smoothing": 1.0}, r"label_smoothing in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing in \[0, 1\), got -0.1"),
    ],
    ids=str,
)
def test_unusable_settings_are_refused(settings, expected):
    """Catches a misspelt option that silently means the default."""
    with pytest.raises(ValueError, match=f"Expected.*{expected}"):
        CMIMLoss(**settings)


@pytest.mark.parametrize(("largest_power", "num_powers"), [(0.0, 4), (-1.0, 4), (math.nan, 4), (2.0, 0)])
def test_empty_grids_of_powers_are_refused(largest_power, num_powers):
    """Catches a grid without a temperature, or with negative ones."""
    with pytest.raises(ValueError, match="Expected largest_power > 0 and num_powers >= 1, got"):
        reconstruction_temperatures(largest_power, num_powers)


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 5, 5), (3, 5, 1), (3, 1, 5), (5, 5)], ids=str)
def test_centroids_of_another_shape_are_refused(shape):
    """Catches broadcasting: one temperature's centroids for all of them trains without a word on something else."""
    loss = CMIMLoss([0.5, 1.0, 4.0])
    logits, labels = samples()
    with pytest.raises(ValueError, match=r"(?s)Expected.*\(3, 5, 5\).*got"):
        loss(logits, labels, torch.zeros(shape) - 1)


def test_labels_must_belong_to_the_logits():
    """Catches labels broadcast over the rows of a multi-label head."""
    loss = CMIMLoss(OCTAVES)
    logits, _ = samples()
    with pytest.raises(ValueError, match="One label per row"):
        loss(logits, torch.zeros(60, CLASSES, dtype=torch.long), log_centroids_of(loss))


# The documented loop


def test_plain_loop_concentrates_the_clusters():
    """Catches an objective that is right term by term and yet only shrinks the logits, or costs accuracy."""
    plain, labels = trained_classifier(weight=0.0)
    hardened, _ = trained_classifier(weight=1.0)
    temperatures = [2.0**k for k in range(-6, 10)]
    at_four = [conditional_mutual_information(logits, labels, 4.0).item() for logits in (plain, hardened)]
    assert at_four[1] < at_four[0] / 3
    largest = [cmi_curve(logits, labels, temperatures, correct_only=True).max().item() for logits in (plain, hardened)]
    assert largest[1] < 0.9 * largest[0]
    ratios = [within_total_ratio(logits, labels).item() for logits in (plain, hardened)]
    assert ratios[1] < 0.9 * ratios[0]
    accuracies = [(logits.argmax(dim=1) == labels).double().mean().item() for logits in (plain, hardened)]
    assert accuracies[1] >= accuracies[0] - 0.02 > 0.9


# Backends


@pytest.mark.parametrize("backend", ["eager", "fused"])
@by_reduction
def test_backends_agree_with_the_twin(backend, reduction):
    """Catches a path that leaves out the weights of temperatures, num_items or classes that were not seen."""
    loss = CMIMLoss(OCTAVES, reduction=reduction, backend=backend)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss, unseen=1)
    previous = torch.linspace(0.1, 0.5, len(OCTAVES), dtype=torch.float64)
    logits.requires_grad_()
    cmi, terms, _ = loss.concentration(logits, labels, log_centroids, 0.7, 13, previous)
    twin = torch.tensor(twin_terms(loss, logits, labels, log_centroids), dtype=torch.float64)
    sums = twin * (labels >= 0).sum() / 13
    torch.testing.assert_close(terms, sums, rtol=1e-6, atol=1e-9)
    expected = 0.7 * (loss.temperature_weights(previous) * sums).sum()
    torch.testing.assert_close(cmi.detach(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("scaled", [False, True], ids=["as-they-are", "scaled"])
def test_samples_classified_wrongly_can_be_left_out(backend, scaled):
    """Catches a CMI or spread that still sees them, a gradient that concentrates them, and a CE without them."""
    scaling = Scaling(torch.tensor(0.8), torch.tensor(0.3)) if scaled else None
    logits, labels = samples()
    log_centroids = log_centroids_of(CMIMLoss(OCTAVES))
    wrong = torch.tensor([reference.argmax(row) != label for row, label in zip(logits.tolist(), labels, strict=True)])
    assert 5 < wrong.sum() < len(wrong) - 5
    settings = {"num_items": 50, "scaling": scaling}
    gradients, found = [], []
    for given, correct_only in ((labels, True), (labels.masked_fill(wrong, -100), False)):
        values = logits.clone().requires_grad_()
        loss = CMIMLoss(OCTAVES, backend=backend, correct_only=correct_only)
        found.append(loss(values, given, log_centroids, 0.7, **settings))
        gradients.append(torch.autograd.grad(found[-1]["cmi"], values)[0])
    for name in found[0].keys() - {"ce"}:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=0)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert not gradients[0][wrong].any()
    plain = CMIMLoss(OCTAVES, backend=backend)(logits, labels, log_centroids, 0.7, **settings)
    assert torch.equal(found[0]["ce"].detach(), plain["ce"])
    assert found[0]["cmi"] < plain["cmi"]


def test_backend_follows_the_size_and_the_variable(monkeypatch):
    """Catches a variable that is not read, and the operator on batches so small that starting it is the cost."""
    small, large = torch.zeros(4, 5), torch.zeros(1000, 5)
    loss = CMIMLoss(OCTAVES)
    assert not loss._is_fused(small, False)
    assert loss._is_fused(large, False)
    assert loss._is_fused(small, True), "what else it does takes as many operations more"
    monkeypatch.setenv("HF_CMIM_BACKEND", "fused")
    assert loss._is_fused(small, False)
    assert not CMIMLoss(OCTAVES, backend="eager")._is_fused(small, False)
    monkeypatch.delenv("HF_CMIM_BACKEND")
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float16, numel=lambda: 20)
    assert loss._is_fused(on_gpu, False)
    on_gpu.dtype = torch.float64
    assert not loss._is_fused(on_gpu, False)
    on_gpu.dtype = torch.float32
    monkeypatch.setattr("hf_cmim.functional.fused._has_triton", lambda: False)
    assert not loss._is_fused(on_gpu, False)
    monkeypatch.setenv("HF_CMIM_BACKEND", "cuda")
    with pytest.raises(ValueError, match="Expected HF_CMIM_BACKEND to be one of.*got 'cuda'"):
        loss._is_fused(small, False)
    with pytest.raises(ValueError, match="Expected a backend of.*got 'fast'"):
        CMIMLoss(OCTAVES, backend="fast")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("form", ["as it is", "scaled", "share"])
def test_compiled_objective_has_no_graph_break(backend, form):
    """Catches a step that torch.compile takes apart, and a compiled loss that is another."""
    weighting = "information" if form == "share" else "squared"
    loss = CMIMLoss(OCTAVES, backend=backend, temperature_weighting=weighting, correct_only=form != "as it is")
    logits, labels = samples()
    log_centroids = log_centroids_of(loss).float()
    known = {"num_items": 13, "previous_terms": torch.ones(len(OCTAVES))}
    if form == "scaled":
        known["scaling"] = Scaling(torch.tensor(1.3), torch.tensor(0.2))
    elif form == "share":
        known["information"] = label_information(log_centroids.exp(), log_centroids, torch.ones(5))

    def total(values):
        components = loss(values, labels, log_centroids, 0.7, **known)
        return components["ce"] + components["cmi"]

    compiled = torch.compile(total, fullgraph=True)
    plain, other = logits.float().requires_grad_(), logits.float().requires_grad_()
    total(plain).backward()
    compiled(other).backward()
    torch.testing.assert_close(other.grad, plain.grad)
