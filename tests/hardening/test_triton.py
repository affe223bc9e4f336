"""The Triton kernels against the float64 twin, in Triton's interpreter where there is no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from hanging import HANGING
from problems import HALVING, OTHERS, arranged, case, extrapolation_of, masked_case, scaled_twin, twin

from hf_cmim.hardening.kernels import triton as kernels
from hf_cmim.hardening.kernels.operator import divergences, with_gradient
from hf_cmim.hardening.kernels.problem import Extrapolation, Scaling

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


TOLERANCE = 1e-4 if torch.cuda.is_available() else 5e-5
"""Of fp32; a GPU's exponential is good to 2^-22, which seven squarings make 128 times as much."""


def assert_agrees(problem, temperatures, tolerance=TOLERANCE):
    """Compare a problem with its twin: with logits as they are and scaled, and with references beyond centroids."""
    moved = [each.to(DEVICE) for each in problem]
    found = kernels.divergences(*moved[:3], temperatures, moved[3], True)
    expected_total, expected_sums, expected = twin(*arranged(problem, temperatures))
    nothing = torch.zeros(3, dtype=torch.float64)
    assert_close(found, (expected_total, expected_sums, nothing, expected), tolerance)
    scaling = Scaling(torch.tensor(0.8, device=DEVICE), torch.tensor(0.3, device=DEVICE))
    found = kernels.divergences(*moved[:3], temperatures, moved[3], True, scaling)
    assert_close(found, scaled_twin(*arranged(problem, temperatures), scaling), tolerance)
    extrapolation = extrapolation_of(problem[2])
    there = Extrapolation(*(each.to(DEVICE) for each in extrapolation))
    found = kernels.divergences(*moved[:3], temperatures, moved[3], True, None, there)
    expected_total, expected_sums, expected = twin(*arranged(problem, temperatures), extrapolation)
    assert_close(found, (expected_total, expected_sums, nothing, expected), tolerance)
    assert found[3].dtype == problem[0].dtype


def assert_close(found, expected, tolerance):
    """Compare total, sums, sums of the scale and gradient."""
    total, sums, scale_sums, gradient = found
    expected_total, expected_sums, expected_scale_sums, expected = expected
    torch.testing.assert_close(total.double().cpu(), expected_total, rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(sums.double().cpu(), expected_sums, rtol=tolerance, atol=1e-6)
    atol = tolerance * max(1.0, expected_total.item())  # the pull is a sum of both signs
    torch.testing.assert_close(scale_sums.double().cpu(), expected_scale_sums, rtol=tolerance, atol=atol)
    eps = max(torch.finfo(gradient.dtype).eps, tolerance)
    largest = max(expected.abs().flatten().tolist(), default=0.0)
    torch.testing.assert_close(gradient.double().cpu(), expected, rtol=eps, atol=eps * largest + 1e-8)


@pytest.fixture(params=["row", "chunks"])
def kernel(request, monkeypatch):
    """Both kernels on the same small rows, in several chunks."""
    if request.param == "chunks":
        monkeypatch.setattr(kernels, "LARGEST_ROW", 0)
        monkeypatch.setattr(kernels, "TILE", 128)
    return request.param


@pytest.mark.parametrize("temperatures", [HALVING, HALVING[:1], OTHERS, OTHERS[1:]], ids=len)
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (5, 3), (4, 16), (3, 37), (0, 4)])
def test_values_and_gradients_equal_twin(samples, classes, temperatures, kernel):
    """Catches levels in the wrong turn, a factor 1 / T, padding counted as a class, and a chunk's edge."""
    assert_agrees(case(samples, classes, temperatures), temperatures)


@pytest.mark.parametrize("levels", range(1, 9))
def test_any_number_of_levels(levels, kernel):
    """Catches padding that counts as a level, and squares of temperatures that do not halve."""
    for temperatures in (HALVING[:levels], [1.0 + 0.75 * level for level in range(levels)]):
        assert_agrees(case(3, 40, temperatures), temperatures)


@pytest.mark.parametrize("classes", [1000, 9000])
def test_real_sizes(classes):
    """Catches blocks that only small rows fit in; the larger one goes through in chunks."""
    assert_agrees(case(2, classes, OTHERS[:2]), OTHERS[:2])


@pytest.mark.parametrize("temperatures", [HALVING, OTHERS], ids=["halving", "others"])
@pytest.mark.parametrize("scale", [0.0, 100.0, 1e4])
def test_extreme_logits(scale, temperatures, kernel):
    """Catches overflow, 0 * inf, and a clamp of the exponent that shows in the divergence."""
    assert_agrees(case(4, 37, temperatures, scale=scale), temperatures)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, of a sum that is made anew
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fill", [-torch.inf, -1e4, torch.finfo(torch.bfloat16).min])
def test_masked_classes_equal_twin(fill, dtype, kernel):
    """Catches masked classes that show at high temperatures or in the scale, and one that gets a gradient."""
    temperatures = [1.0, 5000.0]
    problem = masked_case(fill, temperatures, dtype=dtype)
    assert_agrees(problem, temperatures)
    moved = [each.to(DEVICE) for each in problem]
    scaling = Scaling(torch.tensor(0.01, device=DEVICE), torch.tensor(0.3, device=DEVICE))
    *_, gradient = kernels.divergences(*moved[:3], temperatures, moved[3], True, scaling)
    assert not gradient[moved[0] < -5e3].any()


def test_classes_not_seen_and_labels_ignored_add_nothing(kernel):
    """Catches nan from -inf, a class that is missing at one level alone, and row 0 taken for ignored labels."""
    problem = case(8, 6, OTHERS, ignored=(0, 3), unseen=(1,))
    assert_agrees(problem, OTHERS)
    logits, labels, log_centroids, weights = case(8, 6, OTHERS, ignored=range(7))
    one_level = log_centroids.clone()
    one_level[2, labels[7]] = -torch.inf
    one_level[:, 0] = -torch.inf
    total, sums, _, gradient = kernels.divergences(logits, labels, one_level, OTHERS, weights, True)
    assert total == 0
    assert (sums == 0).all()
    assert (gradient == 0).all()


@pytest.mark.parametrize("place", [0, 19])
def test_a_probability_of_zero_is_taken_as_the_smallest(place, kernel):
    """Catches a row that counts as not seen because one of its classes, or all but one, are."""
    logits, labels, log_centroids, weights = case(4, 20, OTHERS)
    log_centroids = log_centroids.clone()
    log_centroids[:, :, place] = -torch.inf
    log_centroids[:, labels[0], :19] = -torch.inf
    log_centroids[:, labels[0], 19] = 0.0
    log_centroids[:, labels[1], 3] = -500.0
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
    total, _, _, gradient = kernels.divergences(logits, labels, log_centroids, HALVING, weights, True)
    assert total.isnan()
    assert gradient[1].isnan().any()


def test_a_class_masked_out_and_an_ignored_sample_are_no_fault(kernel):
    """Catches nan from a logit of -inf, and from a sample that is not to be read."""
    logits, labels, log_centroids, weights = case(4, 9, OTHERS)
    labels[:] = 2
    labels[0] = -100
    logits[0, 4], logits[1, 5] = float("nan"), -float("inf")
    total, _, _, gradient = kernels.divergences(logits, labels, log_centroids, OTHERS, weights, True)
    assert total.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[0] == 0).all()


@pytest.mark.parametrize("classes", [20, 32, 37])
def test_strides(classes, kernel):
    """Catches a layout taken for granted, or an alignment that the strides do not have, for every unit."""
    logits, labels, table, weights = case(5, classes, OTHERS)
    wide = torch.cat([logits, logits[:, :3]], dim=1)
    for other in (wide[:, :classes], wide[:, 1 : classes + 1], logits.T.contiguous().T, logits.flip(0)):
        assert_agrees((other, labels, table, weights), OTHERS)
    wide, turned = torch.cat([table, table], dim=2)[:, :, :classes], table.transpose(1, 2).contiguous().transpose(1, 2)
    for other in (wide, turned, table[:1].expand(4, -1, -1)):
        assert_agrees((logits, labels, other, weights), OTHERS)
    apart = torch.stack([labels, labels - 7], dim=1)[:, 0]
    assert_agrees((logits, apart, table, weights[:1].expand(4)), OTHERS)


def test_without_gradient(kernel):
    """Catches a gradient made in evaluation, and values that differ without one."""
    problem = [each.to(DEVICE) for each in case(4, 9, HALVING)]
    results = [kernels.divergences(*problem[:3], HALVING, problem[3], wanted) for wanted in (True, False)]
    assert torch.equal(results[0][1], results[1][1])
    assert results[1][3].shape == (0, 9)


def test_sixteen_halving_levels_keep_their_precision(kernel):
    """Catches errors that double with each square: after 15 they would reach 1e-3."""
    temperatures = [2.0**power for power in range(-8, 8)]
    assert_agrees(case(3, 9, temperatures, scale=0.02), temperatures)


def test_only_these_kernels_are_interpreted(monkeypatch):
    """Catches a switch left on, which would interpret torch.compile's kernels, and a crash of compiled ones on CPU."""
    assert not triton.knobs.runtime.interpret
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match=r"Expected logits on a GPU.*got them on cpu.*hide it"):
        kernels.divergences(*case(2, 3, OTHERS)[:3], OTHERS, torch.ones(4), True)


@pytest.mark.slow
def test_torch_compile_works_before_and_after():
    """Catches an interpreter that leaves the language patched, so that other libraries' kernels break."""
    values = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    for scale in (2.0, 3.0):
        compiled = torch.compile(lambda numbers, scale=scale: (numbers * scale).log_softmax(1))
        torch.testing.assert_close(compiled(values), (values * scale).log_softmax(1))
        assert_agrees(case(2, 5, OTHERS), OTHERS)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_a_gpu_that_is_not_there(capability, tmp_path):
    """Catches what the interpreter lets through and a GPU's compiler does not, and rows that do not fit on chip."""
    job = [sys.executable, str(Path(__file__).with_name("compiled_kernels.py")), str(capability)]
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(job, capture_output=True, text=True, env=environment, timeout=HANGING, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 48
    assert [row for row in rows if row["spilled"] > 64] == []  # of the 256 bytes a thread may have at 32 warps


@pytest.mark.gpu  # on CPU: the tests above, and those of the operator in blocks
def test_operator_on_a_gpu_equals_twin():
    """Catches kernels that are not used, or a gradient that is not scaled by what comes after."""
    logits, labels, log_centroids, weights = case(40, 1000, HALVING, ignored=(3,), unseen=(5,))
    _, sums, gradient = twin(logits, labels, log_centroids, HALVING, weights)
    raised = logits.to("cuda").requires_grad_()
    found = divergences(raised, labels.cuda(), log_centroids.cuda(), tuple(HALVING), weights.cuda())
    with_gradient(found.total, 0.5, raised, found).backward()
    torch.testing.assert_close(found.sums.double().cpu(), sums, rtol=5e-5, atol=1e-6)
    torch.testing.assert_close(raised.grad.double().cpu(), 0.5 * gradient, rtol=5e-5, atol=1e-7)
