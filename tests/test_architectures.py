"""Every classification architecture of transformers is hardened, published, loaded, verified and distilled.

Models are tiny and built from their configurations. Video classifiers are left out.
"""

import re

import pytest
import tiny
import torch
import transformers
from tiny_architectures import NUM_LABELS, tiny_model, tiny_samples

from hf_cmim.attacks import KD
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.verification import check_certificate
from hf_cmim.tasks import AUDIO, IMAGE, TEXT, TOKENS, architectures_of

SETTINGS = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "label_names": ["labels"]}
NAMES = {number: f"name {number}" for number in range(NUM_LABELS)}
IMPOSSIBLE = {
    "LayoutLMv2ForSequenceClassification": "requires the detectron2 library",
    "LayoutLMv2ForTokenClassification": "requires the detectron2 library",
    "DinatForImageClassification": "requires the natten library",
    "TimmWrapperForImageClassification": "requires the timm library",
    "ShieldGemma2ForImageClassification": "gives 2 logits",  # of the words yes and no, whatever the classes
    "PPLCNetForImageClassification": r"returns 'logits', got \['last_hidden_state'\]",
}
"""Architectures that cannot run here, each with the reason as the error says it."""
FAST = {
    "BertForSequenceClassification", "XLMForSequenceClassification", "GPT2ForSequenceClassification",
    "RobertaForTokenClassification", "DeiTForImageClassificationWithTeacher", "ResNetForImageClassification",
    "Wav2Vec2ForSequenceClassification", "WhisperForAudioClassification",
}  # fmt: skip
"""One or two of a kind, for every run of the tests."""

CASES = [
    pytest.param(task, architecture, model_type, id=architecture,
                 marks=[] if architecture in FAST | IMPOSSIBLE.keys() else pytest.mark.slow)
    for task in (TEXT, TOKENS, IMAGE, AUDIO)
    for architecture, model_type in architectures_of(task).items()
]  # fmt: skip


def run(task, architecture, model_type, folder):
    """Harden, save, certify, load as a stranger, verify, and distil into a student of the same kind."""
    model = tiny_model(architecture, model_type)
    model.config.id2label, model.config.label2id = NAMES, {name: number for number, name in NAMES.items()}
    samples = tiny_samples(task, model)
    trainer = tiny.cmim_trainer(model, samples, folder / "hardened", **SETTINGS)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    published = folder / "hardened"
    assert f"pipeline_tag: {task.name}\n" in (published / "README.md").read_text()
    assert Certificate.read(published).class_names == tuple(NAMES.values())
    assert [finding for finding in check_certificate(published) if not finding.holds] == []
    loaded = getattr(transformers, task.auto_class).from_pretrained(published)
    assert type(loaded) is type(model)
    assert tiny.largest_difference(tiny.weights(model), tiny.weights(loaded)) == 0
    student = tiny_model(architecture, model_type, seed=1)
    student.config.id2label, student.config.label2id = model.config.id2label, model.config.label2id
    before = tiny.weights(student)
    tiny.distillation_trainer(student, samples, folder / "student", KD(), str(published), **SETTINGS).train()
    assert tiny.largest_difference(before, tiny.weights(student)) > 0


@pytest.mark.filterwarnings("ignore")  # of models that warn about themselves
@pytest.mark.parametrize(("task", "architecture", "model_type"), CASES)
def test_architecture_goes_all_the_way(task, architecture, model_type, tmp_path):
    """Catches a task, a head, an input or a file of one architecture that our trainers or checks do not know."""
    torch.manual_seed(0)
    if architecture not in IMPOSSIBLE:
        run(task, architecture, model_type, tmp_path)
        return
    with pytest.raises((ImportError, ValueError), match=IMPOSSIBLE[architecture]):
        run(task, architecture, model_type, tmp_path)


def test_lists_name_architectures_that_exist():
    """Catches a reason that outlives its architecture, and a fast case that no longer runs."""
    names = {name for task in (TEXT, TOKENS, IMAGE, AUDIO) for name in architectures_of(task)}
    assert set(IMPOSSIBLE) | FAST <= names
    assert not set(IMPOSSIBLE) & FAST
    assert all(re.compile(reason) for reason in IMPOSSIBLE.values())
