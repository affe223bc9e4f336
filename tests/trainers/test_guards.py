"""What cannot be hardened is refused before anything is written, with words that help."""

from pathlib import Path

import pytest
import tiny
import torch
from transformers import TrainingArguments, ViTModel

from hf_cmim import CMIMConfig, CMIMTrainer, ObjectiveSpec


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class TestSettings:
    """Each is refused where it is written, not hours later."""

    @pytest.mark.parametrize(("wrong", "message"), [
        ({"cmi_weight": -1.0}, "cmi_weight >= 0, got -1.0.*better teacher.*Use 0"),
        ({"cmi_weight": float("nan")}, "cmi_weight >= 0, got nan"),
        ({"cmi_warmup": 0.7, "cmi_ramp": 0.5}, "sum of at most 1, got 0.7 and 0.5.*Shorten one"),
        ({"cmi_ramp": 1.5}, "sum of at most 1"),
        ({"cmi_warmup": -0.1}, "cmi_warmup and cmi_ramp >= 0"),
        ({"temperatures": [1.0, 0.0]}, "temperatures above 0 and finite, got 0.0.*Remove it"),
        ({"temperatures": [1.0, -2.0]}, "temperatures above 0"),
        ({"temperatures": [1.0, 2.0, 1.0]}, r"distinct temperatures, got \[1.0\] more than once"),
        ({"temperatures": []}, "at least one temperature"),
        ({"centroid_window": 1.0}, "window above 1 sample a class and finite, got 1.0"),
        ({"logit_scale": -1.0}, "logit_scale above 0 and finite, got -1.0.*use the form"),
        ({"logit_scale": float("inf")}, "logit_scale above 0"),
        ({"centroids": "class"}, 'centroids "bank" or "epoch"'),
        ({"collapse_guard": "panic"}, 'collapse_guard "warn"'),
        ({"cmi_form": "cubed"}, 'form "scaled", "share" or "plain", got .cubed.'),
        ({"cmi_form": "share", "cmi_warmup": 0.0}, 'cmi_warmup above 0 with cmi_form "share", got 0.0'),
        ({"cmi_form": "share", "logit_scale": 4.0}, "no logit_scale with the form 'share', got 4.0"),
        ({"class_weights": [1.0, -1.0]}, "class_weights >= 0"),
    ], ids=str)  # fmt: skip
    def test_a_value_outside_its_range(self, wrong, message, tmp_path):
        """Catches a setting that is accepted and would train something else than was asked for."""
        with pytest.raises(ValueError, match=message):
            CMIMConfig(output_dir=str(tmp_path / "run"), **wrong)
        assert not (tmp_path / "run").exists()

    def test_settings_become_the_specification(self, tmp_path):
        """Catches a setting that is read from the command line and never reaches the objective."""
        changed = {
            "cmi_form": "share", "temperatures": [1.0, 3.0], "cmi_correct_only": True, "centroids": "epoch",
            "centroid_window": 30.0, "class_weights": [1.0, 2.0], "label_smoothing_factor": 0.1,
        }  # fmt: skip
        expected = ObjectiveSpec("share", (1.0, 3.0), None, True, "epoch", 30.0, (1.0, 2.0), 0.1)
        assert CMIMConfig(output_dir=str(tmp_path), **changed).spec == expected
        assert CMIMConfig(output_dir=str(tmp_path)).spec == ObjectiveSpec()
        assert CMIMConfig(output_dir=str(tmp_path), logit_scale=2.0).spec.logit_scale == 2.0
        trained = {"cmi_form": "share", "cmi_warmup": 0.0, "centroid_prefill": True}
        assert CMIMConfig(output_dir=str(tmp_path), **trained).cmi_warmup == 0.0

    def test_every_own_field_has_help(self):
        """Catches --help that teaches nothing, or a bare % that breaks argparse."""
        inherited = set(TrainingArguments.__dataclass_fields__)
        own = [field for name, field in CMIMConfig.__dataclass_fields__.items() if name not in inherited]
        assert len(own) > 8
        for field in own:
            assert len(field.metadata["help"]) > 20, field.name
            assert "%" not in field.metadata["help"], field.name


class TestHeads:
    @pytest.mark.parametrize(("settings", "message"), [
        ({"problem_type": "multi_label_classification"}, "single-label classification head, got .*multi_label"),
        ({"problem_type": "regression"}, "single-label classification head, got .*regression"),
        ({"num_labels": 1}, "at least 2 classes, got num_labels=1"),
    ], ids=str)  # fmt: skip
    def test_refused_at_construction(self, settings, message, tmp_path):
        """Catches heads whose outputs have no cluster per class."""
        with pytest.raises(ValueError, match=message):
            tiny.cmim_trainer(tiny.vit(**settings), tiny.images(8), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_plain_training_arguments(self, tmp_path):
        """Catches hardening silently with settings nobody chose."""
        with pytest.raises(ValueError, match="Expected args of class CMIMConfig, got TrainingArguments"):
            CMIMTrainer(tiny.vit(), TrainingArguments(**tiny.settings(tmp_path / "run")), train_dataset=[])
        assert not (tmp_path / "run").exists()

    def test_targets_of_another_name(self, tmp_path):
        """Catches labels Trainer does not count: the loss would be scaled by accumulation."""
        with pytest.raises(ValueError, match="Expected one target named 'labels', got"):
            tiny.cmim_trainer(tiny.vit(), tiny.images(8), tmp_path, label_names=["target"])

    def test_a_model_without_a_head(self, tmp_path):
        """Catches an error about a column name where the model is the wrong one."""
        with pytest.raises(ValueError, match="forward takes 'labels', got ViTModel.*Use an AutoModelFor"):
            tiny.cmim_trainer(ViTModel(tiny.vit().config), tiny.images(8), tmp_path)

    def test_class_weights_of_another_number(self, tmp_path):
        """Catches weights that belong to other classes."""
        with pytest.raises(ValueError, match="Expected 4 class_weights, one per class, got 3"):
            tiny.cmim_trainer(tiny.vit(), tiny.images(8), tmp_path, class_weights=[1.0, 2.0, 3.0])


class Classifier(torch.nn.Module):
    """A module outside transformers, with outputs to choose."""

    def __init__(self, num_classes: int = 4, form: str = "dict", scale: float = 1.0) -> None:
        super().__init__()
        self.head, self.form, self.scale = torch.nn.Linear(64, num_classes), form, scale

    def forward(self, pixel_values, labels=None):
        logits = self.head(pixel_values.flatten(1)) * self.scale
        return {"dict": {"logits": logits}, "other": {"scores": logits}, "tuple": (logits, pixel_values)}[self.form]


def unlabelled():
    return [{"pixel_values": row["pixel_values"]} for row in tiny.images(16)]


def relabelled(change):
    return [row | {"labels": change(row["labels"])} for row in tiny.images(16)]


class TestFirstBatch:
    """What only a batch shows is refused at the first one; nothing has been written then."""

    @pytest.mark.parametrize(("model", "data", "message"), [
        (lambda: Classifier(form="other"), tiny.images, "returns 'logits', got .*scores"),
        (tiny.vit, unlabelled, "Expected 'labels' in every batch, got only .*pixel_values"),
        (tiny.vit, lambda: relabelled(lambda label: label + 1), r"labels in \[0, 4\) or -100.*got \[4\]"),
        (tiny.vit, lambda: relabelled(lambda label: label - 1), r"labels in \[0, 4\) or -100.*got \[-1\]"),
        (lambda: Classifier(num_classes=1), lambda: relabelled(lambda _: 0), "at least 2 classes, got logits with 1"),
        (tiny.vit, lambda: relabelled(lambda label: [0.0, 1.0, 0.0, 1.0]), "One label per row of logits"),
        (lambda: Classifier(), lambda: relabelled(float), "integer labels in .*got dtype torch.float"),
        (lambda: Classifier(scale=float("inf")), tiny.images, "Expected a finite loss, got nan or inf by step 1"),
    ])  # fmt: skip
    def test_refused(self, model, data, message, tmp_path):
        """Catches training on, or an error from deep inside torch that teaches nothing."""
        trainer = tiny.cmim_trainer(model(), data(), tmp_path / "run", save_strategy="steps", save_steps=1)
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert not files_below(tmp_path / "run")

    def test_a_loss_that_breaks_later_stops_before_the_next_save(self, tmp_path):
        """Catches checkpoints of lost weights: Trainer's own filter hides nan from the logs."""
        trainer = tiny.cmim_trainer(Classifier(), tiny.images(64), tmp_path, save_strategy="steps", save_steps=2,
                                    learning_rate=1e38)  # fmt: skip
        with pytest.raises(ValueError, match=r"Expected a finite loss.*Lower the learning rate"):
            trainer.train()

    @pytest.mark.parametrize("form", ["dict", "tuple"])
    def test_any_module_with_logits_is_hardened(self, form, tmp_path):
        """Catches code that needs a PreTrainedModel, or that loses the logits of a tuple in evaluation."""
        trainer = tiny.cmim_trainer(
            Classifier(form=form), tiny.images(32), tmp_path, eval_dataset=tiny.images(16, seed=1),
            compute_metrics=lambda prediction: {
                "shape": len((prediction.predictions[0] if form == "tuple" else prediction.predictions)[0])
            },
        )  # fmt: skip
        trainer.train()
        metrics = trainer.evaluate()
        assert metrics["eval_shape"] == 4
        assert 0 <= metrics["eval_accuracy"] <= 1


class TestCollapse:
    """Weight 5 from the first step, with cold temperatures, merges classes; defaults and plain training do not."""

    COLD = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    TASK = {"optim": "adamw_torch", "learning_rate": 1e-3, "per_device_train_batch_size": 32, "logging_strategy": "no"}
    DATA = {"size": 1000, "num_classes": 10, "signal": 0.5}

    def run(self, tmp_path, data=None, **changes):
        data = data or tiny.images(**self.DATA)
        settings = self.TASK | {"num_train_epochs": 6} | changes
        trainer = tiny.cmim_trainer(tiny.vit(num_labels=10), data, tmp_path, **settings)
        trainer.train()
        return trainer

    def test_warns_with_the_names_of_the_classes(self, tmp_path, caplog):
        """Catches a guard that never fires, or that names nothing."""
        with caplog.at_level("WARNING"):
            trainer = self.run(tmp_path, cmi_weight=5.0, temperatures=self.COLD, collapse_guard="warn")
        assert "Class collapse at step" in caplog.text
        assert "LABEL_" in caplog.text
        assert trainer.state.global_step == trainer.state.max_steps
        assert trainer.final_weight == 5.0

    def test_reduces_the_weight_and_remembers_it(self, tmp_path, caplog):
        """Catches a reduced weight that a resumed run forgets."""
        with caplog.at_level("WARNING"):
            changes = {"temperatures": self.COLD, "collapse_guard": "reduce", "save_strategy": "epoch"}
            trainer = self.run(tmp_path, cmi_weight=5.0, **changes)
        assert "the weight goes from 5 to 2.5" in caplog.text
        assert trainer.final_weight < 5.0
        last = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        resumed = tiny.cmim_trainer(
            tiny.vit(num_labels=10), tiny.images(**self.DATA), tmp_path, cmi_weight=5.0, temperatures=self.COLD,
            collapse_guard="reduce", **(self.TASK | {"num_train_epochs": 6}),
        )  # fmt: skip
        resumed.train(resume_from_checkpoint=str(last))
        assert resumed.final_weight == trainer.final_weight

    def test_stops(self, tmp_path):
        """Catches a guard that only talks."""
        trainer = self.run(tmp_path, cmi_weight=5.0, temperatures=self.COLD, collapse_guard="stop")
        assert trainer.state.global_step < trainer.state.max_steps

    @pytest.mark.parametrize("changes", [{"cmi_weight": 0.0}, {"cmi_warmup": 0.2, "cmi_ramp": 0.3}], ids=str)
    def test_is_silent_otherwise_with_rare_classes(self, changes, tmp_path, caplog):
        """Catches false alarms: a class with 12 samples is lost for a while in any training."""
        data = tiny.images(**self.DATA)
        rare = [row for row in data if row["labels"] == 3][12:] + [row for row in data if row["labels"] == 7][12:]
        kept = [row for row in data if not any(row is other for other in rare)]
        with caplog.at_level("WARNING"):
            self.run(tmp_path, kept, **changes)
        assert "collapse" not in caplog.text
