"""Weights come back whole from a checkpoint, whatever head, constructor or file layout the model has."""

import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors import safe_open
from torch import nn
from transformers import ConvNextForImageClassification, TrainerCallback, ViTForImageClassification

from hf_cmim import DistillationConfig, DistillationTrainer
from hf_cmim.attacks import KD
from hf_cmim.trainers.shared.saved_weights import restore_renamed_weights

BEST = {
    "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 3,
    "metric_for_best_model": "eval_accuracy", "optim": "adamw_torch", "learning_rate": 1e-2,
}  # fmt: skip


class NeedsAnArgumentForImageClassification(ConvNextForImageClassification):
    def __init__(self, config, scale):
        super().__init__(config)
        self.scale = scale


class RenamedNeedsAnArgumentForImageClassification(ViTForImageClassification):
    def __init__(self, config, scale):
        super().__init__(config)
        self.scale = scale


def replaced_head(model):
    width = model.classifier.in_features
    model.classifier = nn.Sequential(nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, tiny.NUM_LABELS))
    return model


MODELS = {
    "as transformers builds it": tiny.vit,
    "replaced head": lambda seed: replaced_head(tiny.convnext(seed)),
    "replaced head, renamed weights": lambda seed: replaced_head(tiny.vit(seed)),
    "own constructor": lambda seed: NeedsAnArgumentForImageClassification(tiny.convnext(seed).config, scale=2.0),
    "own constructor, renamed weights": lambda seed: RenamedNeedsAnArgumentForImageClassification(
        tiny.vit(seed).config, scale=2.0
    ),
}


def build(trainer_class, model, folder, **changes):
    if trainer_class is DistillationTrainer:
        config = DistillationConfig(**tiny.settings(folder, **changes))
        return DistillationTrainer(
            model, config, train_dataset=tiny.images(32), eval_dataset=tiny.images(16, seed=1), attack=KD(),
            teacher=tiny.vit(9).eval(),
        )  # fmt: skip
    return tiny.cmim_trainer(model, tiny.images(32), folder, eval_dataset=tiny.images(16, seed=1), **changes)


BOTH = pytest.mark.parametrize("trainer_class", ["CMIMTrainer", DistillationTrainer])


@BOTH
@pytest.mark.parametrize("kind", MODELS)
def test_the_best_model_comes_back(trainer_class, kind, tmp_path):
    """Catches a crash after the whole training, or weights left as they were."""
    snapshots = {}

    class Snapshot(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, **kwargs):
            snapshots[state.global_step] = tiny.weights(model)

    trainer = build(trainer_class, MODELS[kind](0), tmp_path, **BEST)
    trainer.add_callback(Snapshot())
    scores = iter([0.1, 0.9, 0.5])
    trainer.compute_metrics = lambda _: {"accuracy": next(scores)}
    trainer.train()
    assert trainer.state.best_global_step == 8
    assert tiny.largest_difference(snapshots[8], snapshots[12]) > 0
    assert tiny.largest_difference(snapshots[8], tiny.weights(trainer.model)) == 0


@BOTH
@pytest.mark.parametrize("kind", MODELS)
def test_resuming_equals_the_uninterrupted_run(trainer_class, kind, tmp_path):
    """Catches a fresh head or encoder after resuming."""
    changes = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-2}
    straight = build(trainer_class, MODELS[kind](0), tmp_path / "straight", **changes)
    straight.train()
    resumed = build(trainer_class, MODELS[kind](1), tmp_path / "resumed", **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert tiny.largest_difference(tiny.weights(straight.model), tiny.weights(resumed.model)) == 0


@BOTH
@pytest.mark.parametrize("changes", [{"max_steps": 6}, {"num_train_epochs": 1.5}, {"num_train_epochs": 2}], ids=str)
def test_resuming_from_the_last_step_trains_nothing(trainer_class, changes, tmp_path):
    """Catches one step more after a kill between the last checkpoint and the end, as stock Trainer takes it."""
    changes = changes | {"save_strategy": "steps", "save_steps": 2}
    finished = build(trainer_class, tiny.vit(0), tmp_path, **changes)
    finished.train()
    last = finished.state.max_steps
    resumed = build(trainer_class, tiny.vit(1), tmp_path, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert (resumed.state.global_step, resumed.state.max_steps) == (last, last)
    assert tiny.largest_difference(tiny.weights(finished.model), tiny.weights(resumed.model)) == 0


class TestFiles:
    """What is loaded here and what is left to `Trainer`."""

    def test_several_files(self, tmp_path):
        """Catches an index that is not read."""
        saved, other = tiny.vit(0), tiny.vit(1)
        saved.save_pretrained(tmp_path, max_shard_size="10KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
        assert restore_renamed_weights(other, tmp_path)
        assert tiny.largest_difference(tiny.weights(saved), tiny.weights(other)) == 0

    def test_tied_weights(self, tmp_path):
        """Catches a tensor that the file holds once taken for missing."""

        def tied(seed):
            model = tiny.vit(seed)
            model.twin = model.classifier
            model._tied_weights_keys = {"twin.weight": "classifier.weight", "twin.bias": "classifier.bias"}
            return model

        saved, other = tied(0), tied(1)
        saved.save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
            assert "twin.weight" not in file.keys()  # noqa: SIM118
        assert restore_renamed_weights(other, tmp_path)
        assert torch.equal(other.twin.weight, saved.classifier.weight)
        assert tiny.largest_difference(tiny.weights(saved), tiny.weights(other)) == 0

    def test_only_renamed_weights_are_loaded_here(self, tmp_path):
        """Catches a way of our own where that of Trainer is right: equal names, an empty folder."""
        saved, other = tiny.convnext(0), tiny.convnext(1)
        before = tiny.weights(other)
        assert not restore_renamed_weights(other, tmp_path)
        saved.save_pretrained(tmp_path)
        assert not restore_renamed_weights(other, tmp_path)
        assert tiny.largest_difference(before, tiny.weights(other)) == 0

    def test_a_best_model_of_several_files(self, tmp_path):
        """Catches a sharded checkpoint that is not found at the end of training."""
        trainer = build("CMIMTrainer", tiny.vit(0), tmp_path, **BEST)
        trainer.train()
        folder = Path(trainer.state.best_model_checkpoint)
        best = tiny.weights(trainer.model)
        shutil.rmtree(folder)
        trainer.model.save_pretrained(folder, max_shard_size="10KB")
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.zero_()
        trainer._load_best_model()
        assert tiny.largest_difference(best, tiny.weights(trainer.model)) == 0
