"""One scale for all logits: the multiplier's running spread, and a gradient that leaves their own scale alone."""

import copy
import math
import statistics

import pytest
import reference
import torch
from parts import parts_of
from plain_loop import trained_classifier

from hf_cmim import CentroidBank, CMIMLoss, ObjectiveSpec
from hf_cmim.functional import class_centroids, within_total_ratio
from hf_cmim.functional.inputs import masked_classes
from hf_cmim.functional.spread import spread_of
from hf_cmim.hardening.kernels.problem import Scaling
from hf_cmim.hardening.parts import Snapshot

CLASSES, SCALE, WINDOW = 5, 4.0, 20.0
TEMPERATURES = (0.5, 1.0, 4.0)
SPEC = ObjectiveSpec("scaled", TEMPERATURES, logit_scale=SCALE, window=WINDOW)
by_backend = pytest.mark.parametrize("backend", ["eager", "fused"])


def samples(seed=0, dtype=torch.float64, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=dtype), torch.tensor(labels)


def scaled_bank():
    return CentroidBank(CLASSES, SPEC)


def seen_by_loss(logits, labels, pull=0.0):
    """What a loss says of a micro-batch whose CMI pulls like this."""
    return parts_of(labels, torch.zeros(3), torch.stack([torch.tensor(pull), *spread_of(logits, labels)]))


def concentration(logits, labels, log_centroids, scaling, backend="eager", num_items=13):
    """The CMI part of a loss; without a scaling that of the plain form."""
    spec = SPEC if scaling is not None else ObjectiveSpec("plain", TEMPERATURES)
    snapshot = Snapshot(log_centroids, torch.tensor([0.3, 0.1, 0.2], dtype=logits.dtype), scaling)
    return CMIMLoss(spec, backend=backend).concentration(logits, labels, snapshot, 0.7, num_items)


def own_scaling(logits, labels, log_centroids, **settings):
    """The state of a bank whose last step was this very batch, of `num_items` valid samples."""
    total, count = spread_of(logits.detach(), labels)
    multiplier = SCALE / (total / count).sqrt()
    first = Scaling(multiplier, torch.zeros(()))
    found = concentration(logits.detach().requires_grad_(), labels, log_centroids, first, **settings)
    return Scaling(multiplier, found.sums[0] / (total / count))


# The spread


def test_spread_is_the_population_variance_of_each_sample():
    """Catches a variance over the batch, over n - 1, and samples that are to be ignored."""
    logits, labels = samples()
    total, count = spread_of(logits, labels)
    rows, _ = reference.valid_samples(logits.tolist(), labels.tolist())
    assert total.item() == pytest.approx(math.fsum(statistics.pvariance(row) for row in rows), rel=1e-12)
    assert count.item() == len(rows) < len(labels)


def test_masked_classes_are_left_out_of_the_spread():
    """Catches a spread of nan or infinity, a mean over all classes, a sample of one class, a nan in the gradient."""
    rows = [[1.0, 3.0, 5.0], [1.0, -torch.inf, 2.0], [-1e4, 7.0, -1e4], [-1e9, 4.0, 0.0]]
    logits = torch.tensor(rows, requires_grad=True)
    total, count = spread_of(logits, torch.tensor([0, 2, 1, 1]), masked_classes(logits))
    total.backward()
    assert (total.item(), count.item()) == (pytest.approx(8 / 3 + 0.25 + 4), 3)
    # The derivative of a variance is 2 (z - mean) / n.
    expected = [[-4 / 3, 0, 4 / 3], [-0.5, 0, 0.5], [0, 0, 0], [0, 2, -2]]
    torch.testing.assert_close(logits.grad, torch.tensor(expected))


def test_spread_of_masked_logits_can_be_derived_twice():
    """Catches a gradient penalty for which the mask is lost on the way."""
    logits, labels = samples(size=6)
    mask = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.autograd.gradcheck(lambda values: spread_of(values, labels, mask)[0], logits.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda values: spread_of(values, labels, mask)[0], logits)


def test_spread_can_be_derived_twice():
    """Catches a gradient penalty that silently takes the mean of the logits for a constant."""
    logits, labels = samples(size=6)
    assert torch.autograd.gradcheck(lambda values: spread_of(values, labels)[0], logits.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda values: spread_of(values, labels)[0], logits)


def test_multiplier_follows_the_running_spread():
    """Catches an average by steps, one that starts at 0, and what comes late where logits grow fast."""
    average = reference.MovingAverage(1, WINDOW)
    bank = scaled_bank()
    for seed, size in enumerate((7, 30, 1, 11)):
        logits, labels = samples(seed, torch.float32, size=size, scale=0.1 + 2.0 * seed)
        bank.accumulate(logits, labels, seen_by_loss(logits, labels, 0.5))
        bank.step()
        rows, _ = reference.valid_samples(logits.tolist(), labels.tolist())
        # A batch weighs by its size, and is spread evenly, as in the bank.
        average.add([[statistics.pvariance(row)] for row in rows], [0] * len(rows))
        assert bank.form.spread.item() == pytest.approx(average.means()[0][0], rel=1e-5)
        assert bank.form.spread_mass.item() == pytest.approx(average.mass()[0], rel=1e-5)
        own = statistics.fmean(map(statistics.pvariance, rows))
        largest = max(bank.form.spread.item(), own)
        assert bank.form.outward.item() == pytest.approx(0.5 / own * bank.form.spread.item() / largest, rel=1e-5)
        assert bank.form.multiplier.item() == pytest.approx(min(1, SCALE / largest**0.5), rel=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0])
def test_small_logits_are_not_stretched(scale):
    """Catches noise of a model that is hardly trained made large, which merges its classes, and a division by 0."""
    logits, labels = samples(dtype=torch.float32, scale=1.0)
    bank = scaled_bank()
    bank.accumulate(scale * logits, labels, seen_by_loss(scale * logits, labels, 0.25 * scale**2))
    bank.step()
    assert bank.form.multiplier.item() == 1
    total, count = spread_of(logits, labels)
    assert bank.form.outward.item() == pytest.approx(0.25 * (count / total).item() if scale else 0, rel=1e-4)
    assert bank.log_probs.isfinite().all()


def test_centroids_are_those_of_scaled_logits():
    """Catches centroids at the model's own scale, or a first step that is not scaled."""
    logits, labels = samples(dtype=torch.float32)
    bank = scaled_bank()
    bank.accumulate(logits, labels, seen_by_loss(logits, labels))
    bank.step()
    expected = class_centroids(logits * bank.form.multiplier, labels, TEMPERATURES)
    torch.testing.assert_close(bank.probs, expected, rtol=1e-5, atol=1e-6)
    filled = scaled_bank()
    filled.fill([(logits, labels), (logits, labels)])
    torch.testing.assert_close(filled.probs, bank.probs, rtol=1e-5, atol=1e-6)
    filled.fill([(3 * logits, labels)])
    torch.testing.assert_close(filled.form.multiplier, bank.form.multiplier)  # steps move it, no pass


# The gradient


@by_backend
def test_gradient_is_that_of_a_multiplier_that_follows_the_logits(backend):
    """Catches a pull of the wrong sign, size or share, left in or taken away twice: derived anew by autograd."""
    logits, labels = samples()
    log_centroids = class_centroids(*samples(9, scale=1.0), TEMPERATURES).log()
    valid = labels >= 0
    settings = {"backend": backend, "num_items": int(valid.sum())}
    scaling = own_scaling(logits, labels, log_centroids, **settings)
    found = concentration(logits.requires_grad_(), labels, log_centroids, scaling, **settings).cmi
    (gradient,) = torch.autograd.grad(found, logits)

    spread = logits[valid].var(dim=1, correction=0).mean()
    following = logits * (SCALE / spread.sqrt())
    settings["backend"] = "eager"
    expected = concentration(following, labels, log_centroids, None, **settings).cmi
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)  # taking the pull away has no value
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)
    held = concentration(logits * scaling.multiplier, labels, log_centroids, None, **settings).cmi
    assert (torch.autograd.grad(held, logits)[0] - gradient).norm() > 0.1 * gradient.norm()


@by_backend
def test_pull_is_the_derivative_by_a_common_factor(backend):
    """Catches a pull that carries the weight, which rises from step to step, or the multiplier."""
    logits, labels = samples()
    log_centroids = class_centroids(*samples(9, scale=1.0), TEMPERATURES).log()
    log_centroids[:, 2] = -torch.inf
    scaling = Scaling(torch.tensor(1.7), torch.tensor(0.3))
    found = concentration(logits.requires_grad_(), labels, log_centroids, scaling, backend=backend).sums
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = concentration(logits.detach() * 1.7 * factor, labels, log_centroids, None).cmi / 0.7
    (expected,) = torch.autograd.grad(value, factor)
    assert found.tolist() == pytest.approx(
        [expected.item(), *map(float, spread_of(logits.detach(), labels))], rel=1e-5
    )
    assert not found.requires_grad


@by_backend
def test_a_factor_on_all_logits_changes_nothing(backend):
    """Catches a CMI that falls when the model shrinks its logits, which hides nothing."""
    logits, labels = samples()
    log_centroids = class_centroids(*samples(9, scale=1.0), TEMPERATURES).log()
    values, gradients = [], []
    for factor in (1.0, 0.01):
        shrunk = (factor * logits).requires_grad_()
        scaling = own_scaling(shrunk, labels, log_centroids, backend=backend)
        cmi = concentration(shrunk, labels, log_centroids, scaling, backend=backend).cmi
        values.append(cmi.item())
        gradients.append(factor * torch.autograd.grad(cmi, shrunk)[0])
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


@by_backend
def test_micro_batches_add_up(backend):
    """Catches a scale of each micro-batch for itself, which makes the loss depend on how a batch is split."""
    logits, labels = samples()
    log_centroids = class_centroids(*samples(9, scale=1.0), TEMPERATURES).log()
    scaling = Scaling(torch.tensor(1.3), torch.tensor(0.2))
    whole = concentration(logits.requires_grad_(), labels, log_centroids, scaling, backend=backend)
    (gradient,) = torch.autograd.grad(whole.cmi, logits)
    parts = [
        concentration(part, part_labels, log_centroids, scaling, backend=backend)
        for part, part_labels in zip(logits.split([7, 1, 30, 0, 22]), labels.split([7, 1, 30, 0, 22]), strict=True)
    ]
    (split_gradient,) = torch.autograd.grad(sum(part.cmi for part in parts), logits)
    torch.testing.assert_close(split_gradient, gradient, rtol=1e-5, atol=1e-9)
    assert sum(part.sums for part in parts).tolist() == pytest.approx(whole.sums.tolist(), rel=1e-5)
    banks = [scaled_bank(), scaled_bank()]
    banks[0].accumulate(logits, labels, parts_of(labels, torch.zeros(3), whole.sums))
    for part, part_labels, found in zip(
        logits.split([7, 1, 30, 0, 22]), labels.split([7, 1, 30, 0, 22]), parts, strict=True
    ):
        banks[1].accumulate(part, part_labels, parts_of(part_labels, torch.zeros(3), found.sums))
    for bank in banks:
        bank.step()
    assert banks[0].form.outward.item() == pytest.approx(banks[1].form.outward.item(), rel=1e-4)
    assert banks[0].form.multiplier.item() == pytest.approx(banks[1].form.multiplier.item(), rel=1e-5)
    total, count = spread_of(logits.detach(), labels)
    assert banks[0].form.outward.item() == pytest.approx((whole.sums[0] * count / total).item(), rel=1e-5)


@by_backend
def test_nothing_is_pulled_without_a_gradient(backend):
    """Catches a pull of nan while the weight is still 0, and an evaluation that pays for what only training needs."""
    logits, labels = samples()
    loss, scaling = CMIMLoss(SPEC, backend=backend), Scaling(torch.tensor(1.3), torch.tensor(0.2))
    snapshot = Snapshot(class_centroids(logits, labels, TEMPERATURES).log(), None, scaling)
    waiting, full = (loss(logits.requires_grad_(), labels, snapshot, weight) for weight in (0.0, 2.0))
    assert waiting.cmi.item() == 0
    assert torch.equal(waiting.sums, full.sums)
    assert full.sums[0] != 0
    with torch.no_grad():
        evaluated = loss(logits, labels, snapshot).sums
    assert evaluated.tolist() == pytest.approx([0.0, *full.sums[1:].tolist()])


@by_backend
@pytest.mark.parametrize("fill", [-torch.inf, -1e4, torch.finfo(torch.float32).min])
def test_samples_with_a_masked_class_are_those_of_a_smaller_model(backend, fill):
    """Catches 0 * inf, a scale that the mask sets, and a pull of other samples than those of the spread."""
    logits, labels = samples(ignored=0.2)
    log_centroids = class_centroids(*samples(9, scale=1.0), TEMPERATURES).log()
    rows, kept = labels == 1, [0, 1, 2, 4]
    scaling = Scaling(torch.tensor(1.3), torch.tensor(0.2))
    masked = logits.masked_fill(rows.unsqueeze(1) & (torch.arange(CLASSES) == 3), fill).requires_grad_()
    found = concentration(masked, labels, log_centroids, scaling, backend=backend)
    found.cmi.backward()
    others = logits.clone().requires_grad_()
    rest = concentration(others, labels.masked_fill(rows, -100), log_centroids, scaling, backend="eager")
    fewer = logits[:, kept].clone().requires_grad_()
    smaller = log_centroids[:, kept][:, :, kept]
    alone = concentration(fewer, labels.masked_fill(~rows, -100), smaller, scaling, backend="eager")
    (rest.cmi + alone.cmi).backward()
    assert found.cmi.item() == pytest.approx((rest.cmi + alone.cmi).item(), rel=1e-6)
    assert found.sums.tolist() == pytest.approx((rest.sums + alone.sums).tolist(), rel=1e-6)
    expected = others.grad.clone()
    expected[:, kept] += fewer.grad
    torch.testing.assert_close(masked.grad, expected, rtol=1e-6, atol=1e-9)
    assert not masked.grad[rows, 3].any()


@by_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_before_it_is_scaled(dtype, backend):
    """Catches a multiplier that overflows half precision, or sums in it."""
    logits, labels = samples(dtype=dtype, size=400)
    log_centroids = class_centroids(*samples(9, scale=1.0), TEMPERATURES).log().float()
    scaling = Scaling(torch.tensor(300.0), torch.tensor(0.2))
    found = concentration(logits.requires_grad_(), labels, log_centroids, scaling, backend=backend)
    expected = concentration(logits.detach().float().requires_grad_(), labels, log_centroids, scaling)
    assert found.cmi.dtype == torch.float32
    assert found.cmi.item() == pytest.approx(expected.cmi.item(), rel=1e-4)
    assert found.sums.tolist() == pytest.approx(expected.sums.tolist(), rel=1e-3)


# The loop


def ratio_and_scale(logits, labels):
    total, count = spread_of(logits, labels)
    return within_total_ratio(logits, labels).item(), (total / count).sqrt().item()


def test_scaled_training_concentrates_and_does_not_shrink():
    """Catches a scale that is driven to 0: by the CMI as it stands, and worse by one whose pull is not taken away."""
    plain_ratio, plain_scale = ratio_and_scale(*trained_classifier(1.0))
    ratio, scale = ratio_and_scale(*trained_classifier(1.0, "scaled"))
    assert ratio < plain_ratio
    assert scale > 3 * plain_scale
    assert ratio_and_scale(*trained_classifier(1.0, "scaled", forgets_pull=True))[1] < 0.3 * scale


def test_forgotten_pull_is_refused():
    """Catches a loop that gives the bank no parts: logits would only shrink."""
    logits, labels = samples(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"Expected the parts of a loss.*to the scale 4, got none"):
        scaled_bank().accumulate(logits, labels)


def test_state_is_kept():
    """Catches a resumed training that begins at multiplier 1, or forgets how strongly it was pulled."""
    bank = scaled_bank()
    logits, labels = samples(dtype=torch.float32)
    bank.accumulate(logits, labels, seen_by_loss(logits, labels, 0.4))
    bank.step()
    restored = scaled_bank()
    restored.load_state_dict(copy.deepcopy(bank.state_dict()))
    for name in ("spread", "spread_mass", "multiplier", "outward"):
        assert torch.equal(getattr(restored.form, name), getattr(bank.form, name))
        assert getattr(bank.form, name).item() > 0
