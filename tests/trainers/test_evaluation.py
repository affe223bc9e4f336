"""Evaluation: exact whatever the batches, and what selection makes of it."""

import pytest
import tiny
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification, set_seed

from hf_cmim.functional import cmi_curve, normalized_cmi


def outputs_of(trainer, data):
    """Logits and labels in one batch, by the model alone."""
    trainer.model.eval()
    inputs = {name: torch.stack([torch.as_tensor(row[name]) for row in data]) for name in data[0]}
    labels = inputs.pop("labels")
    with torch.no_grad():
        return trainer.model(**inputs).logits, labels


@pytest.mark.parametrize("batch", [3, 7, 64])
def test_metrics_are_those_of_one_batch(batch: int, tmp_path):
    """Catches means of batch means and duplicates: unequal numbers of ignored labels, a ragged end."""
    data = tiny.tagged_sentences(40, seed=3)
    trainer = tiny.cmim_trainer(
        tiny.token_bert(), tiny.tagged_sentences(60), tmp_path, cmi_weight=0.5, per_device_eval_batch_size=batch
    )
    trainer.train()
    metrics = trainer.evaluate(data)
    logits, labels = outputs_of(trainer, data)
    temperatures = list(trainer.cmim_loss.spec.temperatures)
    expected = trainer.cmim_loss(logits, labels, trainer.bank.snapshot(), trainer.final_weight)
    assert metrics["eval_ce"] == pytest.approx(expected.ce.item(), rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx((expected.ce + expected.cmi).item(), rel=1e-5)
    for temperature, value in zip(temperatures, cmi_curve(logits, labels, temperatures), strict=True):
        assert metrics[f"eval_cmi_T{temperature:g}"] == pytest.approx(value.item(), rel=1e-5)
    assert metrics["eval_cmi"] == pytest.approx(cmi_curve(logits, labels, [1.0]).item(), rel=1e-5)
    assert metrics["eval_ncmi"] == pytest.approx(normalized_cmi(logits, labels).item(), rel=1e-5)
    valid = labels != -100
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels)[valid].double().mean().item())
    assert trainer.measurement.num_samples == valid.sum()


def test_very_many_classes_are_evaluated_without_the_curve(tmp_path, monkeypatch, caplog):
    """Catches an evaluation that runs out of memory: at 21,841 classes the sums of the curve would take 260 GB."""
    monkeypatch.setattr("hf_cmim.trainers.shared.evaluation.LARGEST_MEASURED", 2)
    data = tiny.tagged_sentences(40, seed=3)
    trainer = tiny.cmim_trainer(tiny.token_bert(), tiny.tagged_sentences(60), tmp_path, per_device_eval_batch_size=7)
    with caplog.at_level("WARNING"):
        metrics = trainer.evaluate(data)
    logits, labels = outputs_of(trainer, data)
    valid = labels != -100
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels)[valid].double().mean().item())
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_ce"], rel=1e-5), "the bank is empty"
    assert not any("cmi" in name for name in metrics)
    assert trainer.measurement is None
    assert "68 x classes^2 x 8 bytes" in caplog.text


def test_evaluation_uses_the_final_weight_from_the_start(tmp_path):
    """Catches an eval_loss that rises only because the ramp does."""
    trainer = tiny.cmim_trainer(
        tiny.vit(), tiny.images(64), tmp_path, cmi_weight=3.0, cmi_warmup=0.5, cmi_ramp=0.5,
        eval_strategy="steps", eval_steps=2, eval_dataset=tiny.images(32, seed=1),
    )  # fmt: skip
    trainer.train()
    first = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert first["step"] == 2
    assert first["eval_loss"] > first["eval_ce"] + 1e-4


def test_predict_and_unlabelled_data(tmp_path):
    """Catches an evaluation that needs labels, or that measures nothing in predict."""
    trainer = tiny.cmim_trainer(tiny.vit(), tiny.images(32), tmp_path)
    trainer.train()
    assert "test_cmi_sup" in trainer.predict(tiny.images(16)).metrics
    unlabelled = [{"pixel_values": row["pixel_values"]} for row in tiny.images(16)]
    output = trainer.predict(unlabelled)
    assert output.predictions.shape == (16, tiny.NUM_LABELS)
    assert not [name for name in output.metrics if "cmi" in name]


def test_the_users_metrics_keep_their_names(tmp_path):
    """Catches a user's eval_accuracy replaced by ours."""
    trainer = tiny.cmim_trainer(
        tiny.vit(),
        tiny.images(16),
        tmp_path,
        eval_dataset=tiny.images(16),
        compute_metrics=lambda _: {"accuracy": 7.0},
    )
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] == 7.0
    assert "eval_cmi" in metrics


def test_audio_heads_are_hardened(tmp_path):
    """Catches inputs or outputs of audio models that compute_loss does not know."""
    set_seed(0)
    model = Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
            conv_stride=(4, 4), conv_kernel=(8, 4), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2, num_labels=3, classifier_proj_size=16, mask_time_prob=0.0,
        )
    )  # fmt: skip
    sounds = [{"input_values": torch.randn(400), "labels": label % 3} for label in range(24)]
    trainer = tiny.cmim_trainer(model, sounds, tmp_path, num_train_epochs=2)
    trainer.train()
    assert trainer.evaluate(sounds)["eval_cmi"] >= 0
    assert trainer.bank.seen.tolist() == [16, 16, 16]


class TestSearch:
    """Hyper-parameter search, through a backend that runs two trials in this process."""

    @pytest.fixture
    def search(self, monkeypatch, tmp_path):
        class TwoTrials:
            default_hp_space = staticmethod(lambda trial: {})

            def ensure_available(self):
                pass

            def run(self, trainer, n_trials, direction, **kwargs):
                trainer.objective_values, trainer.weights = [], []
                for weight in (0.0, 2.0):
                    trainer.hp_space = lambda _, weight=weight: {"cmi_weight": weight}
                    trainer.train(trial=FakeTrial())
                    trainer.objective_values.append(trainer.objective_of_trial())
                    trainer.weights.append(trainer.final_weight)
                return trainer.objective_values

        class FakeTrial:
            number, params = 0, {}

        from transformers import trainer as trainer_module
        from transformers.trainer_utils import HPSearchBackend

        backends = trainer_module.ALL_HYPERPARAMETER_SEARCH_BACKENDS
        monkeypatch.setitem(backends, HPSearchBackend.OPTUNA, TwoTrials)
        monkeypatch.setattr(
            "transformers.integrations.hp_params", lambda trial: {}
        )  # it knows real backends' trials alone
        trainer = tiny.cmim_trainer(tiny.vit(), tiny.images(32), tmp_path, eval_dataset=tiny.images(32, seed=1))
        trainer.model_init = lambda: tiny.vit()
        trainer.objective_of_trial = lambda: trainer.compute_objective(trainer.evaluate())
        return trainer

    def test_the_objective_is_one_metric(self, search):
        """Catches Trainer's default, which adds accuracy to calibration error."""
        values = search.hyperparameter_search(backend="optuna", direction="maximize")
        assert values[1] == search.evaluate()["eval_accuracy"]
        assert search.weights == [0.0, 2.0], "a trial's settings did not reach the objective"

    def test_searching_the_weight_by_the_loss_warns(self, search, caplog):
        """Catches a search that can only choose not to harden."""
        with caplog.at_level("WARNING"):
            values = search.hyperparameter_search(backend="optuna")
        assert values[1] == pytest.approx(search.evaluate()["eval_loss"])
        assert "the smallest weight would win" in caplog.text.replace("\n", " ")

    def test_several_directions_need_an_objective(self, search):
        """Catches a sum of metrics that should rise and of metrics that should fall."""
        with pytest.raises(ValueError, match="Expected compute_objective for direction"):
            search.hyperparameter_search(backend="optuna", direction=["minimize", "maximize"])


@pytest.mark.slow
def test_torch_compile_trains_the_same(tmp_path):
    """Catches a compute_loss that breaks or changes under torch.compile."""
    results = []
    for compiled in (False, True):
        trainer = tiny.cmim_trainer(tiny.vit(), tiny.images(32), tmp_path, torch_compile=compiled, learning_rate=0.02)
        trainer.train()
        trainer.save_model(str(tmp_path / str(compiled)))
        results.append(tiny.weights(tiny.vit().from_pretrained(tmp_path / str(compiled))))
    assert tiny.largest_difference(*results) < 1e-5
