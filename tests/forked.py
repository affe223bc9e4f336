"""Jobs in processes forked from this one, which spares each some ten seconds of importing."""

import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, GradientState
from hanging import HANGING
from tqdm.auto import tqdm

fork = multiprocessing.get_context("fork")


def start(job: Callable[..., None], *args: Any, output: Path | None = None, **environment: str) -> BaseProcess:
    """Start a job in a process of its own, as if nothing had run in it before.

    Args:
        job: function to call.
        args: its arguments.
        output: file that what it prints goes to; None for where this process prints.
        environment: changes of the environment.
    """
    process = fork.Process(target=_run, args=(job, args, output, environment))
    process.start()
    return process


def ended(*processes: BaseProcess) -> list[int]:
    """Return how the processes ended; where one fails, the others, which may wait for it, are killed."""
    hangs_at = time.monotonic() + HANGING
    while running := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in running], timeout=max(hangs_at - time.monotonic(), 0))
        hangs = time.monotonic() > hangs_at
        if hangs or any(process.exitcode for process in processes):
            for process in running:
                process.kill()
        for process in running:
            process.join(0)
        assert not hangs, f"{len(running)} of {len(processes)} processes hang"
    return [process.exitcode for process in processes]


def _run(job: Callable[..., None], args: tuple[Any, ...], output: Path | None, environment: dict[str, str]) -> None:
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
    os.environ.update(environment)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    # A lock of bars that is this process's own. Forked processes share tqdm's: one that is killed inside a bar keeps
    # it, and all later bars would wait for it.
    tqdm.set_lock(threading.RLock())
    warnings.resetwarnings()  # pytest makes errors of them
    job(*args)
