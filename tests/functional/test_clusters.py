"""Streaming sums: any batches give what one batch of everything gives."""

import pytest
import reference
import torch

from hf_cmim.functional import ClusterStatistics

TEMPERATURES = [4.0, 0.25, 1.0]
QUANTITIES = [
    "centroids",
    "cmi",
    "separation",
    "normalized_cmi",
    "within_class_variance",
    "total_variance",
    "within_total_ratio",
    "root_mean_square",
    "prediction_entropy",
    "recalls",
]


def samples(seed=0, dtype=torch.float64, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=dtype), torch.tensor(labels)


def measured(batches, num_classes=5, correct_only=False):
    statistics = ClusterStatistics(num_classes, TEMPERATURES, correct_only)
    for logits, labels in batches:
        statistics.update(logits, labels)
    return statistics


@pytest.mark.parametrize("correct_only", [False, True])
@pytest.mark.parametrize(
    "sizes", [[60], [1] * 60, [7, 1, 30, 0, 22], [59, 1]], ids=["one", "single", "ragged", "last"]
)
@pytest.mark.parametrize("name", QUANTITIES)
def test_batches_equal_one_batch(name, sizes, correct_only):
    """Catches a mean of means, and sums that are replaced instead of added to."""
    logits, labels = samples()
    batches = zip(logits.split(sizes), labels.split(sizes), strict=True)
    streamed = getattr(measured(batches, correct_only=correct_only), name)()
    whole = getattr(measured([(logits, labels)], correct_only=correct_only), name)()
    torch.testing.assert_close(streamed, whole, rtol=1e-12, atol=0)


def test_batch_of_ignored_labels_changes_nothing():
    """Catches a crash, or a count, at a batch that holds only padding."""
    logits, labels = samples()
    ignored = torch.full_like(labels, -100)
    padded = measured([(logits, ignored), (logits, labels), (logits, ignored)])
    torch.testing.assert_close(padded.cmi(), measured([(logits, labels)]).cmi(), rtol=0, atol=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_figures_without_a_function_of_their_own_equal_twin(seed):
    """Catches an uncentred scale, a variance around 0, and recalls over predictions instead of labels."""
    logits, labels = samples(seed, num_classes=6, absent=2)
    rows = logits.tolist(), labels.tolist()
    statistics = measured([(logits, labels)], num_classes=6)
    assert statistics.total_variance().item() == pytest.approx(reference.total_variance(*rows), rel=1e-12)
    assert statistics.root_mean_square().item() == pytest.approx(reference.root_mean_square(*rows), rel=1e-12)
    expected = []
    for c in range(6):
        own = [row for row, label in zip(*rows, strict=True) if label == c]
        expected.append(sum(reference.argmax(row) == c for row in own) / len(own) if own else 0.0)
    assert statistics.recalls().tolist() == pytest.approx(expected, rel=1e-12)
    assert statistics.counts.tolist() == [rows[1].count(c) for c in range(6)]


def test_single_precision_input_is_summed_in_double():
    """Catches sums in fp32: over many samples H(Q) - H(P) of a concentrated model would drown in rounding."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(4000)
    logits = 5 * torch.eye(3)[labels] + 1e-3 * torch.randn(12000, 3, generator=generator)
    value = measured([(logits, labels)], num_classes=3).cmi()[2].item()
    twin = reference.cmi(logits.double().tolist(), labels.tolist())
    assert twin < 1e-7
    assert value == pytest.approx(twin, rel=1e-6)


def test_samples_wait_on_no_gradient_under_no_grad():
    """Catches sums that keep every batch's graph alive while a whole data set streams by."""
    logits, labels = samples()
    with torch.no_grad():
        statistics = measured([(logits.requires_grad_(), labels)])
    assert not statistics.cmi().requires_grad
    assert measured([(logits, labels)]).cmi().requires_grad
