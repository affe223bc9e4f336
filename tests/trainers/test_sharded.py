"""Weights that FSDP2 shards over two processes are trained as whole ones are."""

from pathlib import Path

import pytest
import torch
from two_processes import on_two_processes

JOB = Path(__file__).with_name("sharded_job.py")
SHARDED = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["ViTLayer"]}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hardening", "distilling"])
def test_sharded_weights_are_trained_as_whole_ones(kind, tmp_path):
    """Catches logits, centroids or gradients of one shard taken for those of the model."""
    changes = {"kind": kind, "per_device_train_batch_size": 4, "learning_rate": 0.05}
    whole = on_two_processes(JOB, tmp_path / "whole", changes)
    sharded = on_two_processes(JOB, tmp_path / "sharded", changes | SHARDED)
    assert whole["kinds"] == {"Parameter"}
    assert sharded["kinds"] == {"DTensor"}
    torch.testing.assert_close(sharded["weights"], whole["weights"], rtol=1e-5, atol=1e-6)
    for name in ("eval_loss", "eval_accuracy"):
        assert sharded["metrics"][name] == pytest.approx(whole["metrics"][name], rel=1e-5)
