"""What every channel promises, for few and many classes, single answers and half precision."""

import math

import pytest
import torch

from hf_cmim.channels import (
    AbstractFittedChannel,
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


def answers(size, num_classes, seed=0):
    logits = 3 * torch.randn(size, num_classes, generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(-1)


def leading(num_classes):
    """A table in which every class leads its own row."""
    return (answers(num_classes, num_classes).exp() + torch.eye(num_classes)) / 2


MAKERS = {
    "rounded": lambda num_classes: Rounded(2),
    "top-k": lambda num_classes: TopK(1),
    "argmax": lambda num_classes: Argmax(),
    "sharpened": lambda num_classes: Sharpened(2.0),
    "confidence-temperature": lambda num_classes: ConfidenceTemperature(3.0),
    "reverse-sigmoid": lambda num_classes: ReverseSigmoid(),
    "model-guard-w": lambda num_classes: ModelGuardW(),
    "model-guard-s": lambda num_classes: ModelGuardS(leading(num_classes), 0.5),
    "linear-map": lambda num_classes: LinearMap(
        torch.eye(num_classes) + 0.1 * answers(num_classes, num_classes).exp()
    ),
    "class-answers": lambda num_classes: ClassAnswers(leading(num_classes), 0.5),
}
CHANGES_PREDICTIONS = {"rounded", "reverse-sigmoid"}
"""Rounding makes ties; the reverse sigmoid can change the order of classes."""

every_channel = pytest.mark.parametrize("name", MAKERS)
classes = pytest.mark.parametrize("num_classes", [2, 10, 1000])


def test_every_channel_of_the_command_line_is_here():
    """Catches a new channel that none of these promises is tested for."""
    assert set(MAKERS) == set(CHANNELS)


@every_channel
@classes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_answers_are_finite_normalised_fp32_and_keep_the_prediction(name, num_classes, dtype):
    """Catches half precision that gets through, 0 * inf, mass that gets lost, and ties that name another class."""
    log_probs = answers(8, num_classes)
    log_probs[0] = -math.log(num_classes)
    log_probs[1] = (500 * torch.eye(num_classes)[-1]).log_softmax(-1)
    log_probs = log_probs.to(dtype)
    given = MAKERS[name](num_classes)(log_probs)
    assert given.dtype == torch.float32
    assert given.shape == log_probs.shape
    assert given.isfinite().all()
    assert torch.logsumexp(given.double(), -1).abs().max() < 1.1e-5
    if name not in CHANGES_PREDICTIONS:
        assert torch.equal(given.argmax(-1), log_probs.argmax(-1))


@every_channel
@classes
def test_an_answer_does_not_depend_on_its_batch(name, num_classes):
    """Catches a channel that looks at other answers, or that needs more than one."""
    log_probs, channel = answers(5, num_classes), MAKERS[name](num_classes)
    alone = torch.cat([channel(row) for row in log_probs.split(1)])
    torch.testing.assert_close(alone, channel(log_probs), rtol=1e-5, atol=1e-6)
    assert channel(log_probs[:0]).shape == (0, num_classes)


@every_channel
def test_repr_rebuilds_a_channel_or_tells_its_table(name):
    """Catches results that cannot be told from those of another channel."""
    channel = MAKERS[name](3)
    if isinstance(channel, AbstractFittedChannel):
        assert f"table={channel.digest[:16]}" in repr(channel)
        assert len(repr(channel)) < 100
    else:
        assert eval(repr(channel)) == channel
