"""Maximising angular deviation: the equation, its solver, exact limits, and two teachers that belong together."""

import itertools
import math

import defense_reference as twins
import pytest
import reference
import torch

from hf_cmim.channels import Rounded
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers import AngularDeviationTeacher, TableTeacher
from hf_cmim.teachers.angular_deviation import deviating_probs

SIZE = 24
POSITIONS = {"sample_index": torch.arange(SIZE)}
FEATURES = [0.3, -1.2, 0.7]
"""Features under the surrogate's last layer; the objective must not depend on them."""


def rows(seed, num_classes):
    """Probabilities of the model and of the surrogate."""
    model, _ = reference.random_samples(seed, size=SIZE, num_classes=num_classes)
    surrogate, _ = reference.random_samples(seed + 100, size=SIZE, num_classes=num_classes)
    return [[reference.softmax(row) for row in side] for side in (model, surrogate)]


def deviating(model, surrogate, epsilon, keeps_predictions):
    tensors = (torch.tensor(side, dtype=torch.float64) for side in (model, surrogate))
    return deviating_probs(*tensors, epsilon, keeps_predictions).tolist()


def value(answer, probs, surrogate_probs, features=FEATURES):
    return twins.angular_deviation(answer, probs, surrogate_probs, features)


def even(classes, first, num_classes):
    """An answer spread evenly over some classes, a little more on the first."""
    weights = [(c in classes) + 1e-5 * (c == first) for c in range(num_classes)]
    return [weight / math.fsum(weights) for weight in weights]


@pytest.mark.parametrize("num_classes", [3, 6])
@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.0])
def test_certainty_equals_the_twin(epsilon, num_classes):
    """Catches a wrong sign, a missing normalisation, features that do not cancel, and a share of another distance."""
    model, surrogate = rows(0, num_classes)
    for found, probs, q in zip(deviating(model, surrogate, epsilon, False), model, surrogate, strict=True):
        corners = [[float(c == k) for c in range(num_classes)] for k in range(num_classes)]
        best = max(corners, key=lambda corner: value(corner, probs, q))
        assert best == max(corners, key=lambda corner: value(corner, probs, q, [5.0]))
        assert found == pytest.approx(twins.towards(probs, best, epsilon), abs=1e-12)


@pytest.mark.parametrize("num_classes", [3, 6])
def test_answers_that_keep_the_prediction_grow_greedily(num_classes):
    """Catches a set without the predicted class, a class that joins twice, and the last set instead of the best."""
    model, surrogate = rows(1, num_classes)
    for found, probs, q in zip(deviating(model, surrogate, 0.8, True), model, surrogate, strict=True):
        prediction = probs.index(max(probs))
        classes, candidates = [prediction], []
        while True:
            candidates.append(even(classes, prediction, num_classes))
            rest = [c for c in range(num_classes) if c not in classes]
            if not rest:
                break
            classes.append(max(rest, key=lambda c: value(even([*classes, c], prediction, num_classes), probs, q)))
        best = max(candidates, key=lambda candidate: value(candidate, probs, q))
        assert found == pytest.approx(twins.towards(probs, best, 0.8), abs=1e-9)
        assert found.index(max(found)) == prediction


def test_greedy_sets_are_nearly_the_best_of_all_sets():
    """Catches a greedy search that misses what the source's search of all sets finds."""
    model, surrogate = rows(2, 6)
    ratios = []
    for found, probs, q in zip(deviating(model, surrogate, 2.0, True), model, surrogate, strict=True):
        prediction = probs.index(max(probs))
        others = [c for c in range(6) if c != prediction]
        sets = [(prediction, *rest) for size in range(6) for rest in itertools.combinations(others, size)]
        best = max(value(even(classes, prediction, 6), probs, q) for classes in sets)
        ratios.append(value(found, probs, q) / best)
    assert max(ratios) <= 1 + 1e-9
    assert min(ratios) > 0.95


@pytest.mark.parametrize("keeps_predictions", [False, True])
def test_answers_on_a_grid_of_the_simplex(keeps_predictions):
    """Catches an answer that is not allowed, and a solver that turns the gradient less than chance would."""
    shares = []
    model, surrogate = rows(3, 3)
    steps = 20
    grid = [[i / steps, j / steps, 1 - (i + j) / steps] for i in range(steps + 1) for j in range(steps + 1 - i)]
    for found, probs, q in zip(deviating(model, surrogate, 0.6, keeps_predictions), model, surrogate, strict=True):
        assert min(found) >= 0
        assert math.fsum(found) == pytest.approx(1)
        assert math.fsum(abs(a - b) for a, b in zip(found, probs, strict=True)) <= 0.6 + 1e-9
        allowed = [
            answer for answer in grid
            if math.fsum(abs(a - b) for a, b in zip(answer, probs, strict=True)) <= 0.6
            and (not keeps_predictions or answer.index(max(answer)) == probs.index(max(probs)))
        ]  # fmt: skip
        values = sorted(value(answer, probs, q) for answer in allowed)
        assert value(found, probs, q) > 0
        shares.append((value(found, probs, q) - math.fsum(values) / len(values)) / values[-1])
    assert math.fsum(shares) > 0


@pytest.mark.parametrize("keeps_predictions", [False, True])
def test_more_distance_turns_the_gradient_further(keeps_predictions):
    """Catches a step beyond the extreme answer, and one that ends before it."""
    model, surrogate = rows(4, 5)
    values = []
    for epsilon in (0.0, 0.2, 0.5, 1.0, 2.0):
        found = deviating(model, surrogate, epsilon, keeps_predictions)
        values.append([value(*triple) for triple in zip(found, model, surrogate, strict=True)])
    for smaller, larger in itertools.pairwise(values):
        assert all(a <= b + 1e-12 for a, b in zip(smaller, larger, strict=True))
    assert max(values[0]) < 1e-24
    assert min(values[-1]) > 0.1


# Two teachers


NAMES = tuple("abcd")


def table(seed, names=NAMES, **changes):
    logits, _ = reference.random_samples(seed, size=SIZE, num_classes=len(names))
    return TableTeacher(torch.tensor(logits).log_softmax(-1), class_names=names, **changes)


def test_no_distance_gives_the_clean_answers_bit_for_bit():
    """Catches answers that pass through a logarithm for nothing."""
    assert AngularDeviationTeacher(table(0), table(1), epsilon=0.0)(POSITIONS).equal(table(0)(POSITIONS))


@pytest.mark.parametrize("keeps_predictions", [False, True])
def test_the_teacher_answers_by_the_equation(keeps_predictions):
    """Catches the surrogate's answers in place of the teacher's, and a channel that is dropped."""
    teacher, surrogate = table(0), table(1)
    found = AngularDeviationTeacher(teacher, surrogate, epsilon=0.5, keeps_predictions=keeps_predictions)(POSITIONS)
    probs, surrogate_probs = (each(POSITIONS).double().exp() for each in (teacher, surrogate))
    expected = deviating_probs(probs, surrogate_probs, 0.5, keeps_predictions)
    torch.testing.assert_close(found.double().exp(), expected, rtol=1e-4, atol=1e-6)
    kept = found.argmax(dim=-1) == probs.argmax(dim=-1)
    assert bool(kept.all()) == keeps_predictions


def test_predictions_stay_at_every_distance():
    """Catches a lead that fp32 rounds away."""
    teacher = table(0)
    found = AngularDeviationTeacher(teacher, table(1), epsilon=2.0)(POSITIONS)
    assert found.isfinite().all()
    assert found.argmax(dim=-1).equal(teacher(POSITIONS).argmax(dim=-1))


def test_classes_of_the_surrogate_are_matched_by_name():
    """Catches the poison of another class."""
    order = [2, 0, 3, 1]
    surrogate = table(1)
    permuted = TableTeacher(surrogate(POSITIONS)[:, order], class_names=[NAMES[number] for number in order])
    expected = AngularDeviationTeacher(table(0), surrogate)(POSITIONS)
    torch.testing.assert_close(AngularDeviationTeacher(table(0), permuted)(POSITIONS), expected)


def test_the_wrapper_needs_what_both_need():
    """Catches inputs that only one of the two gets."""
    found = AngularDeviationTeacher(table(0), table(1))
    assert (found.wants_index, found.wants_labels, found.class_names) == (True, False, NAMES)


def test_fingerprints_tell_all_settings_apart():
    """Catches stored answers that are taken for those of another surrogate or distance."""
    made = [
        AngularDeviationTeacher(table(0), table(1)),
        AngularDeviationTeacher(table(0), table(2)),
        AngularDeviationTeacher(table(2), table(1)),
        AngularDeviationTeacher(table(0), table(1), epsilon=0.5),
        AngularDeviationTeacher(table(0), table(1), keeps_predictions=False),
        AngularDeviationTeacher(table(0), table(1, channel=Rounded(2))),
    ]
    assert len({each.fingerprint() for each in made}) == len(made)


@pytest.mark.parametrize(
    ("surrogate", "settings", "words"),
    [
        (table(1), {"epsilon": -0.1}, r"epsilon in \[0, 2\], got -0.1"),
        (table(1), {"epsilon": 2.1}, r"epsilon in \[0, 2\], got 2.1"),
        (table(1), {"epsilon": math.nan}, "got nan"),
        (table(0), {}, "a surrogate that differs from the teacher"),
        (table(1, names=tuple("abc")), {}, "teacher's 4 classes, got one with 3 classes"),
        (table(1, names=tuple("abce")), {}, "or with other names"),
    ],
)
def test_unusable_pairs_are_refused(surrogate, settings, words):
    """Catches a defence that would poison at random, or not at all."""
    with pytest.raises(HfCmimError, match=words):
        AngularDeviationTeacher(table(0), surrogate, **settings)
