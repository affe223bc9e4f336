"""Models without a certificate: they are saved all the same, and pushed only if somebody can load them."""

from dataclasses import replace

import pytest
import tiny
import torch
from hub.certified import genuine_audit, save_model
from trainers.publishing_job import SETTINGS
from transformers import AutoModelForImageClassification, ViTForImageClassification

from hf_cmim import CMIMConfig, CMIMTrainer
from hf_cmim.cli.main import main
from hf_cmim.hub.certify import certify


class Head(torch.nn.Module):
    """A plain module."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 4)

    def forward(self, pixel_values, labels=None):
        return {"logits": self.linear(pixel_values.flatten(1))}


class OwnViTForImageClassification(ViTForImageClassification):
    """A class that transformers does not have, under a name as its own."""


def replaced_head():
    model = tiny.vit()
    model.classifier = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Linear(8, 4))
    return model


MODELS = {
    "plain module": (Head, "The model is a Head, a class that transformers does not have"),
    "own class": (
        lambda: OwnViTForImageClassification(tiny.vit().config),
        "The model is a OwnViTForImageClassification, a class that transformers does not have",
    ),
    "replaced head": (replaced_head, "2 weights would start at random (classifier.bias, classifier.weight)"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_nothing_fails_where_nothing_is_pushed(tmp_path, kind, caplog):
    """Catches a run killed inside a save, and a certificate of a model that nobody could load."""
    build, reason = MODELS[kind]
    tiny.vit().save_pretrained(tmp_path)
    (tmp_path / "cmim_certificate.json").write_text("{}", encoding="utf-8")  # of weights that were here before
    args = CMIMConfig(str(tmp_path), **SETTINGS, save_steps=2)
    trainer = CMIMTrainer(build(), args, train_dataset=tiny.images(32))
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    trainer.save_model()
    assert not (tmp_path / "cmim_certificate.json").exists()
    (warning,) = (each for each in caplog.messages if "no certificate" in each)
    assert reason in warning
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "It has no certificate" in card
    assert reason.split("(")[0].strip() in card


@pytest.mark.parametrize("kind", MODELS)
def test_what_nobody_could_load_is_refused_before_training(tmp_path, kind):
    """Catches hours of training that end with a model on the Hub whose head is random."""
    build, reason = MODELS[kind]
    args = CMIMConfig(str(tmp_path), **SETTINGS, push_to_hub=True, hub_model_id="owner/name")
    with pytest.raises(ValueError, match="push_to_hub=False") as refusal:
        CMIMTrainer(build(), args, train_dataset=tiny.images(8))
    assert reason in str(refusal.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_unreadable_certificate_costs_no_training(tmp_path, caplog):
    """Catches a file that an earlier run left and that ends the next one in its last save."""
    (tmp_path / "cmim_certificate.json").write_text("{", encoding="utf-8")
    trainer = CMIMTrainer(tiny.vit(), CMIMConfig(str(tmp_path), **SETTINGS), train_dataset=tiny.images(32))
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "model.safetensors").is_file()
    assert [each for each in caplog.messages if "was saved, but has no certificate" in each]


def test_the_class_of_a_sound_model_is_found(tmp_path):
    """Catches a certified model that its own Auto class does not load, or loads with other weights."""
    trainer = CMIMTrainer(tiny.vit(), CMIMConfig(str(tmp_path), **SETTINGS), train_dataset=tiny.images(32))
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "cmim_certificate.json").is_file()
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert tiny.largest_difference(tiny.weights(loaded), tiny.weights(trainer.model)) == 0


def test_the_command_line_publishes_nothing_that_nobody_could_load(tmp_path, capsys):
    """Catches the sibling of the trainers: a certificate binds the files of a model whose head would be random."""
    replaced_head().save_pretrained(tmp_path)
    certify(tmp_path)
    assert main(["push", str(tmp_path), "owner/name"]) != 0
    said = capsys.readouterr().err
    assert "2 weights would start at random (classifier.bias, classifier.weight)" in said
    assert "nothing was uploaded" in said


def test_an_audit_of_before_is_certified_without_its_paths(tmp_path):
    """Catches the home folder in an audit that an earlier release wrote."""
    save_model(tmp_path)
    audit = genuine_audit(tmp_path)
    audit = replace(audit, teacher=replace(audit.teacher, path="/home/jane.doe/thesis/cmim"))
    assert certify(tmp_path, audit=audit).audit.teacher.path == "…/cmim"
    assert "jane.doe" not in (tmp_path / "cmim_certificate.json").read_text(encoding="utf-8")
