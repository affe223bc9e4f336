"""What every teacher promises, seen through teachers made of functions."""

import math

import numpy as np
import pytest
import torch

from hf_cmim.channels import FLOOR, Argmax, Rounded, TopK
from hf_cmim.teachers import FunctionTeacher, LabelOnlyTeacher, TableTeacher
from hf_cmim.teachers.fingerprints import digest

NAMES = ("cat", "dog", "owl")
INPUTS = {"pixels": torch.zeros(5, 2)}


def logits(size=5, num_classes=3, seed=0):
    return 3 * torch.randn(size, num_classes, generator=torch.Generator().manual_seed(seed))


def teacher(values, **settings):
    return FunctionTeacher(lambda inputs: values, class_names=NAMES, **settings)


@pytest.mark.parametrize(
    ("returns", "convert"),
    [
        ("logits", lambda values: values + 7),
        ("logits", lambda values: values.bfloat16().float()),
        ("log_probs", lambda values: values.log_softmax(-1)),
        ("log_probs", lambda values: values.double().log_softmax(-1)),
        ("log_probs", lambda values: values.log_softmax(-1).half()),
        ("probs", lambda values: values.softmax(-1)),
    ],
)
def test_every_representation_becomes_log_probs(returns, convert):
    """Catches a second softmax, a missing logarithm, and half precision that is not raised."""
    values = logits().bfloat16().float()
    answers = teacher(convert(values), returns=returns)(INPUTS)
    assert answers.dtype == torch.float32
    assert torch.allclose(answers, values.log_softmax(-1), atol=5e-3 if convert(values).dtype == torch.half else 1e-5)


def test_labels_hide_classes():
    """Catches label-only answers that pass for full ones."""
    asked = teacher(torch.tensor([2, 0, 1, 1, 2]), returns="labels")
    answers = asked(INPUTS)
    assert asked.hides_classes
    assert answers.argmax(-1).tolist() == [2, 0, 1, 1, 2]
    assert answers.isfinite().all()


def test_probability_of_zero_is_an_answer():
    """Catches a teacher that hands out -inf, on which every KL is nan."""
    answers = teacher(torch.tensor([[1.0, 0.0, 0.0]] * 5), returns="probs")(INPUTS)
    assert answers[0].tolist() == pytest.approx([0.0, math.log(FLOOR), math.log(FLOOR)])
    answers = teacher(torch.tensor([[1.0, -math.inf, 0.5]] * 5), returns="logits")(INPUTS)
    assert answers[0, 1].item() == pytest.approx(math.log(FLOOR))


@pytest.mark.parametrize(
    ("values", "returns", "named"),
    [
        (logits(), "log_probs", "sum to 1"),
        (logits().log_softmax(-1) + 0.002, "log_probs", "sum to 1"),
        (logits().softmax(-1), "log_probs", "sum to 1"),
        (logits(), "probs", "logits"),
        (logits().sigmoid(), "probs", "sum"),
        (logits().softmax(-1), "logits", "second softmax"),
        (torch.full((5, 3), math.nan), "logits", "nan"),
        (torch.full((5, 3), math.nan), "log_probs", "nan"),
        (torch.tensor([[0.0, math.inf, 0.0]] * 5), "logits", "inf"),
        (torch.tensor([[math.nan, 0.5, 0.5]] * 5), "probs", "nan"),
        (torch.tensor([0, 1, 2, 3, 0]), "labels", r"\[3\]"),
        (torch.tensor([0, 1, 2, -100, 0]), "labels", r"-100"),
        (logits(num_classes=4), "logits", r"\(5, 4\)"),
        (logits()[0], "logits", r"\(3,\)"),
        (torch.ones(5, 3, dtype=torch.long), "logits", "int64"),
        (logits(), "labels", "float32"),
        (logits().tolist(), "logits", "list"),
    ],
)
def test_broken_promise_is_refused(values, returns, named):
    """Catches each wrong answer that would train a student on something else without a word."""
    with pytest.raises(ValueError, match=named):
        teacher(values, returns=returns)(INPUTS)


def test_promises_are_checked_at_every_call_on_cpu():
    """Catches a check of the first batch alone: nan may come later."""
    batches = iter([logits(), logits() * math.nan])
    asked = FunctionTeacher(lambda inputs: next(batches), class_names=NAMES, returns="logits")
    asked(INPUTS)
    with pytest.raises(ValueError, match="nan"):
        asked(INPUTS)


def test_answers_belong_to_their_samples():
    """Catches an answer for another number of samples than there are labels."""
    with pytest.raises(ValueError, match="paired wrongly"):
        teacher(logits(), returns="logits")(INPUTS, torch.zeros(4, dtype=torch.long))


def test_no_gradient_comes_out():
    """Catches a white-box teacher: a gradient would flow into it, or be kept alive in memory."""
    weight = torch.ones(3, requires_grad=True)

    def answer(inputs):
        with torch.enable_grad():
            return logits() * weight

    answers = FunctionTeacher(answer, class_names=NAMES, returns="logits")(INPUTS)
    assert not answers.requires_grad
    student = torch.zeros(5, 3, requires_grad=True)
    (answers * student).sum().backward()  # an inference tensor could not be saved for this
    assert weight.grad is None


def test_autocast_does_not_reach_the_teacher():
    """Catches answers rounded to bf16 because the student trains in it."""
    left, right = logits(5, 8), logits(8, 3)
    asked = FunctionTeacher(lambda inputs: left @ right, class_names=NAMES, returns="logits")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (left @ right).dtype == torch.bfloat16, "the autocast of this test is off"
        answers = asked(INPUTS)
    assert torch.equal(answers, asked(INPUTS))


def test_token_answers_pass_the_channel():
    """Catches a channel that takes positions for classes."""
    values = logits(10).reshape(2, 5, 3)
    answers = teacher(values, returns="logits", channel=Argmax())({})
    assert answers.shape == (2, 5, 3)
    assert torch.equal(answers.argmax(-1), values.argmax(-1))
    assert (answers.exp().amax(-1) > 0.999).all()


@pytest.mark.parametrize(("channel", "hides"), [(None, False), (Rounded(2), False), (TopK(2), True), (Argmax(), True)])
def test_channel_decides_whether_classes_are_hidden(channel, hides):
    """Catches an attack that needs every class and meets a top-k interface."""
    assert teacher(logits(), channel=channel).hides_classes is hides


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: teacher(logits(), channel=TopK(3)), "k=3"),
        (lambda: teacher(logits(), returns="scores"), "scores"),
        (lambda: FunctionTeacher(lambda inputs: logits(), class_names=["cat"]), "2 classes"),
        (lambda: FunctionTeacher(lambda inputs: logits(), class_names=["cat", "cat"]), "cat"),
        (lambda: FunctionTeacher(lambda inputs: logits(), class_names=[0.0, 1.0]), "strings"),
        (lambda: FunctionTeacher(lambda inputs: logits(), class_names="ab"), "sequence"),
        (lambda: LabelOnlyTeacher(3, confidence=0.9)({}), "labels"),
        (lambda: TableTeacher(logits(), class_names=NAMES)(INPUTS), "sample_index"),
    ],
)
def test_misuse_is_refused(build, named):
    """Catches settings that would only fail in the middle of training, or never."""
    with pytest.raises(ValueError, match=named):
        build()


def test_fingerprint_changes_with_what_determines_the_answers():
    """Catches a cache that is taken for that of another channel, order of classes, version or kind of answers."""

    def answer(inputs):
        return logits()

    def fingerprint(names=NAMES, **settings):
        return FunctionTeacher(answer, class_names=names, **({"version": "1"} | settings)).fingerprint()

    same = fingerprint()
    others = [
        fingerprint(version="2"),
        fingerprint(channel=TopK(1)),
        fingerprint(channel=TopK(2)),
        fingerprint(names=NAMES[::-1]),
        fingerprint(returns="logits"),
        fingerprint(version=None),
        fingerprint(version=None),
    ]
    assert fingerprint() == same
    assert len({same, *others}) == 1 + len(others)
    assert len(same) == 64


def test_record_is_json_of_what_was_asked():
    """Catches results that do not say through which channel they came."""
    record = teacher(logits(), channel=Rounded(3), version="1").record()
    assert record["channel"] == "Rounded(decimals=3)"
    assert record["class_names"] == list(NAMES)
    assert record["hides_classes"] is False


@pytest.mark.parametrize(
    "values",
    [
        [1, "1", 1.0, True, None, b"1", [1], {"1": 1}],
        [torch.zeros(2), torch.zeros(2).double(), torch.zeros(2, 1), torch.zeros(1, 2), np.zeros(2), torch.ones(2)],
        [["ab", "c"], ["a", "bc"], [["ab"], "c"], [["ab", "c"]]],
        [{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 1}],
    ],
)
def test_digest_tells_values_apart(values):
    """Catches values that run into one another when hashed."""
    assert len({digest(value) for value in values}) == len(values)


def test_digest_ignores_order_of_names_and_memory():
    """Catches a cache refused because a dict was filled in another order or a tensor is a view."""
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    grid = torch.arange(6.0).reshape(2, 3)
    assert digest(grid.T) == digest(grid.T.contiguous())
    assert digest(torch.tensor(1.5)) == digest(torch.tensor(1.5))


@pytest.mark.gpu
def test_on_a_gpu_only_the_first_call_waits():
    """Catches a check that makes a GPU wait at each step, and answers that come back on another device."""
    values = logits().cuda()
    asked = teacher(values, returns="logits")
    inputs = {name: value.cuda() for name, value in INPUTS.items()}
    torch.cuda.synchronize()
    asked(inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        answers = asked(inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert answers.device == values.device
    assert teacher(logits(), returns="logits")(inputs).device == values.device
