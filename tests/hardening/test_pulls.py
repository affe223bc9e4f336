"""ClassPulls: the gradient of the CMI on a class relative to the cross-entropy's, against autograd in float64."""

import pytest
import torch
from parts import parts_of
from torch.nn.functional import cross_entropy

from hf_cmim import CMIMLoss, ObjectiveSpec
from hf_cmim.functional.information import class_centroids
from hf_cmim.hardening.parts import Snapshot
from hf_cmim.hardening.pulls import ClassPulls

CLASSES = 4


def problem(samples=24, seed=0, backend="auto"):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(samples, CLASSES, generator=generator)
    labels = torch.arange(samples) % 3  # class 3 has no sample
    labels[::5] = -100
    loss = CMIMLoss(ObjectiveSpec("plain", (1.0, 4.0)), backend=backend)
    return logits, labels, loss, class_centroids(logits, labels, loss.spec.temperatures).log()


def gradient_norms(logits, labels, loss, log_centroids, weight):
    """Ratio of root mean squares class by class, each gradient by autograd of the plain formulas."""
    raised = logits.double().requires_grad_()
    factors, cmi = [max(1.0, t * t) for t in loss.spec.temperatures], raised.new_zeros(())
    for factor, temperature, table in zip(factors, loss.spec.temperatures, log_centroids.double(), strict=True):
        log_probs = (raised / temperature).log_softmax(-1)
        own = table[labels.clamp_min(0)]
        each = (log_probs.exp() * (log_probs - own)).sum(-1)
        cmi = cmi + weight * factor / len(factors) * each[labels >= 0].sum()
    (pull,) = torch.autograd.grad(cmi, raised)
    (error,) = torch.autograd.grad(cross_entropy(raised, labels, ignore_index=-100, reduction="sum"), raised)
    return [
        (pull[labels == c].square().sum() / error[labels == c].square().sum()).sqrt().item() if c < 3 else 0.0
        for c in range(CLASSES)
    ]


def measured(logits, labels, loss, log_centroids, weight, splits=1):
    pulls, count = ClassPulls(CLASSES), int((labels >= 0).sum())
    for part, own in zip(logits.chunk(splits), labels.chunk(splits), strict=True):
        part = part.clone().requires_grad_()
        parts = loss(part, own, Snapshot(log_centroids), weight, num_items=count)
        pulls.accumulate(parts, part, weight, count)
        parts.cmi.backward()  # the graph is still there
        assert part.grad is not None
    pulls.step()
    return pulls.ratios


@pytest.mark.parametrize("weight", [1e-6, 1.0])
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_ratios_are_those_of_the_gradients(weight, splits, backend):
    """Catches a pull that counts ignored samples, forgets the weight or depends on how a batch is split."""
    arguments = problem(backend=backend)
    expected = gradient_norms(*arguments, weight)
    assert measured(*arguments, weight, splits).tolist() == pytest.approx(expected, rel=1e-4)


def test_running_mean_forgets():
    """Catches a pull of the ramp's beginning that counts to the end of training."""
    pulls = ClassPulls(2)
    labels = torch.zeros(10, dtype=torch.long)
    for scale in [1.0] * 30 + [0.0] * 30:
        gradient = torch.tensor([1.0, 0.0]).expand(10, 2)
        parts = parts_of(labels, torch.zeros(1))._replace(gradient=gradient)
        pulls.accumulate(parts, torch.zeros(10, 2), scale, 1)
        pulls.step()
        if scale:
            # The gradient of the sum is (1, 0) a sample, the cross-entropy's (-1/2, 1/2).
            assert pulls.ratios.tolist() == pytest.approx([2**0.5, 0.0])
    assert pulls.ratios[0] < 0.1


def test_processes_add_up():
    """Catches each process with a ratio of its own: one would stop training and the other wait for it."""
    logits, labels, loss, log_centroids = problem()
    both = [ClassPulls(CLASSES), ClassPulls(CLASSES)]
    for pulls, part, own in zip(both, logits.chunk(2), labels.chunk(2), strict=True):
        part = part.clone().requires_grad_()
        pulls.accumulate(loss(part, own, Snapshot(log_centroids), 1.0, num_items=19), part, 1.0, 19)
    total = both[0]._pending + both[1]._pending
    for pulls in both:
        pulls.step(lambda _: total)
    expected = gradient_norms(logits, labels, loss, log_centroids, 1.0)
    assert both[0].ratios.tolist() == both[1].ratios.tolist() == pytest.approx(expected, rel=1e-4)
