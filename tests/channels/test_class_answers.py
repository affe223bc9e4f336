"""Class answers: nothing beyond the prediction by the float64 twin, unchanged predictions, calibrated confidences."""

import json
import math

import pytest
import reference
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from hf_cmim.channels import FLOOR, ClassAnswers
from hf_cmim.channels.class_answers import MEAN_SAMPLES
from hf_cmim.errors import HfCmimError

TABLE = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.6, 0.4], [0.25, 0.3, 0.45]])


def answers_and_labels(seed=0, size=120, num_classes=5, **changes):
    logits, labels = reference.random_samples(seed, size, num_classes, **changes)
    return torch.tensor(logits, dtype=torch.float64).log_softmax(-1).float(), torch.tensor(labels)


def by_loops(log_probs, labels):
    """The fitted table from its description, over plain lists, in float64."""
    kept = [(row, label) for row, label in zip(log_probs.tolist(), labels.tolist(), strict=True) if label != -100]
    rows, labels = [row for row, _ in kept], [label for _, label in kept]
    num_classes = len(rows[0])
    grid = [2 ** (step / 4) for step in range(-16, 17)]
    temperature = min(grid, key=lambda each: reference.nll(rows, labels, each))
    tempered = [reference.softmax(row, temperature) for row in rows]
    confidence = (math.fsum(max(row) for row in tempered) + 1) / (len(rows) + 1)
    table = []
    for c in range(num_classes):
        inside = [i for i, row in enumerate(rows) if reference.argmax(row) == c]
        even = [confidence if other == c else (1 - confidence) / (num_classes - 1) for other in range(num_classes)]
        mean = reference.mean_row([even, *(tempered[i] for i in inside)])
        votes = [[float(other == labels[i]) for other in range(num_classes)] for i in inside]
        calibrated = reference.mean_row([*[mean] * MEAN_SAMPLES, *votes])
        table.append(calibrated if calibrated[c] > max(calibrated[:c] + calibrated[c + 1 :]) else mean)
    return torch.tensor(table, dtype=torch.float64)


@pytest.fixture(scope="module")
def digits():
    """An over-confident linear model of real images: its answers and labels on two held-out parts."""
    images, labels = load_digits(return_X_y=True)
    pixels, targets = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    train, fit, test = order[:150], order[150:950], order[950:]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(64, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels[train]), targets[train]).backward()
        optimizer.step()
    with torch.no_grad():
        log_probs = (5 * model(pixels)).log_softmax(-1)
    return {name: (log_probs[part], targets[part]) for name, part in (("fit", fit), ("test", test))}


# What is answered


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_answers_hold_nothing_beyond_the_prediction(digits, temperature):
    """Catches anything of the single sample that gets through: I(X; P | prediction) by the float64 twin."""
    log_probs, _ = digits["test"]
    predictions = log_probs.argmax(-1).tolist()
    answers = ClassAnswers.fit(*digits["fit"])(log_probs)
    assert reference.cmi(log_probs.tolist(), predictions, temperature) > 0.01
    assert reference.cmi(answers.tolist(), predictions, temperature) == pytest.approx(0, abs=1e-12)
    assert len(answers.unique(dim=0)) == 10


@pytest.mark.parametrize("sharpness", [0.0, 1e-6, 0.3, 0.999999, 1.0])
def test_accuracy_stays(digits, sharpness):
    """Catches a row whose largest entry is another class, and a mixture that turns into another label."""
    log_probs, labels = digits["test"]
    answers = ClassAnswers.fit(*digits["fit"], sharpness=sharpness)(log_probs)
    assert torch.equal(answers.argmax(-1), log_probs.argmax(-1))
    rows, targets = answers.tolist(), labels.tolist()
    assert reference.accuracy(rows, targets) == reference.accuracy(log_probs.tolist(), targets)


def test_class_answers_are_calibrated_where_the_model_is_not(digits):
    """Catches a table of the model's own confidence: that would be as over-confident as the model."""
    log_probs, labels = digits["test"]
    own = reference.ece(log_probs.tolist(), labels.tolist())
    fitted = reference.ece(ClassAnswers.fit(*digits["fit"])(log_probs).tolist(), labels.tolist())
    unlabelled = reference.ece(ClassAnswers.fit(digits["fit"][0])(log_probs).tolist(), labels.tolist())
    assert own > 0.07
    assert fitted < 0.03
    assert unlabelled > 2 * fitted


@pytest.mark.parametrize("sharpness", [0.1, 0.5, 0.9])
def test_sharpness_is_the_largest_share_of_information(digits, sharpness):
    """Catches a mixture in log-probabilities, or of the wrong parts: information is convex in the answer."""
    log_probs, _ = digits["test"]
    predictions = log_probs.argmax(-1).tolist()
    channel = ClassAnswers.fit(*digits["fit"], sharpness=sharpness)
    answers = channel(log_probs)
    expected = (1 - sharpness) * channel.probs.double()[log_probs.argmax(-1)] + sharpness * log_probs.double().exp()
    assert torch.allclose(answers.double().exp(), expected, atol=1e-6)
    information = reference.cmi(answers.tolist(), predictions)
    assert 0 < information < sharpness * reference.cmi(log_probs.tolist(), predictions)


def test_ends_of_the_sharpness_keep_every_bit():
    """Catches rounding on the way: stored answers would differ from live ones."""
    log_probs, _ = answers_and_labels(num_classes=3)
    channel = ClassAnswers(TABLE)
    assert torch.equal(channel(log_probs), channel.log_probs[log_probs.argmax(-1)])
    assert torch.equal(ClassAnswers(TABLE, 1.0)(log_probs), log_probs)


def test_near_ties_keep_the_prediction():
    """Catches a mixture that rounds two classes to one number: the first of them would be answered."""
    others = torch.linspace(0.01, 0.05, 2000)
    second = ((1 - others) / 2).log()
    first = torch.nextafter(second, torch.tensor(-1.0))
    log_probs = torch.cat([first[:, None], second[:, None], (others / 38).log()[:, None].expand(-1, 38)], dim=-1)
    table = torch.full((40, 40), 0.025) + 1e-8 * torch.eye(40)
    assert (log_probs.argmax(-1) == 1).all()
    assert (ClassAnswers(table, 0.5)(log_probs).argmax(-1) == 1).all()


def test_extreme_answers_stay_finite_and_normalised():
    """Catches log(0) in the table, and 0 times infinity in the mixture."""
    extreme = torch.tensor([[0.0, -200.0, -300.0], [500.0, 0, 0], [0.0, 0, 0]]).log_softmax(-1)
    for sharpness in (0.0, 1e-9, 0.5):
        answers = ClassAnswers(torch.eye(3), sharpness)(extreme)
        assert answers.isfinite().all()
        assert answers.dtype == torch.float32
        assert torch.logsumexp(answers.double(), -1).abs().max() < 1e-5
    assert ClassAnswers(torch.eye(3)).log_probs[0, 1].item() == pytest.approx(math.log(FLOOR))


# How it is fitted


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("scale", [0.5, 2.0, 8.0])
def test_fitted_table_equals_its_description(seed, scale):
    """Catches a mean over labels instead of predictions, ignored samples that count, and a wrong weight."""
    log_probs, labels = answers_and_labels(seed, scale=scale, absent=1)
    fitted = ClassAnswers.fit(log_probs, labels).probs.double()
    assert torch.allclose(fitted, by_loops(log_probs, labels), atol=1e-6)


def test_without_labels_each_row_is_the_mean_answer():
    """Catches labels that are needed after all, and a temperature that nothing determines."""
    log_probs, _ = answers_and_labels(size=4000, num_classes=3)
    fitted = ClassAnswers.fit(log_probs).probs
    predicted = log_probs.argmax(-1)
    means = torch.stack([log_probs[predicted == c].exp().mean(0) for c in range(3)])
    assert torch.allclose(fitted, means, atol=1e-3)


def test_a_class_that_is_never_predicted_gets_the_mean_confidence():
    """Catches a division by zero, and a row that answers another class."""
    log_probs = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]]).log().repeat(50, 1)
    row = ClassAnswers.fit(log_probs).probs[2]
    confidence = (100 * 0.7 + 1) / 101
    assert row.tolist() == pytest.approx([(1 - confidence) / 2, (1 - confidence) / 2, confidence])


def test_labels_that_outvote_a_prediction_leave_the_mean_answer():
    """Catches a table that corrects the model: its accuracy would change, and the channel would name other classes."""
    log_probs = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]).log().repeat(400, 1)
    labels = torch.tensor([1, 1, 2]).repeat(400)
    fitted = ClassAnswers.fit(log_probs, labels).probs
    assert torch.allclose(fitted.double(), by_loops(log_probs, labels), atol=1e-6)
    assert fitted.argmax(-1).tolist() == [0, 1, 2]
    assert fitted[1, 1] > 0.95, "a row that the labels confirm follows them"


def test_answers_of_an_untrained_model_are_fitted():
    """Catches rows without a largest entry where every answer is uniform."""
    fitted = ClassAnswers.fit(torch.full((10, 4), 0.25).log(), torch.arange(10) % 4)
    assert fitted.probs.argmax(-1).tolist() == [0, 1, 2, 3]


def test_token_answers_are_fitted_flat():
    """Catches positions that are taken for samples."""
    log_probs, labels = answers_and_labels()
    flat = ClassAnswers.fit(log_probs, labels)
    tokens = ClassAnswers.fit(log_probs.reshape(12, 10, 5), labels.reshape(12, 10))
    assert torch.equal(tokens.probs, flat.probs)


# As a file


def test_a_saved_channel_comes_back_whole(tmp_path):
    """Catches rounding on the way to the disk, and a sharpness that is lost."""
    channel = ClassAnswers.fit(*answers_and_labels(), sharpness=0.1)
    channel.save(tmp_path / "answers.safetensors")
    loaded = ClassAnswers.load(tmp_path / "answers.safetensors")
    assert torch.equal(loaded.probs, channel.probs)
    assert loaded.sharpness == 0.1
    assert repr(loaded) == repr(channel)


def test_repr_tells_tables_and_sharpness_apart():
    """Catches a cache of answers that is taken for that of another table."""
    other = TABLE.clone()
    other[0] = torch.tensor([0.7, 0.1, 0.2])
    channels = [ClassAnswers(TABLE), ClassAnswers(TABLE, 0.5), ClassAnswers(other)]
    assert len({repr(channel) for channel in channels}) == 3
    assert repr(ClassAnswers(TABLE.double())) == repr(ClassAnswers(TABLE))
    assert len(repr(channels[0])) < 100


def test_the_table_is_the_channels_own():
    """Catches a table that changes after it was checked."""
    table = TABLE.clone()
    channel = ClassAnswers(table)
    table.fill_(1.0)
    assert torch.equal(channel.probs, TABLE)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"probs": TABLE}, None),
        ({"probs": TABLE}, {"kind": "another", "sharpness": "0.0"}),
        ({"probs": TABLE}, {"kind": "hf_cmim.ClassAnswers"}),
        ({"probs": TABLE}, {"kind": "hf_cmim.ClassAnswers", "sharpness": "much"}),
        ({"weights": TABLE}, {"kind": "hf_cmim.ClassAnswers", "sharpness": "0.0"}),
        ({"probs": TABLE, "more": TABLE.clone()}, {"kind": "hf_cmim.ClassAnswers", "sharpness": "0.0"}),
    ],
)
def test_files_of_another_kind_are_refused(tensors, metadata, tmp_path):
    """Catches a model's weights that are read as a table."""
    save_file(tensors, tmp_path / "file.safetensors", metadata)
    with pytest.raises(HfCmimError, match=r"holds no ClassAnswers .*ClassAnswers\.save wrote"):
        ClassAnswers.load(tmp_path / "file.safetensors")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64, json.dumps({"probs": [[1.0]]}).encode()])
def test_broken_files_are_refused(content, tmp_path):
    """Catches an error of a library without the name of the file."""
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(HfCmimError, match=r"file\.safetensors holds no ClassAnswers"):
        ClassAnswers.load(path)


def test_a_file_with_a_hostile_table_is_refused(tmp_path):
    """Catches a check that only the constructor's callers make: a changed file would answer other classes."""
    swapped = {"probs": TABLE[[1, 0, 2]].contiguous()}
    save_file(swapped, tmp_path / "file.safetensors", {"kind": "hf_cmim.ClassAnswers", "sharpness": "0.0"})
    with pytest.raises(HfCmimError, match="largest entry of each row"):
        ClassAnswers.load(tmp_path / "file.safetensors")


# What is refused


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ClassAnswers(TABLE, -0.1), r"sharpness in \[0, 1\], got -0.1"),
        (lambda: ClassAnswers(TABLE, math.nan), "got nan"),
        (lambda: ClassAnswers(TABLE[:2]), r"\(C, C\).*got \(2, 3\)"),
        (lambda: ClassAnswers(torch.ones(1, 1)), "at least 2 classes"),
        (lambda: ClassAnswers([[1.0, 0.0], [0.0, 1.0]]), "got list"),
        (lambda: ClassAnswers(torch.eye(3).long()), "torch.int64"),
        (lambda: ClassAnswers(TABLE.log()), r"row 0 with the sum .*\.exp\(\)"),
        (lambda: ClassAnswers(2 * TABLE), "row 0 with the sum 2 "),
        (lambda: ClassAnswers(TABLE * math.nan), "row 0"),
        (lambda: ClassAnswers(TABLE.flip(0)), "row 0 with its largest at class 2"),
        (lambda: ClassAnswers(torch.full((2, 2), 0.5)), "row 0 with its largest at class 1"),
        (lambda: ClassAnswers(TABLE)(torch.zeros(1, 4).log_softmax(-1)), "3 classes.*got 4"),
        (lambda: ClassAnswers.fit(torch.randn(9, 3) + 2), "sum to 1, got sums"),
        (lambda: ClassAnswers.fit(TABLE.log()[:1], torch.tensor([0])), "at least 2 held-out samples, got 1"),
        (lambda: ClassAnswers.fit(TABLE.log(), torch.tensor([0, 1, 3])), r"labels in \[0, 3\)"),
        (lambda: ClassAnswers.fit(TABLE.log(), torch.tensor([-100] * 3)), "got 0"),
    ],
)
def test_hostile_tables_and_data_are_refused(build, named):
    """Catches answers that would change a label, or that are no distribution."""
    with pytest.raises(HfCmimError, match=named):
        build()
