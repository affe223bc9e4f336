"""The linear map: its answers by float64 loops, a fit at a minimum of the float64 objective, and how it is undone."""

import math

import pytest
import reference
import torch

from hf_cmim.channels import FLOOR, LinearMap
from hf_cmim.errors import HfCmimError

MATRIX = torch.tensor([[0.8, 0.1, -0.2], [0.3, 0.5, 0.0], [-0.1, 0.0, 0.9]])


def answers_and_labels(seed=0, size=60, num_classes=3, **changes):
    logits, labels = reference.random_samples(seed, size, num_classes, **changes)
    return torch.tensor(logits, dtype=torch.float64).log_softmax(-1).float(), torch.tensor(labels)


def mapped(matrix, row):
    """A log p of one row."""
    floored = [max(value, math.log(FLOOR)) for value in row]
    return [math.fsum(a * b for a, b in zip(weights, floored, strict=True)) for weights in matrix]


def objective(flat, rows, labels, weight):
    """What the fit minimises, from its equation."""
    size = len(rows[0])
    logits = [mapped([flat[size * c : size * (c + 1)] for c in range(size)], row) for row in rows]
    spread = math.fsum(t**2 * reference.cmi(logits, labels, t) for t in (1.0, 2.0, 4.0)) / 3
    return reference.nll(logits, labels) + weight * spread


def test_answers_equal_the_loops_and_pass_where_the_prediction_would_change():
    """Catches a transposed matrix, one on probabilities, and a map that answers another class."""
    log_probs, _ = answers_and_labels()
    given = LinearMap(MATRIX)(log_probs)
    changed = [mapped(MATRIX.tolist(), row) for row in log_probs.tolist()]
    passes = [
        reference.argmax(new) != reference.argmax(old) for new, old in zip(changed, log_probs.tolist(), strict=True)
    ]
    assert 0 < sum(passes) < 30
    expected = [old if passed else reference.log_softmax(new)
                for new, old, passed in zip(changed, log_probs.tolist(), passes, strict=True)]  # fmt: skip
    assert torch.allclose(given, torch.tensor(expected), atol=1e-5)
    assert torch.equal(given[torch.tensor(passes)], log_probs[torch.tensor(passes)])


@pytest.mark.parametrize("weight", [0.3, 3.0])
def test_the_fit_is_a_minimum_of_the_objective(weight):
    """Catches another temperature, factor, label or sign in the loss, and a fit that stops early."""
    log_probs, labels = answers_and_labels()
    matrix = LinearMap.fit(log_probs, labels, weight=weight).matrix
    valid = labels != -100
    arguments = log_probs[valid].tolist(), labels[valid].tolist(), weight
    fitted = matrix.double().flatten().tolist()
    best = objective(fitted, *arguments)
    assert best < objective(torch.eye(3).flatten().tolist(), *arguments)
    slopes = reference.slopes(lambda flat: objective(flat, *arguments), fitted, step=1e-4)
    assert max(map(abs, slopes)) < 2e-3


def test_a_weight_concentrates_the_answers_of_each_class():
    """Catches a weight of the wrong sign: CMI by the float64 twin, on other samples than the fit saw."""
    held_out, labels = answers_and_labels(size=400)
    asked, true = answers_and_labels(seed=1, size=200, ignored=0)
    spreads = [
        reference.cmi(LinearMap.fit(held_out, labels, weight=weight)(asked).tolist(), true.tolist(), 2.0)
        for weight in (0.1, 1.0, 10.0)
    ]
    assert spreads[0] > spreads[1] > spreads[2]


def test_who_knows_the_matrix_undoes_it():
    """Catches a map that loses more than its documentation says."""
    log_probs, _ = answers_and_labels()
    given = LinearMap(MATRIX)(log_probs).double()
    matrix = MATRIX.double()
    kept = (log_probs.double() @ matrix.T).argmax(-1) == log_probs.argmax(-1)
    # A log p = log p' + k: the constant k is the one for which the probabilities sum to 1.
    low, high = torch.full((len(given), 1), -50.0).double(), torch.full((len(given), 1), 50.0).double()
    for _ in range(100):
        middle = (low + high) / 2
        undone = torch.linalg.solve(matrix, (given + middle).T).T
        above = undone.logsumexp(-1, keepdim=True) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    assert torch.allclose(undone[kept], log_probs[kept].double(), atol=1e-4)


def test_a_saved_channel_comes_back_whole(tmp_path):
    """Catches a matrix that is rounded or transposed on the way to the disk."""
    channel = LinearMap(MATRIX)
    channel.save(tmp_path / channel.file_name)
    loaded = LinearMap.load(tmp_path / "linear_map.safetensors")
    assert torch.equal(loaded.matrix, channel.matrix)
    assert repr(loaded) == repr(channel) != repr(LinearMap(MATRIX.T))


def test_ignored_samples_do_not_count_and_a_fit_repeats():
    """Catches padding tokens in the fit, and random numbers in it."""
    log_probs, labels = answers_and_labels()
    labels[40:] = -100
    first, second = (
        LinearMap.fit(log_probs, labels, weight=1.0),
        LinearMap.fit(log_probs[:40], labels[:40], weight=1.0),
    )
    assert repr(first) == repr(second)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: LinearMap(MATRIX[:2]), r"\(C, C\).*got \(2, 3\)"),
        (lambda: LinearMap(torch.eye(1)), "at least 2 classes"),
        (lambda: LinearMap([[1.0, 0.0], [0.0, 1.0]]), "got list"),
        (lambda: LinearMap(torch.eye(3).long()), "torch.int64"),
        (lambda: LinearMap(MATRIX / 0), "9 entries that are not finite"),
        (lambda: LinearMap(MATRIX)(torch.zeros(1, 4).log_softmax(-1)), "3 classes.*got 4.*Fit LinearMap"),
        (lambda: LinearMap.fit(*answers_and_labels(), weight=-1.0), "got -1.0"),
        (lambda: LinearMap.fit(*answers_and_labels(), weight=math.nan), "got nan"),
        (lambda: LinearMap.fit(torch.randn(9, 3) + 2, torch.arange(9) % 3, weight=1.0), "sum to 1, got sums"),
        (
            lambda: LinearMap.fit(torch.eye(3).log_softmax(-1), torch.tensor([0, 1, 3]), weight=1.0),
            r"labels in \[0, 3\)",
        ),
    ],
)
def test_hostile_matrices_and_data_are_refused(build, named):
    """Catches answers of nan, and a matrix of another model."""
    with pytest.raises(HfCmimError, match=named):
        build()
