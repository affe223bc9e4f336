"""The flag --processes: an audit whose students are trained on the CPU by several processes of one thread each."""

import logging
import os
import sys
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cmim.cli.flags import words_of
from hf_cmim.errors import HfCmimError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from hf_cmim.cli.audit_flags import AuditFlags

REFUSED = 2
"""Exit status of a command that has said why it cannot do what was asked."""


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


def audit_in_processes(flags: "AuditFlags", *, prints: bool) -> None:
    """Run `hf-cmim audit` in `flags.processes` processes on the CPU and wait for its end.

    Args:
        flags: flags of the audit.
        prints: False if only progress and errors are shown.

    Raises:
        HfCmimError: a process that failed.
        SystemExit: the audit was refused, and the first process has said why.
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
            # The first process speaks for all, because errors of the user reach every process.
            logs_specs=DefaultLogsSpecs(logs, redirects=others if prints else {0: Std.OUT, **others}),
        )  # fmt: skip
        try:
            with patch_environment(omp_num_threads=1):  # more would fight for the processors
                elastic_launch(config, sys.executable)("-u", "-m", "hf_cmim.cli.main", "audit", *words)
        except ChildFailedError as error:
            raise _explained(*error.get_first_failure(), flags.processes, Path(logs)) from error
        except SignalException as signal:
            raise KeyboardInterrupt from signal


def _explained(rank: int, failure: "ProcessFailure", count: int, logs: Path) -> BaseException:
    """Return the error of this process for the failure of another."""
    if rank == 0:
        if failure.exitcode == REFUSED:
            return SystemExit(REFUSED)  # it has said why
        last_words = "see above"
    else:
        (path,) = logs.glob(f"*/attempt_0/{rank}/stderr.log")
        last_words = path.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
        last_words = last_words or "it said nothing"
    return HfCmimError(
        f"Process {rank} of {count} ended with exit status {failure.exitcode}: {last_words}. The students that were"
        " finished are kept, and the same command continues. Exit status -9 mostly means that memory was short, for"
        " which fewer --processes help."
    )
