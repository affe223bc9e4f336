"""NLL, ECE, temperature calibration and AURC against the slow twin and data whose answer is known."""

import math

import pytest
import reference
import torch

from hf_cmim.functional import CalibrationStatistics
from hf_cmim.functional.calibration import octave_grid

GRID = octave_grid(-3, 3, per_octave=4)
FIGURES = ["nll", "ece", "temperature", "nll_calibrated", "ece_calibrated", "aurc"]


def samples(seed=0, dtype=torch.float64, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=dtype), torch.tensor(labels)


def calibrated_samples(scale=1.0):
    """Confidence .5, .6, .7, .8, .9 and exactly that share of hits; every sample twice, so that both halves agree."""
    logits, labels = [], []
    for tenths in (5, 6, 7, 8, 9):
        for position in range(100):
            logits += 2 * [[scale * math.log(tenths / (10 - tenths)) + 1e-9, 0.0]]
            labels += 2 * [int(position >= 10 * tenths)]
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


def calibration(*batches, grid=GRID):
    statistics = CalibrationStatistics(grid)
    for logits, labels in batches:
        statistics.update(logits, labels)
    return statistics.compute()


@pytest.mark.parametrize(
    "case",
    [
        {"seed": 0, "size": 200},
        {"seed": 1, "size": 61, "num_classes": 2, "scale": 5.0},
        {"seed": 2, "size": 90, "num_classes": 8, "scale": 0.5},
    ],
    ids=lambda case: f"seed{case['seed']}",
)
def test_figures_equal_twin(case):
    """Catches a second best temperature, other bins, a half that chooses for itself, and risks in the wrong order."""
    logits, labels = samples(**case)
    rows = reference.valid_samples(logits.tolist(), labels.tolist())
    found = calibration((logits, labels))
    assert found.nll == pytest.approx(reference.nll(*rows), rel=1e-12)
    assert found.ece == pytest.approx(reference.ece(*rows), rel=1e-12)
    assert found.aurc == pytest.approx(reference.aurc(*rows), rel=1e-12)
    assert found.temperature == min(GRID, key=lambda t: reference.nll(*rows, t))
    nll, ece = reference.cross_fitted(*rows, GRID)
    assert found.nll_calibrated == pytest.approx(nll, rel=1e-12)
    assert found.ece_calibrated == pytest.approx(ece, rel=1e-12)


def test_calibration_is_judged_on_samples_that_did_not_choose_it():
    """Catches a temperature fitted and judged on the same samples: here each half likes another one."""
    logits, labels = calibrated_samples()
    shrunk = logits.clone()
    shrunk[::2] *= 8  # even positions want T = 8, odd ones T = 1
    found = calibration((shrunk, labels))
    rows = logits.tolist(), labels.tolist()
    judged = (reference.nll(*rows, 1 / 8) + reference.nll(*rows, 8)) / 2
    assert found.nll_calibrated == pytest.approx(judged, rel=1e-6)
    assert found.nll_calibrated > found.nll


def test_calibrated_data_has_no_calibration_error():
    """Catches bins that mix confidences with other samples' hits."""
    found = calibration(calibrated_samples())
    assert found.ece < 1e-9
    assert found.temperature == 1.0


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_scaled_logits_are_calibrated_by_their_scale(scale):
    """Catches an inverted temperature, and an ECE after calibration that is the one before."""
    found = calibration(calibrated_samples(scale))
    assert found.temperature == scale
    assert found.ece > 0.05
    assert found.ece_calibrated < 1e-9
    assert found.nll_calibrated == pytest.approx(calibration(calibrated_samples()).nll, rel=1e-6)


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 1, 30, 0, 22]], ids=["one", "single", "ragged"])
def test_batches_equal_one_batch(sizes):
    """Catches halves that begin anew with each batch, and positions that count ignored samples."""
    logits, labels = samples(num_classes=3)
    streamed = calibration(*zip(logits.split(sizes), labels.split(sizes), strict=True))
    whole = calibration((logits[labels >= 0], labels[labels >= 0]))
    for name in FIGURES:
        assert getattr(streamed, name) == pytest.approx(getattr(whole, name), rel=1e-12)


def test_lowest_bins_are_kept_apart():
    """Catches bins shifted by one, which merge the lowest two: here the errors of both would partly cancel."""
    logits = torch.zeros(4, 20)
    logits[2:, 0] = math.log(19 / 9)  # confidence 1 / 10, in the second bin; those of the first rows are 1 / 20
    found = calibration((logits, torch.tensor([7, 7, 0, 0])))
    assert found.ece == pytest.approx((1 / 20 + 9 / 10) / 2)


def test_equal_confidences_share_their_errors():
    """Catches an AURC that depends on the order of samples nobody can tell apart."""
    certain = torch.tensor([[1e4, -1e4], [1e4, -1e4], [1e4, -1e4], [1e4, -1e4], [1.0, 0.0]])
    for labels in ([1, 0, 0, 0, 0], [0, 0, 0, 1, 0]):
        found = calibration((certain, torch.tensor(labels)))
        assert found.aurc == pytest.approx((4 * 0.25 + 0.2) / 5, rel=1e-12)
        assert found.aurc == pytest.approx(reference.aurc(certain.tolist(), labels), rel=1e-12)


def test_best_and_worst_ranking_bound_the_risk():
    """Catches a curve that answers the least confident samples first."""
    logits = torch.tensor([[4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert calibration((logits, torch.tensor([0, 0, 0, 0]))).aurc == 0
    assert calibration((logits, torch.tensor([0, 0, 0, 1]))).aurc == pytest.approx(1 / 16)
    assert calibration((logits, torch.tensor([1, 0, 0, 0]))).aurc == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(dtype):
    """Catches overflow of 1e4 / 0.02 in half precision, and a confidence of 1 that falls out of the last bin."""
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e4, -1e4], [0.0, 0.0]], dtype=dtype)
    found = calibration((logits, torch.tensor([0, 1, 1, 0])), grid=[0.02, 500.0])
    assert all(math.isfinite(getattr(found, name)) for name in FIGURES)
    assert found.ece == pytest.approx((3 / 4) * (1 / 3) + (1 / 4) * (1 / 2))


def test_grid_always_holds_one():
    """Catches figures before calibration read at another temperature than 1."""
    statistics = CalibrationStatistics([4.0, 0.5])
    assert statistics.temperatures == (0.5, 1.0, 4.0)
    logits, labels = samples()
    expected = reference.nll(*reference.valid_samples(logits.tolist(), labels.tolist()))
    assert calibration((logits, labels), grid=[4.0, 0.5]).nll == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[], [-100, -100], [-100, 0]])
def test_too_few_samples_are_an_error(labels):
    """Catches a judgement from a half without samples."""
    with pytest.raises(ValueError, match=f"at least 2 valid samples.*got {labels.count(0)}"):
        calibration((torch.zeros(len(labels), 3), torch.tensor(labels, dtype=torch.long)))


def test_octave_grid_is_exact():
    """Catches powers of two that are off by a rounding, which no temperature asked for would then equal."""
    assert octave_grid(-6, 9, scale=4.0) == [4.0 * 2.0**k for k in range(-6, 10)]
    assert octave_grid(0, 1, per_octave=2) == [1.0, pytest.approx(math.sqrt(2)), 2.0]
