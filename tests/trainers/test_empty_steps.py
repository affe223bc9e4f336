"""A step without a valid label contributes nothing: no loss, no gradient, no move of the centroids, no nan."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import Trainer
from two_processes import on_two_processes

from hf_cmim import Composition, DistillationConfig
from hf_cmim.attacks import DIST, DKD, KD, LabelSmoothing
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.teachers import ModelTeacher

JOB = Path(__file__).parent / "empty_step_job.py"
SEQUENTIAL = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": 4}


def with_an_empty_batch(size: int = 4) -> tiny.Dataset:
    """Three batches of four sentences; the labels of the middle one are all -100."""
    rows = tiny.tagged_sentences(8)
    empty = [row | {"labels": torch.full((10,), -100)} for row in tiny.tagged_sentences(size, seed=3)]
    return [*rows[:4], *empty, *rows[4:]]


def without_it() -> tiny.Dataset:
    return tiny.tagged_sentences(8)


def teacher() -> ModelTeacher:
    return ModelTeacher(tiny.token_bert(3).eval())


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def assert_logs_are_numbers(trainer: Trainer) -> None:
    for entry in trainer.state.log_history:
        assert all(math.isfinite(value) for value in entry.values()), entry


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class TestHardening:
    @pytest.mark.parametrize("objective", [
        {},
        {"logit_scale": 0.5},
        {"cmi_form": "plain"},
        {"cmi_correct_only": True},
        {"label_smoothing_factor": 0.1},
        {"cmi_form": "share", "cmi_warmup": 0.1},
    ], ids=str)  # fmt: skip
    def test_the_step_leaves_everything_as_it_was(self, objective: dict[str, Any], tmp_path):
        """Catches 0 / 0, and terms, scale or centroids of the last step that an empty one wipes out."""
        full = tiny.cmim_trainer(tiny.token_bert(), without_it(), tmp_path, **SEQUENTIAL, **objective)
        interrupted = tiny.cmim_trainer(tiny.token_bert(), with_an_empty_batch(), tmp_path, **SEQUENTIAL, **objective)
        full.train()
        interrupted.train()
        assert losses(interrupted)[1] == 0.0
        assert_logs_are_numbers(interrupted)
        assert_same_tensors(tiny.weights(interrupted.model), tiny.weights(full.model))
        assert_same_tensors(interrupted.bank.state_dict(), full.bank.state_dict())

    @pytest.mark.parametrize("size", [2, 4])
    def test_an_empty_micro_batch_adds_nothing_to_its_step(self, size: int, tmp_path):
        """Catches a mean over micro-batches, and a micro-batch whose own 0 / 0 spoils the step."""
        data = with_an_empty_batch()[: 4 + size]
        alone = tiny.cmim_trainer(tiny.token_bert(), data[:4], tmp_path, **SEQUENTIAL)
        accumulated = tiny.cmim_trainer(tiny.token_bert(), data, tmp_path, **SEQUENTIAL, gradient_accumulation_steps=2)
        alone.train()
        accumulated.train()
        assert accumulated.state.global_step == 1
        assert losses(accumulated) == losses(alone)
        assert_same_tensors(tiny.weights(accumulated.model), tiny.weights(alone.model))
        torch.testing.assert_close(accumulated.bank.state_dict(), alone.bank.state_dict(), rtol=1e-5, atol=1e-7)

    def test_evaluation_of_an_empty_batch(self, tmp_path):
        """Catches nan in metrics over sets of which one batch has no valid label."""
        rows = with_an_empty_batch()
        trainer = tiny.cmim_trainer(
            tiny.token_bert(), without_it(), tmp_path, eval_dataset=rows, per_device_eval_batch_size=4
        )
        whole = trainer.evaluate()
        assert all(math.isfinite(value) for value in whole.values())
        assert whole["eval_nll"] == pytest.approx(trainer.evaluate(without_it())["eval_nll"], rel=1e-6)


@pytest.mark.parametrize("attack", [KD(), DKD(), DIST(), LabelSmoothing()], ids=lambda attack: type(attack).__name__)
class TestAttack:
    def test_the_step_leaves_the_student_as_it_was(self, attack, tmp_path):
        """Catches 0 / 0 in the attack's loss."""
        full = tiny.distillation_trainer(tiny.token_bert(), without_it(), tmp_path, attack, teacher(), **SEQUENTIAL)
        interrupted = tiny.distillation_trainer(
            tiny.token_bert(), with_an_empty_batch(), tmp_path, attack, teacher(), **SEQUENTIAL
        )
        full.train()
        interrupted.train()
        assert losses(interrupted)[1] == 0.0
        assert_logs_are_numbers(interrupted)
        assert_same_tensors(tiny.weights(interrupted.model), tiny.weights(full.model))

    def test_a_pooled_student_does_not_diverge(self, attack, tmp_path):
        """Catches an audit that counts such a student as guessing."""
        empty = with_an_empty_batch()[4]
        data = [*tiny.sentences(2), *[empty] * 10]  # of three batches, two at most have a valid label
        data[:2] = [row | {"labels": row["input_ids"] % tiny.NUM_LABELS} for row in data[:2]]
        settings = tiny.settings(tmp_path, per_device_train_batch_size=4)
        pool = StudentPool(tiny.token_bert, DistillationConfig(**settings), data)
        (result,) = pool.run([PooledArm("arm", Composition(attack), teacher())], 0, without_it())
        assert not result.has_diverged
        assert result.steps == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hardening", "attack"])
def test_one_empty_process_of_two(kind: str, tmp_path):
    """Catches a process that waits for ever or spoils the other's gradient, where its own batch has no valid label."""
    rows = with_an_empty_batch()[:8]
    (tmp_path / "two").mkdir()
    torch.save(rows, tmp_path / "two" / "rows.pt")
    result = on_two_processes(JOB, tmp_path / "two", SEQUENTIAL | {"kind": kind})
    changes = SEQUENTIAL | {"per_device_train_batch_size": 8}
    if kind == "hardening":
        alone = tiny.cmim_trainer(tiny.token_bert(), rows, tmp_path, **changes)
    else:
        alone = tiny.distillation_trainer(tiny.token_bert(), rows, tmp_path, KD(), teacher(), **changes)
    alone.train()
    assert result["steps"] == alone.state.global_step == 1
    torch.testing.assert_close(result["weights"], tiny.weights(alone.model), rtol=1e-5, atol=1e-6)
