"""CentroidBank: what its centroids average, when they move, and that a checkpoint keeps them."""

import copy
import math
import weakref

import pytest
import reference
import torch
from parts import parts_of

from hf_cmim import CentroidBank, CMIMLoss, ObjectiveSpec
from hf_cmim.functional import class_centroids

TEMPERATURES = [0.5, 1.0, 4.0]
CLASSES = 5
WINDOW = 20.0
STATE = ["probs", "log_probs", "mass", "seen", "recall", "terms"]


def samples(seed=0, dtype=torch.float32, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=dtype), torch.tensor(labels)


def new_bank(form="plain", temperatures=TEMPERATURES, window=WINDOW, num_classes=CLASSES, **settings):
    return CentroidBank(num_classes, ObjectiveSpec(form, tuple(temperatures), window=window, **settings))


def moved_bank(batches, window=WINDOW):
    """A bank that moved once for each batch."""
    bank = new_bank(window=window)
    for logits, labels in batches:
        bank.accumulate(logits, labels)
        bank.step()
    return bank


def assert_same_state(bank, other, **tolerance):
    for name in STATE:
        torch.testing.assert_close(getattr(bank, name), getattr(other, name), **tolerance)


# What is averaged


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 1, 30, 0, 22]], ids=["one", "single", "ragged"])
def test_centroids_equal_twin_average(sizes):
    """Catches decay by steps instead of samples, a biased start, and one mass for all classes or temperatures."""
    logits, labels = samples()
    batches = list(zip(logits.split(sizes), labels.split(sizes), strict=True))
    bank = moved_bank(batches)
    hits = reference.MovingAverage(CLASSES, WINDOW)
    for level, temperature in enumerate(TEMPERATURES):
        average = reference.MovingAverage(CLASSES, WINDOW)
        for part_logits, part_labels in batches:
            rows, kept = reference.valid_samples(part_logits.tolist(), part_labels.tolist())
            average.add([reference.softmax(row, temperature) for row in rows], kept)
            if level == 0:
                hits.add([[float(reference.argmax(row) == c)] for row, c in zip(rows, kept, strict=True)], kept)
        torch.testing.assert_close(bank.probs[level], torch.tensor(average.means()), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(bank.mass, torch.tensor(average.mass()), rtol=1e-5, atol=0)
    torch.testing.assert_close(bank.recall, torch.tensor(hits.means()).squeeze(1), rtol=1e-5, atol=1e-6)
    assert bank.seen.tolist() == [labels.tolist().count(c) for c in range(CLASSES)]


def test_first_step_gives_the_plain_mean():
    """Catches an average that starts at 0 and needs a window of samples to forget it."""
    logits, labels = samples()
    bank = moved_bank([(logits, labels)])
    twin = [reference.centroids(logits.tolist(), labels.tolist(), t) for t in TEMPERATURES]
    torch.testing.assert_close(bank.probs, torch.tensor(twin), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bank.log_probs, torch.tensor(twin).clamp_min(1e-8).log(), rtol=1e-5, atol=1e-5)


def test_sample_fades_with_the_samples_of_its_own_class():
    """Catches a window counted over all classes: with more classes it would forget faster."""
    first, other = torch.tensor([[9.0, 0, 0, 0, 0]]), torch.tensor([[0, 9.0, 0, 0, 0]])
    bank = moved_bank([(first, torch.tensor([0])), (other.repeat(500, 1), torch.full((500,), 3))])
    before = bank.probs[:, 0].clone()
    torch.testing.assert_close(before[1], first[0].softmax(dim=0))
    bank.accumulate(other.repeat(int(WINDOW), 1), torch.zeros(int(WINDOW), dtype=torch.long))
    bank.step()
    decay = (1 - 1 / WINDOW) ** WINDOW  # about 1 / e
    share = decay / (decay + (1 - decay) * WINDOW)
    expected = share * first[0].softmax(dim=0) + (1 - share) * other[0].softmax(dim=0)
    torch.testing.assert_close(bank.probs[1, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 8, 64, 640])
def test_mass_does_not_depend_on_the_batch_size(size):
    """Catches a window that means something else for each batch size: n samples weigh sum_{i < n} d^i, however fed."""
    labels = torch.arange(640) % CLASSES
    logits = torch.zeros(640, CLASSES)
    bank = moved_bank(zip(logits.split(size), labels.split(size), strict=True), window=500.0)
    mass = math.fsum((1 - 1 / 500) ** i for i in range(640 // CLASSES))
    torch.testing.assert_close(bank.mass, torch.full((CLASSES,), mass), rtol=1e-5, atol=0)


def test_mass_stays_below_the_window():
    """Catches a plain count, under which the centroids would freeze in a long training."""
    bank = new_bank(temperatures=[1.0])
    for _ in range(50):
        bank.accumulate(torch.zeros(100, CLASSES), torch.arange(100) % CLASSES)
        bank.step()
    torch.testing.assert_close(bank.mass, torch.full((CLASSES,), WINDOW))
    torch.testing.assert_close(bank.probs.sum(dim=-1), torch.ones(1, CLASSES))


def test_ignored_labels_and_sentences_are_understood():
    """Catches -100 that lands in a class, and token classification that is not flattened."""
    logits, labels = samples()
    assert (labels < 0).any()
    bank = moved_bank([(logits.reshape(6, 10, CLASSES), labels.reshape(6, 10))])
    assert_same_state(bank, moved_bank([(logits[labels >= 0], labels[labels >= 0])]), rtol=1e-6, atol=1e-7)
    before = copy.deepcopy(bank)
    bank.accumulate(logits, torch.full_like(labels, -100))
    bank.step()
    assert_same_state(bank, before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_state_is_fp32_whatever_comes_in(dtype):
    """Catches sums in half precision, which lose a sample once 256 others are in."""
    logits, labels = samples(dtype=dtype, size=600)
    bank = moved_bank([(logits, labels)])
    assert bank.probs.dtype == bank.mass.dtype == bank.log_probs.dtype == torch.float32
    assert_same_state(bank, moved_bank([(logits.float(), labels)]), rtol=1e-5, atol=1e-6)


def test_extreme_logits_keep_the_bank_finite():
    """Catches -inf in the log of an underflowing probability, which one outlier would turn into an infinite loss."""
    bank = moved_bank([(torch.tensor([[1e4, -1e4, 0, 0, 0]]).half(), torch.tensor([0]))])
    assert bank.log_probs[:, 0].isfinite().all()
    torch.testing.assert_close(bank.log_probs[0, 0, 1:].exp(), torch.full((4,), 1e-8))


def test_floor_bounds_the_log_centroids():
    """Catches a floor that is stored and not used, or that leaks into the probabilities."""
    bank = new_bank(temperatures=[1.0], num_classes=2)
    bank.accumulate(torch.tensor([[50.0, 0.0]]), torch.tensor([0]))
    bank.step()
    torch.testing.assert_close(bank.log_probs[0, 0], torch.tensor([0.0, math.log(1e-8)]))
    assert bank.probs[0, 0, 1] < 1e-17


def test_class_not_seen_has_no_centroid_and_adds_nothing_to_the_loss():
    """Catches a uniform or zero centroid that would pull, or blow up, the first samples of a class."""
    logits, labels = samples(absent=2)
    bank = moved_bank([(logits, labels)])
    assert (bank.log_probs[:, 2] == -torch.inf).all()
    assert bank.log_probs[:, [0, 1, 3, 4]].isfinite().all()
    loss = CMIMLoss(bank.spec)
    seen = loss(logits, labels, bank.snapshot(), num_items=100).cmi
    newcomers = torch.cat([logits, logits[:9]]), torch.cat([labels, torch.full((9,), 2)])
    assert loss(*newcomers, bank.snapshot(), num_items=100).cmi.item() == pytest.approx(seen.item(), rel=1e-6)


# When it moves


@pytest.mark.parametrize("sizes", [[15] * 4, [1] * 60, [7, 1, 30, 0, 22]], ids=["equal", "single", "ragged"])
def test_micro_batches_equal_one_batch(sizes):
    """Catches a move for each micro-batch, and terms of the last micro-batch alone."""
    logits, labels = samples()
    terms = torch.rand(len(sizes), 3, generator=torch.Generator().manual_seed(0))
    start = moved_bank([samples(seed=1)])
    whole, split = copy.deepcopy(start), copy.deepcopy(start)
    whole.accumulate(logits, labels, parts_of(labels, terms.sum(dim=0)))
    for part_logits, part_labels, term in zip(logits.split(sizes), labels.split(sizes), terms, strict=True):
        split.accumulate(part_logits, part_labels, parts_of(part_labels, term))
        assert_same_state(split, start, rtol=0, atol=0)
    whole.step()
    split.step()
    assert_same_state(split, whole, rtol=1e-5, atol=1e-6)


def test_gathered_processes_equal_one():
    """Catches a process whose samples, terms or padding are counted wrongly, and banks that differ between them."""
    logits, labels = samples()
    terms = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    start = moved_bank([samples(seed=1)])
    whole, first, second = (copy.deepcopy(start) for _ in range(3))
    whole.accumulate(logits, labels, parts_of(labels, terms.sum(dim=0)))
    whole.step()
    first.accumulate(logits[:10], labels[:10], parts_of(labels[:10], terms[0]))
    second.accumulate(logits[10:], labels[10:], parts_of(labels[10:], terms[1]))
    sent = []

    def remember(rows, filling):
        filled = rows.new_full((50 if len(rows) > 1 else 1, *rows.shape[1:]), filling)
        filled[: len(rows)] = rows
        sent.append(filled)
        return filled

    copy.deepcopy(first).step(remember)
    of_the_first = iter(sent)
    second.step(lambda rows, filling: torch.cat([next(of_the_first), rows]))
    assert_same_state(second, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("elements", [1, 2**22], ids=["by level", "at once"])
@pytest.mark.parametrize("size", [1, 3, 5, 40])
def test_move_touches_the_rows_of_its_classes_alone(size, elements, monkeypatch):
    """Catches a large table that is rewritten, samples of one class that overwrite each other, and a lost level."""
    monkeypatch.setattr("hf_cmim.hardening.bank.MOVED_ELEMENTS", elements)
    bank = moved_bank([samples(seed=1)])
    average = [reference.MovingAverage(CLASSES, WINDOW) for _ in TEMPERATURES]
    for seed, count in ((1, None), (2, size)):
        logits, labels = samples(seed)
        rows, kept = reference.valid_samples(logits[:count].tolist(), labels[:count].tolist())
        for level, temperature in zip(average, TEMPERATURES, strict=True):
            level.add([reference.softmax(row, temperature) for row in rows], kept)
    absent = [c for c in range(CLASSES) if c not in kept]
    bank.log_probs[:, absent] = 7.0  # a mark that any rewriting would remove
    before = bank.probs.clone()
    bank.accumulate(logits[:size], labels[:size])
    bank.step()
    present = sorted(set(kept))
    expected = torch.tensor([level.means() for level in average])[:, present]
    torch.testing.assert_close(bank.probs[:, present], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bank.log_probs[:, present], expected.log(), rtol=1e-5, atol=1e-5)
    assert torch.equal(bank.probs[:, absent], before[:, absent])
    if size < CLASSES:
        assert (bank.log_probs[:, absent] == 7).all()


def test_loss_of_a_step_sees_the_bank_of_the_step_before():
    """Catches a bank updated before the loss: splitting a batch would then change the loss."""
    bank = new_bank()
    loss = CMIMLoss(bank.spec)
    average = [reference.MovingAverage(CLASSES, WINDOW) for _ in TEMPERATURES]
    for seed in range(4):
        logits, labels = samples(seed, size=20)
        logits.requires_grad_()
        parts = loss(logits, labels, bank.snapshot())
        bank.accumulate(logits, labels, parts)
        rows, kept = reference.valid_samples(logits.tolist(), labels.tolist())
        sums = reference.divergence_terms(rows, kept, [level.means() for level in average], TEMPERATURES)
        twin = torch.tensor(sums) / len(kept)
        torch.testing.assert_close(parts.cmi_per_temperature, twin, rtol=1e-4, atol=1e-5)
        bank.step()
        parts.cmi.backward()  # after the move: the loss must own what it needs
        torch.testing.assert_close(bank.terms, parts.cmi_per_temperature)
        for level, temperature in zip(average, TEMPERATURES, strict=True):
            level.add([reference.softmax(row, temperature) for row in rows], kept)


def test_step_without_samples_changes_nothing():
    """Catches terms set to 0 by an extra step, after which the power mean would weigh all temperatures alike."""
    bank = new_bank()
    logits, labels = samples()
    bank.accumulate(logits, labels, parts_of(labels, torch.tensor([1.0, 2.0, 3.0])))
    bank.step()
    before = copy.deepcopy(bank)
    bank.step()
    assert_same_state(bank, before, rtol=0, atol=0)
    assert bank.terms.tolist() == [1.0, 2.0, 3.0]


def test_samples_count_once():
    """Catches pending sums that are kept after the move."""
    logits, labels = samples()
    bank = moved_bank([(logits, labels)])
    bank.accumulate(logits, labels)
    bank.step()
    assert bank.seen.tolist() == [2 * labels.tolist().count(c) for c in range(CLASSES)]


def test_outputs_of_the_training_forward_are_let_go():
    """Catches sums that hold the graph of every micro-batch until the optimizer step, or for ever."""

    class Hook:
        def __call__(self, *gradients):
            pass

    logits, labels = samples()
    outputs = logits * torch.ones((), requires_grad=True)
    hook = Hook()
    outputs.grad_fn.register_hook(hook)  # lives as long as the graph
    alive = weakref.ref(hook)
    del hook
    bank = new_bank()
    bank.accumulate(outputs, labels, parts_of(labels, outputs.mean(dim=0)[:3]))
    assert alive() is not None
    del outputs
    assert alive() is None
    bank.step()
    assert not any(tensor.requires_grad for tensor in bank.buffers())


def test_outputs_may_be_overwritten_before_the_step():
    """Catches logits that are kept by reference: a compiled model writes its next outputs into the same memory."""
    logits, labels = samples()
    expected = moved_bank([(logits, labels)])
    bank = new_bank()
    bank.accumulate(logits, labels)
    logits.fill_(3.0)
    bank.step()
    assert_same_state(bank, expected, rtol=0, atol=0)


@pytest.mark.parametrize("filled", [False, True], ids=["moved", "filled"])
def test_samples_classified_wrongly_can_be_left_out_of_centroids(filled):
    """Catches centroids, masses or frequencies that still count them, and a recall that no longer does."""
    logits, labels = samples()
    wrong = torch.tensor([reference.argmax(row) != label for row, label in zip(logits.tolist(), labels, strict=True)])
    banks = [new_bank("share", correct_only=each) for each in (True, False, False)]
    for bank, own in zip(banks, (labels, labels.masked_fill(wrong, -100), labels), strict=True):
        for part in range(3):
            batches = [(logits[part::3], own[part::3])]
            if filled:
                batches = list(zip(logits.split(25), own.split(25), strict=True))
                bank.fill(batches)
            else:
                bank.accumulate(*batches[0])
                bank.step()
    ours, without, every = banks
    for name in ("probs", "log_probs", "mass"):
        assert torch.equal(getattr(ours, name), getattr(without, name))
    assert torch.equal(ours.form.counts, without.form.counts)
    torch.testing.assert_close(ours.form.state, without.form.state, rtol=0, atol=0)
    torch.testing.assert_close(ours.recall, every.recall)
    assert torch.equal(ours.seen, every.seen)


def test_centroids_can_stay_while_the_rest_moves():
    """Catches exact centroids that drift between two passes over the data, or a recall the guard never sees."""
    bank = new_bank(centroids="epoch")
    bank.fill([samples()])
    bank.seen += 7
    before = copy.deepcopy(bank)
    logits, labels = samples(seed=1)
    bank.accumulate(logits, labels, parts_of(labels, torch.ones(3)))
    bank.step()
    for name in ("probs", "log_probs", "mass"):
        assert torch.equal(getattr(bank, name), getattr(before, name))
    for name in ("seen", "recall", "terms"):
        assert not torch.equal(getattr(bank, name), getattr(before, name))
    assert bank.seen.tolist() == [c + labels.tolist().count(k) for k, c in enumerate(before.seen.tolist())]


# Filled, saved, refused


@pytest.mark.parametrize("sizes", [[200], [1, 150, 0, 49]], ids=["one", "ragged"])
def test_fill_gives_the_exact_centroids_and_their_mass(sizes):
    """Catches a fill that blends with the old centroids, or leaves them so light that one batch replaces them."""
    logits, labels = samples(dtype=torch.float64, size=200, absent=1)
    bank = moved_bank([samples(seed=1)])
    bank.fill(zip(logits.split(sizes), labels.split(sizes), strict=True))
    exact = class_centroids(logits, labels, TEMPERATURES).float()
    torch.testing.assert_close(bank.probs, exact, rtol=2e-6, atol=1e-7)
    assert (bank.log_probs[:, 1] == -torch.inf).all()
    streamed = moved_bank([(logits, labels)])
    torch.testing.assert_close(bank.mass, streamed.mass)
    torch.testing.assert_close(bank.recall, streamed.recall)
    torch.testing.assert_close(bank.log_probs, streamed.log_probs, rtol=1e-5, atol=1e-5)


def test_unusable_samples_are_refused():
    """Catches centroids of other classes, and a fill by nothing that empties the bank for the rest of the training."""
    bank = new_bank()
    with pytest.raises(ValueError, match="Expected logits of 5 classes, got 4"):
        bank.fill([(torch.eye(4), torch.arange(4))])
    with pytest.raises(ValueError, match="Expected logits of 5 classes, got 6"):
        bank.accumulate(torch.eye(6), torch.arange(6))
    with pytest.raises(ValueError, match="at least one valid sample"):
        bank.fill([(torch.eye(5), torch.full((5,), -100))])


@pytest.mark.parametrize("nested", [False, True])
def test_state_survives_a_round_trip(nested):
    """Catches log centroids left at -inf after loading, with which the CMI would silently be 0 until the next step."""
    bank = moved_bank([samples(absent=1)])
    bank.terms.fill_(0.3)
    restored = new_bank()
    source, target = (torch.nn.ModuleDict({"bank": b}) if nested else b for b in (bank, restored))
    target.load_state_dict(source.state_dict())
    assert_same_state(restored, bank, rtol=0, atol=0)
    for each in (bank, restored):
        each.accumulate(*samples(seed=1))
        each.step()
    assert_same_state(restored, bank, rtol=0, atol=0)


def test_a_single_class_is_refused():
    """Catches a bank that could hide nothing, without a word."""
    with pytest.raises(ValueError, match="Expected at least 2 classes, got 1"):
        CentroidBank(1)


def test_outputs_of_the_loss_enter_as_they_are():
    """Catches outputs handed on that are not used, or used for a step of several micro-batches or processes."""
    logits, labels = samples()
    probs = torch.rand(3, len(labels), CLASSES, generator=torch.Generator().manual_seed(0))
    parts = parts_of(labels, torch.zeros(3), probs=probs)
    bank = new_bank()
    bank.accumulate(logits, labels, parts)
    bank.step()
    means = torch.stack([probs[:, labels == label].mean(dim=1) for label in range(CLASSES)], dim=1)
    torch.testing.assert_close(bank.probs, means)
    for gather, splits in ((None, 2), (lambda rows, _: rows, 1)):
        other = new_bank()
        for part, own in zip(logits.chunk(splits), labels.chunk(splits), strict=True):
            other.accumulate(part, own, parts_of(own, torch.zeros(3), probs=probs[:, : len(own)]))
        other.step(gather)
        torch.testing.assert_close(other.probs, class_centroids(logits, labels, TEMPERATURES), rtol=1e-5, atol=1e-6)


def test_labels_must_belong_to_the_logits():
    """Catches labels broadcast over the rows of a multi-label head."""
    with pytest.raises(ValueError, match="One label per row"):
        CentroidBank(3, ObjectiveSpec("plain", (1.0,))).accumulate(
            torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.long)
        )
