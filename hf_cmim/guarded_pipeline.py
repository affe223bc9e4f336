"""Pipelines of transformers behind an output channel."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch
from torch import Tensor
from transformers import (
    AudioClassificationPipeline,
    ImageClassificationPipeline,
    Pipeline,
    TextClassificationPipeline,
    TokenClassificationPipeline,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_cmim.channels.base import AbstractChannel
from hf_cmim.errors import HfCmimError
from hf_cmim.tasks import AUDIO, IMAGE, TEXT

AnyPipeline = TypeVar("AnyPipeline", bound=Pipeline)
GUARDED = (TextClassificationPipeline, ImageClassificationPipeline, AudioClassificationPipeline)
MULTI_LABEL = "multi_label_classification"


def guard(pipeline: AnyPipeline, channel: AbstractChannel) -> AnyPipeline:
    """Return a copy of a pipeline whose scores come from a channel; the pipeline itself stays as it is.

    The channel changes the model's output before the pipeline turns it into scores. So no option of a call
    (`top_k`, `function_to_apply`, `batch_size`, ...) shows more than the channel lets through. Scores are the
    channel's probabilities; `function_to_apply="none"` gives their logarithms.

    Serve the copy's answers, not the object: whoever holds it in Python also holds the model.

    Args:
        pipeline: pipeline for text, image or audio classification with one label per sample.
        channel: change of the answers, for instance `ClassAnswers`, fitted to this pipeline.

    Raises:
        HfCmimError: another kind of pipeline, a model with a multi-label or regression head, or a channel for another
            number of classes.

    Source: ours.
    """
    num_classes = _checked_classes(pipeline)
    if not isinstance(channel, AbstractChannel):
        raise HfCmimError(
            f"Expected a channel, got {type(channel).__name__}: answers would pass unchanged. Give ClassAnswers, or"
            " another channel of hf_cmim.channels."
        )
    # A channel that does not fit the number of classes raises here instead of at the first request.
    channel(torch.full((1, num_classes), 1 / num_classes).log())
    guarded = copy.copy(pipeline)
    # On the object, so that it comes before the method of any class.
    vars(guarded)["_forward"] = _GuardedForward(pipeline._forward, channel)
    return guarded


def pipeline_answers(pipeline: Pipeline, inputs: Iterable[Any], *, batch_size: int = 8) -> Tensor:
    """Return a pipeline's answers to samples as log-probabilities, `(N, C)` fp32 on the CPU, for `ClassAnswers.fit`.

    The columns are in the order of the model's classes (`model.config.id2label`).

    Args:
        pipeline: pipeline that `guard` accepts.
        inputs: samples that the pipeline reads: texts, images or sounds.
        batch_size: number of samples that the model sees at once.

    Raises:
        HfCmimError: no sample, or a pipeline that cannot be guarded.
    """
    recorder = _Recorder()
    recording = guard(pipeline, recorder)
    recorder.rows.clear()  # of the check that guard makes
    samples = list(inputs)
    if not samples:
        raise HfCmimError(
            "Expected at least one sample for the pipeline, got none: there is no answer to return. Give held-out"
            " samples."
        )
    recording(samples, top_k=1, batch_size=batch_size)
    return torch.cat(recorder.rows)


@final
@dataclass(frozen=True)
class _GuardedForward:
    """A pipeline's forward pass whose only output is the answer behind the channel, as logits.

    Attributes:
        forward: the unguarded pass.
        channel: change of its answers.
    """

    forward: Callable[..., Any]
    channel: AbstractChannel

    def __call__(self, model_inputs: Any, **parameters: Any) -> SequenceClassifierOutput:
        logits = self.forward(model_inputs, **parameters)["logits"]
        # Nothing else is passed on: hidden states tell more than logits.
        return SequenceClassifierOutput(logits=self.channel(logits.float().log_softmax(dim=-1)))


@final
@dataclass(frozen=True)
class _Recorder(AbstractChannel):
    """A channel that changes nothing and keeps every answer that passes."""

    rows: list[Tensor] = field(default_factory=list)

    def __call__(self, log_probs: Tensor) -> Tensor:
        self.rows.append(log_probs.cpu())
        return log_probs


def _checked_classes(pipeline: Any) -> int:
    """Return the number of classes of a pipeline's model, or raise if it cannot be guarded."""
    if isinstance(pipeline, TokenClassificationPipeline):
        raise HfCmimError(
            "A token-classification pipeline cannot be guarded: it merges the scores of a word's pieces, so that a"
            " word's score would tell more than its label, and could change it. Apply the channel to the logits of"
            " each token, and return only the label of each word."
        )
    if not isinstance(pipeline, GUARDED):
        task = getattr(pipeline, "task", None) or type(pipeline).__name__
        raise HfCmimError(
            f"Expected a pipeline for {TEXT.name}, {IMAGE.name} or {AUDIO.name}, got {task}: where its scores come"
            " from is not known, so they could pass unchanged. Put a channel on the answers of your own service"
            " instead: channel(logits.log_softmax(-1))."
        )
    config = pipeline.model.config
    num_classes = config.num_labels or 1
    if num_classes < 2 or config.problem_type in (MULTI_LABEL, "regression"):
        raise HfCmimError(
            f"Expected a model that gives one of several labels to a sample, got num_labels={num_classes} and"
            f" problem_type={config.problem_type!r}: its outputs are no distribution over classes, which every channel"
            " expects. Such a model cannot be guarded."
        )
    return num_classes
