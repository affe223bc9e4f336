"""Time a step of the centroid bank, and measure its memory and its part of a checkpoint.

    python benchmarks/bank.py
    python benchmarks/bank.py --shapes 64x21841 --temperatures 4 --rounds 10

A step adds a batch and moves the centroids of the classes in it. Every round times it beside the whole table moved, as
one would write it (`lerp_` of all centroids towards the batch's means, then all logarithms); only the ratio inside a
round counts. Memory: the tables, and the most that a step holds beside them. Checkpoint: what the bank adds to one.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from loss import peak_bytes
from torch import Tensor
from tqdm.auto import tqdm

from hf_cmim import CentroidBank, ObjectiveSpec
from hf_cmim.hardening.bank import FLOOR
from hf_cmim.hardening.parts import Parts
from hf_cmim.trainers.hardening.hardening_state import STATE_NAME, HardeningState

SHAPES = ("64x10", "64x100", "256x100", "64x1000", "1024x1000", "64x4096")


def move_the_whole(bank: CentroidBank, logits: Tensor, labels: Tensor) -> None:
    """The update in full tables."""
    counts = torch.bincount(labels, minlength=bank.num_classes).clamp_min(1).unsqueeze(1)
    for level, temperature in enumerate(bank.temperatures):
        sums = torch.zeros_like(bank.probs[level]).index_add_(0, labels, (logits / temperature).softmax(dim=-1))
        present = (sums.sum(dim=1) > 0).unsqueeze(1)
        bank.probs[level].lerp_(sums / counts, 0.01 * present)
    torch.log(bank.probs.clamp_min(FLOOR), out=bank.log_probs)


def measure(shape: str, options: argparse.Namespace) -> dict[str, object]:
    """Print and return the row of one shape."""
    samples, classes = map(int, shape.split("x"))
    spec = ObjectiveSpec(options.form, tuple(2.0**n for n in range(options.temperatures)))
    state = HardeningState(classes, spec, torch.device(options.device))
    bank, generator = state.bank, torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(samples, classes, generator=generator)).to(options.device)
    wait = torch.cuda.synchronize if options.device == "cuda" else (lambda: None)

    sums = torch.tensor([0.1, 9.0 * samples, samples], device=options.device)
    nothing = torch.zeros(options.temperatures, device=options.device)

    def step(labels: Tensor) -> None:
        bank.accumulate(logits, labels, Parts(sums[0], sums[0], nothing, sums, None, None, labels, labels))
        bank.step()

    seconds = []
    for number in tqdm(range(-3, options.rounds), leave=False):
        labels = torch.randint(0, classes, (samples,), generator=generator).to(options.device)
        row = []
        for way in (step, lambda labels: move_the_whole(bank, logits, labels)):
            wait()
            started = time.perf_counter()
            way(labels)
            wait()
            row.append(time.perf_counter() - started)
        if number >= 0:
            seconds.append(row)
    ours, whole = np.array(seconds).T
    quarters, ratio = np.quantile(ours, (0.5, 0.25, 0.75)) * 1e3, np.quantile(whole / ours, (0.5, 0.25, 0.75))
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder))
        saved = (Path(folder) / STATE_NAME).stat().st_size
    tables = bank.probs.nbytes + bank.log_probs.nbytes
    extra = peak_bytes(lambda: step(labels), options.device)
    tqdm.write(
        f"| {shape} | {quarters[0]:.2f} [{quarters[1]:.2f}, {quarters[2]:.2f}]"
        f" | {ratio[0]:.1f} [{ratio[1]:.1f}, {ratio[2]:.1f}]"
        f" | {tables / 2**20:.2f} | {extra / 2**20:.2f} | {saved / 2**20:.2f} |"
    )
    return {"shape": shape, "seconds": seconds, "tables": tables, "beside": extra, "saved": saved}


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="samples x classes")
    parser.add_argument("--temperatures", type=int, default=5)
    parser.add_argument("--form", choices=["scaled", "share", "plain"], default="scaled")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write the rows there, too; seconds and bytes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| B x C | ms a step, median [quartiles] | over the whole table | tables, MiB | beside them | saved |")
    print("|---|---|---|---|---|---|")
    rows = [measure(shape, options) for shape in options.shapes]
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()} CPU"
    print(
        f"\n{options.temperatures} temperatures, n = {options.rounds} rounds; {device}, {options.threads} threads,"
        f" torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"device": device, "rows": rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
