"""Tasks of classifiers by transformers' own mappings: their inputs, the `AutoModel` class that loads them, its errors.

The name of an architecture is not enough: Wav2Vec2ForSequenceClassification classifies sounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
)

LOADING_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    MemoryError,
    SafetensorError,
    StrictDataclassError,
)
"""Errors that transformers raises for a configuration, processor or weights that `save_pretrained` did not write."""


@dataclass(frozen=True)
class Task:
    """A kind of classification.

    Attributes:
        name: name of the task on the Hub and of its pipeline.
        head: ending of the `AutoModel` class that loads such classifiers.
        reads: kind of the samples.
    """

    name: str
    head: str
    reads: Literal["text", "image", "audio", "video"]

    @property
    def auto_class(self) -> str:
        """Name of the `AutoModel` class that loads such classifiers."""
        return f"AutoModel{self.head}"


TEXT = Task("text-classification", "ForSequenceClassification", "text")
TOKENS = Task("token-classification", "ForTokenClassification", "text")
IMAGE = Task("image-classification", "ForImageClassification", "image")
AUDIO = Task("audio-classification", "ForAudioClassification", "audio")
VIDEO = Task("video-classification", "ForVideoClassification", "video")
TASKS = (TEXT, TOKENS, IMAGE, AUDIO, VIDEO)

_MAPPINGS: dict[Task, Mapping[str, str | Sequence[str]]] = {
    TEXT: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    TOKENS: MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    IMAGE: MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    AUDIO: MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES,
    VIDEO: MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
}


def task_of(architecture: str, model_type: str | None = None) -> Task | None:
    """Return the task of an architecture, or None for an architecture that is no such classifier.

    The task of an architecture that transformers does not know (a user's own class) is guessed from its type and the
    ending of its name.

    Args:
        architecture: name of the model's class, as in config.json.
        model_type: type of its configuration, or None if it is unknown.

    >>> task_of("Wav2Vec2ForSequenceClassification").name, task_of("BertForSequenceClassification").name
    ('audio-classification', 'text-classification')
    """
    for task in TASKS:
        if architecture in architectures_of(task):
            return task
    # The type decides where it has one task: a user's own speech model may end in ForSequenceClassification.
    by_ending = next((task for task in TASKS if architecture.endswith(task.head)), None)
    if by_ending is not None and model_type is not None and len(possible := tasks_of_type(model_type)) == 1:
        return possible[0]
    return by_ending


def tasks_of_type(model_type: str) -> list[Task]:
    """Return the tasks for which transformers has a classifier of this type of configuration.

    >>> [task.name for task in tasks_of_type("vit")]
    ['image-classification']
    """
    return [task for task in TASKS if model_type in _MAPPINGS[task]]


def architectures_of(task: Task) -> dict[str, str]:
    """Return the types of configuration of a task's architectures, by the architecture's name."""
    # A type with several architectures is mapped to a tuple of names, any other to one name.
    return {
        architecture: model_type
        for model_type, names in _MAPPINGS[task].items()
        for architecture in ((names,) if isinstance(names, str) else names)
    }
