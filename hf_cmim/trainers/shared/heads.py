"""Detection of heads that do not classify rows into single labels, by transformers' own mappings."""

from collections.abc import Iterator
from typing import Any, NoReturn

from torch import nn
from transformers.models.auto import modeling_auto

from hf_cmim.errors import HfCmimError

CLASSIFIERS = {
    "SEQUENCE_CLASSIFICATION": "AutoModelForSequenceClassification",
    "TOKEN_CLASSIFICATION": "AutoModelForTokenClassification",
    "IMAGE_CLASSIFICATION": "AutoModelForImageClassification",
    "VIDEO_CLASSIFICATION": "AutoModelForVideoClassification",
    "AUDIO_CLASSIFICATION": "AutoModelForAudioClassification",
}
"""Kinds of classification, with the class that loads each."""
HEADLESS = ("IMAGE", "TEXT_ENCODING", "BACKBONE")
"""Kinds of models without a head; the error about missing `labels` explains these better."""

_SHIFTED = "its labels are tokens of the vocabulary, which its own loss shifts by one: here it would learn to copy"
_VOCABULARY = "its labels are tokens of the vocabulary, not classes"
_CHOICES = "its logits score the choices of one sample, not classes that all samples share"
_POSITIONS = "its logits score positions in the text, two for each sample"
_PIXELS = "its logits have their classes in the second dimension and another size than its labels"
CONSEQUENCES = {
    "CAUSAL_LM": _SHIFTED,
    "MASKED_LM": _VOCABULARY,
    "SEQ_TO_SEQ_CAUSAL_LM": _VOCABULARY,
    "SPEECH_SEQ_2_SEQ": _VOCABULARY,
    "IMAGE_TEXT_TO_TEXT": _SHIFTED,
    "CTC": "its labels are a text of another length than its outputs",
    "MULTIPLE_CHOICE": _CHOICES,
    "NEXT_SENTENCE_PREDICTION": "it tells whether two sentences follow each other, and no class of one sample",
    "QUESTION_ANSWERING": _POSITIONS,
    "SEMANTIC_SEGMENTATION": _PIXELS,
    "IMAGE_SEGMENTATION": _PIXELS,
}
"""Consequences of training with the commonest heads of other kinds."""

_OTHERWISE = "its outputs are not one row of class logits for each label"


def check_is_classifier(model: nn.Module) -> None:
    """Refuse a model of transformers whose head is not a classifier.

    A class of your own is accepted: only its author knows the meaning of its logits. A subclass counts as the class
    from which it inherits `forward`.

    Raises:
        HfCmimError: an object that is no model, or a model that transformers lists only for other tasks, such as a
            language model or a multiple-choice, question-answering or segmentation head.
    """
    if not isinstance(model, nn.Module):
        _refuse_no_model(model)
    model = _base_of(model)
    architecture = next((cls for cls in _up_to_forward(type(model)) if _kinds_of(cls)), None)
    if architecture is None:
        return
    kinds = _kinds_of(architecture)
    if any(kind in CLASSIFIERS for kind in kinds):
        return
    consequence = next((CONSEQUENCES[kind] for kind in kinds if kind in CONSEQUENCES), _OTHERWISE)
    raise HfCmimError(
        f"Expected a classifier, got {architecture.__name__}, a model for {_in_words(kinds)}: {consequence}."
        f" {_remedy(model)}"
    )


def _refuse_no_model(model: object) -> NoReturn:
    if isinstance(model, str):
        raise HfCmimError(
            f"Expected a model, got the name {model!r}, which does not tell the kind of head to load. Write, for"
            f" instance, model = AutoModelForSequenceClassification.from_pretrained({model!r}, num_labels=...), or use"
            " AutoModelForImageClassification, AutoModelForAudioClassification or AutoModelForTokenClassification."
        )
    raise HfCmimError(
        f"Expected a model (torch.nn.Module), got {type(model).__name__}. A function that returns a model is the"
        " argument model_init."
    )


def _base_of(model: nn.Module) -> nn.Module:
    """Return the model inside an adapter (PEFT) or a compiled module."""
    inner: Any = getattr(model, "_orig_mod", model)
    base: nn.Module = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return base


def _up_to_forward(model_class: type) -> Iterator[type]:
    """Yield a class and its bases, up to the one whose `forward` it uses."""
    for base_class in model_class.__mro__:
        yield base_class
        if "forward" in vars(base_class):
            return


def _kinds_of(model_class: type) -> list[str]:
    """Return the mappings that name a class of transformers, such as "CAUSAL_LM"."""
    if model_class.__module__.partition(".")[0] != "transformers":
        return []
    kinds: list[str] = []
    for kind, mapping in _mappings().items():
        if any(model_class.__name__ in _names(value) for value in mapping.values()):
            kinds.append(kind)
    return kinds


def _mappings() -> dict[str, dict[str, Any]]:
    """Return transformers' mappings from model types to class names, by kind of head."""
    mappings: dict[str, dict[str, Any]] = {}
    for name, mapping in vars(modeling_auto).items():
        # "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES" is of the kind "CAUSAL_LM".
        kind = name.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES")
        if name == f"MODEL_FOR_{kind}_MAPPING_NAMES" and kind not in HEADLESS:
            mappings[kind] = mapping
    return mappings


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    # Some model types have several classes for the same task.
    return (value,) if isinstance(value, str) else tuple(value)


def _in_words(kinds: list[str]) -> str:
    specific = [kind for kind in kinds if kind in CONSEQUENCES] or kinds
    return specific[0].lower().replace("_lm", "_language modelling").replace("_", " ")


def _remedy(model: nn.Module) -> str:
    """Return advice that names the classes of transformers that classify with a model of this type."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    mappings = _mappings()
    fitting = [auto_class for kind, auto_class in CLASSIFIERS.items() if model_type in mappings[kind]]
    if fitting:
        return f"Load it with {' or '.join(fitting)}."
    return f"transformers has no classification head for {model_type!r}: put one on its base model yourself."
