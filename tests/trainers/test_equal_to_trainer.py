"""Habits of Trainer's users give both trainers what they give Trainer, to the bit where nothing is hardened."""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny
import torch
from accelerate import notebook_launcher
from hanging import HANGING
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset
from transformers import (
    AutoModelForAudioClassification,
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    Wav2Vec2Config,
    set_seed,
)

from hf_cmim import DistillationConfig, DistillationTrainer
from hf_cmim.attacks import KD, CrossEntropy

Build = Callable[..., Trainer]


def hardening(model: torch.nn.Module, data: Any, folder: Path, **changes: Any) -> Trainer:
    """A hardening of weight 0 is Trainer's own training."""
    return tiny.cmim_trainer(model, data, folder, **({"cmi_weight": 0.0} | changes))


def distilling(model: torch.nn.Module, data: Any, folder: Path, **changes: Any) -> Trainer:
    """An attack without a teacher is Trainer's own training."""
    names = ("eval_dataset", "data_collator", "callbacks", "compute_metrics", "model_init")
    others = {name: changes.pop(name) for name in names if name in changes}
    config = DistillationConfig(**tiny.settings(folder, **changes))
    return DistillationTrainer(model, config, train_dataset=data, attack=CrossEntropy(), **others)


BOTH = pytest.mark.parametrize("build", [hardening, distilling])


def plain(model: torch.nn.Module, data: Any, folder: Path, **changes: Any) -> Trainer:
    collator = changes.pop("data_collator", None)
    trainer = tiny.plain_trainer(model, data, folder, **changes)
    trainer.data_collator = collator or trainer.data_collator
    return trainer


def assert_trains_as_plain(
    build: Build, model: Callable[[], torch.nn.Module], data: Any, folder: Path, **changes: Any
):
    expected = plain(model(), data, folder, **changes)
    expected.train()  # before the next is built: a constructor sets the seed
    trainer = build(model(), data, folder, **changes)
    before = tiny.weights(trainer.model)
    trainer.train()
    assert trainer.state.global_step == expected.state.global_step > 0
    assert tiny.largest_difference(before, tiny.weights(trainer.model)) > 0
    assert tiny.largest_difference(tiny.weights(expected.model), tiny.weights(trainer.model)) == 0


# Data


def ragged(size: int = 32) -> list[dict[str, Any]]:
    """Sentences of 2 to 10 tokens."""
    rows = tiny.sentences(size)
    lengths = torch.randint(2, 11, (size,), generator=torch.Generator().manual_seed(1)).tolist()
    return [{"input_ids": row["input_ids"][:length].tolist(), "labels": row["labels"], "length": length}
            for row, length in zip(rows, lengths, strict=True)]  # fmt: skip


def padded(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = pad_sequence([torch.tensor(sample["input_ids"]) for sample in samples], batch_first=True)
    labels = torch.tensor([sample["labels"] for sample in samples])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


@BOTH
class TestOrder:
    @pytest.mark.parametrize("strategy", ["random", "sequential", "group_by_length"])
    def test_of_samples_is_that_of_trainer(self, build, strategy, tmp_path):
        """Catches groups that are lost because the transfer set is wrapped."""
        changes = {"data_collator": padded, "train_sampling_strategy": strategy}
        assert_trains_as_plain(build, tiny.bert, ragged(), tmp_path, **changes)

    def test_by_a_column_of_lengths_is_that_of_trainer(self, build, tmp_path):
        """Catches lengths that are computed from the samples although a column holds others."""
        rows = [row | {"size": 10 - row["length"]} for row in ragged()]
        changes = {"train_sampling_strategy": "group_by_length", "length_column_name": "size"}
        # Trainer drops the column before it looks for it, unless told to keep all.
        changes |= {"data_collator": padded, "remove_unused_columns": False}
        assert_trains_as_plain(build, tiny.bert, datasets.Dataset.from_list(rows), tmp_path, **changes)


def tensors_of(rows: list[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list(
        [{name: value.tolist() for name, value in row.items()} for row in rows]
    ).with_format("torch")


@BOTH
@pytest.mark.parametrize("column", ["label", "labels", "label_ids"])
@pytest.mark.parametrize("form", [list, tensors_of], ids=["list", "datasets"])
def test_columns_of_labels(build, column, form, tmp_path):
    """Catches labels that are dropped with the columns that forward does not name."""
    rows = form([{"input_ids": row["input_ids"], column: torch.tensor(row["labels"])} for row in tiny.sentences(16)])
    assert_trains_as_plain(build, tiny.bert, rows, tmp_path)


def wav2vec2() -> torch.nn.Module:
    set_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8],
        conv_stride=[4], conv_kernel=[4], num_feat_extract_layers=1, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_labels=tiny.NUM_LABELS, apply_spec_augment=False, hidden_dropout=0.0,
        attention_dropout=0.0, layerdrop=0.0, activation_dropout=0.0, feat_proj_dropout=0.0,
    )  # fmt: skip
    return AutoModelForAudioClassification.from_config(config)


def sounds(size: int = 16) -> tiny.Dataset:
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(size, 400, generator=generator)
    return [{"input_values": wave, "labels": number % tiny.NUM_LABELS} for number, wave in enumerate(waves)]


@BOTH
@pytest.mark.parametrize(("model", "data"), [
    (tiny.vit, tiny.images), (tiny.bert, tiny.sentences), (tiny.token_bert, tiny.tagged_sentences), (wav2vec2, sounds),
], ids=["image", "text", "tokens", "audio"])  # fmt: skip
def test_heads(build, model, data, tmp_path):
    """Catches a kind of classifier whose outputs or inputs are taken for another's."""
    assert_trains_as_plain(build, model, data(16), tmp_path)


# Streams


class Stream(IterableDataset):
    """Images without end and without length."""

    def __iter__(self):
        while True:
            yield from tiny.images(24)


@pytest.mark.parametrize("stream", [
    Stream, lambda: datasets.Dataset.from_list(
        [{"pixel_values": row["pixel_values"].tolist(), "labels": row["labels"]} for row in tiny.images(24)]
    ).to_iterable_dataset().with_format("torch"),
], ids=["torch", "datasets"])  # fmt: skip
def test_a_stream_is_hardened_and_not_distilled(stream, tmp_path):
    """Catches a length that is asked of a stream, and queries of a stream that nobody could count."""
    assert_trains_as_plain(hardening, tiny.vit, stream(), tmp_path, max_steps=5)
    with pytest.raises(ValueError, match="Expected a transfer set with a length and positions, got"):
        distilling(tiny.vit(), stream(), tmp_path, max_steps=5)


# Batch size


def hungry() -> torch.nn.Module:
    """A model whose device has memory for four images in training."""
    model = tiny.vit()

    def refuse(module, args, inputs):
        if module.training and len(inputs["pixel_values"]) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate more than there is.")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    return model


@pytest.mark.parametrize(("build", "changes"), [
    (hardening, {}), (hardening, {"cmi_weight": 1.0, "logit_scale": 0.5}), (distilling, {}),
], ids=["hardening of weight 0", "hardening", "distilling"])  # fmt: skip
def test_a_batch_size_that_is_found(build, changes, tmp_path):
    """Catches state of the attempts that failed: a bank, an attack or an account."""
    trained = {}
    for name, settings in {
        "found": {"auto_find_batch_size": True},
        "given": {"per_device_train_batch_size": 4},
    }.items():
        trained[name] = build(hungry(), tiny.images(32), tmp_path, **changes, **settings)
        trained[name].train()
    assert trained["found"].state.global_step == trained["given"].state.global_step == 8
    assert tiny.largest_difference(*(tiny.weights(trainer.model) for trainer in trained.values())) == 0


def test_attempts_that_failed_cost_no_query(tmp_path):
    """Catches a budget that is spent on batches that did not fit."""
    trainer = tiny.distillation_trainer(
        hungry(), tiny.images(32), tmp_path, KD(), tiny.vit(3).eval(), auto_find_batch_size=True, query_budget=32
    )
    trainer.train()
    assert trainer.query_report()["queries"]["paid"] == 32


# Evaluation


@BOTH
class TestEvaluation:
    def test_of_several_sets(self, build, tmp_path):
        """Catches metrics of one set under the name of another."""
        sets = {"near": tiny.images(16, seed=1), "far": tiny.images(24, seed=2, signal=0.2)}
        trainer = build(tiny.vit(), tiny.images(32), tmp_path, eval_dataset=sets, eval_strategy="epoch")
        trainer.train()
        logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
        for name, data in sets.items():
            metrics = trainer.evaluate(data)
            for measure in ("loss", "accuracy"):
                assert logged[f"eval_{name}_{measure}"] == metrics[f"eval_{measure}"]

    @pytest.mark.parametrize("settings", [
        {}, {"eval_do_concat_batches": False}, {"batch_eval_metrics": True}, {"eval_accumulation_steps": 1},
    ], ids=str)  # fmt: skip
    def test_with_metrics_of_the_users(self, settings, build, tmp_path):
        """Catches predictions in a form that Trainer does not promise, and metrics of one batch."""
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []

        def accuracy(prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
            whole = settings.get("eval_do_concat_batches", True)
            logits, labels = prediction.predictions, prediction.label_ids
            batches = [(logits, labels)] if whole else list(zip(logits, labels, strict=True))
            seen.extend((torch.as_tensor(first), torch.as_tensor(second)) for first, second in batches)
            right = torch.cat([logits.argmax(-1) == labels for logits, labels in seen])
            return {"right": right.float().mean().item(), "samples": len(right)} if compute_result else {}

        trainer = build(
            tiny.vit(), tiny.images(16), tmp_path, eval_dataset=tiny.images(20, seed=1), compute_metrics=accuracy,
            per_device_eval_batch_size=8, **settings,
        )  # fmt: skip
        metrics = trainer.evaluate()
        assert metrics["eval_samples"] == 20
        assert metrics["eval_right"] == pytest.approx(metrics["eval_accuracy"])

    def test_ends_training_early(self, build, tmp_path):
        """Catches patience that counts nothing, or the last model where the best was asked for."""
        trainer = build(
            tiny.vit(), tiny.images(32), tmp_path, eval_dataset=tiny.images(16, seed=1), eval_strategy="epoch",
            save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="accuracy", num_train_epochs=9,
            learning_rate=0.0, callbacks=[EarlyStoppingCallback(2)],
        )  # fmt: skip
        trainer.train()
        assert trainer.state.global_step == 3 * 4
        assert trainer.state.best_global_step == 4


# Reports


class Reporter(TrainerCallback):
    """What an integration (TensorBoard, trackio, ...) is given."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args, state, control, logs=None, **others):
        self.logs.append(dict(logs))


@pytest.mark.parametrize(("build", "parts"), [
    (hardening, {"ce", "cmi", "cmi_weight", "cmi_T1"}), (distilling, {"ce"})
], ids=["hardening", "distilling"])  # fmt: skip
def test_reports_get_every_part_as_a_number(build, parts, tmp_path):
    """Catches tensors, which integrations drop with a warning, and parts that reach the console only."""
    reporter = Reporter()
    trainer = build(tiny.vit(), tiny.images(16), tmp_path, eval_dataset=tiny.images(8), callbacks=[reporter])
    trainer.train()
    trainer.evaluate()
    assert all(
        isinstance(value, int | float) and math.isfinite(value) for logs in reporter.logs for value in logs.values()
    )
    steps = [logs for logs in reporter.logs if "loss" in logs]
    assert len(steps) == 2
    assert all(parts <= logs.keys() for logs in steps)
    assert any("eval_accuracy" in logs for logs in reporter.logs)


# Launches


@BOTH
def test_a_notebook(build, tmp_path):
    """Catches a launch of one process that is refused, or that trains otherwise."""
    trained: list[Trainer] = []

    def train() -> None:
        trained.append(build(tiny.vit(), tiny.images(16), tmp_path))
        trained[-1].train()

    train()
    notebook_launcher(train, num_processes=1)
    assert tiny.largest_difference(*(tiny.weights(trainer.model) for trainer in trained)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hardening", "distilling"])
def test_a_notebook_of_two_processes(kind, tmp_path):
    """Catches two trainings of their own where one on two processes was asked for."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(Path(__file__).with_name("notebook_job.py")), str(tmp_path), kind, port]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGING, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = torch.load(tmp_path / "result.pt")
    assert result["world_size"] == 2
    if kind == "hardening":
        alone = tiny.cmim_trainer(tiny.vit(), tiny.images(16), tmp_path)
    else:
        alone = distilling(tiny.vit(), tiny.images(16), tmp_path)
    alone.train()
    torch.testing.assert_close(result["weights"], tiny.weights(alone.model), rtol=1e-5, atol=1e-6)
