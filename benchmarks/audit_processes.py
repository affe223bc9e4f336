"""Time the same audit on one process and on several: what dividing its students among processes gains.

    python benchmarks/audit_processes.py                              # 1 and 2 processes with one thread each
    python benchmarks/audit_processes.py --processes 1 2 4 8          # on a larger machine
    python benchmarks/audit_processes.py --families kd dist --seeds 5 # another amount of work

Each round runs the whole audit once for each number of processes, in an order that changes, in a fresh folder: small
ViT students, digits, a ViT that answers live. Timed is `Audit.run` on the main process, from the examination of the
teacher to the report; starting Python is not. The machine's speed drifts, so only ratios inside a round count.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import PartialState
from audit import digits, vit
from scipy import stats
from tqdm.auto import tqdm
from transformers import set_seed

from hf_cmim import Audit, AuditData, AuditModels, AuditPlan, DistillationConfig
from hf_cmim.attacks.suites import STANDARD_V2, Suite

FAMILIES = ("kd", "dkd", "dist", "nkd")
TRANSFER, VALIDATION, TEST = slice(0, 640), slice(640, 960), slice(960, 1280)
RESULT = "seconds.json"


def audit(folder: Path, options: argparse.Namespace) -> None:
    """Run the audit as one of the processes; the main one writes down how long it took."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    set_seed(0)
    teacher = vit(96, 4).eval()
    samples = digits()
    args = DistillationConfig(
        str(folder), num_train_epochs=options.epochs, per_device_train_batch_size=64, report_to="none",
        use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
    )  # fmt: skip
    entries = tuple(entry for entry in STANDARD_V2.entries if entry.family in options.families)
    plan = AuditPlan(
        suite=Suite("benchmark", entries), looks=(options.seeds,), screening_seeds=2, reference_multiple=1,
        references=1, null_families=1, diagnosed=0,
    )  # fmt: skip
    started = time.perf_counter()
    data = AuditData(samples[TRANSFER], samples[VALIDATION], samples[TEST])
    report = Audit(AuditModels(teacher, lambda: vit(32, 2)), data, args, plan).run()
    if PartialState().is_main_process:
        took = {"seconds": time.perf_counter() - started, "students": report.costs.students}
        (folder / RESULT).write_text(json.dumps(took))


def measured(processes: int, arguments: list[str]) -> tuple[float, int]:
    """Return seconds and students of an audit on so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes),
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", __file__, "--folder", folder, *arguments,
        ]  # fmt: skip
        done = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        took = json.loads((Path(folder) / RESULT).read_text())
    return took["seconds"], took["students"]


def main() -> None:
    """Print how many times faster each number of processes is than the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="the first is what others beat")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=STANDARD_V2.families, metavar="NAME",
                        help="attacks of standard-v2")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="of each confirmed attack")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set in the processes themselves
    options = parser.parse_args()
    if options.folder is not None:
        return audit(options.folder, options)
    counts, rounds = options.processes, []
    for number in tqdm(range(options.rounds), desc="rounds"):
        order = counts[number % len(counts) :] + counts[: number % len(counts)]
        taken = {count: measured(count, sys.argv[1:]) for count in order}
        rounds.append([taken[count][0] for count in counts])
        students = taken[counts[0]][1]
    seconds = np.array(rounds)
    for column, count in enumerate(counts):
        ratios = seconds[:, 0] / seconds[:, column]
        interval = ""
        if column and len(ratios) > 2:
            found = stats.bootstrap((ratios,), np.median, rng=0).confidence_interval
            interval = f" [{found.low:.2f}, {found.high:.2f}]"
        rate = 60 * students / np.median(seconds[:, column])
        print(f"{count} processes over {counts[0]}: {np.median(ratios):.2f}x{interval}, n = {len(ratios)};"
              f" {students} students, {rate:.0f} a minute")  # fmt: skip
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, one thread each"
    )
    print(f"{vars(options)}\n{device}, {os.cpu_count()} cores, torch {torch.__version__}, transformers"
          f" {transformers.__version__}, {time.strftime('%Y-%m-%d')}")  # fmt: skip


if __name__ == "__main__":
    main()
