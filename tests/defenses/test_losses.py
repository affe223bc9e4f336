"""Every defence against its slow twin, and the contract that all of them keep: one table, a row per defence.

The twin of a row knows its settings by value, so it also guards the documented defaults.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import defense_reference as twins
import pytest
import reference
import torch

from hf_cmim.defenses import AbstractDefense, MaximizedCMI, NastyTeacher, SquaredError
from hf_cmim.functional import class_centroids, conditional_mutual_information


@dataclass(frozen=True)
class Case:
    """A defence with its twin, a function of (logits, labels, inputs by name)."""

    defense: AbstractDefense
    twin: Callable[..., float]


def nasty(logits, labels, inputs, **settings):
    return twins.nasty_teacher(logits, labels, inputs["reference_log_probs"], **settings)


def maximized(logits, labels, inputs, **settings):
    return twins.maximized_cmi(logits, labels, inputs["class_means"], **settings)


def squared(logits, labels, inputs):
    return twins.squared_error(logits, labels)


CASES = [
    Case(NastyTeacher(), partial(nasty, weight=0.04, temperature=4)),
    Case(NastyTeacher(weight=0.5, temperature=0.7), partial(nasty, weight=0.5, temperature=0.7)),
    Case(MaximizedCMI(), partial(maximized, weight=0.25)),
    Case(MaximizedCMI(weight=2), partial(maximized, weight=2)),
    Case(SquaredError(), squared),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.defense))


def problem(seed=0, ignored=0.0):
    """Logits, labels and further inputs, as plain lists."""
    logits, labels = reference.random_samples(seed, size=24, num_classes=5, ignored=ignored)
    other, _ = reference.random_samples(seed + 100, size=24, num_classes=5, ignored=0)
    class_means = [reference.softmax(row) for row in other[:5]]
    return logits, labels, {"reference_log_probs": other, "class_means": class_means}


def tensors(inputs, dtype=torch.float64):
    return {name: torch.tensor(value, dtype=dtype) for name, value in inputs.items()}


def total(parts):
    return sum(value for value in parts.values())


def valid_only(logits, labels, inputs):
    kept = [position for position, label in enumerate(labels) if label != -100]
    rows = {"reference_log_probs": [inputs["reference_log_probs"][position] for position in kept]}
    return [logits[position] for position in kept], [labels[position] for position in kept], inputs | rows


@each_case
def test_loss_and_gradient_equal_the_twin(case):
    """Catches a wrong direction of a divergence, a lost factor, a mean over classes, and a detached part."""
    rows, labels, inputs = problem()
    logits = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    parts = case.defense(logits, torch.tensor(labels), num_items=3, **tensors(inputs))
    assert all(value.ndim == 0 for value in parts.values())
    assert total(parts).item() == pytest.approx(case.twin(rows, labels, inputs) / 3, rel=1e-10)
    total(parts).backward()
    slopes = reference.slopes(lambda row: case.twin([row, *rows[1:]], labels, inputs), rows[0])
    assert logits.grad[0].tolist() == pytest.approx([slope / 3 for slope in slopes], rel=1e-5, abs=1e-8)


@each_case
@pytest.mark.parametrize("layout", [(24,), (4, 6)], ids=["samples", "tokens"])
def test_ignored_labels_take_no_part_in_either_layout(case, layout):
    """Catches a mean over all positions, ignored positions in one part only, and rows that are paired wrongly."""
    rows, labels, inputs = problem(seed=1, ignored=0.4)
    values = tensors(inputs)
    values["reference_log_probs"] = values["reference_log_probs"].reshape(*layout, 5)
    logits = torch.tensor(rows, dtype=torch.float64).reshape(*layout, 5)
    parts = case.defense(logits, torch.tensor(labels).reshape(layout), **values)
    kept = valid_only(rows, labels, inputs)
    assert total(parts).item() == pytest.approx(case.twin(*kept) / len(kept[1]), rel=1e-10)


@each_case
def test_parts_of_a_split_batch_add_up(case):
    """Catches a divisor of the micro-batch's own."""
    rows, labels, inputs = problem(seed=2, ignored=0.3)
    logits, targets, values = torch.tensor(rows, dtype=torch.float64), torch.tensor(labels), tensors(inputs)
    count = int((targets != -100).sum())
    whole = total(case.defense(logits, targets, **values))
    parts = []
    for part in (slice(0, 5), slice(5, 24)):
        own = values | {"reference_log_probs": values["reference_log_probs"][part]}
        parts.append(total(case.defense(logits[part], targets[part], num_items=count, **own)))
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)


@each_case
def test_half_precision_and_autocast_are_raised_to_single(case):
    """Catches sums in bf16, which has three digits: the value must be that of the rounded logits."""
    rows, labels, inputs = problem(seed=3)
    halves, targets = torch.tensor(rows).bfloat16(), torch.tensor(labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = case.defense(halves, targets, **tensors(inputs, torch.float32))
    exact = total(case.defense(halves.double(), targets, **tensors(inputs)))
    assert all(value.dtype == torch.float32 for value in parts.values())
    assert total(parts).item() == pytest.approx(exact.item(), rel=1e-5)


@each_case
def test_a_batch_without_valid_labels_is_a_differentiable_zero(case):
    """Catches 0 / 0 in a step whose tokens are all ignored."""
    rows, labels, inputs = problem()
    logits = torch.tensor(rows, requires_grad=True)
    loss = total(case.defense(logits, torch.full((len(labels),), -100), **tensors(inputs, torch.float32)))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(("build", "message"), [
    (lambda: NastyTeacher(weight=-1), "Expected a weight of at least 0 and finite, got -1"),
    (lambda: NastyTeacher(weight=float("nan")), "Expected a weight of at least 0 and finite, got nan"),
    (lambda: MaximizedCMI(weight=-1), "Expected a weight of at least 0 and finite, got -1"),
    (lambda: NastyTeacher(temperature=0), "Expected temperature above 0 and finite, got 0"),
])  # fmt: skip
def test_a_setting_out_of_range(build, message):
    """Catches a loss that trains the opposite of what it says."""
    with pytest.raises(ValueError, match=message):
        build()


def test_missing_and_misshapen_inputs_are_refused():
    """Catches a loss that quietly is the cross-entropy, and answers that are broadcast over the batch."""
    logits, labels = torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"Expected reference_log_probs for NastyTeacher\(weight=0.04, .*got None"):
        NastyTeacher()(logits, labels)
    with pytest.raises(ValueError, match=r"reference_log_probs of the shape \(4, 3\), got \(1, 3\)"):
        NastyTeacher()(logits, labels, reference_log_probs=logits[:1])
    with pytest.raises(ValueError, match=r"class_means of the shape \(3, 3\), got \(4, 3\)"):
        MaximizedCMI()(logits, labels, class_means=logits)


def test_the_gradient_of_maximized_cmi_is_the_gradient_of_the_information():
    """Catches a sign and means of other labels: at the exact means it is minus the weight times that of the CMI."""
    rows, labels, _ = problem()
    targets = torch.tensor(labels)
    logits = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    means = class_centroids(logits.detach(), targets, (1.0,))[0]
    (spread,) = torch.autograd.grad(MaximizedCMI()(logits, targets, class_means=means)["spread"], logits)
    (information,) = torch.autograd.grad(conditional_mutual_information(logits, targets), logits)
    torch.testing.assert_close(spread, -0.25 * information, rtol=1e-8, atol=1e-12)
    assert information.abs().max() > 1e-3


def test_a_class_without_a_mean_is_not_spread():
    """Catches the divergence from a row of zeros, which is over 80 nats, in data with a class that training lacks."""
    logits, means = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True), torch.tensor([[0.9, 0.1], [0.0, 0.0]])
    parts = MaximizedCMI()(logits, torch.tensor([0, 1]), class_means=means)
    alone = MaximizedCMI()(logits[:1], torch.tensor([0]), class_means=means, num_items=2)
    assert parts["spread"].item() == pytest.approx(alone["spread"].item())
    parts["spread"].backward()
    assert logits.grad[1].tolist() == [0, 0]


def test_the_gradient_of_the_reference_is_cut():
    """Catches a reference that is trained along."""
    reference_logits = torch.randn(4, 3, requires_grad=True)
    logits = torch.randn(4, 3, requires_grad=True)
    total(NastyTeacher()(logits, torch.zeros(4).long(), reference_log_probs=reference_logits)).backward()
    assert reference_logits.grad is None
    assert logits.grad.abs().sum() > 0
