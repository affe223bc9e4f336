"""Answer transforms against loops over their equations, exact limits, and answers whose clean form is known."""

import inspect
import math
from copy import deepcopy
from functools import partial

import pytest
import reference
import torch

from hf_cmim.attacks.answer_prior import isolated_randomness, plausible_answers
from hf_cmim.attacks.averager import Averager
from hf_cmim.attacks.base import Relative
from hf_cmim.attacks.class_centroid import ClassCentroid
from hf_cmim.attacks.kd import kd_loss
from hf_cmim.attacks.markov_kd import MarkovKD
from hf_cmim.attacks.partial_bayes import PartialBayes, recovered_probs
from hf_cmim.attacks.repaired_answers import RepairedAnswers
from hf_cmim.attacks.restoration import Restoration
from hf_cmim.channels import (
    Argmax,
    ClassAnswers,
    ConfidenceTemperature,
    LinearMap,
    ModelGuardS,
    ModelGuardW,
    ReverseSigmoid,
    Rounded,
    Sharpened,
    TopK,
)
from hf_cmim.cli.extensions import CHANNELS

NUM_CLASSES = 5
QUICK = {"samples": 2_000}, {"steps": 20}
TRANSFORMS = [
    Averager(),
    Averager(temperature=0.5, over="batch"),
    Averager(temperature=Relative(factor=1.0), over="batch"),
    ClassCentroid(),
    RepairedAnswers(),
    RepairedAnswers(rule="below-chance", repair="swap"),
    MarkovKD(),
    MarkovKD(temperature=Relative(factor=0.5), rank=2, diagonal=0.5, learning_rate_factor=1.0),
    PartialBayes(perturbation=Rounded(decimals=2), **QUICK[0]),
    Restoration(perturbation=ReverseSigmoid(), **QUICK[1]),
]
every_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
at_temperatures = pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])


def samples(seed=0, size=40, **settings):
    logits, labels = reference.random_samples(seed, size=size, num_classes=NUM_CLASSES, ignored=0, **settings)
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


def answers(*arguments, **settings):
    logits, labels = samples(*arguments, **settings)
    return logits.log_softmax(dim=-1), labels


def surveyed(transform, log_probs, labels, sizes=None):
    """The transform ready for training, the survey given in pieces of these sizes."""
    transform = deepcopy(transform)
    transform.prepare(NUM_CLASSES)
    for part, part_labels in zip(
        log_probs.split(sizes or len(labels)), labels.split(sizes or len(labels)), strict=True
    ):
        transform.survey(part, part_labels)
    transform.settle()
    return transform


def class_rows(rows, labels, temperature=1.0):
    """Rows at a temperature, by class."""
    by_class = {}
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        by_class.setdefault(label, []).append(reference.softmax(row, temperature))
    return by_class


def column_means(rows):
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def assert_rows_equal(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), rtol=tolerance, atol=tolerance)


# What all keep


@every_transform
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_comes_out_is_a_distribution_of_the_same_kind(transform, dtype):
    """Catches log 0, p~ that does not sum to 1, another dtype, and a batch without valid samples that breaks."""
    log_probs, labels = answers()
    log_probs[::3, 1:3] = -1e4
    log_probs[labels == 4, 0] = -1e4  # no other answer of the class lifts its mean
    log_probs = log_probs.log_softmax(dim=-1).to(dtype)
    ready = surveyed(transform, log_probs, labels)
    out = ready(log_probs, labels)
    assert out.dtype == dtype
    assert out.shape == log_probs.shape
    assert out.isfinite().all()
    torch.testing.assert_close(out.exp().sum(dim=-1), torch.ones(len(out), dtype=dtype), rtol=0, atol=1e-5)
    assert ready(log_probs[:0], labels[:0]).shape == (0, NUM_CLASSES)


@every_transform
def test_a_constant_of_an_answer_changes_nothing(transform):
    """Catches a transform that reads more than a black box tells: logits are known up to a constant for each row."""
    log_probs, labels = answers()
    shifted = log_probs + torch.linspace(-20, 20, len(labels), dtype=torch.float64).unsqueeze(-1)
    expected = surveyed(transform, log_probs, labels)(log_probs, labels)
    torch.testing.assert_close(surveyed(transform, shifted, labels)(shifted, labels), expected, rtol=1e-5, atol=1e-5)


@every_transform
def test_no_gradient_reaches_the_teacher(transform):
    """Catches a transform through which a student's loss would train the teacher."""
    log_probs, labels = answers()
    ready = surveyed(transform, log_probs, labels)
    out = ready(log_probs.requires_grad_(), labels)
    if out.requires_grad:
        out.square().sum().backward()
    assert log_probs.grad is None
    assert out.requires_grad == bool(list(ready.parameters()))


@every_transform
def test_state_survives_a_checkpoint(transform):
    """Catches class means, maps or a network that a killed run would lose, or that load into no room for them."""
    log_probs, labels = answers()
    ready = surveyed(transform, log_probs, labels)
    with torch.no_grad():
        for value in ready.state_dict().values():
            value.add_(torch.rand(value.shape))
    resumed = eval(repr(transform), globals())  # also catches a `repr` that does not give the transform back
    resumed.prepare(NUM_CLASSES)
    resumed.load_state_dict(ready.state_dict())
    assert resumed(log_probs, labels).equal(ready(log_probs, labels))


def test_only_what_looks_at_the_transfer_set_asks_for_a_survey():
    """Catches a pass over all answers for nothing, and one that is left out."""
    surveyed_ones = [True, False, True, True, False, False, False, True, False, False]
    assert [transform.needs_survey for transform in TRANSFORMS] == surveyed_ones


@every_transform
def test_every_tensor_moves_with_the_transform(transform):
    """Catches a table or a mean that stays on the CPU when the student trains on a GPU."""
    ready = surveyed(transform, *answers())
    for module in ready.modules():
        assert not [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]


@every_transform
def test_settings_are_passed_by_name(transform):
    """Catches a constructor whose numbers can be swapped at the call."""
    kinds = {parameter.kind for parameter in inspect.signature(type(transform)).parameters.values()}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("transform", "settings", "expected"),
    [
        (Averager, {"temperature": 0.0}, "temperature above 0 and finite, got 0.0"),
        (Averager, {"over": "epoch"}, 'over="transfer-set" or "batch", got .epoch.'),
        (Averager, {"temperature": Relative(1.0)}, "temperature in numbers.*got Relative"),
        (MarkovKD, {"temperature": -1.0}, "temperature above 0 and finite, got -1.0"),
        (MarkovKD, {"rank": 0}, "rank of at least 1, got 0"),
        (MarkovKD, {"diagonal": 1.0}, r"diagonal in \(0, 1\), got 1.0"),
        (MarkovKD, {"diagonal": math.nan}, r"diagonal in \(0, 1\), got nan"),
        (MarkovKD, {"learning_rate_factor": -0.1}, "learning_rate_factor at least 0 and finite, got -0.1"),
        (RepairedAnswers, {"rule": "wrong"}, 'rule="wrong-class" or "below-chance", got .wrong.'),
        (RepairedAnswers, {"repair": "drop"}, 'repair="label" or "swap", got .drop.'),
        (partial(PartialBayes, perturbation=Argmax()), {"samples": 0}, "at least 1 sample, got 0"),
        (partial(PartialBayes, perturbation=Argmax()), {"tolerance": -1.0}, "tolerance at least 0 and finite, got -1"),
        (partial(Restoration, perturbation=Argmax()), {"steps": 0}, "at least 1 step, got 0"),
    ],
)
def test_unusable_settings_are_named(transform, settings, expected):
    """Catches a missing guard: each of these would fail, or do nothing, long after the start."""
    with pytest.raises(ValueError, match=f"Expected.*{expected}"):
        transform(**settings)


@pytest.mark.parametrize("transform", [Averager(), ClassCentroid()], ids=repr)
def test_class_means_without_a_survey_are_refused(transform):
    """Catches uniform answers, or those of an empty table, in place of the class means that nobody surveyed."""
    log_probs, labels = answers()
    transform = deepcopy(transform)
    transform.prepare(NUM_CLASSES)
    with pytest.raises(ValueError, match="Expected a survey.*got none"):
        transform(log_probs, labels)
    with pytest.raises(ValueError, match=f"Expected answers of {NUM_CLASSES} classes, got 4"):
        transform.survey(log_probs[:, :4], labels % 4)


@pytest.mark.parametrize("transform", TRANSFORMS[6:], ids=repr)
def test_another_number_of_classes_is_refused(transform):
    """Catches maps, a table or a network for other classes, and one that was never prepared."""
    log_probs, labels = answers()
    for num_classes in (0, 4):
        transform = deepcopy(transform)
        if num_classes:
            transform.prepare(num_classes)
        with pytest.raises(ValueError, match=f"Expected answers of {num_classes} classes, got {NUM_CLASSES}"):
            transform(log_probs, labels)


# Averager and class centroid


@at_temperatures
@pytest.mark.parametrize("over", ["batch", "transfer-set"])
def test_averaged_answers_soften_to_the_class_means(over, temperature):
    """Catches a mean of p, of logits, or at another temperature, and one over the whole batch."""
    log_probs, labels = answers()
    expected = class_rows(log_probs, labels, temperature)
    averager = surveyed(Averager(temperature=temperature, over=over), log_probs, labels, sizes=7)
    softened = (averager(log_probs, labels) / temperature).softmax(dim=-1)
    assert_rows_equal(softened, [column_means(expected[label]) for label in labels.tolist()])


@at_temperatures
@pytest.mark.parametrize("over", ["batch", "transfer-set"])
@pytest.mark.parametrize("collapsed", [True, False])
def test_answers_that_are_their_class_stay_as_they_are(over, temperature, collapsed):
    """Catches averaging across classes; a collapsed teacher, and one sample for each class, are plain KD."""
    log_probs, labels = answers(size=NUM_CLASSES)
    labels = torch.arange(NUM_CLASSES)
    if collapsed:
        labels = labels.repeat(3)
        log_probs = log_probs.repeat(3, 1)
    averager = surveyed(Averager(temperature=temperature, over=over), log_probs, labels)
    torch.testing.assert_close(averager(log_probs, labels), log_probs, rtol=1e-9, atol=1e-9)


def test_averages_over_the_transfer_set_do_not_depend_on_the_batch():
    """Catches a transfer-set mean that is taken over the batch at hand."""
    log_probs, labels = answers()
    averager = surveyed(Averager(), log_probs, labels)
    assert averager(log_probs[3:4], labels[3:4]).equal(averager(log_probs, labels)[3:4])


def test_a_relative_temperature_averages_at_the_surveyed_scale():
    """Catches averaging at the factor itself."""
    log_probs, labels = answers()
    rows = [[value - math.fsum(row) / NUM_CLASSES for value in row] for row in log_probs.tolist()]
    scale = math.sqrt(math.fsum(value**2 for row in rows for value in row) / (len(rows) * NUM_CLASSES))
    relative = surveyed(Averager(temperature=Relative(0.5), over="batch"), log_probs, labels)(log_probs, labels)
    absolute = Averager(temperature=0.5 * scale, over="batch")(log_probs, labels)
    torch.testing.assert_close(relative, absolute, rtol=1e-5, atol=1e-5)


def test_class_centroids_are_normalised_geometric_means():
    """Catches the arithmetic mean, which is the centroid of the CMI, and a mean that is not normalised."""
    log_probs, labels = answers()
    by_class = class_rows(log_probs, labels)
    expected = []
    for label in labels.tolist():
        rows = by_class[label]
        products = [math.prod(row[c] for row in rows) ** (1 / len(rows)) for c in range(NUM_CLASSES)]
        expected.append([product / math.fsum(products) for product in products])
    centroid = surveyed(ClassCentroid(), log_probs, labels, sizes=7)
    assert_rows_equal(centroid(log_probs, labels).exp(), expected)


@at_temperatures
def test_class_centroids_commute_with_tempering(temperature):
    """Catches a mean of probabilities: softening first, or last, would then differ."""
    log_probs, labels = answers()
    tempered = (log_probs / temperature).log_softmax(dim=-1)
    last = (surveyed(ClassCentroid(), log_probs, labels)(log_probs, labels) / temperature).log_softmax(dim=-1)
    torch.testing.assert_close(surveyed(ClassCentroid(), tempered, labels)(tempered, labels), last)


@pytest.mark.parametrize("transform", [Averager(), ClassCentroid()], ids=repr)
def test_answers_of_a_class_tell_nothing_of_an_instance(transform):
    """Catches something of the own answer that is left in: the CMI of what comes out must be 0."""
    log_probs, labels = answers()
    out = surveyed(transform, log_probs, labels)(log_probs, labels)
    assert reference.cmi(out.tolist(), labels.tolist(), 1.0) == pytest.approx(0, abs=1e-12)
    assert reference.cmi(log_probs.tolist(), labels.tolist(), 1.0) > 0.01


@pytest.mark.parametrize("transform", [Averager(), ClassCentroid()], ids=repr)
def test_a_class_outside_the_survey_keeps_its_answers(transform):
    """Catches uniform answers, or division by 0, for a class that was never surveyed."""
    log_probs, labels = answers()
    seen = labels != 2
    ready = surveyed(transform, log_probs[seen], labels[seen])
    out = ready(log_probs, labels)
    torch.testing.assert_close(out[~seen], log_probs[~seen])
    assert ready.class_means.means.isfinite().all()  # WKD takes its costs from them
    assert not out[seen].isclose(log_probs[seen]).all()


@pytest.mark.parametrize("transform", [Averager(), ClassCentroid()], ids=repr)
def test_a_second_survey_replaces_the_first(transform):
    """Catches sums that go on: a later survey would be mixed with answers that are no longer given."""
    log_probs, labels = answers()
    again = surveyed(transform, log_probs.flip(-1), labels)
    again.survey(log_probs, labels)
    again.settle()
    expected = surveyed(transform, log_probs, labels)
    torch.testing.assert_close(again(log_probs, labels), expected(log_probs, labels))


# Markov maps


def learned(temperature=4.0, **settings):
    """A prepared MarkovKD with maps as training might leave them, and its answers."""
    transform = surveyed(MarkovKD(temperature=temperature, **settings), *answers()).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return transform


@at_temperatures
def test_mapped_answers_soften_to_the_equation(temperature):
    """Catches M', normalised columns, the map of another class, and p~ passed through softmax(p~ / T) again."""
    log_probs, labels = answers()
    transform = learned(temperature)
    expected = []
    for row, label in zip(log_probs.tolist(), labels.tolist(), strict=True):
        scale, left, right = (values[label].tolist() for values in transform.parameters())
        matrix = []
        for i in range(NUM_CLASSES):
            dots = [math.fsum(a * b for a, b in zip(left[i], right[j], strict=True)) for j in range(NUM_CLASSES)]
            matrix.append(reference.softmax([dots[j] + (scale if i == j else 0) for j in range(NUM_CLASSES)]))
        probs = reference.softmax(row, temperature)
        expected.append([math.fsum(probs[i] * matrix[i][j] for i in range(NUM_CLASSES)) for j in range(NUM_CLASSES)])
    softened = (transform(log_probs, labels) / temperature).softmax(dim=-1)
    assert_rows_equal(softened, expected)


def test_a_large_diagonal_leaves_answers_as_they_are():
    """Catches a map that is not the identity in the limit: Markov KD would not contain KD."""
    log_probs, labels = answers()
    transform = learned()
    with torch.no_grad():
        transform.scales.fill_(1e4)
    torch.testing.assert_close(transform(log_probs, labels), log_probs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("diagonal", [0.2, 0.9])
def test_maps_start_with_the_diagonal_asked_for(diagonal):
    """Catches a start whose meaning depends on the number of classes, and low-rank factors that disturb it."""
    log_probs = torch.full((1, NUM_CLASSES), -1e4, dtype=torch.float64)
    log_probs[0, 3] = 0
    out = surveyed(MarkovKD(temperature=1.0, diagonal=diagonal), *answers())(log_probs, torch.tensor([1]))
    rest = (1 - diagonal) / (NUM_CLASSES - 1)
    assert_rows_equal(out.exp(), [[rest, rest, rest, diagonal, rest]], tolerance=1e-6)


def test_maps_learn_from_the_student_and_not_the_other_way_round():
    """Catches another divergence or its reverse, a missing T^2, and a gradient that reaches the student."""
    (student_logits, _), (log_probs, labels) = samples(3), answers()
    transform = learned(temperature=2.0)
    out = transform(log_probs, labels)
    student_logits.requires_grad_()
    components = transform.own_components(out, student_logits)
    expected = [
        4 * reference.kl(reference.softmax(row, 2.0), reference.softmax(student_row, 2.0))
        for row, student_row in zip(out.tolist(), student_logits.tolist(), strict=True)
    ]
    assert list(components) == ["markov"]
    assert components["markov"].item() == pytest.approx(math.fsum(expected) / len(expected), rel=1e-10)
    components["markov"].backward()
    assert student_logits.grad is None
    for parameter in transform.parameters():
        assert parameter.grad.abs().sum() > 0


def test_maps_learn_one_for_each_class():
    """Catches maps that cannot leave their start, and one map shared by all: classes ask for opposite ones here."""
    log_probs = torch.tensor([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]]).log()
    student_logits = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]).log()
    labels = torch.tensor([0, 1])
    transform = MarkovKD(temperature=1.0)
    transform.prepare(3)
    before = kd_loss(student_logits, transform(log_probs, labels), 1.0).tolist()
    optimizer = torch.optim.Adam(transform.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        transform.own_components(transform(log_probs, labels), student_logits)["markov"].backward()
        optimizer.step()
    after = kd_loss(student_logits, transform(log_probs, labels), 1.0).tolist()
    assert before[1] > 0.5
    assert max(after) < 0.05
    assert transform.scales[2] == transform.scales.new_tensor(math.log(0.9 * 2 / 0.1))
    assert MarkovKD().learning_rate_factor == 0.01


# Recovery


def test_look_up_averages_what_is_near_or_the_nearest():
    """Catches another distance, a mean over the whole table, and an answer that is far from all rows and gets nan."""
    generator = torch.Generator().manual_seed(0)
    seen, perturbed, clean = (
        torch.randn(size, 4, generator=generator, dtype=torch.float64).softmax(dim=-1) for size in (30, 50, 50)
    )
    tolerance = 0.4
    expected, near_counts = [], []
    for row in seen.tolist():
        distances = [math.fsum(abs(a - b) for a, b in zip(row, other, strict=True)) for other in perturbed.tolist()]
        radius = max(tolerance, min(distances))
        near = [c for c, distance in zip(clean.tolist(), distances, strict=True) if distance <= radius]
        near_counts.append((len(near), min(distances) > tolerance))
        expected.append(column_means(near))
    assert {far for _, far in near_counts} == {True, False}, "both cases must occur"
    assert max(near_counts)[0] > 2
    assert_rows_equal(recovered_probs(seen, perturbed, clean, tolerance), expected)


def other_answers():
    """Clean answers of another family than the one that recovery learns from."""
    logits, labels = samples(5, size=200, scale=1.5)
    return (logits + 3 * torch.eye(NUM_CLASSES, dtype=torch.float64)[labels]).log_softmax(dim=-1).float(), labels


def distance(log_probs, clean):
    """Mean KL(clean || recovered)."""
    pairs = zip(clean.double().exp().tolist(), log_probs.double().exp().tolist(), strict=True)
    return math.fsum(reference.kl(p, q) for p, q in pairs) / len(clean)


UNDONE = [
    (PartialBayes(perturbation=Rounded(decimals=1), samples=20_000), 3),
    (PartialBayes(perturbation=ReverseSigmoid(beta=0.3), samples=20_000), 2),
    (PartialBayes(perturbation=Sharpened(scale=0.3), samples=20_000), 5),
    (Restoration(perturbation=Rounded(decimals=1), steps=150), 2),
    (Restoration(perturbation=ReverseSigmoid(beta=0.3), steps=150), 2),
    (Restoration(perturbation=Sharpened(scale=0.3), steps=150), 5),
    (PartialBayes(perturbation=ConfidenceTemperature(limit=1.0), samples=20_000), 20),
    (Restoration(perturbation=ConfidenceTemperature(limit=1.0), steps=150), 7),
    (PartialBayes(perturbation=ModelGuardW(epsilon=0.4), samples=4_000), 5),
    (PartialBayes(perturbation=LinearMap(0.3 * torch.eye(NUM_CLASSES) + 0.1), samples=20_000), 5),
    (PartialBayes(perturbation=ModelGuardS.fit(answers(9, size=400)[0], epsilon=0.5), samples=4_000), 1.5),
    (Restoration(perturbation=ModelGuardW(epsilon=0.4), steps=40), 1.05),
    (Restoration(perturbation=LinearMap(0.3 * torch.eye(NUM_CLASSES) + 0.1), steps=150), 30),
    (Restoration(perturbation=ModelGuardS.fit(answers(9, size=400)[0], epsilon=0.5), steps=150), 1.3),
]
"""Recoveries, and how many times nearer to the clean answers they must come."""


@pytest.mark.parametrize(("transform", "gain"), UNDONE, ids=repr)
def test_recovery_brings_answers_nearer_to_clean_ones(transform, gain):
    """Catches a recovery of the wrong direction, of other rows, or of answers it was never shown."""
    clean, labels = other_answers()
    seen = transform.perturbation(clean)
    ready = surveyed(transform, clean, labels)
    assert distance(ready(seen, labels), clean) * gain < distance(seen, clean)


@pytest.mark.parametrize("recovery", [PartialBayes, Restoration])
def test_every_channel_that_can_be_undone_is_tried(recovery):
    """Catches a new channel whose answers nobody tries to recover: a weak attacker makes it look strong."""
    tried = {type(transform.perturbation) for transform, _ in UNDONE if type(transform) is recovery}
    of_the_class_alone = {Argmax, ClassAnswers, TopK}
    assert tried == {*CHANNELS.values()} - of_the_class_alone


def test_a_checkpoint_keeps_the_network():
    """Catches weights that are only learned again, by a machine that may round differently."""
    log_probs, labels = answers()
    first, second = (surveyed(Restoration(perturbation=Argmax(), steps=20, seed=s), log_probs, labels) for s in (0, 1))
    assert not second(log_probs, labels).equal(first(log_probs, labels))
    second.load_state_dict(first.state_dict())
    assert second(log_probs, labels).equal(first(log_probs, labels))


def test_a_network_reads_hidden_classes_as_very_improbable():
    """Catches extrapolation: a class at -1e4 would drown what the network says of the others."""
    log_probs, labels = answers()
    transform = surveyed(Restoration(perturbation=Rounded(decimals=2), steps=20), log_probs, labels)
    log_probs[::2, 1] = -1e4
    log_probs = log_probs.log_softmax(dim=-1)
    torch.testing.assert_close(transform(log_probs, labels), transform(log_probs.clamp_min(-30), labels))


def test_a_top_class_that_no_row_has_keeps_its_answers():
    """Catches a look-up in an empty part of the table."""
    log_probs, labels = answers()
    transform = PartialBayes(perturbation=Rounded(decimals=2), samples=1)
    transform.prepare(NUM_CLASSES)
    changed = ~transform(log_probs, labels).isclose(log_probs, rtol=1e-6, atol=1e-6).all(dim=-1)
    tops = log_probs.argmax(dim=-1)
    assert len(tops[changed].unique()) == 1
    assert changed.equal(tops == tops[changed][0])


RECOVERIES = [partial(PartialBayes, samples=500), partial(Restoration, steps=5)]


@pytest.mark.parametrize("recovery", RECOVERIES, ids=["PartialBayes", "Restoration"])
def test_recovery_is_the_same_again_and_draws_nothing_from_a_run(recovery):
    """Catches a table or network that differs after a resume, and one that shifts every later random number."""
    log_probs, labels = answers()

    def noisy(values):
        return (values + torch.rand(values.shape)).log_softmax(dim=-1)

    torch.manual_seed(11)
    before = torch.get_rng_state()
    outs = []
    for seed in (0, 0, 1):
        transform = recovery(perturbation=noisy, seed=seed)
        transform.prepare(NUM_CLASSES)
        assert torch.get_rng_state().equal(before)
        outs.append(transform(log_probs, labels))
        torch.rand(1)
        before = torch.get_rng_state()
    assert outs[0].equal(outs[1])
    assert not outs[0].equal(outs[2])


@pytest.mark.parametrize("recovery", RECOVERIES, ids=["PartialBayes", "Restoration"])
def test_a_perturbation_that_changes_the_shape_is_named(recovery):
    """Catches pairs of clean and perturbed answers that do not belong together."""
    with pytest.raises(ValueError, match=r"Expected a perturbation that keeps the shape.*got \(\d+, 4\)"):
        recovery(perturbation=lambda values: values[:, :4]).prepare(NUM_CLASSES)


def test_plausible_answers_reach_from_vague_to_certain_in_every_class():
    """Catches a prior of one scale, which would not know what a hardened or a confident teacher answers."""
    with isolated_randomness(0):
        confidences, tops = plausible_answers(2_000, NUM_CLASSES).exp().max(dim=-1)
    assert confidences.min() < 0.3
    assert confidences.max() > 0.9999
    assert tops.bincount(minlength=NUM_CLASSES).min() > 2_000 / NUM_CLASSES / 2
