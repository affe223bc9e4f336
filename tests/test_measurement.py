"""Measurement: its figures against the slow twin, its temperature grid, and JSON in and out."""

import dataclasses
import json
import math
import weakref

import pytest
import reference
import torch

from hf_cmim import Measurement, MeasurementAccumulator
from hf_cmim.functional.calibration import octave_grid

CASES = [
    {"seed": 0, "size": 120},
    {"seed": 1, "size": 80, "num_classes": 8, "scale": 0.7},
    {"seed": 2, "size": 60, "num_classes": 3, "scale": 9.0, "absent": 1},
    {"seed": 3, "size": 90, "num_classes": 7, "masked": 0.3},
]
by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed{case['seed']}")


def samples(seed=0, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


def measure(*batches, temperatures=()):
    accumulator = MeasurementAccumulator(temperatures)
    for logits, labels in batches:
        accumulator.update(logits, labels)
    return accumulator.compute()


# Figures


@by_case
def test_figures_equal_twin(case):
    """Catches two figures exchanged, T = 1 read at another place of the grid, and ignored labels that count."""
    logits, labels = samples(**case)
    found = measure((logits, labels), temperatures=[3.0])
    rows = reference.valid_samples(logits.tolist(), labels.tolist())
    expected = {
        "num_samples": len(rows[1]),
        "accuracy": reference.accuracy(*rows),
        "top5_accuracy": reference.accuracy(*rows, top=5),
        "ncmi": reference.ncmi(*rows),
        "separation": reference.separation(*rows),
        "prediction_entropy": reference.prediction_entropy(*rows),
        "within_class_variance": reference.within_class_variance(*rows),
        "within_total_ratio": reference.within_total_ratio(*rows),
        "logit_scale": reference.root_mean_square(*rows),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9), name
    assert found.calibration.nll == pytest.approx(reference.nll(*rows), rel=1e-9)
    assert found.calibration.ece == pytest.approx(reference.ece(*rows), rel=1e-9)
    assert found.calibration.aurc == pytest.approx(reference.aurc(*rows), rel=1e-9)


@by_case
def test_curves_equal_twin(case):
    """Catches the curve of all samples under the name of the correct ones, and the headline taken from it."""
    logits, labels = samples(**case)
    found = measure((logits, labels), temperatures=[3.0])
    rows = reference.valid_samples(logits.tolist(), labels.tolist())
    correct = reference.valid_samples(*rows, correct_only=True)
    assert len(found.temperatures) == len(found.cmi) == len(found.cmi_correct)
    for temperature, cmi, cmi_correct in zip(found.temperatures, found.cmi, found.cmi_correct, strict=True):
        assert cmi == pytest.approx(reference.cmi(*rows, temperature), rel=1e-7, abs=1e-14)
        assert cmi_correct == pytest.approx(reference.cmi(*correct, temperature), rel=1e-7, abs=1e-14)
    largest = max(found.temperatures, key=lambda t: reference.cmi(*correct, t))
    assert found.cmi_sup_temperature == largest
    assert found.cmi_sup == pytest.approx(reference.cmi(*correct, largest), rel=1e-9)
    assert found.cmi_sup < max(found.cmi)
    assert found.cmi_at(3.0) == pytest.approx(reference.cmi(*rows, 3.0), rel=1e-9)


def test_model_that_is_always_wrong_has_a_headline_of_zero():
    """Catches an error, or the curve of the wrong answers, where no answer is correct."""
    logits, _ = samples(ignored=0.0)
    found = measure((logits, logits.argmin(dim=1)))
    assert found.accuracy == 0
    assert found.cmi_sup == 0
    assert max(found.cmi) > 0


@pytest.mark.parametrize("size", [7, 10, 33])
def test_constant_model_has_no_variance_to_share(size):
    """Catches 0 / 0, and rounding noise over rounding noise, reported as a ratio of variances."""
    found = measure((torch.tensor([[0.3, -1.7, 2.9]] * size), torch.arange(size) % 3))
    assert found.within_total_ratio == pytest.approx(0, abs=1e-6)


# The grid


@by_case
def test_grid_holds_what_was_asked_for_and_follows_the_logits(case):
    """Catches a grid that misses T = 1 or a wanted temperature, or stays where it was when the logits grow."""
    logits, labels = samples(**case)
    found = measure((logits, labels), temperatures=[3.0, 0.7])
    assert {1.0, 3.0, 0.7} <= set(found.temperatures)
    assert list(found.temperatures) == sorted(set(found.temperatures))
    octaves = [t for t in found.temperatures if t not in (3.0, 0.7)]
    assert all(2 * math.log2(t) == pytest.approx(round(2 * math.log2(t))) for t in octaves)
    assert octaves[0] <= found.logit_scale / 16
    assert octaves[-1] >= found.logit_scale * 128
    scaled = measure((16 * logits, labels))
    assert set(octave_grid(-5, 8, per_octave=2, scale=16 * octaves[0] * 32)) <= set(scaled.temperatures)


@by_case
@pytest.mark.parametrize("scale", [16.0, 2.0**12, 2.0**-12])
def test_scaling_the_logits_changes_no_figure_free_of_scale(scale, case):
    """Catches a fixed grid, of the curve or of the calibration: a model could hide its CMI by inflating its logits."""
    logits, labels = samples(**case)
    found, scaled = measure((logits, labels)), measure((scale * logits, labels))
    assert scaled.cmi_sup == pytest.approx(found.cmi_sup, rel=1e-12)
    assert scaled.cmi_sup_temperature == scale * found.cmi_sup_temperature
    assert scaled.within_total_ratio == pytest.approx(found.within_total_ratio, rel=1e-12)
    assert scaled.calibration.temperature == scale * found.calibration.temperature
    assert scaled.calibration.nll_calibrated == pytest.approx(found.calibration.nll_calibrated, rel=1e-12)


# Streaming


@pytest.mark.parametrize("sizes", [[120], [40] * 3, [31, 1, 0, 58, 30]], ids=["one", "equal", "ragged"])
def test_batches_equal_one_batch(sizes):
    """Catches figures of the last batch, and means of means."""
    logits, labels = samples(size=120)
    whole = measure((logits, labels))
    streamed = measure(*zip(logits.split(sizes), labels.split(sizes), strict=True))
    assert streamed.temperatures == whole.temperatures
    for name, value in whole.to_dict().items():
        other = streamed.to_dict()[name]
        expected = value if name == "labels_fingerprint" else pytest.approx(value, rel=1e-9, abs=1e-14)
        assert other == expected, name


def test_grid_is_the_same_for_any_order_of_ordinary_batches():
    """Catches a grid that follows the accidents of a batch: curves of two runs could not be laid over each other."""
    logits, labels = samples(size=400, num_classes=4, scale=1.0, ignored=0.0)
    batches = [(logits[start : start + 40], labels[start : start + 40]) for start in range(0, 400, 40)]
    assert measure(*batches).temperatures == measure(*reversed(batches)).temperatures


def test_batches_of_ignored_labels_are_passed_over():
    """Catches a grid, or a crash, from a first batch that holds only padding."""
    logits, labels = samples()
    accumulator = MeasurementAccumulator()
    accumulator.update(100 * logits, torch.full_like(labels, -100))
    assert accumulator.is_empty
    accumulator.update(logits, labels)
    assert not accumulator.is_empty
    assert accumulator.compute() == measure((logits, labels))


def test_token_classification_is_flattened():
    """Catches figures per sentence."""
    logits, labels = samples()
    assert measure((logits.reshape(6, 10, 5), labels.reshape(6, 10))) == measure((logits, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(dtype):
    """Catches overflow in half precision, in the figures or only in the scale of the grid."""
    signs, labels = torch.tensor([[1, -1, 0], [-1, 1, 0], [1, -1, 0.5], [0, 0, 1]]), torch.tensor([0, 1, 2, 2])
    logits = (1e4 * signs).to(dtype)
    found = measure((logits, labels), temperatures=[0.02, 500.0])
    assert found == measure((logits.double(), labels), temperatures=[0.02, 500.0])
    values = [*found.metrics([0.02, 500.0]).values(), *found.cmi, *found.cmi_correct]
    assert all(math.isfinite(value) for value in values)


def test_batches_are_let_go():
    """Catches an evaluation that holds the graph, and with it all activations, of every batch."""

    class Hook:
        def __call__(self, *gradients):
            pass

    logits, labels = samples()
    outputs = logits * torch.ones((), dtype=torch.float64, requires_grad=True)
    hook = Hook()
    outputs.grad_fn.register_hook(hook)  # lives as long as the graph
    alive = weakref.ref(hook)
    del hook
    accumulator = MeasurementAccumulator()
    accumulator.update(outputs, labels)
    assert alive() is not None
    del outputs
    assert alive() is None


# Names, JSON, errors


def test_metrics_have_their_names():
    """Catches a renamed or exchanged figure: `Trainer`, cards and users look these names up."""
    found = measure(samples(), temperatures=[0.25])
    metrics = found.metrics([0.25, 4.0])
    assert metrics == {
        "accuracy": found.accuracy,
        "top5_accuracy": found.top5_accuracy,
        "nll": found.calibration.nll,
        "ece": found.calibration.ece,
        "nll_calibrated": found.calibration.nll_calibrated,
        "ece_calibrated": found.calibration.ece_calibrated,
        "calibration_temperature": found.calibration.temperature,
        "aurc": found.calibration.aurc,
        "cmi": found.cmi_at(1.0),
        "cmi_sup": found.cmi_sup,
        "cmi_sup_temperature": found.cmi_sup_temperature,
        "ncmi": found.ncmi,
        "prediction_entropy": found.prediction_entropy,
        "within_total_ratio": found.within_total_ratio,
        "cmi_T0.25": found.cmi_at(0.25),
        "cmi_T4": found.cmi_at(4.0),
    }
    assert len(set(metrics.values())) >= 14  # so that an exchange shows


def test_measurement_survives_json():
    """Catches lists where tuples were, and a calibration left as a dict."""
    found = measure(samples())
    restored = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert restored == found
    assert restored.metrics([4.0]) == found.metrics([4.0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        restored.accuracy = 1.0


def test_data_of_one_class_is_measured():
    """Catches CMI / 0: an infinite NCMI is no JSON, and breaks every log it is written to."""
    logits, _ = samples(ignored=0.0)
    found = measure((logits, torch.zeros(60, dtype=torch.long)))
    assert found.separation == 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_temperature_that_was_not_measured_is_refused():
    """Catches the nearest temperature passed off as the one asked for."""
    found = measure(samples())
    with pytest.raises(ValueError, match=r"Expected one of the measured temperatures .*got 3\.3"):
        found.cmi_at(3.3)
    with pytest.raises(ValueError, match=r"got 3\.3"):
        found.metrics([3.3])


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_are_refused(count):
    """Catches a measurement of nothing."""
    logits, labels = samples(ignored=0.0)
    with pytest.raises(ValueError, match="Expected at least 2 valid samples"):
        measure((logits, torch.where(torch.arange(60) < count, labels, -100)))


def test_other_classes_and_labels_out_of_range_are_refused():
    """Catches figures over two different heads, and a label the model cannot answer."""
    logits, labels = samples()
    accumulator = MeasurementAccumulator()
    accumulator.update(logits, labels)
    with pytest.raises(ValueError, match="Expected logits of 5 classes, got 4"):
        accumulator.update(logits[:, :4], labels.clamp(max=3))
    with pytest.raises(ValueError, match=r"labels in \[0, 5\)"):
        accumulator.update(logits, labels + 1000)
    assert accumulator.compute() == measure((logits, labels))


@pytest.mark.parametrize("temperatures", [[0.0], [-1.0], [math.nan]])
def test_unusable_temperatures_are_refused(temperatures):
    """Catches nan in a curve."""
    with pytest.raises(ValueError, match="above 0 and finite"):
        MeasurementAccumulator(temperatures)
