"""Launches that ask for several processes and get one are refused."""

import os
import subprocess
import sys

import pytest
import tiny
import yaml
from hanging import HANGING
from transformers import Trainer

from hf_cmim import HfCmimError, check_launch
from hf_cmim.attacks import CrossEntropy

SCRIPT = "from hf_cmim import check_launch\ncheck_launch(1)\nprint('went on with one process')\n"


def test_one_process_is_fine(monkeypatch):
    """Catches a check that refuses ordinary runs."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    check_launch(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launch(2)


def test_workers_that_do_not_work_together(monkeypatch):
    """Catches two trainings in one folder: a launcher started two workers, and each thinks it is alone."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"Expected 2 processes .*got 1.*--use_cpu"):
        check_launch(1)


@pytest.mark.parametrize(
    "build",
    [
        lambda folder: tiny.cmim_trainer(tiny.vit(), tiny.images(8), folder),
        lambda folder: tiny.distillation_trainer(tiny.vit(), tiny.images(8), folder, CrossEntropy(), None),
    ],
)
def test_deepspeed_is_refused_before_training(build, tmp_path, monkeypatch):
    """Catches gradients that an engine nobody tested scales in its own way."""
    create = Trainer.create_accelerator_and_postprocess

    def create_with_deepspeed(trainer):
        create(trainer)
        trainer.is_deepspeed_enabled = True  # DeepSpeed itself is not installed here

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", create_with_deepspeed)
    with pytest.raises(HfCmimError, match="never been tested with it"):
        build(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["flag", "flag with =", "config file", "module", "default config"])
def test_accelerate_that_starts_one_process_on_cpu(way: str, tmp_path):
    """Catches the silent case: accelerate launch --cpu --num_processes 2 trains on one process."""
    (tmp_path / "script.py").write_text(SCRIPT)
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "compute_environment": "LOCAL_MACHINE",
                "distributed_type": "MULTI_CPU",
                "num_processes": 2,
                "num_machines": 1,
                "machine_rank": 0,
                "use_cpu": True,
                "mixed_precision": "no",
            }
        )
    )
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    options = {
        "flag": ["--cpu", "--num_processes", "2"],
        "flag with =": ["--cpu", "--num_processes=2"],
        "config file": ["--config_file", str(config)],
        "module": ["--cpu", "--num_processes", "2"],
        "default config": [],
    }[way]
    if way == "module":
        launch = [sys.executable, "-m", "accelerate.commands.launch"]
    if way == "default config":
        (tmp_path / "accelerate").mkdir()
        config.rename(tmp_path / "accelerate" / "default_config.yaml")
    done = subprocess.run(
        [*launch, *options, str(tmp_path / "script.py")],
        capture_output=True, text=True, timeout=HANGING, env=os.environ | {"HF_HOME": str(tmp_path)}, check=False,
    )  # fmt: skip
    assert "went on" not in done.stdout
    assert "Expected 2 processes, as requested from accelerate launch, got 1" in done.stderr, done.stderr[-2000:]
    assert "torchrun --nproc_per_node" in done.stderr
