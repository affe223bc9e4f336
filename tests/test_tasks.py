"""The task of an architecture is transformers' own, for every architecture it has."""

import pytest
import transformers
from transformers import pipelines

from hf_cmim.tasks import AUDIO, IMAGE, TASKS, TEXT, TOKENS, VIDEO, architectures_of, task_of

ARCHITECTURES = [(task, name, kind) for task in TASKS for name, kind in architectures_of(task).items()]


def test_every_architecture_is_loaded_by_the_class_of_its_task():
    """Catches a task guessed from a name: Wav2Vec2ForSequenceClassification, DeiTForImageClassificationWithTeacher."""
    assert len(ARCHITECTURES) > 280
    for task, architecture, model_type in ARCHITECTURES:
        config_class = transformers.CONFIG_MAPPING[model_type]
        mapped = getattr(transformers, task.auto_class)._model_mapping[config_class]
        classes = mapped if isinstance(mapped, tuple) else (mapped,)
        assert architecture in [each.__name__ for each in classes]
        assert task_of(architecture) is task
        assert task_of(architecture, model_type) is task


def test_names_of_tasks_are_those_of_pipelines():
    """Catches a card with a task that no pipeline has."""
    names = pipelines.PIPELINE_REGISTRY.get_supported_tasks()
    assert {task.name for task in TASKS} <= set(names)


@pytest.mark.parametrize(
    ("architecture", "model_type", "task"),
    [
        ("MyWav2Vec2ForSequenceClassification", "wav2vec2", AUDIO),
        ("MyBertForTokenClassification", "bert", TOKENS),
        ("MyBertForSequenceClassification", "bert", TEXT),
        ("MyNetForImageClassification", "my_net", IMAGE),
        ("MyNetForImageClassification", None, IMAGE),
        ("VivitForVideoClassification", "vivit", VIDEO),
        ("ViTForMaskedImageModeling", "vit", None),
        ("Wav2Vec2ForAudioFrameClassification", "wav2vec2", None),
        ("BertForMaskedLM", "bert", None),
        ("none", None, None),
    ],
)
def test_classes_of_ones_own_go_by_type_and_ending(architecture, model_type, task):
    """Catches a user's own class that no mapping has, and a head that is no classifier of samples."""
    assert task_of(architecture, model_type) is task
