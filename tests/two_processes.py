"""Run a job on two real processes that work together."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from hanging import HANGING


def torchrun(job: Path, folder: Path, settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "localhost:0", str(job), str(folder), json.dumps(settings),
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGING, env=environment, check=False)


def on_two_processes(job: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the job wrote to FOLDER/result.pt, having made sure that two processes wrote it."""
    done = torchrun(job, folder, settings)
    assert done.returncode == 0, done.stderr[-3000:]
    result = torch.load(folder / "result.pt", weights_only=False)
    assert result["world_size"] == 2
    return result
