"""Membership inference, against scipy's rank test, a loop over pairs, and repeated samples."""

import math

import pytest
import scipy.stats
import torch

from hf_cmim.errors import HfCmimError
from hf_cmim.functional import membership_auc


def losses(size: int, scale: float, seed: int) -> torch.Tensor:
    """Losses with many equal values."""
    drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (-10 * scale * drawn.log()).round() / 10


@pytest.mark.parametrize(("members", "others"), [(2, 2), (40, 7), (60, 90)])
def test_auc_is_that_of_the_rank_test(members, others):
    """Catches a wrong direction, ties that count whole or not at all, and sides that are swapped."""
    trained, fresh = losses(members, 0.5, 1), losses(others, 1.0, 2)
    statistic = scipy.stats.mannwhitneyu(fresh.numpy(), trained.numpy()).statistic
    assert membership_auc(trained, fresh)[0] == pytest.approx(statistic / (members * others), rel=1e-12)


def test_interval_is_that_of_a_loop_over_pairs():
    """Catches variances divided by the other side's number of samples, and a variance of the pairs."""
    trained, fresh = losses(30, 0.5, 3).tolist(), losses(50, 1.0, 4).tolist()
    wins = [[1.0 if own < other else 0.5 if own == other else 0.0 for other in fresh] for own in trained]
    auc = math.fsum(map(math.fsum, wins)) / (30 * 50)
    rows = [math.fsum(row) / 50 for row in wins]
    columns = [math.fsum(column) / 30 for column in zip(*wins, strict=True)]
    squared = sum((r - auc) ** 2 for r in rows) / 29 / 30 + sum((c - auc) ** 2 for c in columns) / 49 / 50
    half = scipy.stats.norm.ppf(0.975) * math.sqrt(squared)
    found = membership_auc(torch.tensor(trained), torch.tensor(fresh))
    assert found == pytest.approx((auc, auc - half, auc + half), abs=1e-6)


def test_interval_covers_the_truth():
    """Catches an interval that is too narrow or too wide: of exponential losses the AUC is 1 / (1 + ratio)."""
    generator = torch.Generator().manual_seed(0)
    drawn = -torch.rand(1000, 80, generator=generator, dtype=torch.float64).log()
    covered = 0
    for row in drawn:
        _, lower, upper = membership_auc(0.5 * row[:50], row[50:])
        covered += lower <= 2 / 3 <= upper
    assert 930 <= covered <= 968


def test_a_model_that_remembers_nothing_and_one_that_remembers_all():
    """Catches another chance level than one half, and ends outside [0, 1]."""
    same = losses(50, 1.0, 5)
    estimate, lower, upper = membership_auc(same, same)
    assert estimate == 0.5
    assert lower < 0.5 < upper
    assert membership_auc(torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4])) == (1.0, 1.0, 1.0)
    assert membership_auc(torch.tensor([0.1, 0.2, 0.4]), torch.tensor([0.3, 0.5]))[2] == 1.0


@pytest.mark.parametrize(("members", "named"), [([0.1], "got 1 and 2"), ([0.1, math.nan], "nan")])
def test_losses_without_an_order_are_refused(members, named):
    """Catches an interval of nan in a report."""
    with pytest.raises(HfCmimError, match=named):
        membership_auc(torch.tensor(members), torch.tensor([0.3, 0.4]))
