"""The Triton kernels against the float64 twin, in Triton's interpreter where there is no GPU."""

import pytest
import torch
from problems import HALVING, OTHERS, case, twin

from hf_cmim.functional.fused import weighted_divergences

triton = pytest.importorskip("triton", reason="triton is published for Linux alone")
_triton = pytest.importorskip("hf_cmim.functional._triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def assert_agrees(problem, temperatures, tolerance=5e-5):
    logits, labels, log_centroids, weights = problem
    moved = [each.to(DEVICE) for each in problem]
    total, sums, gradient = _triton.divergences(*moved[:3], temperatures, moved[3], True)
    expected_total, expected_sums, expected = twin(logits, labels, log_centroids, temperatures, weights)
    assert gradient.dtype == logits.dtype
    torch.testing.assert_close(total.double().cpu(), expected_total, rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(sums.double().cpu(), expected_sums, rtol=tolerance, atol=1e-6)
    eps = max(torch.finfo(logits.dtype).eps, tolerance)
    largest = max(expected.abs().flatten().tolist(), default=0.0)
    torch.testing.assert_close(gradient.double().cpu(), expected, rtol=eps, atol=eps * largest + 1e-8)


@pytest.fixture(params=["row", "chunks"])
def kernel(request, monkeypatch):
    """Both kernels on the same small rows, in several chunks."""
    if request.param == "chunks":
        monkeypatch.setattr(_triton, "LARGEST_ROW", 0)
        monkeypatch.setattr(_triton, "CHUNK", 16)
    return request.param


@pytest.mark.parametrize("temperatures", [HALVING, HALVING[:1], OTHERS, OTHERS[1:]], ids=len)
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (5, 3), (4, 16), (3, 37), (0, 4)])
def test_values_and_gradients_equal_twin(samples, classes, temperatures, kernel):
    """Catches levels in the wrong turn, a factor 1 / T, padding counted as a class, and a chunk's edge."""
    assert_agrees(case(samples, classes, temperatures), temperatures)


@pytest.mark.parametrize("classes", [1000, 9000])
def test_real_sizes(classes):
    """Catches blocks that only small rows fit in; the larger one goes through in chunks."""
    assert_agrees(case(2, classes, OTHERS[:2]), OTHERS[:2])


@pytest.mark.parametrize("temperatures", [HALVING, OTHERS], ids=["halving", "others"])
@pytest.mark.parametrize("scale", [0.0, 100.0, 1e4])
def test_extreme_logits(scale, temperatures, kernel):
    """Catches overflow, 0 * inf, and a clamp of the exponent that shows in the divergence."""
    assert_agrees(case(4, 37, temperatures, scale=scale), temperatures)


def test_classes_not_seen_and_labels_ignored_add_nothing(kernel):
    """Catches nan from -inf, a class that is missing at one level alone, and row 0 taken for ignored labels."""
    problem = case(8, 6, OTHERS, ignored=(0, 3), unseen=(1,))
    assert_agrees(problem, OTHERS)
    logits, labels, log_centroids, weights = case(8, 6, OTHERS, ignored=range(7))
    one_level = log_centroids.clone()
    one_level[2, labels[7]] = -torch.inf
    one_level[:, 0] = -torch.inf
    total, sums, gradient = _triton.divergences(logits, labels, one_level, OTHERS, weights, True)
    assert total == 0
    assert (sums == 0).all()
    assert (gradient == 0).all()


def test_a_probability_of_zero_is_taken_as_the_smallest(kernel):
    """Catches a row that counts as not seen because one of its classes is."""
    logits, labels, log_centroids, weights = case(4, 6, OTHERS)
    log_centroids = log_centroids.clone()
    log_centroids[:, :, 2] = -torch.inf
    assert_agrees((logits, labels, log_centroids, weights), OTHERS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("table", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype, table, kernel):
    """Catches arithmetic in the logits' type, and a gradient in another."""
    logits, labels, log_centroids, weights = case(4, 33, HALVING, dtype=dtype)
    assert_agrees((logits, labels, log_centroids.to(table), weights), HALVING)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_shows(number, kernel):
    """Catches a maximum that drops nan: training would go on from a diverged model with a loss that looks fine."""
    logits, labels, log_centroids, weights = case(3, 20, HALVING)
    logits[1, 4] = number
    total, _, gradient = _triton.divergences(logits, labels, log_centroids, HALVING, weights, True)
    assert total.isnan()
    assert gradient[1].isnan().any()


def test_strides(kernel):
    """Catches a layout taken for granted: columns of a wider tensor, a transposed one, a table for all levels."""
    logits, labels, log_centroids, weights = case(5, 20, OTHERS)
    assert_agrees((torch.cat([logits, logits], dim=1)[:, :20], labels, log_centroids, weights), OTHERS)
    assert_agrees((logits.T.contiguous().T, labels, log_centroids, weights), OTHERS)
    assert_agrees((logits, labels, log_centroids[:1].expand(4, 20, 20), weights), OTHERS)
    assert_agrees((logits, labels, log_centroids.transpose(1, 2).contiguous().transpose(1, 2), weights), OTHERS)


def test_without_gradient(kernel):
    """Catches a gradient made in evaluation, and values that differ without one."""
    problem = [each.to(DEVICE) for each in case(4, 9, HALVING)]
    results = [_triton.divergences(*problem[:3], HALVING, problem[3], wanted) for wanted in (True, False)]
    assert torch.equal(results[0][1], results[1][1])
    assert results[1][2].shape == (0, 9)


def test_sixteen_halving_levels_keep_their_precision(kernel):
    """Catches errors that double with each square: after 15 they would reach 1e-3."""
    temperatures = [2.0**power for power in range(-8, 8)]
    assert_agrees(case(3, 9, temperatures, scale=0.02), temperatures)


def test_nothing_else_is_interpreted():
    """Catches a switch left on, with which torch.compile's own kernels would be interpreted."""
    assert not triton.knobs.runtime.interpret


@pytest.mark.gpu  # on CPU: the tests above, and those of the operator in blocks
def test_operator_on_a_gpu_equals_twin():
    """Catches kernels that are not used, or a gradient that is not scaled by what comes after."""
    logits, labels, log_centroids, weights = case(40, 1000, HALVING, ignored=(3,), unseen=(5,))
    _, sums, gradient = twin(logits, labels, log_centroids, HALVING, weights)
    raised = logits.to("cuda").requires_grad_()
    total, found = weighted_divergences(raised, labels.cuda(), log_centroids.cuda(), HALVING, weights.cuda())
    (0.5 * total).backward()
    torch.testing.assert_close(found.double().cpu(), sums, rtol=5e-5, atol=1e-6)
    torch.testing.assert_close(raised.grad.double().cpu(), 0.5 * gradient, rtol=5e-5, atol=1e-7)
