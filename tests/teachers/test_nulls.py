"""Nulls: a label, the teacher's label, or one answer a class, and nothing else."""

import math

import pytest
import torch
from torch.nn import functional

from hf_cmim.attacks.kd import KD
from hf_cmim.functional import conditional_mutual_information, separation
from hf_cmim.teachers import (
    ArgmaxNull,
    CentroidNull,
    FunctionTeacher,
    LabelOnlyTeacher,
    TableTeacher,
    hard_log_probs,
)

NUM_CLASSES = 5
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, NUM_CLASSES, (40,), generator=GENERATOR)
ANSWERS = torch.randn(40, NUM_CLASSES, generator=GENERATOR).mul(3).log_softmax(-1)
NAMES = tuple("abcde")


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("confidence", [0.2, 0.5, 0.99])
def test_attack_reads_the_confidence_it_was_given(confidence, temperature):
    """Catches a null that is parametrised before the temperature: at T = 4 it would say almost nothing."""
    answers = hard_log_probs(LABELS, NUM_CLASSES, confidence, temperature)
    read = (answers.double() / temperature).softmax(-1)
    expected = torch.full_like(read, (1 - confidence) / (NUM_CLASSES - 1))
    expected[torch.arange(40), LABELS] = confidence
    assert torch.allclose(read, expected, atol=1e-5)
    assert answers.dtype == torch.float32
    assert torch.logsumexp(answers, -1).abs().max() < 1e-5


@pytest.mark.parametrize("smoothing", [0.05, 0.3, 0.6])
def test_label_only_through_kd_is_the_label_smoothing_student(smoothing):
    """Catches a null that is no label smoothing: the loss differs by the target's entropy, the gradient not at all."""
    confidence = 1 - smoothing + smoothing / NUM_CLASSES
    teacher = LabelOnlyTeacher(NUM_CLASSES, confidence=confidence)
    attack = KD(temperature=1.0, ce_weight=0.0, kd_weight=1.0)
    logits = torch.randn(40, NUM_CLASSES, generator=torch.Generator().manual_seed(1), requires_grad=True)
    distilled = sum(attack(logits, teacher({}, LABELS), LABELS).values())
    smoothed = functional.cross_entropy(logits, LABELS, label_smoothing=smoothing)
    rest = smoothing / NUM_CLASSES
    entropy = -confidence * math.log(confidence) - (NUM_CLASSES - 1) * rest * math.log(rest)
    assert (distilled + entropy).item() == pytest.approx(smoothed.item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(distilled, logits)
    (expected,) = torch.autograd.grad(smoothed, logits)
    assert torch.allclose(gradient, expected, atol=1e-7)


def test_label_only_ignores_its_inputs_and_takes_token_labels():
    """Catches a null that leaks something of the sample, and one that fails on ignored tokens."""
    teacher = LabelOnlyTeacher(NUM_CLASSES, confidence=0.7, temperature=2.0)
    labels = torch.tensor([[0, -100], [3, 3]])
    answers = teacher({"pixels": torch.randn(2, 2)}, labels)
    assert answers.shape == (2, 2, NUM_CLASSES)
    assert torch.equal(answers[1, 0], answers[1, 1])
    assert answers.isfinite().all()
    assert (teacher.wants_labels, teacher.class_names, teacher.hides_classes) == (True, None, False)


def test_argmax_null_says_the_teachers_label():
    """Catches a null that says the true label, or lets the teacher's confidence through."""
    table = TableTeacher(ANSWERS, class_names=NAMES)
    null = ArgmaxNull(table, confidence=0.9, temperature=4.0)
    answers = null({"sample_index": torch.arange(40)}, LABELS)
    assert torch.equal(answers, hard_log_probs(ANSWERS.argmax(-1), NUM_CLASSES, 0.9, 4.0))
    assert (null.wants_index, null.wants_labels, null.class_names) == (True, False, NAMES)
    assert not ArgmaxNull(FunctionTeacher(lambda inputs: ANSWERS, class_names=NAMES), confidence=0.9).wants_index


def centroid_null(answers=ANSWERS):
    """The null of a table, asked in uneven batches."""
    spans = [torch.arange(0, 7), torch.arange(7, 39), torch.arange(39, 40)]
    return fitted([({"sample_index": span}, LABELS[span]) for span in spans], answers)


def fitted(batches, answers=ANSWERS):
    return CentroidNull.fit(TableTeacher(answers, class_names=NAMES), batches)


def test_centroid_is_the_normalised_geometric_mean():
    """Catches a mean of probabilities, batches that are averaged unweighted, and rows by another index."""
    null = centroid_null()
    for label in range(NUM_CLASSES):
        rows = [row for row, own in zip(ANSWERS.double().tolist(), LABELS.tolist(), strict=True) if own == label]
        means = [math.exp(math.fsum(column) / len(rows)) for column in zip(*rows, strict=True)]
        expected = [value / math.fsum(means) for value in means]
        answer = null({}, torch.tensor([label]))[0]
        assert answer.exp().tolist() == pytest.approx(expected, abs=1e-5)
    assert (null.wants_labels, null.class_names) == (True, NAMES)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_centroid_commutes_with_tempering(temperature):
    """Catches any other centroid: one null would not serve all temperatures."""
    tempered_first = centroid_null((ANSWERS / temperature).log_softmax(-1))({}, LABELS)
    tempered_last = (centroid_null()({}, LABELS) / temperature).log_softmax(-1)
    assert torch.allclose(tempered_first, tempered_last, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_centroid_has_no_information_about_single_samples(temperature):
    """Catches a null that still depends on the sample, or that has lost the classes as well."""
    answers = centroid_null()({}, LABELS)
    assert conditional_mutual_information(answers, LABELS, temperature).item() == pytest.approx(0, abs=1e-7)
    assert conditional_mutual_information(ANSWERS, LABELS, temperature).item() > 0.05
    assert separation(answers, LABELS).item() > 0.1


def test_centroid_of_token_answers_skips_ignored_ones():
    """Catches answers at -100 that are counted for a class."""
    labels = LABELS.reshape(8, 5).clone()
    labels[:, 4] = -100
    values = ANSWERS.reshape(8, 5, NUM_CLASSES)
    spoiled = values.clone()
    spoiled[:, 4] = spoiled[:, 4].flip(-1)
    nulls = [
        CentroidNull.fit(FunctionTeacher(lambda inputs, v=v: v, class_names=NAMES), [({}, labels)])
        for v in (values, spoiled)
    ]
    assert torch.equal(nulls[0].log_centroids, nulls[1].log_centroids)
    assert nulls[0]({}, labels).shape == (8, 5, NUM_CLASSES)


def test_centroid_answers_for_the_classes_it_knows():
    """Catches an audit that cannot be, where the attacker has no sample of a rare class, and nan at ignored labels."""
    known = [label for label in range(NUM_CLASSES) if label]
    batch = {"sample_index": torch.arange(40)}, LABELS.masked_fill(LABELS == 0, -100)
    answers = fitted([batch])({}, torch.tensor([*known, -100]))
    assert torch.equal(answers[:-1], centroid_null()({}, torch.tensor(known)))
    assert answers[-1].isfinite().all()


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: LabelOnlyTeacher(5, confidence=1.0), r"\[1 / 5, 1\), got 1.0"),
        (lambda: LabelOnlyTeacher(5, confidence=0.1), "every class but the label"),
        (lambda: LabelOnlyTeacher(5, confidence=0.9, temperature=0.0), "temperature"),
        (lambda: ArgmaxNull(TableTeacher(ANSWERS, class_names=NAMES), confidence=0.1), "confidence"),
        (lambda: CentroidNull(torch.zeros(2, 3)), r"\(2, 3\)"),
        (lambda: CentroidNull(torch.zeros(3, 3))({}, torch.tensor([0])), "sum to 1"),
        (lambda: fitted([fit_batch(0)])({}, torch.tensor([0, 2, 1])), r"got some of \[1, 2\]"),
        (lambda: fitted([fit_batch(5)]), r"\[5\]"),
    ],
)
def test_misuse_is_refused(build, named):
    """Catches nulls that would name every class but the label, or invent an answer."""
    with pytest.raises(ValueError, match=named):
        build()


def fit_batch(label):
    return {"sample_index": torch.tensor([0])}, torch.tensor([label])


def test_fingerprints_follow_the_settings():
    """Catches two nulls taken for one another."""
    table = TableTeacher(ANSWERS, class_names=NAMES)
    nulls = [
        LabelOnlyTeacher(5, confidence=0.9),
        LabelOnlyTeacher(5, confidence=0.8),
        LabelOnlyTeacher(5, confidence=0.9, temperature=4.0),
        LabelOnlyTeacher(6, confidence=0.9),
        ArgmaxNull(table, confidence=0.9),
        ArgmaxNull(TableTeacher(ANSWERS.flip(0), class_names=NAMES), confidence=0.9),
        centroid_null(),
        centroid_null(ANSWERS.flip(-1)),
    ]
    assert len({null.fingerprint() for null in nulls}) == len(nulls)
