"""Which samples an attacker with a budget asks about: the greedy equation, its guarantee, and what it refuses."""

import itertools
import math
import random

import pytest
import torch

from hf_cmim import KCenter, Unlabelled
from hf_cmim.attacks.k_center import k_center


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(seed, size, width=3):
    numbers = random.Random(seed)
    return [[numbers.gauss(0, 1) for _ in range(width)] for _ in range(size)]


def radius(rows, centers):
    """Largest distance of a row from its nearest center."""
    return max(min(math.dist(row, rows[center]) for center in centers) for row in rows)


def farthest_first(rows, first, count):
    chosen = [first]
    while len(chosen) < count:
        gaps = [min(math.dist(row, rows[center]) for center in chosen) for row in rows]
        chosen.append(gaps.index(max(gaps)))
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loop_over_the_equation(seed):
    """Catches the farthest from the last sample alone, the nearest, and a first sample that is not random."""
    rows = points(seed, 40)
    chosen = k_center(torch.tensor(rows, dtype=torch.float64), 12, generator(seed)).tolist()
    assert chosen == farthest_first(rows, chosen[0], 12)


def test_the_seed_chooses_the_first_sample():
    """Catches a fixed first sample, and a generator that is not the caller's."""
    pool = torch.tensor(points(0, 40))
    firsts = {k_center(pool, 1, generator(seed)).item() for seed in range(20)}
    assert len(firsts) > 5
    assert k_center(pool, 9, generator(3)).equal(k_center(pool, 9, generator(3)))


def test_the_radius_is_at_most_twice_the_best():
    """Catches a selection without the guarantee of the greedy algorithm."""
    for seed in range(5):
        rows = points(seed, 9, width=2)
        best = min(radius(rows, centers) for centers in itertools.combinations(range(9), 3))
        chosen = k_center(torch.tensor(rows, dtype=torch.float64), 3, generator(seed)).tolist()
        assert radius(rows, chosen) <= 2 * best + 1e-12


def test_every_sample_once_even_if_all_are_equal():
    """Catches a sample that is paid for twice."""
    assert sorted(k_center(torch.ones(6, 2), 6, generator()).tolist()) == list(range(6))


@pytest.mark.parametrize("seed", range(6))
def test_ties_go_to_the_first(seed):
    """Catches the last of samples that are equally far: another device or version would select others."""
    rows = [[0.0], [1.0], [-1.0], [0.0], [1.0]]
    chosen = k_center(torch.tensor(rows), 3, generator(seed)).tolist()
    assert chosen == farthest_first(rows, chosen[0], 3)


def test_an_offset_common_to_all_samples_hides_no_distance():
    """Catches distances in fp32, in which features of 1e9 differ by nothing or by 64."""
    pool = torch.tensor([[1e9], [1e9], [1e9 + 1], [1e9]], dtype=torch.float64)
    assert all((k_center(pool, 2, generator(seed)) == 2).any() for seed in range(6))


def test_it_covers_more_than_chance():
    """Catches a selection that is no better than a random one: a rare cluster must have its query."""
    pool = torch.cat([torch.tensor(points(1, 97)), 30 + torch.tensor(points(2, 3))])
    assert all((k_center(pool, 5, generator(seed)) >= 97).any() for seed in range(5))


@pytest.mark.parametrize("count", [0, -1, 7])
def test_impossible_counts_are_refused(count):
    """Catches an empty selection, and one that is larger than the pool."""
    with pytest.raises(ValueError, match=rf"count in \[1, 6\], got {count}"):
        k_center(torch.ones(6, 2), count, generator())


def test_features_that_are_not_finite_are_refused():
    """Catches nan, which is farther than everything and nearer than nothing."""
    with pytest.raises(ValueError, match="2 of 6 samples have features that are nan or infinite"):
        k_center(torch.tensor([[1.0], [math.nan], [2.0], [math.inf], [3.0], [4.0]]), 2, generator())


def test_a_transfer_set_has_the_chosen_samples():
    """Catches positions of a list that was sorted otherwise, and labels that come back."""
    pool = [{"pixel_values": torch.tensor(row), "labels": 1} for row in points(5, 20)]
    features = torch.stack([sample["pixel_values"] for sample in pool])
    chosen = KCenter(Unlabelled(pool), features, share=0.3, seed=4)
    expected = sorted(k_center(features, 6, generator(4)).tolist())
    assert chosen.positions == expected
    assert len(chosen) == 6
    for number, position in enumerate(expected):
        assert chosen[number].keys() == {"pixel_values"}
        assert chosen[number]["pixel_values"].equal(features[position])


@pytest.mark.parametrize(
    ("features", "share", "words"),
    [
        (torch.ones(19, 2), 0.5, r"shape \(20, D\), a row for each sample, got \(19, 2\)"),
        (torch.ones(20), 0.5, r"got \(20,\)"),
        (torch.ones(20, 2), 0.01, "leaves a sample of 20, got 0.01"),
        (torch.ones(20, 2), 1.5, "leaves a sample of 20, got 1.5"),
    ],
)
def test_features_of_other_samples_are_refused(features, share, words):
    """Catches a selection among the samples of another data set."""
    with pytest.raises(ValueError, match=words):
        KCenter([{}] * 20, features, share)
