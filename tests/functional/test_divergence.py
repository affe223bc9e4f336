"""Tempered softmax, divergence and cross-entropy against the slow twin and scipy."""

import math

import numpy as np
import pytest
import reference
import scipy.special
import torch

from hf_cmim.functional import kl_divergence, tempered_log_probs
from hf_cmim.functional.divergence import log_of_sum, summed_cross_entropy
from hf_cmim.functional.temperatures import check_temperatures

TEMPERATURES = [0.02, 0.5, 1.0, 4.0, 500.0]
HALVES = [torch.float16, torch.bfloat16]


def samples(seed, dtype=torch.float64, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=dtype), torch.tensor(labels)


@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (4, 11)])
def test_tempered_log_probs_equal_twin_and_scipy(shape):
    """Catches a temperature that multiplies, a softmax along the wrong axis, and levels in another order."""
    logits, _ = samples(sum(shape), size=shape[0], num_classes=shape[1])
    log_probs = tempered_log_probs(logits, TEMPERATURES)
    assert log_probs.shape == (len(TEMPERATURES), *shape)
    for level, temperature in zip(log_probs, TEMPERATURES, strict=True):
        twin = [reference.log_softmax(row, temperature) for row in logits.tolist()]
        torch.testing.assert_close(level, torch.tensor(twin, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        expected = torch.as_tensor(scipy.special.log_softmax(logits.numpy() / temperature, axis=1))
        torch.testing.assert_close(level, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_tempered_log_probs_stay_finite_in_at_least_fp32(dtype):
    """Catches a softmax in half precision, which overflows at 1e4 / 0.02, and a result left in half precision."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype=dtype, requires_grad=True)
    log_probs = tempered_log_probs(logits, TEMPERATURES)
    assert log_probs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    log_probs.exp().sum().backward()
    assert log_probs.isfinite().all()
    assert logits.grad.isfinite().all()


def test_kl_divergence_equals_twin_and_scipy():
    """Catches swapped arguments, and averaging over classes or samples."""
    logits, _ = samples(3, size=12)
    log_probs = tempered_log_probs(logits, [2.0])[0]
    first, second = log_probs.reshape(2, 6, 5)
    divergences = kl_divergence(first, second)
    assert divergences.shape == (6,)
    for value, p, q in zip(divergences.tolist(), first.exp().tolist(), second.exp().tolist(), strict=True):
        assert value == pytest.approx(reference.kl(p, q), rel=1e-12)
    expected = scipy.special.rel_entr(first.exp().numpy(), second.exp().numpy()).sum(axis=1)
    torch.testing.assert_close(divergences, torch.as_tensor(expected), rtol=1e-12, atol=0)


def test_kl_divergence_takes_zero_probabilities_of_the_first_argument():
    """Catches 0 log 0 = nan where a probability underflows."""
    certain = tempered_log_probs(torch.tensor([[1e4, -1e4]], dtype=torch.float64), [1.0])[0]
    even = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    assert kl_divergence(certain, even).item() == pytest.approx(math.log(2), rel=1e-12)


def test_log_of_sum_equals_numpy_and_has_the_same_bits_in_any_company():
    """Catches an overflow, and torch.logaddexp: a student's loss would depend on who trains beside it."""
    first, second = samples(0)[0].flatten() * 300, samples(1)[0].flatten() * 300
    torch.testing.assert_close(log_of_sum(first, second).numpy(), np.logaddexp(first.numpy(), second.numpy()))
    pair = torch.randn(2, 7_000, generator=torch.Generator().manual_seed(0)).mul(4)
    pieces = [log_of_sum(*piece) for piece in pair.split(7, dim=1)]
    assert torch.equal(log_of_sum(*pair), torch.cat(pieces))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_summed_cross_entropy_equals_twin(label_smoothing):
    """Catches a mean instead of the sum, ignored labels that count, and smoothing over the wrong classes only."""
    logits, labels = samples(4)
    expected = reference.smoothed_cross_entropy(logits.tolist(), labels.tolist(), label_smoothing=label_smoothing)
    assert summed_cross_entropy(logits, labels, label_smoothing).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", HALVES)
def test_summed_cross_entropy_is_fp32_for_half_precision(dtype):
    """Catches a sum over many samples in half precision, which loses its last digits or overflows."""
    logits, labels = samples(5, dtype=dtype, size=300, scale=20.0)
    value = summed_cross_entropy(logits, labels)
    assert value.dtype == torch.float32
    expected = reference.smoothed_cross_entropy(logits.tolist(), labels.tolist())
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda logits: tempered_log_probs(logits, [0.5, 4.0]),
        lambda logits: kl_divergence(*tempered_log_probs(logits, [0.5, 4.0])),
        lambda logits: summed_cross_entropy(logits, torch.tensor([1, -100, 0]), 0.2),
    ],
    ids=["tempered_log_probs", "kl_divergence", "summed_cross_entropy"],
)
def test_gradients_equal_finite_differences(function):
    """Catches a detach, or a clamp, in the middle of a differentiable quantity."""
    logits = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(function, logits)


@pytest.mark.parametrize(
    ("temperatures", "expected"),
    [
        ([], "at least one temperature, got none"),
        ([1.0, 0.0], "above 0 and finite, got 0.0"),
        ([-2.0], "above 0 and finite, got -2.0"),
        ([math.inf], "above 0 and finite, got inf"),
        ([math.nan], "above 0 and finite, got nan"),
        ([1.0, 2.0, 1], r"distinct temperatures, got \[1.0\] more than once"),
    ],
)
def test_unusable_temperatures_are_named(temperatures, expected):
    """Catches a missing guard: T = 0 gives nan, and a temperature given twice silently counts double."""
    with pytest.raises(ValueError, match=f"Expected.*{expected}"):
        check_temperatures(temperatures)


def test_usable_temperatures_become_floats_in_their_order():
    """Catches sorting, which would pair every temperature with another level's centroids."""
    assert check_temperatures([4, 0.5, 1]) == (4.0, 0.5, 1.0)
    assert all(type(value) is float for value in check_temperatures(torch.tensor([4, 1])))
