"""The flag --processes: an audit whose students are trained on the CPU by several processes of one thread each."""

import gc
import json
import logging
import os
import sys
import tempfile
import uuid
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from hf_cmim.cli.flags import words_of
from hf_cmim.errors import HfCmimError

if TYPE_CHECKING:
    import torch
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from hf_cmim.cli.audit_flags import AuditFlags

STARTED = "HF_CMIM_STARTED"
"""Name of the environment variable that tells a process that another command has started it."""


def wants_processes(count: int | None) -> bool:
    """Return True if the flag asks for more than this process.

    Args:
        count: value of the flag.

    Raises:
        HfCmimError: a number below 1, or more processes inside each process of a launcher.
    """
    if count is not None and count < 1:
        raise HfCmimError(f"Expected --processes of at least 1, got {count}: nobody would train a student.")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if count is not None and count > 1 and launched > 1:
        raise HfCmimError(
            f"A launcher has started {launched} processes, and each would start {count} more (--processes). Start the"
            " command without a launcher, or remove --processes."
        )
    return count is not None and count > 1


def suggested_processes(count: int, device: "torch.device") -> list[str]:
    """Return a line about the flag for an audit by one process on the CPU of a machine with several cores.

    Args:
        count: number of processes of the audit.
        device: device that students are trained on.
    """
    cores = psutil.cpu_count(logical=False) or 1
    if count > 1 or cores < 2 or device.type != "cpu":
        return []
    return [f"This machine has {cores} cores: --processes {cores} shares the students among them."]


def audit_in_processes(flags: "AuditFlags", *, prints: bool) -> None:
    """Run `hf-cmim audit` in `flags.processes` processes on the CPU and wait for its end.

    Args:
        flags: flags of the audit.
        prints: False if only progress and errors are shown.

    Raises:
        HfCmimError: an audit that was refused, or a process that failed.
        KeyboardInterrupt: the user or the system has stopped the audit.
    """
    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    assert flags.processes is not None  # wants_processes has been asked
    # Its messages tell about workers and rendezvous, and ours say what happened.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    training = [*(flags.training or ()), ("use_cpu", "true")]
    words = words_of(replace(flags, processes=None, training=training))
    others = dict.fromkeys(range(1, flags.processes), Std.ALL)
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=flags.processes, max_restarts=0, run_id=uuid.uuid4().hex,
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost",
            # The first process speaks for all.
            logs_specs=DefaultLogsSpecs(logs, redirects=others if prints else {0: Std.OUT, **others}),
        )  # fmt: skip
        try:
            with warnings.catch_warnings(), patch_environment(omp_num_threads=1, **{STARTED: 1}):
                # The launcher leaves open files to the collector. More threads than one would fight for the cores.
                warnings.simplefilter("ignore", ResourceWarning)
                elastic_launch(config, sys.executable)("-u", "-m", "hf_cmim.cli.main", "audit", *words)
                gc.collect()
        except ChildFailedError as error:
            raise _explained(*error.get_first_failure(), flags.processes, Path(logs)) from error
        except SignalException as signal:
            raise KeyboardInterrupt from signal


def hand_over(error: HfCmimError) -> bool:
    """Hand an error to the command that has started this process, which tells it once; False if there is none."""
    if STARTED not in os.environ:
        return False
    # The format of torch's elastic launcher, which reads it.
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": str(error)}), encoding="utf-8")
    return True


def _explained(rank: int, failure: "ProcessFailure", count: int, logs: Path) -> HfCmimError:
    """Return the error of this process for the failure of another."""
    if Path(failure.error_file).is_file():
        return HfCmimError(str(failure.message))
    last_words = "see above"
    if rank > 0:
        (path,) = logs.glob(f"*/attempt_0/{rank}/stderr.log")
        last_words = path.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        last_words = last_words or "it said nothing"
    return HfCmimError(
        f"Process {rank} of {count} ended with exit status {failure.exitcode}: {last_words}. The students that were"
        " finished are kept, and the same command continues. Exit status -9 mostly means that memory was short, for"
        " which fewer --processes help."
    )
