"""The CMI as a share of what outputs say: against scipy, and against autograd through all that is held constant."""

import math

import pytest
import reference
import torch
from plain_loop import trained_classifier
from scipy import stats

from hf_cmim import CentroidBank, CMIMLoss, ObjectiveSpec
from hf_cmim.functional import class_centroids, within_total_ratio
from hf_cmim.hardening.forms.base import Problem
from hf_cmim.hardening.forms.share import LabelInformation, ShareForm, label_information
from hf_cmim.hardening.parts import Snapshot

TEMPERATURES = (0.5, 1.0, 4.0)
SPEC = ObjectiveSpec("share", TEMPERATURES)


def samples(seed=0, **settings):
    logits, labels = reference.random_samples(seed, **settings)
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


def counts_of(labels):
    return torch.bincount(labels[labels >= 0], minlength=5).double()


def exact(logits, labels, temperatures=TEMPERATURES):
    """Centroids, what they say of the label, and the CMI, all of these samples."""
    centroids = class_centroids(logits, labels, temperatures)
    known = label_information(centroids, centroids.log(), counts_of(labels))
    rows = logits.tolist(), labels.tolist()
    terms = torch.tensor([reference.cmi(*rows, temperature) for temperature in temperatures], dtype=torch.float64)
    return centroids.log(), known, terms


def share_bank(num_classes=5, temperatures=TEMPERATURES, **settings):
    return CentroidBank(num_classes, ObjectiveSpec("share", tuple(temperatures), **settings))


def relative_divergences(logits, labels, log_centroids, temperatures, known, terms):
    """The share at each temperature by the eager backend, times the number of samples, and the sums of divergences."""
    shares = []
    for level, temperature in enumerate(temperatures):
        of_level = slice(level, level + 1)
        state = LabelInformation(known.log_marginals[of_level], known.information[of_level])
        own_terms = None if terms is None else terms[of_level]
        constants = (temperature,), torch.ones(1, dtype=torch.float64), 1.0, 1, own_terms, False
        found = ShareForm.concentrate(Problem(logits, labels, log_centroids[of_level], *constants), state)
        shares.append((found.cmi, found.cmi_per_temperature[0]))
    return tuple(torch.stack(values) for values in zip(*shares, strict=True))


def share(logits, labels, temperature):
    """CMI / I(X; P) from probabilities alone, differentiable through centroids and marginal."""
    keep = labels >= 0
    probs, own = (logits[keep] / temperature).softmax(dim=1), labels[keep]
    rows = torch.stack([probs[own == label].mean(dim=0) for label in range(5)])
    beyond = (probs * (probs / rows[own]).log()).sum(dim=1).mean()
    said = (rows[own] * (rows[own] / probs.mean(dim=0)).log()).sum(dim=1).mean()
    return beyond / (said + beyond)


@pytest.mark.parametrize("seed", [0, 1])
def test_information_of_the_label_is_that_of_scipy(seed):
    """Catches classes that weigh alike whatever their number, bits, and the entropy of the outputs alone."""
    logits, labels = samples(seed)
    _, known, _ = exact(logits, labels)
    rows, own = reference.valid_samples(logits.tolist(), labels.tolist())
    prior = counts_of(labels) / len(own)
    for level, temperature in enumerate(TEMPERATURES):
        centroids = reference.centroids(rows, own, temperature)
        marginal = reference.mean_row([reference.softmax(row, temperature) for row in rows])
        expected = math.fsum(p * stats.entropy(row, marginal) for p, row in zip(prior, centroids, strict=True))
        assert known.information[level].item() == pytest.approx(expected, rel=1e-9)
        assert known.log_marginals[level].exp().tolist() == pytest.approx(marginal, rel=1e-9)


def test_what_is_said_of_the_label_and_beyond_is_all_that_is_said():
    """The chain rule, on what a bank holds: I(X; P) = I(Y; P) + CMI."""
    logits, labels = samples()
    _, known, terms = exact(logits, labels)
    rows, _ = reference.valid_samples(logits.tolist(), labels.tolist())
    for level, temperature in enumerate(TEMPERATURES):
        probs = [reference.softmax(row, temperature) for row in rows]
        said = stats.entropy(reference.mean_row(probs)) - math.fsum(map(stats.entropy, probs)) / len(probs)
        assert (known.information[level] + terms[level]).item() == pytest.approx(said, rel=1e-9)


def test_weak_outputs_and_autocast_keep_their_precision():
    """Catches a difference of entropies in half precision, which is nothing but noise."""
    logits, labels = samples()
    weak = class_centroids(0.1 * logits, labels, [4.0])
    expected = label_information(weak, weak.log(), counts_of(labels)).information
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = label_information(weak.float(), weak.log().float(), counts_of(labels)).information
    assert expected.item() < 1e-2
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)


def test_classes_that_do_not_occur_say_nothing():
    """Catches 0 log 0, and the empty bank of a first step."""
    centroids = torch.tensor([[[0.7, 0.3, 0.0], [0.0, 0.0, 0.0], [0.2, 0.8, 0.0]]])
    known = label_information(centroids, centroids.log(), torch.tensor([3.0, 0.0, 1.0]))
    marginal = [0.75 * 0.7 + 0.25 * 0.2, 0.75 * 0.3 + 0.25 * 0.8]
    expected = 0.75 * stats.entropy([0.7, 0.3], marginal) + 0.25 * stats.entropy([0.2, 0.8], marginal)
    assert known.information.item() == pytest.approx(expected, rel=1e-5)
    assert known.log_marginals.isfinite().all()
    empty = share_bank(3, [1.0]).form.state
    assert empty.information.item() == 0
    assert empty.log_marginals.isfinite().all()


@pytest.mark.parametrize("filled", [True, False], ids=["filled", "moved"])
def test_bank_weighs_classes_by_how_often_they_occur(filled):
    """Catches classes that weigh alike, and a bank filled before the first step that has counted none."""
    logits, labels = samples()
    labels[labels == 3] = 4  # unequal, and one that does not occur
    bank = share_bank(window=1e9).double()
    if filled:
        bank.fill([(logits, labels)])
    else:
        bank.accumulate(logits, labels)
        bank.step()
    _, expected, _ = exact(logits, labels)
    torch.testing.assert_close(bank.form.state.information, expected.information, rtol=1e-5, atol=1e-7)


def test_gradient_is_that_of_the_whole_share():
    """Catches a sign, a factor 1 / (I + CMI), or a part that does not vanish: derived through all of it."""
    logits, labels = samples()
    log_centroids, known, terms = exact(logits, labels)
    logits.requires_grad_()
    found, sums = relative_divergences(logits, labels, log_centroids, TEMPERATURES, known, terms)
    count = (labels >= 0).sum()
    assert (sums / count).tolist() == pytest.approx(terms.tolist(), rel=1e-6)
    for level, temperature in enumerate(TEMPERATURES):
        (gradient,) = torch.autograd.grad(found[level] / count, logits, retain_graph=True)
        value = share(logits, labels, temperature)
        (expected,) = torch.autograd.grad(value, logits)
        assert (found[level] / count).item() == pytest.approx(value.item(), rel=1e-6)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def test_own_terms_are_taken_where_none_came_before():
    """Catches a first step whose quotient is derived as if nothing had been beyond the label."""
    logits, labels = samples()
    log_centroids, known, terms = exact(logits, labels)
    logits.requires_grad_()
    gradients = []
    for given in (terms, None):
        found, _ = relative_divergences(logits, labels, log_centroids, TEMPERATURES, known, given)
        gradients.append(torch.autograd.grad(found.sum(), logits)[0])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def test_shrinking_all_logits_gains_nothing():
    """Catches a quotient that is met by a factor on all logits, which hides nothing."""
    logits, labels = samples()
    values = []
    for factor in (0.2, 0.05):
        shrunk = (factor * logits).requires_grad_()
        log_centroids, known, terms = exact(shrunk.detach(), labels, [5.0])
        found, _ = relative_divergences(shrunk, labels, log_centroids, [5.0], known, terms)
        values.append(found.item())
        (gradient,) = torch.autograd.grad(found, shrunk)
        along = (gradient * shrunk.detach()).sum().abs()
        assert along < 0.05 * (gradient * shrunk.detach()).abs().sum()
    assert values[1] == pytest.approx(values[0], rel=2e-2)


def test_pushing_apart_what_nobody_confuses_gains_nothing():
    """Catches what is wrong with a share of variance: it falls when groups that are apart already go further apart."""
    torch.manual_seed(0)
    labels = torch.arange(400) % 4
    near = torch.zeros(4, 4, dtype=torch.float64)
    near[:2, :2] = torch.eye(2)
    near[2:, 2:] = torch.eye(2)
    group = torch.tensor([[1.0, 1.0, -1.0, -1.0]] * 2 + [[-1.0, -1.0, 1.0, 1.0]] * 2, dtype=torch.float64)
    noise = torch.randn(400, 4, dtype=torch.float64)
    found = {}
    for distance in (30.0, 300.0):
        logits = near[labels] + noise + distance * group[labels]
        centroids = class_centroids(logits, labels, [1.0])
        known = label_information(centroids, centroids.log(), torch.ones(4))
        values, _ = relative_divergences(logits, labels, centroids.log(), [1.0], known, None)
        found[distance] = values.item() / 400, within_total_ratio(logits, labels).item()
    assert found[300.0][0] == pytest.approx(found[30.0][0], rel=1e-6)
    assert found[300.0][1] < 0.02 * found[30.0][1]


@pytest.mark.parametrize("sizes", [[20] * 3, [7, 1, 30, 0, 22]], ids=["equal", "ragged"])
def test_parts_of_a_batch_add_up_to_it(sizes):
    """Catches a quotient of each part for itself, which makes the loss depend on how a batch is split."""
    logits, labels = samples()
    labels[20:28] = -100
    log_centroids, known, terms = exact(*samples(9))
    loss, snapshot, count = CMIMLoss(SPEC), Snapshot(log_centroids, terms, known), (labels >= 0).sum()
    logits.requires_grad_()
    whole = loss(logits, labels, snapshot, 0.5, num_items=count)
    parts = [
        loss(part, own, snapshot, 0.5, num_items=count)
        for part, own in zip(logits.split(sizes), labels.split(sizes), strict=True)
    ]
    for name in ("ce", "cmi", "cmi_per_temperature"):
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(total, getattr(whole, name), rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(whole.cmi, logits)
    (split,) = torch.autograd.grad(sum(part.cmi for part in parts), logits)
    torch.testing.assert_close(split, gradient, rtol=1e-9, atol=1e-12)


def test_classes_not_seen_and_masked_classes_stay_finite():
    """Catches nan from a centroid of log 0 or a logit of -inf, and a sample that counts without a centroid."""
    logits, labels = samples()
    log_centroids, known, terms = exact(logits, labels)
    log_centroids[:, 2] = -torch.inf
    without = labels.masked_fill(labels == 2, -100)
    masked = logits.masked_fill((labels == 1).unsqueeze(1) & (torch.arange(5) == 3), -torch.inf).requires_grad_()
    results = [
        relative_divergences(masked, each, log_centroids, TEMPERATURES, known, terms) for each in (labels, without)
    ]
    torch.testing.assert_close(*results)
    (gradient,) = torch.autograd.grad(results[0][0].sum(), masked)
    assert gradient.isfinite().all()
    assert not gradient[labels == 2].any()


def test_training_concentrates_and_does_not_shrink():
    """Catches a quotient that trains nothing, or one that is met by shrinking."""
    plain, plain_labels = trained_classifier(1.0)
    weighted, labels = trained_classifier(10.0, "share")
    untouched, _ = trained_classifier(0.0)
    assert within_total_ratio(weighted, labels) < 0.8 * within_total_ratio(untouched, labels)
    scales = [logits.sub(logits.mean(dim=1, keepdim=True)).square().mean() for logits in (weighted, plain)]
    assert scales[0] > scales[1]
    assert torch.equal(labels, plain_labels)


@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_backends_agree_on_the_share(backend):
    """Catches an operator of another gradient, value or term than that of the whole share, or of another weight."""
    logits, labels = samples()
    log_centroids, known, terms = exact(logits, labels)
    logits.requires_grad_()
    count = int((labels >= 0).sum())
    loss = CMIMLoss(SPEC, backend=backend)
    found = loss(logits, labels, Snapshot(log_centroids, terms, known), 0.5, num_items=count)
    expected = torch.stack([share(logits, labels, temperature) for temperature in TEMPERATURES]).mean()
    assert found.cmi.item() == pytest.approx(0.5 * expected.item(), rel=1e-6)
    assert found.cmi_per_temperature.tolist() == pytest.approx(terms.tolist(), rel=1e-6)
    gradients = [torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (found.cmi, expected)]
    torch.testing.assert_close(gradients[0], 0.5 * gradients[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("strength", [0.0, 1e-3])
def test_outputs_that_say_nothing_have_a_gradient(backend, strength):
    """Catches a division by 0 at the first step of a model, or on logits that are all alike."""
    logits, labels = samples()
    log_centroids, known, terms = exact(strength * logits, labels)
    logits = (strength * logits).float().requires_grad_()
    known = LabelInformation(*(each.float() for each in known))
    snapshot = Snapshot(log_centroids.float(), terms.float(), known)
    found = CMIMLoss(SPEC, backend=backend)(logits, labels, snapshot)
    assert 0 <= found.cmi.item() <= 1
    (gradient,) = torch.autograd.grad(found.cmi, logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("sizes", [[3] * 20, [20] * 3, [1, 4, 30, 0, 25]], ids=["few", "many", "ragged"])
def test_rows_that_move_say_what_their_table_says(sizes):
    """Catches a row left in the mean after it moved, one counted for each sample, and classes that come late."""
    logits, labels = samples()
    labels[:12] = labels[:12].clamp_max(2)  # a class that is not there at first
    labels[5:9] = -100
    bank = share_bank(window=6.0)
    bank.fill([(logits[20:30].float(), labels[20:30])])
    counted = counts_of(labels[20:30]).long()
    for part, own in zip(logits.float().split(sizes), labels.split(sizes), strict=True):
        bank.accumulate(part, own)
        bank.step()
        counted += counts_of(own).long()
        expected = label_information(bank.probs.double(), bank.log_probs.double(), counted)
        torch.testing.assert_close(bank.form.state.information.double(), expected.information, rtol=2e-6, atol=2e-7)
        torch.testing.assert_close(bank.form.state.log_marginals.double(), expected.log_marginals, rtol=0, atol=2e-6)
    assert torch.equal(bank.form.counts, counted)


def test_roundings_do_not_pile_up():
    """Catches a mean that drifts from its table over thousands of steps: it is never read anew."""
    torch.manual_seed(0)
    classes, means = 30, 2 * torch.randn(30, 30)
    bank = share_bank(classes, [1.0, 4.0])
    for _ in range(3000):
        labels = (torch.rand(8).square() * classes).long()  # some are rare
        bank.accumulate(means[labels] + torch.randn(8, classes), labels)
        bank.step()
    expected = label_information(bank.probs.double(), bank.log_probs.double(), bank.seen)
    torch.testing.assert_close(bank.form.state.information.double(), expected.information, rtol=1e-5, atol=0)
    found = bank.form.state.log_marginals.double()
    torch.testing.assert_close(found, expected.log_marginals, rtol=0, atol=2e-5)


@pytest.mark.parametrize("form", ["plain", "scaled"])
def test_the_snapshot_of_another_form_is_refused(form):
    """Catches a loss and a bank that were built apart: the loss would train on something else."""
    logits, labels = samples()
    bank = CentroidBank(5, ObjectiveSpec(form, TEMPERATURES))
    with pytest.raises(ValueError, match='The loss has the form "share", but the snapshot is from a bank of another'):
        CMIMLoss(SPEC)(logits, labels, bank.snapshot())
    with pytest.raises(ValueError, match=f'The loss has the form "{form}", but .*LabelInformation'):
        CMIMLoss(bank.spec)(logits, labels, share_bank().snapshot())
