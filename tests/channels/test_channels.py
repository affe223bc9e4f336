"""Output channels against slow float64 loops, and what they promise to whoever reads them."""

import math

import pytest
import reference
import torch
from scipy.optimize import linprog

from hf_cmim.channels import (
    FLOOR,
    Argmax,
    ConfidenceTemperature,
    ModelGuardW,
    ReverseSigmoid,
    Rounded,
    Sharpened,
    TopK,
    label_log_probs,
    normalized,
    raise_zeros,
)

CHANNELS = [
    Rounded(2),
    TopK(2),
    TopK(2, renormalized=True),
    Argmax(),
    Sharpened(3.0),
    Sharpened(0.5),
    ReverseSigmoid(),
    ReverseSigmoid(beta=0.7, gamma=0.2),
    ReverseSigmoid(gamma=0.0),
    ConfidenceTemperature(limit=3.0),
    ModelGuardW(),
    ModelGuardW(epsilon=0.2),
]
HIDING = {TopK(2), TopK(2, renormalized=True), Argmax()}


def by_loops(channel, probs):
    """What the channel lets out for one row, in float64 from its equation, normalised with the floor."""
    num_classes = len(probs)
    order = sorted(range(num_classes), key=lambda index: -probs[index])
    match channel:
        case Rounded(decimals):
            values = [float(f"{p:.{decimals}f}") for p in probs]
        case TopK(k, renormalized):
            shown = {index: probs[index] for index in order[:k]}
            rest = 0.0 if renormalized else math.fsum(probs[index] for index in order[k:]) / (num_classes - k)
            values = [shown.get(index, rest) for index in range(num_classes)]
        case Argmax():
            values = [float(index == order[0]) for index in range(num_classes)]
        case Sharpened(scale):
            powers = [p**scale for p in probs]
            return [power / math.fsum(powers) for power in powers]  # nothing is cut off
        case ReverseSigmoid(beta, gamma):
            values = [p - beta * (p**gamma / (p**gamma + (1 - p) ** gamma) - 0.5) for p in probs]
        case ConfidenceTemperature(limit):
            first, second = (math.log(probs[index]) for index in order[:2])
            return reference.softmax([math.log(p) for p in probs], 1 + (first - second) / limit)
        case ModelGuardW(epsilon):
            values = least_likely(probs, epsilon)
    values = [max(value, FLOOR) for value in values]
    total = math.fsum(values)
    return [value / total for value in values]


def value(probs, costs):
    return math.fsum(p * cost for p, cost in zip(probs, costs, strict=True))


def least_likely(probs, epsilon):
    """The linear program of ModelGuard-W by scipy's solver: answers, then their distances; the own answer if none."""
    size = len(probs)
    unit, none = torch.eye(size).tolist(), [0.0] * size
    first = max(range(size), key=lambda index: probs[index])
    bounds = [([*unit[j], *(-v for v in unit[j])], probs[j]) for j in range(size)]
    bounds += [([*(-v for v in unit[j]), *(-v for v in unit[j])], -probs[j]) for j in range(size)]
    bounds += [([*none, *[1.0] * size], epsilon)]
    others = [j for j in range(size) if j != first]
    bounds += [([*(a - b for a, b in zip(unit[j], unit[first], strict=True)), *none], -1e-4) for j in others]
    left, right = zip(*bounds, strict=True)
    costs = [*(math.log(p + 1e-6) for p in probs), *none]
    solved = linprog(costs, left, right, [[*[1.0] * size, *none]], [1.0], bounds=(0, 1))
    return probs if solved.status == 2 else solved.x[:size].tolist()


def rows(seed=0, size=40, num_classes=5, scale=2.0):
    logits, _ = reference.random_samples(seed, size, num_classes, scale=scale)
    return [reference.softmax(row) for row in logits]


@pytest.mark.parametrize("channel", CHANNELS, ids=repr)
def test_channel_equals_its_equation(channel):
    """Catches a wrong formula, mass that gets lost, and a floor that is applied before instead of after."""
    probs = rows()
    answers = channel(torch.tensor(probs, dtype=torch.float64).log().float())
    expected = torch.tensor([by_loops(channel, row) for row in probs], dtype=torch.float64)
    assert answers.dtype == torch.float32
    assert torch.allclose(answers.double().exp(), expected, atol=1e-6)
    assert torch.allclose(answers.double(), expected.log(), atol=1e-3)


@pytest.mark.parametrize("channel", CHANNELS, ids=repr)
def test_extreme_answers_stay_finite_and_normalised(channel):
    """Catches log(0), logit(1), 0 * inf and sums that overflow: an attack would see nan."""
    extreme = torch.tensor([[0.0, -100.0, -200.0, -300.0], [500.0, 0, 0, 0], [0.0, 0, 0, 0], [0.0, -30, 9, 9]])
    answers = channel(extreme.log_softmax(-1))
    assert answers.isfinite().all()
    assert torch.logsumexp(answers.double(), -1).abs().max() < 1e-5


@pytest.mark.parametrize("channel", CHANNELS, ids=repr)
def test_repr_gives_the_channel_back(channel):
    """Catches a setting missing in the repr, which fingerprints and reports rely on."""
    assert eval(repr(channel)) == channel


@pytest.mark.parametrize("channel", CHANNELS, ids=repr)
def test_channel_says_whether_it_hides_classes(channel):
    """Catches a channel that lets an attack in that needs every class, or keeps it out for nothing."""
    assert channel.hides_classes == (channel in HIDING)


@pytest.mark.parametrize("channel", [TopK(2), TopK(2, renormalized=True), Argmax(), Sharpened(3.0)], ids=repr)
def test_label_survives(channel):
    """Catches hidden classes that get more than shown ones."""
    log_probs = torch.tensor(rows()).log()
    assert torch.equal(channel(log_probs).argmax(-1), log_probs.argmax(-1))


@pytest.mark.parametrize(("num_classes", "confidence"), [(10, 0.991), (100, 0.910), (1000, 0.500)])
def test_floor_does_what_its_documentation_says(num_classes, confidence):
    """Catches a changed FLOOR with an unchanged explanation: at T = 4 a label alone becomes this confidence."""
    answer = Argmax()(torch.eye(num_classes)[:1].log_softmax(-1))
    assert (answer / 4).softmax(-1).max().item() == pytest.approx(confidence, abs=5e-4)


def test_sharpening_is_undone_by_the_temperature():
    """Catches a cut-off in Sharpened, which would make it look like protection against every temperature."""
    log_probs = torch.tensor(rows(), dtype=torch.float64).log().float()
    assert torch.allclose((Sharpened(4.0)(log_probs) / 4).log_softmax(-1), log_probs, atol=1e-5)


@pytest.mark.parametrize("limit", [0.5, 3.0, 20.0])
def test_confidence_temperature_is_undone_by_its_formula(limit):
    """Catches a temperature that does not rise strictly, or a lead beyond the limit: both would lose answers."""
    log_probs = torch.tensor(rows(scale=4.0), dtype=torch.float64).log().float()
    answers = ConfidenceTemperature(limit)(log_probs).double()
    first, second = answers.topk(2).values.unbind(-1)
    lead = first - second
    assert (lead < limit).all()
    undone = (answers * (limit / (limit - lead)).unsqueeze(-1)).log_softmax(-1)
    assert torch.allclose(undone, log_probs.double(), atol=1e-3)


def test_doubtful_answers_keep_their_temperature():
    """Catches a temperature that softens every answer alike, as Sharpened(0.5) does."""
    tie, doubtful, sure = ConfidenceTemperature(2.0)(torch.tensor([[0.5, 0.5], [0.55, 0.45], [0.999, 0.001]]).log())
    assert tie.exp().tolist() == pytest.approx([0.5, 0.5])
    assert doubtful[0].exp().item() == pytest.approx(0.55, abs=0.005)
    assert sure[0].exp().item() < 0.88


@pytest.mark.parametrize("scale", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.7, 2.0])
def test_model_guard_is_as_unlikely_as_the_solved_program(epsilon, scale):
    """Catches a search that ends beside the best probability of the first class, and a broken constraint."""
    for seed, size in enumerate((2, 3, 8)):
        for probs in rows(seed, size=3, num_classes=size, scale=scale):
            [answer] = ModelGuardW(epsilon)(torch.tensor([probs]).log()).double().exp().tolist()
            costs = [math.log(p + 1e-6) for p in probs]
            solved = least_likely(probs, epsilon)
            assert value(answer, costs) == pytest.approx(value(solved, costs), abs=2e-6)
            assert math.fsum(abs(v - p) for v, p in zip(answer, probs, strict=True)) < epsilon + 1e-6


def test_zeros_are_raised_without_changing_the_order():
    """Catches a zero that ends up more probable than a class which is merely improbable."""
    log_probs = torch.tensor([[0.0, -math.inf, -300.0], [math.log(0.5), math.log(0.5), -300.0]])
    raised = raise_zeros(log_probs)
    assert raised[0].tolist() == pytest.approx([0.0, math.log(FLOOR), math.log(FLOOR)])
    assert torch.equal(raised[1], log_probs[1])


def test_normalised_rows_keep_every_bit():
    """Catches a renormalisation that makes a cached answer differ from a live one."""
    log_probs = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert torch.equal(normalized(log_probs), log_probs)
    assert torch.allclose(normalized(log_probs + 0.5), log_probs, atol=1e-5)


def test_label_log_probs_of_any_shape():
    """Catches flattened token labels."""
    answers = label_log_probs(torch.tensor([[0, 2], [1, 1]]), 3)
    assert answers.argmax(-1).tolist() == [[0, 2], [1, 1]]
    assert answers.exp().amax(-1).flatten().tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Rounded(0), "decimal"),
        (lambda: TopK(0), "k=0"),
        (lambda: Sharpened(0.0), "scale"),
        (lambda: Sharpened(math.inf), "scale"),
        (lambda: ReverseSigmoid(beta=-1.0), "beta"),
        (lambda: ReverseSigmoid(gamma=math.nan), "gamma"),
        (lambda: ConfidenceTemperature(0.0), "limit above 0"),
        (lambda: ConfidenceTemperature(math.nan), "got nan"),
        (lambda: ModelGuardW(2.1), r"\[0, 2\], got 2.1"),
        (lambda: TopK(3)(torch.zeros(1, 3).log_softmax(-1)), "channel=None"),
    ],
)
def test_settings_out_of_range_are_refused(build, named):
    """Catches a channel that would silently do nothing, or the opposite."""
    with pytest.raises(ValueError, match=named):
        build()
