"""A class that is masked in every sample changes nothing: loss, gradient, bank, measurement and metrics."""

import dataclasses
import json
from itertools import product

import numpy as np
import pytest
import reference
import torch

from hf_cmim import CentroidBank, CMIMLoss, MeasurementAccumulator, ObjectiveSpec
from hf_cmim.errors import HfCmimError
from hf_cmim.functional import conditional_mutual_information, normalized_cmi
from hf_cmim.hardening.parts import Snapshot
from hf_cmim.metrics.cmi.cmi import CMI
from hf_cmim.metrics.ncmi.ncmi import NCMI

CLASSES, PLACE = 5, 2
REAL = [0, 1, 3, 4, 5]  # the places of the real classes beside a masked one
TEMPERATURES = (0.5, 1.0, 16.0)
FORMS = {"plain": {}, "scaled": {"logit_scale": 0.5}, "share": {}}
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]
MINIMA = {dtype: torch.finfo(dtype).min for dtype in (torch.float16, torch.bfloat16, torch.float32)}
by_fill = pytest.mark.parametrize("fill", [-torch.inf, -1e4, -1e9, *MINIMA.values()])
by_backend = pytest.mark.parametrize("backend", ["eager", "fused"])
by_form = pytest.mark.parametrize("form", FORMS)


def samples(seed=0, dtype=torch.float32, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits).to(dtype), torch.tensor(labels)


def with_masked_class(logits, labels, fill):
    """The same samples of a model with one class more, which none of them may have."""
    column = torch.full((len(logits), 1), fill).to(logits.dtype)
    widened = torch.cat([logits[:, :PLACE], column, logits[:, PLACE:]], dim=1)
    return widened, torch.where(labels >= PLACE, labels + 1, labels)


def hardening(batches, form, backend, num_classes, correct_only=False, temperatures=TEMPERATURES):
    """What two steps give: parts and gradients of each micro-batch, and the bank."""
    spec = ObjectiveSpec(form, temperatures, window=30.0, correct_only=correct_only, **FORMS[form])
    loss, bank = CMIMLoss(spec, backend=backend), CentroidBank(num_classes, spec)
    found = []
    for logits, labels in batches:
        leaf = logits.clone().requires_grad_()
        parts = loss(leaf, labels, bank.snapshot(), 0.7)
        (parts.ce + parts.cmi).backward()
        found.append((parts, leaf.grad))
        bank.accumulate(logits, labels, parts)
        bank.step()
    return found, bank


@by_form
@by_backend
@by_fill
@pytest.mark.parametrize("dtype", list(MINIMA))
@pytest.mark.parametrize("correct_only", [False, True])
def test_hardening_does_not_see_a_masked_class(form, backend, fill, dtype, correct_only):
    """Catches a scale that the mask sets, which turns the hardening off, nan, and centroids of a class nobody has."""
    batches = [samples(seed, dtype) for seed in range(3)]
    masked = [with_masked_class(*batch, fill) for batch in batches]
    expected, bank = hardening(batches, form, backend, CLASSES, correct_only)
    found, widened = hardening(masked, form, backend, CLASSES + 1, correct_only)
    precise = {"rtol": 3e-5, "atol": 1e-6}
    for (parts, gradient), (others, other_gradient) in zip(found, expected, strict=True):
        torch.testing.assert_close(parts[:4], others[:4], **precise)
        # The gradients of both parts are rounded to the logits' type before they are added.
        rounding = torch.finfo(dtype).eps
        atol = max(1e-6, rounding * other_gradient.abs().max().item())
        torch.testing.assert_close(gradient[:, REAL], other_gradient, rtol=max(3e-5, rounding), atol=atol)
        assert not gradient[:, PLACE].any()
    assert expected[-1][0].cmi > 1e-3
    torch.testing.assert_close(widened.terms, bank.terms, **precise)
    for name in ("multiplier", "outward", "spread") if form == "scaled" else ():
        torch.testing.assert_close(getattr(widened.form, name), getattr(bank.form, name), **precise)
    for name in ("mass", "seen", "recall"):
        torch.testing.assert_close(getattr(widened, name)[REAL], getattr(bank, name))
    assert not widened.probs[:, :, PLACE].any()
    assert form != "scaled" or widened.form.multiplier < 1
    for name in ("probs", "log_probs"):
        torch.testing.assert_close(getattr(widened, name)[:, REAL][:, :, REAL], getattr(bank, name), **precise)


@by_fill
def test_filled_centroids_do_not_see_a_masked_class(fill):
    """Catches a pass over the data at a scale where -1e4 is a logit like others."""
    batch = samples()
    masked = with_masked_class(*batch, fill)
    spec = ObjectiveSpec("scaled", TEMPERATURES, logit_scale=0.05)
    banks = CentroidBank(CLASSES, spec), CentroidBank(CLASSES + 1, spec)
    for bank, (logits, labels) in zip(banks, (batch, masked), strict=True):
        bank.fill([(logits, labels)])
    torch.testing.assert_close(banks[1].form.multiplier, banks[0].form.multiplier)
    torch.testing.assert_close(banks[1].probs[:, REAL][:, :, REAL], banks[0].probs, rtol=1e-5, atol=1e-7)
    assert not banks[1].probs[:, :, PLACE].any()


@by_form
@by_backend
def test_masks_that_differ_between_samples_split_like_any_batch(form, backend):
    """Catches a mask looked up for a batch as a whole: a sample would be masked beside another, and not alone."""
    logits, labels = samples(size=32, masked=0.3)
    spec = ObjectiveSpec(form, TEMPERATURES, **FORMS[form])
    loss, bank = CMIMLoss(spec, backend=backend), CentroidBank(CLASSES, spec)
    bank.fill([samples(1, masked=0.2)])
    bank.terms.copy_(torch.tensor([0.3, 0.2, 0.1]))
    gradients = []
    for size in (32, 8, 1):
        leaf = logits.clone().requires_grad_()
        for part, own in zip(leaf.split(size), labels.split(size), strict=True):
            loss(part, own, bank.snapshot(), num_items=30).cmi.backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradients[2], gradients[0], rtol=1e-5, atol=1e-7)
    assert not gradients[0][logits == -torch.inf].any()
    assert gradients[0].abs().max() > 1e-3


def measurement(*batches):
    accumulator = MeasurementAccumulator([3.0])
    for batch in batches:
        accumulator.update(*batch)
    return accumulator.compute()


@by_fill
@pytest.mark.parametrize("dtype", list(MINIMA))
@pytest.mark.parametrize("num_classes", [3, 8])
def test_measurement_does_not_see_a_masked_class(fill, dtype, num_classes):
    """Catches an accuracy of 0 with a CMI of 0, which reads as perfect, and any other figure that moves."""
    batch = samples(dtype=dtype, num_classes=num_classes)
    expected, found = (dataclasses.asdict(measurement(each)) for each in (batch, with_masked_class(*batch, fill)))
    assert expected["accuracy"] > 0.3
    for name, value in expected.items():
        if name == "labels_fingerprint":  # the labels behind the masked class have other numbers
            continue
        assert found[name] == pytest.approx(value, rel=1e-9), name


@by_fill
def test_a_masked_label_is_a_wrong_answer(fill):
    """Catches an NLL of infinity, which is no JSON, and a hit among the five largest of four logits."""
    logits, labels = samples(num_classes=6, ignored=0.0)
    answered = measurement((logits, labels))
    filled = logits.clone()
    filled[torch.arange(0, 60, 4), labels[::4]] = fill
    filled[:, 5] = fill
    found = measurement((filled, labels))
    rows = reference.valid_samples(filled.tolist(), labels.tolist())
    assert found.accuracy == reference.accuracy(*rows) < answered.accuracy
    assert found.top5_accuracy == reference.accuracy(*rows, top=5) < 0.76
    assert found.calibration.nll == pytest.approx(reference.nll(*rows), rel=1e-9)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_sample_with_one_class_left_has_probability_one():
    """Catches 0 / 0 where nothing is left to vary."""
    rows = [[0.0, -1e4, -1e4], [-1e4, 2.0, -1e4], [3.0, -1e4, -1e4], [-1e4, -1e4, -5.0]]
    found = measurement((torch.tensor(rows), torch.tensor([0, 1, 1, 2])))
    assert (found.accuracy, found.top5_accuracy, found.logit_scale) == (0.75, 0.75, 0.0)
    # Two of class 1 answer with certainty, each with another class: of 4 samples 2 lie log 2 from their mean.
    assert found.cmi == pytest.approx([np.log(2) / 2] * len(found.cmi))
    assert found.cmi_sup == 0
    assert found.within_class_variance == 0
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_measurement_and_metrics_refuse_what_is_no_number(number):
    """Catches nan in every figure of a report."""
    logits, labels = samples(ignored=0.0)
    logits[7, 3] = number
    with pytest.raises(HfCmimError, match=r"1 of 60 samples have a logit that is nan or \+inf"):
        measurement((logits, labels))
    with pytest.raises(HfCmimError, match="1 of 60 samples have a logit"):
        CMI()._compute(logits.tolist(), labels.tolist())
    labels[7] = -100
    assert measurement((logits, labels)).num_samples == 59


@by_fill
def test_metrics_do_not_see_a_masked_class(fill):
    """Catches a metric with a way of its own."""
    batch = samples(ignored=0.0)
    masked = [each.tolist() for each in with_masked_class(*batch, fill)]
    for metric, temperature, correct_only in product((CMI(), NCMI()), (1.0, 700.0), (False, True)):
        expected = metric._compute(*(each.tolist() for each in batch), temperature, correct_only)
        found = metric._compute(*masked, temperature, correct_only)
        assert found == {name: pytest.approx(value, rel=1e-5) for name, value in expected.items()}


def test_normalized_cmi_of_one_class_is_the_same_everywhere():
    """Catches infinity in one place and 0 in another."""
    logits, labels = samples(ignored=0.0)
    alone = torch.ones_like(labels)
    assert conditional_mutual_information(logits, alone) > 0.1
    assert normalized_cmi(logits, alone).item() == 0
    assert measurement((logits, alone)).ncmi == 0
    assert NCMI()._compute(logits.tolist(), alone.tolist()) == {"ncmi": 0}


@pytest.mark.parametrize("dtype", INTEGERS)
@by_form
def test_labels_of_any_integer_type(dtype, form):
    """Catches a scatter that takes int64 labels only, and -100 that wraps to a class of a small unsigned type."""
    logits, labels = samples(ignored=0.0 if dtype == torch.uint8 else 0.1)
    results = [hardening([(logits, each)] * 2, form, "fused", CLASSES, True) for each in (labels, labels.to(dtype))]
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=0)
    torch.testing.assert_close(results[1][1].state_dict(), results[0][1].state_dict(), rtol=0, atol=0)
    assert measurement((logits, labels.to(dtype))) == measurement((logits, labels))
    assert normalized_cmi(logits, labels.to(dtype)) == normalized_cmi(logits, labels)


def test_label_156_of_an_unsigned_type_is_a_class():
    """Catches -100 read as a byte."""
    logits = torch.randn(4, 200, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([156, 156, 3, 4])
    loss, snapshot = CMIMLoss(ObjectiveSpec("plain", (1.0,))), Snapshot(torch.full((1, 200, 200), -5.0))
    narrow, wide = (loss(logits, each, snapshot) for each in (labels.to(torch.uint8), labels))
    torch.testing.assert_close(narrow, wide, rtol=0, atol=0)


@by_backend
@by_form
def test_a_masked_class_does_not_show_at_high_temperatures(form, backend):
    """Catches -1e4 taken for a logit: at T = 4,000 its probability would be a twelfth of the others'."""
    batches, settings = [samples(seed) for seed in range(2)], {"temperatures": (4000.0,)}
    masked = [with_masked_class(*batch, -1e4) for batch in batches]
    expected, _ = hardening(batches, form, backend, CLASSES, **settings)
    found, widened = hardening(masked, form, backend, CLASSES + 1, **settings)
    assert not widened.probs[:, :, PLACE].any()
    assert not found[-1][1][:, PLACE].any()
    torch.testing.assert_close(found[-1][1][:, REAL], expected[-1][1], rtol=1e-3, atol=1e-4)
