"""The fused operator against a float64 twin: values, gradients, what torch.compile sees, and memory."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from unittest import mock

import pytest
import torch
from problems import DOUBLING, HALVING, OTHERS, arranged, case, extrapolation_of, masked_case, scaled_twin, twin
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from hf_cmim.hardening.kernels import blocks, operator
from hf_cmim.hardening.kernels.operator import divergences, tempered_probs, with_gradient
from hf_cmim.hardening.kernels.problem import Scaling


def assert_agrees(logits, labels, log_centroids, temperatures, weights, tolerance=2e-5):
    """Compare both ways, of small batches and of large ones, with the twin.

    Each with logits as they are and scaled, and with references beyond centroids.
    """
    problem = logits, labels, log_centroids, temperatures, weights
    scaling, extrapolation = Scaling(torch.tensor(0.8), torch.tensor(0.3)), extrapolation_of(log_centroids)
    nothing = torch.zeros(3, dtype=torch.float64)
    total, sums, gradient = twin(*problem)
    beyond, beyond_sums, beyond_gradient = twin(*problem, extrapolation)
    scaled = scaled_twin(*problem, scaling)
    for is_small in (True, False):
        with mock.patch.object(operator, "is_small", lambda *_, is_small=is_small: is_small):
            assert_close(found_by(*problem), (total, sums, nothing, gradient), tolerance)
            assert_close(found_by(*problem, scaling), scaled, tolerance)
            found = found_by(*problem, None, extrapolation)
        assert_close(found, (beyond, beyond_sums, nothing, beyond_gradient), tolerance)


def weighted_divergences(logits, labels, log_centroids, temperatures, *others):
    """The operator's results, with its gradient on the total."""
    found = divergences(logits, labels, log_centroids, tuple(temperatures), *others)
    return found._replace(total=with_gradient(found.total, 1.0, logits, found))


def found_by(logits, *others):
    logits = logits.detach().requires_grad_() if logits.is_leaf else logits
    logits.grad = None
    logits.retain_grad()
    total, sums, scale_sums, *_ = weighted_divergences(logits, *others)
    (0.5 * total).backward(retain_graph=True)
    raised = torch.promote_types(logits.dtype, torch.float32)
    assert total.dtype == sums.dtype == scale_sums.dtype == raised
    assert logits.grad.dtype == logits.dtype
    assert not sums.requires_grad
    assert not scale_sums.requires_grad
    return total, sums, scale_sums, logits.grad


def assert_close(found, expected, tolerance):
    total, sums, scale_sums, gradient = found
    expected_total, expected_sums, expected_scale_sums, expected_gradient = expected
    torch.testing.assert_close(total.double(), expected_total, rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(sums.double(), expected_sums, rtol=tolerance, atol=1e-6)
    atol = tolerance * max(1.0, expected_total.item())  # the pull is a sum of both signs
    torch.testing.assert_close(scale_sums.double(), expected_scale_sums, rtol=tolerance, atol=atol)
    eps = max(torch.finfo(gradient.dtype).eps, tolerance)
    largest = max(expected_gradient.abs().flatten().tolist(), default=0.0)
    torch.testing.assert_close(gradient.double(), 0.5 * expected_gradient, rtol=eps, atol=eps * largest + 1e-8)


@pytest.mark.parametrize("temperatures", [DOUBLING, HALVING, DOUBLING[:1], OTHERS, OTHERS[2:]], ids=len)
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (5, 3), (37, 100), (30, 130), (3, 1000), (0, 4)])
def test_values_and_gradients_equal_twin(samples, classes, temperatures):
    """Catches levels squared in the wrong order, a factor 1 / T, a block's edge, and padding counted as a class."""
    assert_agrees(*arranged(case(samples, classes, temperatures), temperatures))


def test_sixteen_halving_levels_keep_their_precision():
    """Catches errors that double with each square: after 15 they would reach 1e-3."""
    temperatures = [2.0**power for power in range(-8, 8)]
    assert_agrees(*arranged(case(200, 9, temperatures, scale=0.02), temperatures))


@pytest.mark.parametrize("multiplier", [None, torch.tensor(0.3)])
def test_outputs_handed_on_are_the_tempered_softmax(multiplier):
    """Catches outputs of other temperatures or another scale than those that enter the bank."""
    logits, labels, log_centroids, weights = case(9, 7, OTHERS, ignored=(2,), unseen=(4,))
    scaling = None if multiplier is None else Scaling(multiplier, torch.tensor(0.1))
    found = weighted_divergences(logits, labels, log_centroids, OTHERS, weights, scaling)
    factor = 1.0 if multiplier is None else multiplier.double()
    expected = torch.stack([(factor * logits.double() / each).softmax(dim=1) for each in OTHERS])
    torch.testing.assert_close(found.probs.double(), expected, rtol=2e-6, atol=1e-12)
    torch.testing.assert_close(
        tempered_probs(logits, tuple(OTHERS), multiplier).double(), expected, rtol=2e-6, atol=1e-12
    )
    logits[3, 2] = -torch.inf
    assert weighted_divergences(logits, labels, log_centroids, OTHERS, weights, scaling).probs.shape == (4, 0, 7)


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 9])
def test_levels_are_made_in_as_many_chains_as_threads(threads, count, monkeypatch):
    """Catches a level that no chain makes, one squared from a wrong or a later one, and chains that underflow."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    temperatures = [2.0**power for power in range(-2, count - 2)]
    logits = torch.randn(60, 300, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 3, 60).unsqueeze(1)
    expected = torch.stack([(logits.double() / each).softmax(dim=1) for each in temperatures])
    torch.testing.assert_close(tempered_probs(logits, tuple(temperatures)).double(), expected, rtol=2e-5, atol=1e-16)


@pytest.mark.parametrize("elements", [1, 2000, 9000])
def test_blocks_do_not_change_the_result(elements, monkeypatch):
    """Catches samples lost or counted twice at the edge of a block, and buffers of another block read."""
    problem = arranged(case(41, 30, DOUBLING, ignored=(0, 17, 40), unseen=(5,)), DOUBLING)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", elements)
    assert_agrees(*problem)


def test_fifty_thousand_classes():
    """Catches a block of less than one sample, and sums that lose small probabilities."""
    assert_agrees(*arranged(case(2, 50_000, [1.0, 2.0]), [1.0, 2.0]))


@pytest.mark.parametrize("temperatures", [DOUBLING, OTHERS, [0.02, 1.0, 500.0]], ids=["doubling", "others", "wide"])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 100.0, 1e4])
def test_extreme_logits(scale, temperatures):
    """Catches overflow, 0 * inf, and a clamp of the exponent that shows in the divergence."""
    assert_agrees(*arranged(case(9, 7, temperatures, scale=scale), temperatures))


def test_logits_that_mask_a_class_stay_finite():
    """Catches a class masked by the lowest fp32 number, whose u overflows, times an exponential that was clamped."""
    logits, labels, log_centroids, weights = case(6, 5, DOUBLING)
    labels[labels == 3] = 0
    logits[:, 3] = torch.finfo(torch.float32).min
    total, sums, *_ = weighted_divergences(logits.requires_grad_(), labels, log_centroids, DOUBLING, weights)
    total.backward()
    assert logits.grad.isfinite().all()
    kept = [0, 1, 2, 4]
    tables, renumbered = log_centroids[:, kept][:, :, kept], torch.where(labels == 4, 3, labels)
    _, without, *_ = weighted_divergences(logits.detach()[:, kept], renumbered, tables, DOUBLING, weights)
    torch.testing.assert_close(sums, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperatures", [DOUBLING, OTHERS, [0.02, 1.0, 5000.0]], ids=["doubling", "others", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("fill", [-torch.inf, -1e4, torch.finfo(torch.bfloat16).min])
def test_masked_classes_equal_twin(fill, dtype, temperatures):
    """Catches masked classes that show at high temperatures or in the scale, and one that gets a gradient."""
    problem = arranged(masked_case(fill, temperatures, dtype=dtype), temperatures)
    assert_agrees(*problem, tolerance=2e-5 if dtype != torch.float64 else 1e-7)
    total, *_, gradient = found_by(*problem, Scaling(torch.tensor(0.01), torch.tensor(0.3)))
    assert total > 0
    assert not gradient[problem[0] < -5e3].any()


@pytest.mark.parametrize("ignored", [(), (0, 3), range(8)], ids=["none", "some", "all"])
@pytest.mark.parametrize("unseen", [(), (1, 2)], ids=["seen", "unseen"])
def test_ignored_labels_and_unseen_classes_add_nothing(ignored, unseen):
    """Catches nan from a centroid of log 0, and padding compared with class 0."""
    problem = case(8, 6, OTHERS, unseen=unseen)
    problem[1][list(ignored)] = -100
    assert_agrees(*arranged(problem, OTHERS))


def test_zeros_in_a_seen_centroid_count_as_the_smallest_number():
    """Catches a class left out because one of its probabilities is 0."""
    logits, labels, log_centroids, weights = case(8, 6, OTHERS)
    log_centroids = log_centroids.clone()
    log_centroids[:, :, 0] = -torch.inf
    assert_agrees(logits, labels, log_centroids, OTHERS, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types(dtype):
    """Catches arithmetic in half precision, and fp64 lowered to fp32."""
    problem = arranged(case(12, 50, DOUBLING, dtype=dtype), DOUBLING)
    assert_agrees(*problem, tolerance=1e-5 if dtype != torch.float64 else 1e-7)


def test_logits_that_are_not_contiguous():
    """Catches rows read by the strides of another layout."""
    logits, labels, log_centroids, weights = case(12, 20, DOUBLING)
    assert_agrees(logits.t().contiguous().t(), labels, log_centroids, DOUBLING, weights)
    wide = torch.cat([logits, logits], dim=1).requires_grad_()
    assert_agrees(wide[:, :20], labels, log_centroids, DOUBLING, weights)


def test_autocast_changes_nothing():
    """Catches a product of matrices in bf16, of which the divergences are differences."""
    logits, labels, log_centroids, weights = case(12, 200, DOUBLING)
    plain, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weighted_divergences(plain, labels, log_centroids, DOUBLING, weights)[0].backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, *_ = weighted_divergences(other, labels, log_centroids, DOUBLING, weights)
    total.backward()
    assert torch.equal(plain.grad, other.grad)


def test_no_gradient_where_none_is_asked():
    """Catches a gradient held in evaluation, and a value that differs without one."""
    logits, labels, log_centroids, weights = case(12, 20, DOUBLING)
    with_gradient = weighted_divergences(logits.clone().requires_grad_(), labels, log_centroids, DOUBLING, weights)
    without = weighted_divergences(logits, labels, log_centroids, DOUBLING, weights)
    assert with_gradient[0].requires_grad
    assert not without[0].requires_grad
    assert torch.equal(with_gradient[1], without[1])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_shows(number):
    """Catches a diverged model whose loss looks fine."""
    logits, labels, log_centroids, weights = case(3, 20, DOUBLING)
    logits[1, 4] = number
    total, *_ = weighted_divergences(logits.requires_grad_(), labels, log_centroids, DOUBLING, weights)
    total.backward()
    assert total.isnan()
    assert logits.grad[1].isnan().any()


def test_evaluation_in_inference_mode_leaves_training_possible():
    """Catches a buffer or a constant made in inference mode and kept, which nothing may be written to afterwards."""
    temperatures = [1.5, 3.0, 6.0, 12.0, 24.0]  # new constants

    def both_modes():
        with torch.inference_mode():
            weighted_divergences(*arranged(case(40, 100, temperatures), temperatures))
        assert_agrees(*arranged(case(4, 9, temperatures), temperatures))
        return True

    with ThreadPoolExecutor(1) as fresh:  # each thread keeps a buffer of its own
        assert fresh.submit(both_modes).result()


def test_fake_tensors_leave_no_trace():
    """Catches a fake constant that is kept and met by real tensors."""
    temperatures = [1.25, 2.5, 5.0]
    problem = arranged(case(4, 9, temperatures), temperatures)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        faked = [mode.from_tensor(each) if isinstance(each, torch.Tensor) else each for each in problem]
        total, sums, *_ = weighted_divergences(*faked)
        assert total.shape == ()
        assert sums.shape == (3,)
    assert_agrees(*problem)


@pytest.mark.parametrize("call", [weighted_divergences, torch.ops.hf_cmim.divergences], ids=["plain", "library"])
def test_second_derivative_is_refused(call):
    """Catches a penalty on the gradient that silently lacks the CMI: its gradient is a constant to autograd."""
    logits, labels, log_centroids, weights = case(4, 5, OTHERS)
    arguments = [logits.requires_grad_(), labels, log_centroids, OTHERS, weights]
    total, *_ = call(*arguments) if call is weighted_divergences else call(*arguments, True, *[None] * 4)
    with pytest.raises(RuntimeError, match="Expected one derivative of the CMI"):
        torch.autograd.grad(total + logits.square().sum(), logits, create_graph=True)


def test_operator_keeps_the_rules_of_torch_library():
    """Catches a fake kernel of other shapes or types than the real one, which breaks torch.compile."""
    logits, labels, log_centroids, weights = case(7, 9, DOUBLING, ignored=(2,))
    # Tracing both passes derives every output, also the gradient, which is refused: the compiled step covers it.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    nothing, scaling = (None, None), torch.tensor([1.3, 0.2]).unbind()
    more = (*nothing, *nothing), (*scaling, *nothing), (*nothing, *extrapolation_of(log_centroids))
    for wants_gradient, optional in product((True, False), more):
        arguments = (
            logits.requires_grad_(wants_gradient),
            labels,
            log_centroids,
            DOUBLING,
            weights,
            wants_gradient,
            *optional,
        )
        torch.library.opcheck(torch.ops.hf_cmim.divergences.default, arguments, test_utils=checks)


@pytest.mark.slow
def test_compiled_step_has_no_graph_break():
    """Catches a break of the graph, and a compiled result that is another."""
    logits, labels, log_centroids, weights = case(7, 9, DOUBLING, ignored=(2,))

    def total(values):
        return weighted_divergences(2 * values, labels, log_centroids, DOUBLING, weights)[0]

    compiled = torch.compile(total, fullgraph=True)
    plain, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total(plain).backward()
    compiled(other).backward()
    torch.testing.assert_close(other.grad, plain.grad)


def test_memory_stays_of_the_order_of_the_logits():
    """Catches a `(K, B, C)` tensor: 8 x 2000 x 1000 numbers would take 61 MiB."""
    logits, labels, log_centroids, weights = case(2000, 1000, DOUBLING)
    logits.requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        weighted_divergences(logits, labels, log_centroids, DOUBLING, weights)[0].backward()
    events = profiled.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert max(sizes) <= logits.nbytes
    assert sum(size for size in sizes if size > 0) < 8 * logits.nbytes
