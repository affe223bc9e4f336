"""Time the objective alone: cross-entropy plus the CMI of all temperatures, forward and backward.

    python benchmarks/loss.py
    python benchmarks/loss.py --shapes 256x100 64x1000 --threads 2 --rounds 200 --json loss.json
    python benchmarks/loss.py --sweep temperatures
    python benchmarks/loss.py --sweep classes

Every round times each way in random order, five calls in a row after one that does not count (--calls 1: one call on
the caches as the way before left them); the machine's speed drifts, so only ratios inside a round count. On a CPU with
one thread time is that of the process, so that other processes do not count.

Rows: cross-entropy alone; one temperature after the other ("eager loop"); all in one tensor ("eager batched", on
log-centroids), also of the forms "scaled" and "share"; ours, each form beside eager batched of the same form; with
--compile, `torch.compile` of eager batched, which takes seconds at first use. The floor is the time in which a large
copy, timed before, moves as many bytes as the logits, their gradient and each sample's centroid rows. Memory is the
peak beyond inputs, on CPU by torch's profiler.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm

from hf_cmim import CMIMLoss, ObjectiveSpec
from hf_cmim.hardening.forms.share import LabelInformation
from hf_cmim.hardening.kernels.problem import Scaling
from hf_cmim.hardening.parts import Snapshot

SHAPES = {
    "cpu": ["64x10", "256x100", "64x1000", "1024x1000"],
    "cuda": ["256x100", "1024x1000", "2048x4096", "512x8192"],
}
TEMPERATURES = tuple(2.0**power for power in range(-2, 6))
SWEEPS = {
    "temperatures": [("256x100", count) for count in (1, 2, 4, 8, 16, 32)],
    "classes": [(f"64x{classes}", 4) for classes in (10, 100, 1000, 4096, 21841)],
}


def eager_batched(logits: Tensor, labels: Tensor, centroids: Tensor, temperatures: tuple[float, ...]) -> Tensor:
    """The CMI term in one `(K, B, C)` tensor, as one would write it."""
    scale = torch.tensor(temperatures, device=logits.device).view(-1, 1, 1)
    log_probs = functional.log_softmax(logits / scale, dim=-1)
    divergences = (log_probs.exp() * (log_probs - centroids[:, labels])).sum(dim=-1).mean(dim=-1)
    return (scale.flatten().square().clamp_min(1) * divergences).mean()


def eager_loop(logits: Tensor, labels: Tensor, centroids: Tensor, temperatures: tuple[float, ...]) -> Tensor:
    """The same, one temperature after the other."""
    total = logits.new_zeros(())
    for level, temperature in enumerate(temperatures):
        log_probs = functional.log_softmax(logits / temperature, dim=-1)
        divergence = (log_probs.exp() * (log_probs - centroids[level, labels])).sum(dim=-1).mean()
        total = total + max(1.0, temperature**2) * divergence
    return total / len(temperatures)


def eager_scaled(
    logits: Tensor, labels: Tensor, centroids: Tensor, temperatures: tuple[float, ...], scaling: Scaling
) -> Tensor:
    """The CMI of logits brought to one scale, without the pull on it: eager batched and the correction."""
    spread = logits.var(dim=1, unbiased=False).sum()
    correction = 0.5 * scaling.outward / len(labels) * (spread - spread.detach())
    return eager_batched(logits * scaling.multiplier, labels, centroids, temperatures) - correction


def eager_share(
    logits: Tensor,
    labels: Tensor,
    centroids: Tensor,
    temperatures: tuple[float, ...],
    information: LabelInformation,
    terms: Tensor,
) -> Tensor:
    """The gradient of CMI / (I + CMI): eager batched with references beyond the centroids."""
    scale = torch.tensor(temperatures, device=logits.device).view(-1, 1, 1)
    log_probs = functional.log_softmax(logits / scale, dim=-1)
    ratios = (terms / information.information).view(-1, 1, 1)
    references = centroids[:, labels]
    references = references + ratios * (references - information.log_marginals.unsqueeze(1))
    divergences = (log_probs.exp() * (log_probs - references)).sum(dim=-1).mean(dim=-1)
    return (information.information / (information.information + terms).square() * divergences).mean()


def ways(
    shape: tuple[int, int], temperatures: tuple[float, ...], device: str, *, compiled: bool
) -> dict[str, Callable[[], None]]:
    """Each way to make the loss and its gradient, on the same inputs."""
    samples, classes = shape
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(samples, classes, generator=generator)).to(device).requires_grad_()
    labels = torch.randint(0, classes, (samples,), generator=generator).to(device)
    levels = len(temperatures)
    centroids = torch.empty(levels, classes, classes, device=device)
    for table in centroids:  # by level: the largest take gigabytes
        torch.log_softmax(table.normal_(), dim=-1, out=table)
    scaling = Scaling(torch.tensor(0.9, device=device), torch.tensor(0.1, device=device))
    log_marginals = torch.full((levels, classes), -math.log(classes), device=device)
    information = LabelInformation(log_marginals, torch.full((levels,), 0.5, device=device))
    states = {"plain": None, "scaled": scaling, "share": information}
    terms = torch.ones(levels, device=device)
    fast = torch.compile(eager_batched) if compiled else None

    def run(term: Callable[[], Tensor | float]) -> None:
        logits.grad = None
        (functional.cross_entropy(logits, labels) + term()).backward()

    def ours(form: str) -> Callable[[], None]:
        loss = CMIMLoss(ObjectiveSpec(form, temperatures)).to(device)
        snapshot = Snapshot(centroids, terms, states[form])
        return lambda: run(lambda: loss.concentration(logits, labels, snapshot, 1.0, samples).cmi)

    found = {
        "CE alone": lambda: run(lambda: 0.0),
        "eager loop": lambda: run(lambda: eager_loop(logits, labels, centroids, temperatures)),
        "eager batched": lambda: run(lambda: eager_batched(logits, labels, centroids, temperatures)),
        "eager batched, scaled": lambda: run(lambda: eager_scaled(logits, labels, centroids, temperatures, scaling)),
        "eager batched, share": lambda: run(
            lambda: eager_share(logits, labels, centroids, temperatures, information, terms)
        ),
        **{f"hf_cmim, {form}": ours(form) for form in states},
    }
    if fast is not None:
        found["torch.compile"] = lambda: run(lambda: fast(logits, labels, centroids, temperatures))
    return found


def seconds_of(calls: dict[str, Callable[[], None]], options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Seconds of a call of each way in each round."""
    wait = torch.cuda.synchronize if options.device == "cuda" else (lambda: None)
    clock = time.process_time if options.device == "cpu" and options.threads == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in calls}
    orders = np.random.default_rng(0)
    for number in tqdm(range(-5, options.rounds), leave=False):
        for name in orders.permutation(list(calls)):
            if options.calls > 1:
                calls[name]()
            wait()
            started = clock()
            for _ in range(options.calls):
                calls[name]()
            wait()
            if number >= 0:
                found[name].append((clock() - started) / options.calls)
    return {name: np.array(values) for name, values in found.items()}


def peak_bytes(call: Callable[[], None], device: str) -> int:
    """Most bytes that a call holds at once beyond what was there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]")
    return int(max(np.cumsum([0, *(size for _, size in changes)])))


def bytes_per_second(device: str) -> float:
    """What a copy of 256 MiB reads and writes, at its best of ten."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    source = torch.ones(2**26, device=device)
    target, best = torch.zeros_like(source), float("inf")
    for _ in range(10):
        wait()
        started = time.perf_counter()
        target.copy_(source)
        wait()
        best = min(best, time.perf_counter() - started)
    return 2 * source.nbytes / best


def measure(shape: str, levels: int, bandwidth: float, options: argparse.Namespace) -> list[dict[str, object]]:
    """Print and return the rows of one shape."""
    samples, classes = map(int, shape.split("x"))
    temperatures = TEMPERATURES if levels == len(TEMPERATURES) else tuple(2.0 ** (n / 4) for n in range(levels))
    calls = ways((samples, classes), temperatures, options.device, compiled=options.compile)
    seconds = seconds_of(calls, options)
    rows, floor = [], 4 * samples * classes * (2 + levels) / bandwidth
    for name, values in seconds.items():
        peer = f"eager batched, {name.rpartition(', ')[2]}"  # of the same form
        to_batched = seconds[peer if peer in seconds else "eager batched"] / values
        quarters = np.quantile(values, (0.25, 0.5, 0.75)) * 1e3
        row = {
            "shape": shape, "temperatures": levels, "way": name, "milliseconds": quarters[1],
            "quartiles": quarters[[0, 2]].tolist(), "to_ce": float(np.median(values / seconds["CE alone"])),
            "to_floor": float(np.median(values) / floor),
            "faster_than_batched": np.quantile(to_batched, (0.5, 0.25, 0.75)).tolist(),
            "peak_mib": peak_bytes(calls[name], options.device) / 2**20,
        }  # fmt: skip
        rows.append(row)
        faster, low, high = row["faster_than_batched"]
        over = f"{row['to_ce']:.2f} | {row['to_floor']:.1f}"
        tqdm.write(
            f"| {shape} | {levels} | {name} | {quarters[1]:.3f} [{quarters[0]:.3f}, {quarters[2]:.3f}]"
            f" | {over} | {faster:.2f} [{low:.2f}, {high:.2f}] | {row['peak_mib']:.2f} |"
        )
    return rows


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", help="samples x classes; by default what suits the device")
    parser.add_argument("--sweep", choices=list(SWEEPS), help="instead: cost against temperatures or classes")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=5, help="in a row; 1: on cold caches")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="add torch.compile; seconds at first use")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| B x C | K | way | ms, median [quartiles] | over CE | over floor | batched over it | peak, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    bandwidth = bytes_per_second(options.device)
    shapes = options.shapes or SHAPES[options.device]
    cases = SWEEPS[options.sweep] if options.sweep else [(shape, len(TEMPERATURES)) for shape in shapes]
    rows = [row for shape, levels in cases for row in measure(shape, levels, bandwidth, options)]
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()} CPU"
    about = f"n = {options.rounds} rounds of {options.calls}; {device}, {options.threads} threads,"
    about += f" copies {bandwidth / 1e9:.1f} GB/s, torch {torch.__version__},"
    print(f"\n{about} {time.strftime('%Y-%m-%d')}")
    if options.json is not None:
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
