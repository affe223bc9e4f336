"""A student of two real processes is the student of one."""

from pathlib import Path

import pytest
import tiny
import torch
from two_processes import on_two_processes

from hf_cmim import attacks
from hf_cmim.attacks.base import AbstractAttack

pytestmark = pytest.mark.slow
JOB = Path(__file__).with_name("distillation_job.py")


@pytest.mark.parametrize(("attack", "model", "data"), [
    ("KD()", "token_bert", "tagged_sentences"), ("CTKD(curriculum=0.0)", "vit", "images"),
    ("DKD(temperature=Relative(factor=1.0))", "vit", "images"), ("Composition(KD(), DOT())", "vit", "images"),
    ("Composition(DKD(), MarkovKD())", "vit", "images"), ("Skeptical()", "vit", "images"),
    ("Composition(KD(), Averager())", "bert", "sentences"),
])  # fmt: skip
def test_two_processes_equal_one(attack, model, data, tmp_path):
    """Catches gradients scaled by processes, an attack's own parameters that drift apart, and queries counted twice.

    48 samples divide evenly, so that both trainings see the same ones, while each rank has its own number of ignored
    labels; in evaluation the last batch is ragged, and Accelerate fills it with duplicates.
    """
    common = {"num_train_epochs": 2, "learning_rate": 0.02, "per_device_eval_batch_size": 11, "max_grad_norm": 1.0}
    build, samples = getattr(tiny, model), getattr(tiny, data)(48)
    composed = eval(attack, vars(attacks))
    alone = tiny.distillation_trainer(
        build(1), samples, tmp_path, composed, build(5).eval(), per_device_train_batch_size=16, **common
    )
    alone.train()
    metrics = alone.evaluate(samples)
    settings = common | {
        "attack": attack, "model": model, "data": data, "size": 48, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }  # fmt: skip
    both = on_two_processes(JOB, tmp_path / "both", settings)
    assert tiny.largest_difference(tiny.weights(alone.model), both["weights"]) < 5e-6
    for name, value in alone.attack.state_dict().items():
        assert torch.allclose(value, both["attack"][name], rtol=1e-5, atol=1e-6, equal_nan=True), name
    for name in ("eval_loss", "eval_accuracy", "eval_agreement", "eval_teacher_kl"):
        assert both["metrics"][name] == pytest.approx(metrics[name], rel=1e-3, abs=1e-6), name
    assert torch.equal(both["correctness"], alone.correctness)
    assert both["queries"]["paid"] == alone.query_report()["queries"]["paid"]


def test_every_per_sample_loss_on_two_processes(tmp_path):
    """Catches a loss that divides by this process's own number of samples; one launch trains all students."""
    kinds = [kind for kind in attacks.ATTACKS.values() if issubclass(kind, AbstractAttack) and not kind.batch_level]
    names = [f"{kind.__name__}()" for kind in kinds]
    common = {"num_train_epochs": 1, "learning_rate": 0.02}
    settings = common | {
        "attack": names, "model": "vit", "data": "images", "size": 32, "per_device_train_batch_size": 8,
    }  # fmt: skip
    both = on_two_processes(JOB, tmp_path / "both", settings)["students"]
    assert list(both) == names
    for kind, name in zip(kinds, names, strict=True):
        alone = tiny.distillation_trainer(
            tiny.vit(1),
            tiny.images(32),
            tmp_path,
            kind(),
            tiny.vit(5).eval(),
            per_device_train_batch_size=16,
            **common,
        )
        alone.train()
        assert tiny.largest_difference(tiny.weights(alone.model), both[name]) < 2e-5, name
