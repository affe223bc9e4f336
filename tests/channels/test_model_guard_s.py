"""ModelGuard-S against the released quantiser's rules in plain loops."""

import math

import pytest
import reference
import torch

from hf_cmim.channels import ModelGuardS
from hf_cmim.errors import HfCmimError

STORED = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])


def answers(seed=0, size=60, num_classes=4, scale=2.0):
    logits, labels = reference.random_samples(seed, size, num_classes, scale=scale)
    return torch.tensor(logits, dtype=torch.float64).log_softmax(-1).float(), torch.tensor(labels)


def distance(row, other):
    return math.fsum(abs(a - b) for a, b in zip(row, other, strict=True))


def stored_by_loops(rows, epsilon):
    """The quantiser's rule, one sample after the other: store what no stored answer of its class is near."""
    stored = {}
    for row in rows:
        own = stored.setdefault(reference.argmax(row), [])
        if not any(distance(row, other) <= epsilon for other in own):
            own.append(row)
    return stored


def answered_by_loops(row, stored, epsilon):
    """The first near one of the class, the nearest if none is near, the own answer of a class without any."""
    own = stored.get(reference.argmax(row), [])
    near = [other for other in own if distance(row, other) <= epsilon]
    return near[0] if near else min(own, key=lambda other: distance(row, other), default=row)


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0, 2.0])
def test_stored_and_given_answers_equal_the_loops(epsilon):
    """Catches another order, nearest instead of first, classes that share answers, and fp32 that stores twice."""
    (held_out, labels), (asked, _) = answers(), answers(seed=1)
    held_out = held_out[held_out.argmax(-1) != 3]
    rows = held_out.double().exp().float().tolist()
    channel = ModelGuardS.fit(held_out, labels[: len(held_out)].clamp_min(0), epsilon=epsilon)
    stored = stored_by_loops(rows, epsilon)
    assert channel.centroids.tolist() == [row for label in sorted(stored) for row in stored[label]]
    expected = torch.tensor([answered_by_loops(row, stored, epsilon) for row in asked.exp().tolist()])
    given = channel(asked)
    assert torch.allclose(given.exp(), expected, atol=1e-6)
    assert torch.equal(given.argmax(-1), asked.argmax(-1))
    assert torch.equal(given[asked.argmax(-1) == 3], asked[asked.argmax(-1) == 3])
    assert (asked.argmax(-1) == 3).any()


def test_a_held_out_answer_moves_at_most_epsilon():
    """Catches a fit whose stored answers do not cover the answers that it saw."""
    log_probs, _ = answers(size=300)
    moved = (ModelGuardS.fit(log_probs, epsilon=0.4)(log_probs).exp() - log_probs.exp()).abs().sum(-1)
    assert 0.3 < moved.max() < 0.4 + 1e-5


def test_ignored_samples_store_nothing():
    """Catches padding tokens among the stored answers."""
    log_probs, labels = answers()
    labels[10:] = -100
    assert repr(ModelGuardS.fit(log_probs, labels)) == repr(ModelGuardS.fit(log_probs[:10], labels[:10]))


def test_a_saved_channel_comes_back_whole(tmp_path):
    """Catches an epsilon that is lost, and a file that another channel reads as its own."""
    channel = ModelGuardS.fit(answers()[0], epsilon=0.3)
    channel.save(tmp_path / channel.file_name)
    loaded = ModelGuardS.load(tmp_path / "model_guard_s.safetensors")
    assert torch.equal(loaded.centroids, channel.centroids)
    assert repr(loaded) == repr(channel)
    assert repr(ModelGuardS(channel.centroids, 0.4)) != repr(channel)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ModelGuardS(STORED, -0.1), r"\[0, 2\], got -0.1"),
        (lambda: ModelGuardS(STORED, math.nan), "got nan"),
        (lambda: ModelGuardS(STORED[:0]), r"\(K, C\).*got \(0, 3\)"),
        (lambda: ModelGuardS(STORED[0]), r"\(K, C\).*got \(3,\)"),
        (lambda: ModelGuardS(STORED.log()), r"row 0.*ModelGuardS\.fit"),
        (lambda: ModelGuardS(STORED)(torch.zeros(1, 4).log_softmax(-1)), "3 classes.*got 4.*Fit ModelGuardS"),
        (lambda: ModelGuardS.fit(torch.randn(9, 3) + 2), "sum to 1, got sums"),
        (lambda: ModelGuardS.fit(STORED.log()[:1]), "at least 2 held-out samples, got 1"),
    ],
)
def test_hostile_tables_and_data_are_refused(build, named):
    """Catches answers that are no distribution, and a table of another model."""
    with pytest.raises(HfCmimError, match=named):
        build()
