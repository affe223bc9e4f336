"""CollapseDetector: what it must see, and what it must not take for a collapse."""

import copy
from itertools import pairwise

import pytest
import torch
from sklearn.datasets import load_digits

from hf_cmim import CentroidBank, CMIMLoss, CollapseDetector, ObjectiveSpec
from hf_cmim.hardening.collapse import LARGEST_NUM_CLASSES, STALLED_CHECKS

WINDOW = 100.0
APART = [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]]
MERGED = [[0.49, 0.46, 0.05], [0.48, 0.47, 0.05], [0.05, 0.05, 0.9]]  # classes 0 and 1; both are answered with 0
CLOSER = [[0.65, 0.30, 0.05], [0.30, 0.65, 0.05], [0.05, 0.05, 0.9]]  # their distance falls from .85 to .35


def feed(bank, probs, counts=(1000, 1000, 1000)):
    """Move the bank by samples whose output is exactly the row of their class."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    bank.accumulate(torch.tensor(probs).log()[labels], labels)
    bank.step()
    return bank


def new_bank(form="plain", temperatures=(1.0,), **settings):
    return CentroidBank(3, ObjectiveSpec(form, temperatures, window=WINDOW, **settings))


def bank_of(probs, counts=(1000, 1000, 1000), temperatures=(1.0,), form="plain"):
    return feed(new_bank(form, temperatures), probs, counts)


def watch(bank, detector=None):
    """Check as often as a merged pair needs to be believed, and return all that was reported."""
    detector = detector or CollapseDetector(bank.num_classes)
    return [pair for _ in range(STALLED_CHECKS) for pair in detector.check(bank)]


# What must be seen


def test_merged_classes_are_named():
    """Catches a detector that only watches falling distances: these two were never separated."""
    (pair,) = watch(bank_of(MERGED))
    assert (pair.first, pair.second) == (0, 1)
    assert pair.distance == pytest.approx(0.01, abs=1e-4)
    assert pair.largest_distance == pytest.approx(0.01, abs=1e-4)


def test_halved_distance_is_named():
    """Catches a detector that waits until the classes are one, when most of the accuracy is gone."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    assert detector.check(bank) == []
    (pair,) = detector.check(feed(bank, CLOSER))
    assert (pair.first, pair.second) == (0, 1)
    assert pair.distance == pytest.approx(0.35, abs=1e-3)
    assert pair.largest_distance == pytest.approx(0.85, abs=1e-3)
    assert bank.recall.tolist() == [1, 1, 1]


@pytest.mark.parametrize("form", ["scaled", "share"])
def test_halved_distance_where_the_scale_is_free_needs_a_lost_class(form):
    """Catches an alarm over every pair of similar classes once the scale of the outputs has changed."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    detector.check(bank)
    feed(bank, CLOSER)
    bank.form = new_bank(form).form  # only now, so that distances are those of the test before
    for recall, expected in ((1.0, 0), (0.06, 0), (0.04, 1)):
        bank.recall[1] = recall
        assert len(detector.check(bank)) == expected


def test_class_lost_where_centroids_are_of_the_correct_alone():
    """Catches a guard that waits for centroids to meet: that of a class of which none is correct stays."""
    detector, bank = CollapseDetector(3), feed(new_bank(correct_only=True), APART)
    assert detector.check(bank) == []
    feed(bank, MERGED)  # nobody says class 1 any more
    assert bank.recall[1] < 0.05
    (pair,) = detector.check(bank)
    assert 1 in (pair.first, pair.second)
    assert detector.check(bank) == []


def test_distance_may_fall_a_little():
    """Catches a threshold near the largest distance: concentration moves every centroid somewhat."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    detector.check(bank)
    assert detector.check(feed(bank, [[0.75, 0.2, 0.05], [0.2, 0.75, 0.05], [0.05, 0.05, 0.9]])) == []


def test_pairs_that_never_were_far_apart_may_halve():
    """Catches alarms over noise: half of next to nothing means nothing."""
    detector = CollapseDetector(3)
    bank = bank_of([[0.50, 0.35, 0.15], [0.42, 0.43, 0.15], [0.05, 0.05, 0.9]])
    detector.check(bank)
    closer = feed(bank, [[0.47, 0.38, 0.15], [0.45, 0.40, 0.15], [0.05, 0.05, 0.9]])
    closer.recall.fill_(0.5)  # so that they do not count as merged
    assert watch(closer, detector) == []


def test_distances_of_the_first_samples_are_forgotten():
    """Catches an alarm over a distance that never was: a few samples may lie far apart by chance."""
    detector, bank = CollapseDetector(3), bank_of(APART, (9, 9, 9))
    assert detector.check(bank) == []
    assert detector.check(feed(bank, CLOSER)) == []
    assert len(watch(feed(bank, MERGED), detector)) == 1


def test_merged_classes_that_move_apart_are_not_named():
    """Catches "not separated yet" taken for "merged": cross-entropy is still at work on this pair."""
    detector, bank = CollapseDetector(3), bank_of(MERGED)
    for step in range(1, 20):
        assert detector.check(bank) == []
        gap = 0.01 * 1.12**step / 2
        feed(bank, [[0.48 + gap, 0.47 - gap, 0.05], [0.48 - gap / 2, 0.47 + gap / 2, 0.05], [0.05, 0.05, 0.9]])


def test_closest_pair_comes_first():
    """Catches a report whose first lines are the least urgent."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    detector.check(bank)
    pairs = detector.check(feed(bank, [[0.60, 0.22, 0.18], [0.27, 0.45, 0.28], [0.23, 0.32, 0.45]]))
    assert [(pair.first, pair.second) for pair in pairs] == [(1, 2), (0, 1), (0, 2)]
    assert [pair.distance for pair in pairs] == sorted(pair.distance for pair in pairs)


def test_collapse_is_reported_once_until_it_recovers():
    """Catches a warning, and a halved weight, at every check for one and the same collapse."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    detector.check(bank)
    assert len(detector.check(feed(bank, MERGED))) == 1
    assert detector.check(bank) == []
    assert detector.check(feed(bank, MERGED)) == []
    assert detector.check(feed(bank, APART)) == []
    assert len(detector.check(feed(bank, MERGED))) == 1


@pytest.mark.parametrize("temperatures", [(16.0, 0.9, 0.25), (4.0, 1.2), (0.25, 0.5, 16.0)])
def test_temperature_nearest_one_is_watched(temperatures):
    """Catches the first level of the bank taken for T = 1: at T = 16 all centroids are close to each other."""
    swapped = [[0.35, 0.6, 0.05], [0.6, 0.35, 0.05], [0.05, 0.05, 0.9]]
    bank = bank_of(swapped, temperatures=temperatures)
    assert bank.recall.tolist() == [0, 0, 1]
    assert watch(bank) == []
    assert len(watch(bank_of(swapped, temperatures=(16.0,)))) == 1


def test_report_says_which_figure_triggered_it():
    """Catches a message about a distance where a recall was the trigger, and figures of the other class."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    detector.check(bank)
    (halved,) = detector.check(feed(bank, CLOSER))
    assert halved.trigger == "distance"
    assert (halved.distance, halved.largest_distance) == pytest.approx((0.35, 0.85), abs=1e-3)
    bank.recall.copy_(torch.tensor([0.6, 0.03, 0.9]))
    bank.form = new_bank("scaled").form
    detector.reported.zero_()
    (lost,) = detector.check(bank)
    assert (lost.trigger, lost.lost) == ("recall", 1)
    assert (lost.recall, lost.largest_recall) == pytest.approx((0.03, 1.0))
    (merged,) = watch(bank_of(MERGED))
    assert (merged.trigger, merged.lost, merged.recall, merged.largest_recall) == ("merged", 1, 0.0, 0.0)


def test_merged_pair_that_trembles_is_reported_once():
    """Catches a new warning whenever an almost equal pair moves a little: ten classes gave 144 pairs."""
    detector, bank = CollapseDetector(3), bank_of(MERGED)
    assert len(watch(bank, detector)) == 1
    feed(bank, [[0.50, 0.45, 0.05], [0.48, 0.47, 0.05], [0.05, 0.05, 0.9]])  # further apart, and still merged
    assert detector.check(bank) == []
    assert watch(bank, detector) == []


# What must not be taken for a collapse


def pulls_of(*values):
    return torch.tensor(values)


@pytest.mark.parametrize("pull", [0.0, 1e-6, 0.08])
def test_what_cross_entropy_does_by_itself_is_no_collapse(pull):
    """Catches a weight of 1e-6 blamed for classes that a young model does not separate yet, or loses again."""
    detector, bank, pulls = CollapseDetector(3), bank_of(APART), pulls_of(pull, pull, pull)
    for probs in (APART, CLOSER, MERGED):
        feed(bank, probs)
        for _ in range(2 * STALLED_CHECKS):
            assert detector.check(bank, pulls=pulls) == []


def test_reference_is_where_cross_entropy_ended():
    """Catches a distance of the first steps of the warm-up, long gone when the weight rises, as the reference."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    detector.check(bank, pulls=torch.zeros(3))
    detector.check(feed(bank, CLOSER), pulls=torch.zeros(3))
    assert detector.check(bank, pulls=torch.ones(3)) == []
    assert detector.check(feed(bank, MERGED), pulls=torch.ones(3)) != []


@pytest.mark.parametrize(("before", "reports"), [(0.24, 0), (0.26, 1)])
def test_class_never_learned_cannot_be_lost(before, reports):
    """Catches a class blamed on concentration that cross-entropy had not learned when the weight rose."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    bank.form = new_bank("scaled").form
    bank.recall[1] = before
    detector.check(bank, pulls=torch.zeros(3))
    bank.recall[1] = 0.01
    assert len(detector.check(bank, pulls=torch.ones(3))) == reports


@pytest.mark.parametrize(("pulls", "reports"), [((1.0, 0.05, 1.0), 0), ((0.05, 0.11, 0.05), 1)])
def test_only_a_class_that_is_pulled_is_held_down(pulls, reports):
    """Catches a class blamed for the pull on others: class 1 is the one that is never right."""
    detector, bank = CollapseDetector(3), bank_of(MERGED)
    assert sum(len(detector.check(bank, pulls=pulls_of(*pulls))) for _ in range(STALLED_CHECKS)) == reports


def test_class_without_correct_samples_is_no_longer_pulled():
    """Catches a guard blind to a lost class where only correct samples count: then nothing pulls on it any more."""
    detector, bank = CollapseDetector(3), feed(new_bank(correct_only=True), APART)
    detector.check(bank, pulls=torch.ones(3))
    (pair,) = detector.check(feed(bank, MERGED), pulls=pulls_of(1.0, 0.0, 1.0))
    assert (pair.trigger, pair.lost) == ("recall", 1)


@pytest.mark.parametrize("counts", [(1000, 40, 1000), (40, 1000, 1000)], ids=["second", "first"])
def test_classes_with_few_samples_are_not_judged(counts):
    """Catches a verdict on a centroid of a few samples: 40 are less than half a window's weight."""
    detector, bank = CollapseDetector(3), bank_of(MERGED, counts)
    assert watch(bank, detector) == []
    feed(bank, MERGED)
    assert detector.check(bank) == []  # well sampled from now on, and not yet watched
    assert len(watch(bank, detector)) == 1


def test_rare_classes_are_not_judged():
    """Catches an alarm over a class the model neglects for lack of data, once enough of it has gone by."""
    assert watch(bank_of(MERGED, (3000, 500, 3000))) == []
    assert len(watch(bank_of(MERGED, (3000, 2000, 3000)))) == 1


def test_close_classes_that_are_told_apart_are_not_merged():
    """Catches an alarm over centroids alone: here the samples of each class are spread, and half of them are right."""
    bank = new_bank()
    rows = torch.tensor([[0.6, 0.35, 0.05], [0.35, 0.6, 0.05]]).log()
    bank.accumulate(rows[torch.arange(1000) % 2], torch.arange(1000) // 500)
    bank.accumulate(torch.tensor(APART).log()[torch.full((500,), 2)], torch.full((500,), 2))
    bank.step()
    assert torch.equal(bank.probs[0, 0], bank.probs[0, 1])
    assert bank.recall.tolist() == pytest.approx([0.5, 0.5, 1])
    assert watch(bank) == []


def test_empty_bank_is_silent():
    """Catches classes without a centroid, all zeros and so all alike, taken for merged."""
    assert watch(new_bank()) == []
    assert watch(bank_of(APART, (1000, 0, 0))) == []


def test_too_many_classes_are_left_alone():
    """Catches C^2 distances that cost more than the training step."""
    detector = CollapseDetector(LARGEST_NUM_CLASSES + 1)
    assert detector.check(CentroidBank(2)) == []
    assert sum(buffer.numel() for buffer in detector.buffers()) == 0


def test_state_survives_a_round_trip():
    """Catches a resumed run that forgets the largest distances, or reports the known collapse again."""
    detector, bank = CollapseDetector(3), bank_of(APART)
    detector.check(bank)
    before, after = CollapseDetector(3), CollapseDetector(3)
    before.load_state_dict(detector.state_dict())
    assert before.check(feed(copy.deepcopy(bank), CLOSER)) == detector.check(feed(bank, CLOSER)) != []
    after.load_state_dict(detector.state_dict())
    assert after.check(bank) == []
    assert CollapseDetector(3).check(bank) == []  # a new one never saw them apart


def test_resumed_run_goes_on_counting():
    """Catches a resumed run that watches a merged pair from the beginning: interrupted often, it would never stop."""
    detector, resumed, bank = CollapseDetector(3), CollapseDetector(3), bank_of(MERGED)
    for _ in range(STALLED_CHECKS - 1):
        assert detector.check(bank) == []
    resumed.load_state_dict(detector.state_dict())
    assert len(resumed.check(bank)) == len(detector.check(bank)) == 1


# Real training


def fired_on_digits(seed, hidden=(), learning_rate=0.1, epochs=10, watched_from=0.0, weight=0.0, rare=3):
    """Train on digits with the class `rare` cut to 8 samples; return the pairs of 100 checks, and the accuracy."""
    torch.manual_seed(seed)
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    if rare is not None:
        kept = (labels != rare) | ((labels == rare).cumsum(dim=0) <= 8)
        inputs, labels = inputs[kept], labels[kept]
    sizes = [64, *hidden, 10]
    layers = [layer for ends in pairwise(sizes) for layer in (torch.nn.Linear(*ends), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    spec = ObjectiveSpec("plain", tuple(2.0**k for k in range(-2, 5)) if weight else (1.0,))
    loss, bank, detector, pairs = CMIMLoss(spec), CentroidBank(10, spec), CollapseDetector(10), []
    total = epochs * (len(labels) // 32)
    order = torch.cat([torch.randperm(len(labels)) for _ in range(epochs + 1)])
    for step in range(1, total + 1):
        batch = order[32 * step : 32 * step + 32]
        logits = model(inputs[batch])
        parts = loss(logits, labels[batch], bank.snapshot(), weight)
        optimizer.zero_grad()
        (parts.ce + parts.cmi).backward()
        optimizer.step()
        bank.accumulate(logits, labels[batch], parts)
        bank.step()
        if step % max(1, total // 100) == 0 and step >= watched_from * total:
            pairs += detector.check(bank)
    return pairs, (model(inputs).argmax(dim=1) == labels).double().mean().item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hidden", [(), (32,)], ids=["linear", "mlp"])
def test_ordinary_training_with_a_rare_class_is_silent(hidden, seed):
    """Catches a guard that disturbs healthy runs: nobody would leave it on."""
    pairs, accuracy = fired_on_digits(seed, hidden)
    assert accuracy > 0.9
    assert pairs == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "run",
    [
        {"learning_rate": 0.03, "epochs": 20},
        {"learning_rate": 0.02, "watched_from": 0.2},  # watched after the warm-up, as the trainer does
    ],
    ids=["from the start", "after the warm-up"],
)
def test_slow_training_is_silent(run, seed):
    """Catches "not separated yet" taken for "merged" while cross-entropy is still separating every pair."""
    pairs, accuracy = fired_on_digits(seed, hidden=(32,), **run)
    assert accuracy > 0.75
    assert pairs == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("hidden", [(32,), (32, 32, 32)], ids=["shallow", "deep"])
def test_far_too_strong_a_weight_is_seen(hidden, seed):
    """Catches a guard that is silent because it sees nothing: these trainings merge half of the classes for good."""
    pairs, accuracy = fired_on_digits(seed, hidden, weight=25.0, rare=None)
    assert accuracy < 0.8
    assert pairs != []
