"""Run a job on two real processes that work together."""

import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forked import ended, start
from hanging import HANGING


def torchrun(job: Path, folder: Path, settings: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run a job as a user starts it."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "localhost:0", str(job), str(folder), json.dumps(settings),
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGING, env=environment, check=False)


def together(folder: Path, job: Callable[..., None], *args: Any) -> list[str]:
    """Return what a job printed in each of two processes, forked in the environment that `torchrun` gives."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("localhost", 0)) as free:
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
        common["MASTER_PORT"] = str(free.getsockname()[1])
    outputs = [folder / f"rank-{rank}.txt" for rank in range(2)]
    ranks = [
        start(job, *args, output=output, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank, output in enumerate(outputs)
    ]
    exit_codes = ended(*ranks)
    said = [output.read_text() for output in outputs]
    assert exit_codes == [0, 0], "\n".join(text[-3000:] for text in said)
    return said


def on_two_processes(job: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the script wrote to FOLDER/result.pt, having made sure that two processes wrote it."""
    together(folder, _run_script, job, folder, json.dumps(settings))
    result = torch.load(folder / "result.pt", weights_only=False)
    assert result["world_size"] == 2
    return result


def _run_script(script: Path, *words: Any) -> None:
    sys.argv = [str(script), *map(str, words)]
    runpy.run_path(str(script), run_name="__main__")
