"""What every statistic refuses, and how it says so."""

import pytest
import torch

from hf_cmim.functional import ClusterStatistics, conditional_mutual_information
from hf_cmim.functional.inputs import check_label_range, flatten_samples
from hf_cmim.functional.selection import select_valid

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [1.0, 0.0, 2.0], [3.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        (LOGITS, torch.tensor([0, 1]), r"got logits \(4, 3\) and labels \(2,\)"),
        (LOGITS, torch.zeros(4, 3, dtype=torch.long), r"got logits \(4, 3\) and labels \(4, 3\).*single-label"),
        (LOGITS[0], torch.tensor(0), r"got logits \(3,\) and labels \(\)"),
        (LOGITS[:, :1], torch.zeros(4, dtype=torch.long), "at least 2 classes, got logits with 1.*num_labels"),
        (LOGITS, torch.zeros(4), r"integer labels in \[0, 3\), got dtype torch.float32"),
        (LOGITS, torch.zeros(4, dtype=torch.bool), r"integer labels in \[0, 3\), got dtype torch.bool"),
        (LOGITS, torch.tensor([0, 3, 1, 2]), r"labels in \[0, 3\) or -100 \(ignored\), got \[3\].*label2id"),
        (LOGITS, torch.tensor([-1, 3, -1, -100]), r"labels in \[0, 3\) or -100 \(ignored\), got \[-1, 3\]"),
        (LOGITS, torch.tensor([-1, 2, 0, -100]), r"labels in \[0, 3\) or -100 \(ignored\), got \[-1\]"),
    ],
    ids=["count", "multi-label", "one row", "one class", "regression", "bool", "too large", "both", "negative"],
)
def test_wrong_inputs_are_explained(logits, labels, expected):
    """Catches a missing guard: broadcasting, or an index that wraps, would give a number that means nothing."""
    with pytest.raises(ValueError, match=f"(?s)Expected.*{expected}"):
        select_valid(logits, labels)
    with pytest.raises(ValueError, match=f"(?s)Expected.*{expected}"):
        conditional_mutual_information(logits, labels)


def test_label_range_names_at_most_eight_labels():
    """Catches an error of a million numbers when a whole data set is mislabelled."""
    with pytest.raises(ValueError, match=r"got \[5, 6, 7, 8, 9, 10, 11, 12\]:"):
        check_label_range(torch.arange(1000), 5)


def test_flattening_keeps_each_label_with_its_logits():
    """Catches a transpose on the way from (B, L, C) to (B * L, C)."""
    logits = torch.arange(24.0).reshape(2, 4, 3)
    flat_logits, flat_labels = flatten_samples(logits, torch.arange(8, dtype=torch.int32).reshape(2, 4))
    assert flat_logits.tolist() == [logits[i // 4, i % 4].tolist() for i in range(8)]
    assert flat_labels.tolist() == list(range(8))
    assert flat_labels.dtype == torch.long


def test_selection_drops_ignored_and_then_wrong_samples():
    """Catches -100 that counts as a class, and correct_only that keeps the wrong ones."""
    labels = torch.tensor([0, -100, 1, 0])
    assert select_valid(LOGITS, labels)[1].tolist() == [0, 1, 0]
    kept_logits, kept_labels = select_valid(LOGITS, labels, correct_only=True)
    assert kept_labels.tolist() == [0, 0]
    assert torch.equal(kept_logits, LOGITS[[0, 3]])


def test_statistics_refuse_another_number_of_classes():
    """Catches sums over batches of two different heads."""
    statistics = ClusterStatistics(4, [1.0])
    with pytest.raises(ValueError, match="Expected logits of 4 classes, got 3"):
        statistics.update(LOGITS, torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(
    ("labels", "correct_only", "expected"),
    [
        ([-100] * 4, False, "at least one valid sample, got none"),
        ([1, 0, 1, 1], True, "at least one correctly classified sample, got none"),
    ],
)
def test_nothing_to_measure_is_an_error(labels, correct_only, expected):
    """Catches 0 / 0 = nan passed off as a measurement."""
    with pytest.raises(ValueError, match=expected):
        conditional_mutual_information(LOGITS, torch.tensor(labels), correct_only=correct_only)
    statistics = ClusterStatistics(3, [1.0], correct_only)
    for quantity in (statistics.cmi, statistics.centroids, statistics.recalls, statistics.prediction_entropy):
        with pytest.raises(ValueError, match="got none"):
            quantity()
