"""Two real processes give what one gives."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from two_processes import on_two_processes, torchrun

pytestmark = pytest.mark.slow
JOB = Path(__file__).with_name("distributed_job.py")


@pytest.mark.parametrize(("model", "data"), [
    ("vit", "images"), ("bert", "sentences"), ("token_bert", "tagged_sentences"),
])  # fmt: skip
def test_two_processes_equal_one(model: str, data: str, tmp_path):
    """Catches gradients or losses scaled by processes, a bank of one rank's samples, and padded duplicates counted.

    In training 48 samples divide evenly, so that both trainings see the same ones, while each rank has its own number
    of ignored labels; in evaluation the last batch is ragged, and Accelerate fills it with duplicates.
    """
    common = {
        "cmi_weight": 2.0, "num_train_epochs": 3, "learning_rate": 0.02,
        "centroid_window": 30.0, "per_device_eval_batch_size": 11,
    }  # fmt: skip
    size = 48
    alone = tiny.cmim_trainer(
        getattr(tiny, model)(), getattr(tiny, data)(size), tmp_path, per_device_train_batch_size=16, **common
    )
    alone.train()
    metrics = alone.evaluate(getattr(tiny, data)(size))
    for batch, accumulation in ((8, 1), (4, 2)):
        settings = common | {
            "model": model, "data": data, "size": size, "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
        }  # fmt: skip
        both = on_two_processes(JOB, tmp_path / str(batch), settings)
        assert tiny.largest_difference(tiny.weights(alone.model), both["weights"]) < 5e-6
        ours, theirs = dict(alone.bank.state_dict()), dict(both["bank"])
        # Over a spread of 3e-4, a divergence of 1e-5 that is rounded at 1e-7.
        outward = theirs.pop("form.outward"), ours.pop("form.outward")
        torch.testing.assert_close(*outward, rtol=0.02, atol=1e-6)
        assert tiny.largest_difference(ours, theirs) < 5e-6
        for ours, theirs in zip([e for e in alone.state.log_history if "loss" in e], both["logs"], strict=True):
            for name in ("loss", "ce", "cmi", "cmi_T4"):
                # A divergence is rounded at about 1e-7, which T^2 = 256 raises to 3e-5.
                assert theirs[name] == pytest.approx(ours[name], rel=1e-4, abs=3e-5), name
        for name in ("eval_loss", "eval_accuracy", "eval_cmi", "eval_cmi_sup", "eval_ncmi", "eval_nll", "eval_ece"):
            # A model this young has logits near 0: cold temperatures blow roundings of the weights up.
            assert both["metrics"][name] == pytest.approx(metrics[name], rel=2e-3, abs=1e-6), name


def test_resume_on_two_processes_is_exact(tmp_path):
    """Catches a bank restored on one rank alone, or a marker written before every rank has saved."""
    settings = {
        "model": "vit", "data": "images", "size": 64, "optim": "adamw_torch", "learning_rate": 3e-3,
        "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3,
    }  # fmt: skip
    straight = on_two_processes(JOB, tmp_path / "straight", settings)
    checkpoint = tmp_path / "straight" / "checkpoint-6"
    marked = json.loads((checkpoint / "checkpoint_complete.json").read_text())
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(marked["files"])
    resumed = on_two_processes(JOB, tmp_path / "resumed", settings | {"resume": str(checkpoint)})
    assert tiny.largest_difference(straight["weights"], resumed["weights"]) == 0
    assert tiny.largest_difference(straight["bank"], resumed["bank"]) == 0


def test_two_workers_that_do_not_work_together_are_refused(tmp_path):
    """Catches two trainings that write the same folder because use_cpu was forgotten."""
    done = torchrun(JOB, tmp_path, {"model": "vit", "data": "images", "size": 32, "use_cpu": False})
    assert done.returncode != 0
    assert "Expected 2 processes working together (WORLD_SIZE), got 1" in done.stderr
