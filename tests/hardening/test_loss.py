"""CMIMLoss against the slow twin, its closed-form gradient, torch's cross-entropy, and splits of a batch."""

import math
from types import SimpleNamespace

import pytest
import reference
import torch
from plain_loop import trained_classifier
from torch.nn import functional

from hf_cmim import CentroidBank, CMIMLoss, ObjectiveSpec
from hf_cmim.functional import class_centroids, cmi_curve, conditional_mutual_information, within_total_ratio
from hf_cmim.hardening.forms.share import label_information
from hf_cmim.hardening.kernels.problem import Scaling
from hf_cmim.hardening.loss import ramped_weight
from hf_cmim.hardening.parts import Snapshot

CLASSES = 5
OCTAVES = [2.0**k for k in range(-2, 5)]  # both sides of max(1, T^2)
by_backend = pytest.mark.parametrize("backend", ["eager", "fused"])


def plain_loss(temperatures=OCTAVES, *, backend="auto", **settings):
    return CMIMLoss(ObjectiveSpec("plain", tuple(temperatures), **settings), backend=backend)


def samples(seed=0, dtype=torch.float64, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=dtype), torch.tensor(labels)


def log_centroids_of(loss, seed=9, unseen=None):
    """Centroids of other samples than the loss is asked about, as the bank's are."""
    centroids = class_centroids(*samples(seed, scale=1.0), loss.spec.temperatures).log()
    if unseen is not None:
        centroids[:, unseen] = -torch.inf
    return centroids


def twin_terms(loss, logits, labels, log_centroids):
    """Mean divergence at each temperature, by the twin."""
    tables = [
        [None if row[0] == -math.inf else [math.exp(value) for value in row] for row in level]
        for level in log_centroids.tolist()
    ]
    sums = reference.divergence_terms(logits.tolist(), labels.tolist(), tables, loss.spec.temperatures)
    count = sum(label >= 0 for label in labels.tolist())
    return [value / count for value in sums]


def weighted_mean(loss, terms):
    """Mean over the temperatures of max(1, T^2) times a term."""
    pairs = zip(loss.spec.temperatures, terms, strict=True)
    return math.fsum(max(1.0, temperature**2) * term for temperature, term in pairs) / len(terms)


# Values


@by_backend
@pytest.mark.parametrize("unseen", [None, 3])
def test_parts_equal_twin(backend, unseen):
    """Catches a wrong factor max(1, T^2), a sum over temperatures, a mean over seen classes only, a lost weight."""
    loss = plain_loss(backend=backend)
    logits, labels = samples()
    log_centroids = log_centroids_of(loss, unseen=unseen)
    found = loss(logits, labels, Snapshot(log_centroids), weight=0.7)
    terms = twin_terms(loss, logits, labels, log_centroids)
    assert found.cmi_per_temperature.tolist() == pytest.approx(terms, rel=1e-9)
    assert found.cmi.item() == pytest.approx(0.7 * weighted_mean(loss, terms), rel=1e-6)
    count = (labels >= 0).sum().item()
    cross_entropy = reference.smoothed_cross_entropy(logits.tolist(), labels.tolist()) / count
    assert found.ce.item() == pytest.approx(cross_entropy, rel=1e-12)


def test_exact_centroids_give_the_conditional_mutual_information():
    """Catches a divergence the wrong way round: from the centroid to the sample it is another quantity."""
    loss = plain_loss([1.0, 4.0])
    logits, labels = samples()
    terms = loss(logits, labels, Snapshot(class_centroids(logits, labels, [1.0, 4.0]).log())).cmi_per_temperature
    for term, temperature in zip(terms, [1.0, 4.0], strict=True):
        expected = conditional_mutual_information(logits, labels, temperature)
        assert term.item() == pytest.approx(expected.item(), rel=1e-9)


# The contract


@by_backend
def test_loss_is_the_sum_of_its_two_parts(backend):
    """Catches a third differentiable part, and per-temperature terms that keep the graph alive in the logs."""
    loss = plain_loss(backend=backend)
    logits, labels = samples()
    found = loss(logits.requires_grad_(), labels, Snapshot(log_centroids_of(loss)))
    assert found.ce.shape == found.cmi.shape == ()
    tensors = {name: value for name, value in found._asdict().items() if value is not None}
    assert [name for name, value in tensors.items() if value.requires_grad] == ["ce", "cmi"]
    assert found.cmi_per_temperature.shape == (7,)


def test_token_classification_is_flattened():
    """Catches a loss per sentence."""
    loss = plain_loss()
    logits, labels = samples()
    snapshot = Snapshot(log_centroids_of(loss))
    flat = loss(logits, labels, snapshot)
    shaped = loss(logits.reshape(6, 10, CLASSES), labels.reshape(6, 10), snapshot)
    torch.testing.assert_close(shaped, flat, rtol=0, atol=0)


@by_backend
@pytest.mark.parametrize("sizes", [[20] * 3, [7, 1, 30, 0, 22]], ids=["equal", "ragged"])
def test_parts_of_a_batch_add_up_to_it(sizes, backend):
    """Catches a division by the part's own count."""
    loss = plain_loss(class_weights=[1.0, 2.0, 0.5, 1.0, 3.0], label_smoothing=0.1, backend=backend).double()
    logits, labels = samples()
    labels[20:28] = -100  # one part is nearly empty
    snapshot, count = Snapshot(log_centroids_of(loss, unseen=1)), (labels >= 0).sum()
    whole = loss(logits, labels, snapshot, 0.5, num_items=count)
    split = list(zip(logits.split(sizes), labels.split(sizes), strict=True))
    parts = [loss(*part, snapshot, 0.5, num_items=count) for part in split]
    for name in ("ce", "cmi", "cmi_per_temperature"):
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(total, getattr(whole, name), rtol=1e-12, atol=0)


def test_without_num_items_the_batch_divides_by_its_valid_labels():
    """Catches a division by the batch size, under which padding would weaken the loss."""
    loss = plain_loss()
    logits, labels = samples()
    snapshot = Snapshot(log_centroids_of(loss))
    kept = loss(logits[labels >= 0], labels[labels >= 0], snapshot, num_items=int((labels >= 0).sum()))
    found = loss(logits, labels, snapshot)
    torch.testing.assert_close(found[:3], kept[:3], rtol=1e-12, atol=0)


def test_ignored_labels_alone_give_zero():
    """Catches 0 / 0 = nan where a micro-batch holds only padding."""
    loss = plain_loss()
    logits, labels = samples()
    found = loss(logits.requires_grad_(), torch.full_like(labels, -100), Snapshot(log_centroids_of(loss)))
    assert found.ce.item() == found.cmi.item() == 0
    (gradient,) = torch.autograd.grad(found.ce + found.cmi, logits)
    assert not gradient.any()


def test_weight_zero_leaves_exactly_the_cross_entropy():
    """Catches a gradient of rounding size: with weight 0 the training must be plain Trainer's, bit for bit."""
    loss = plain_loss()
    logits, labels = samples(dtype=torch.float32)
    logits.requires_grad_()
    found = loss(logits, labels, Snapshot(log_centroids_of(loss, unseen=0).float()), weight=0.0)
    assert found.cmi.item() == 0
    (gradient,) = torch.autograd.grad(found.cmi, logits, retain_graph=True)
    assert not gradient.any()
    plain = functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / (labels >= 0).sum()
    assert torch.equal(found.ce + found.cmi, plain)


def test_class_without_centroid_adds_neither_value_nor_gradient():
    """Catches nan from 0 * -inf, in the value or only in the gradient, and a divisor that leaves the class out."""
    loss = plain_loss()
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    hidden = log_centroids.clone()
    hidden[:, 3] = -torch.inf
    logits.requires_grad_()
    found = loss(logits, labels, Snapshot(hidden))
    (gradient,) = torch.autograd.grad(found.cmi, logits)
    assert not gradient[labels == 3].any()
    assert gradient[(labels >= 0) & (labels != 3)].any(dim=1).all()
    others = torch.where(labels == 3, -100, labels)
    alone = loss(logits, others, Snapshot(log_centroids), num_items=(labels >= 0).sum())
    assert found.cmi.item() == pytest.approx(alone.cmi.item(), rel=1e-12)
    nothing = loss(logits, labels, Snapshot(torch.full_like(log_centroids, -torch.inf)))
    assert nothing.cmi.item() == 0


def test_class_unseen_at_one_temperature_is_left_out_at_all():
    """Catches a class judged by a centroid of log 0 everywhere, which is as far from its samples as can be."""
    loss = plain_loss([1.0, 4.0])
    logits, labels = samples()
    log_centroids = log_centroids_of(loss)
    everywhere, at_one = log_centroids.clone(), log_centroids.clone()
    everywhere[:, 3] = at_one[0, 3] = -torch.inf
    found = [loss(logits, labels, Snapshot(table)).cmi for table in (at_one, everywhere)]
    assert torch.equal(*found)


def test_zero_probability_in_a_centroid_stays_finite():
    """Catches an infinite loss where a class centroid computed without a floor holds a 0."""
    loss = plain_loss([0.25, 1.0])
    logits = torch.tensor([[0.0, 3.0], [9.0, 0.0]], requires_grad=True)
    log_centroids = torch.tensor([[0.0, -torch.inf], [-1.0, -0.5]]).expand(2, 2, 2)
    found = loss(logits, torch.tensor([0, 0]), Snapshot(log_centroids))
    (gradient,) = torch.autograd.grad(found.cmi, logits)
    assert found.cmi.isfinite()
    assert found.cmi > 10
    assert gradient.isfinite().all()


# Gradients


@by_backend
@pytest.mark.parametrize("temperature", [0.25, 1.0, 8.0])
def test_gradient_equals_closed_form(temperature, backend):
    """Catches a gradient through only one of the two places of p, or 1 / T missing: alpha p (log p - log q - KL)."""
    loss, factor = plain_loss([temperature], backend=backend), max(1.0, temperature**2)
    logits, labels = samples(ignored=0.0)
    log_centroids = log_centroids_of(loss)
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), labels, Snapshot(log_centroids)).cmi, logits)
    for row, label, found in zip(logits.tolist(), labels.tolist(), gradient.tolist(), strict=True):
        probs, log_probs = reference.softmax(row, temperature), reference.log_softmax(row, temperature)
        log_centroid = log_centroids[0, label].tolist()
        divergence = reference.kl(probs, [math.exp(value) for value in log_centroid])
        for k, value in enumerate(found):
            expected = probs[k] * (log_probs[k] - log_centroid[k] - divergence) / temperature / len(labels)
            assert value == pytest.approx(factor * expected, rel=1e-7, abs=1e-12)


@by_backend
def test_gradient_equals_finite_differences(backend):
    """Catches a gradient of another loss than the value: class weights, smoothing and a class without a centroid."""
    loss = plain_loss([0.5, 1.0, 4.0], class_weights=[1, 2, 3, 1, 2], label_smoothing=0.2, backend=backend).double()
    logits, labels = samples(size=12)
    snapshot = Snapshot(log_centroids_of(loss, unseen=4))

    def total(varied):
        found = loss(varied, labels, snapshot)
        return found.ce + found.cmi

    assert torch.autograd.gradcheck(total, logits.requires_grad_())


def test_centroids_are_held_constant():
    """Catches a gradient into the centroids, which would chase the bank instead of concentrating the outputs."""
    loss = plain_loss([1.0, 4.0])
    logits, labels = samples()
    log_centroids = log_centroids_of(loss).requires_grad_()
    logits.requires_grad_()
    loss(logits, labels, Snapshot(log_centroids)).cmi.backward()
    assert log_centroids.grad is None


# Precision and the cross-entropy


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_raised_under_autocast(dtype):
    """Catches a softmax in bf16: the loss must be exactly that of the rounded logits in fp32."""
    loss = plain_loss()
    logits, labels = samples(dtype=dtype)
    log_centroids = log_centroids_of(loss).float()
    with torch.autocast("cpu", dtype=dtype):
        found = loss(logits, labels, Snapshot(log_centroids))
    expected = loss(logits.float(), labels, Snapshot(log_centroids))
    for value, other in zip(found[:4], expected[:4], strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_extreme_logits_stay_finite(dtype):
    """Catches overflow at 1e4 / 0.02 and in T^2 at 500."""
    loss = plain_loss([0.02, 1.0, 500.0])
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    bank = CentroidBank(3, loss.spec)
    bank.accumulate(logits, torch.tensor([0, 0]))
    bank.step()
    found = loss(logits, torch.tensor([0, 0]), bank.snapshot())
    assert all(value.isfinite().all() for value in found)
    (gradient,) = torch.autograd.grad(found.ce + found.cmi, logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.6])
def test_label_smoothing_is_that_of_torch(label_smoothing):
    """Catches smoothing over the C - 1 wrong classes instead of all C."""
    loss = plain_loss(label_smoothing=label_smoothing)
    logits, labels = samples()
    expected = torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing)(logits, labels)
    found = loss(logits, labels, Snapshot(log_centroids_of(loss)))
    assert found.ce.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_class_weights_divide_by_the_number_of_labels(label_smoothing):
    """Catches torch's division by the sum of the weights, which depends on how a batch is split."""
    class_weights = [0.5, 2.0, 1.0, 3.0, 0.1]
    loss = plain_loss(class_weights=class_weights, label_smoothing=label_smoothing)
    logits, labels = samples()
    twin = reference.smoothed_cross_entropy(logits.tolist(), labels.tolist(), class_weights, label_smoothing)
    found = loss(logits.float(), labels, Snapshot(log_centroids_of(loss).float())).ce.item()
    assert found == pytest.approx(twin / (labels >= 0).sum().item(), rel=1e-5)


def test_class_weights_take_double_precision_logits():
    """Catches fp32 weights beside fp64 logits, which torch refuses though fp64 is promised to stay."""
    loss = plain_loss(class_weights=[0.5, 2.0, 1.0, 3.0, 0.1])
    logits, labels = samples()
    found = loss(logits, labels, Snapshot(log_centroids_of(loss)))
    assert found.ce.dtype == torch.float64


# Schedules and errors


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


def test_settings_show():
    """Catches a printed loss that hides what it is."""
    spec = ObjectiveSpec("share", (1.0, 2.0), correct_only=True, label_smoothing=0.1)
    assert repr(CMIMLoss(spec)) == f"CMIMLoss({spec!r})"
    for part in ("form='share'", "(1.0, 2.0)", "correct_only=True", "label_smoothing=0.1"):
        assert part in repr(spec)


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 5, 5), (3, 5, 1), (3, 1, 5), (5, 5)], ids=str)
def test_centroids_of_another_shape_are_refused(shape):
    """Catches broadcasting: one temperature's centroids for all of them trains without a word on something else."""
    loss = plain_loss([0.5, 1.0, 4.0])
    logits, labels = samples()
    with pytest.raises(ValueError, match=r"(?s)Expected.*\(3, 5, 5\).*got"):
        loss(logits, labels, Snapshot(torch.zeros(shape) - 1))


def test_labels_must_belong_to_the_logits():
    """Catches labels broadcast over the rows of a multi-label head."""
    loss = plain_loss()
    logits, _ = samples()
    with pytest.raises(ValueError, match="One label per row"):
        loss(logits, torch.zeros(60, CLASSES, dtype=torch.long), Snapshot(log_centroids_of(loss)))


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


@by_backend
@pytest.mark.parametrize("form", ["plain", "scaled"])
def test_samples_classified_wrongly_can_be_left_out(backend, form):
    """Catches a CMI or spread that still sees them, a gradient that concentrates them, and a CE without them."""
    scaling = Scaling(torch.tensor(0.8), torch.tensor(0.3)) if form == "scaled" else None
    logits, labels = samples()
    snapshot = Snapshot(log_centroids_of(plain_loss()), None, scaling)
    wrong = torch.tensor([reference.argmax(row) != label for row, label in zip(logits.tolist(), labels, strict=True)])
    assert 5 < wrong.sum() < len(wrong) - 5
    gradients, found = [], []
    for given, correct_only in ((labels, True), (labels.masked_fill(wrong, -100), False)):
        values = logits.clone().requires_grad_()
        loss = CMIMLoss(ObjectiveSpec(form, tuple(OCTAVES), correct_only=correct_only), backend=backend)
        found.append(loss(values, given, snapshot, 0.7, num_items=50))
        gradients.append(torch.autograd.grad(found[-1].cmi, values)[0])
    for name in ("cmi", "cmi_per_temperature", "sums", "counted"):
        torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name), rtol=0, atol=0)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert not gradients[0][wrong].any()
    every = CMIMLoss(ObjectiveSpec(form, tuple(OCTAVES)), backend=backend)(logits, labels, snapshot, 0.7, num_items=50)
    assert torch.equal(found[0].ce.detach(), every.ce)
    assert found[0].cmi < every.cmi


@by_backend
def test_cross_entropy_of_the_caller_replaces_its_own(backend):
    """Catches a user's loss function that is computed and forgotten."""
    loss, (logits, labels) = plain_loss(backend=backend), samples()
    snapshot = Snapshot(log_centroids_of(loss))
    found, own = (loss(logits, labels, snapshot, cross_entropy=value) for value in (torch.tensor(3.0), None))
    assert found.ce.item() == 3
    assert own.ce.item() != 3
    assert torch.equal(found.cmi, own.cmi)


def test_backend_follows_the_device_and_the_variable(monkeypatch):
    """Catches a variable that is not read, and the operator where a device has none."""
    small = torch.zeros(4, 5)
    loss = plain_loss()
    assert loss._is_fused(small)
    monkeypatch.setenv("HF_CMIM_BACKEND", "eager")
    assert not loss._is_fused(small)
    assert plain_loss(backend="fused")._is_fused(small)
    monkeypatch.setenv("HF_CMIM_BACKEND", "fused")
    assert loss._is_fused(small)
    assert not plain_loss(backend="eager")._is_fused(small)
    monkeypatch.delenv("HF_CMIM_BACKEND")
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float16, numel=lambda: 20)
    assert loss._is_fused(on_gpu)
    on_gpu.dtype = torch.float64
    assert not loss._is_fused(on_gpu)
    on_gpu.dtype = torch.float32
    monkeypatch.setattr("hf_cmim.hardening.kernels.operator._has_triton", lambda: False)
    assert not loss._is_fused(on_gpu)
    monkeypatch.setenv("HF_CMIM_BACKEND", "cuda")
    with pytest.raises(ValueError, match="Expected HF_CMIM_BACKEND to be one of.*got 'cuda'"):
        loss._is_fused(small)
    with pytest.raises(ValueError, match="Expected a backend of.*got 'fast'"):
        plain_loss(backend="fast")


@pytest.mark.slow
@by_backend
@pytest.mark.parametrize("form", ["plain", "scaled", "share"])
def test_compiled_objective_has_no_graph_break(backend, form):
    """Catches a step that torch.compile takes apart, and a compiled loss that is another."""
    loss = CMIMLoss(ObjectiveSpec(form, tuple(OCTAVES), correct_only=form != "plain"), backend=backend)
    logits, labels = samples()
    log_centroids, state = log_centroids_of(loss).float(), None
    if form == "scaled":
        state = Scaling(torch.tensor(1.3), torch.tensor(0.2))
    elif form == "share":
        state = label_information(log_centroids.exp(), log_centroids, torch.ones(5))
    snapshot = Snapshot(log_centroids, torch.ones(len(OCTAVES)), state)

    def total(values):
        parts = loss(values, labels, snapshot, 0.7, num_items=13)
        return parts.ce + parts.cmi

    compiled = torch.compile(total, fullgraph=True)
    plain, other = logits.float().requires_grad_(), logits.float().requires_grad_()
    total(plain).backward()
    compiled(other).backward()
    torch.testing.assert_close(other.grad, plain.grad)
