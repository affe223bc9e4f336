"""Measure everything that needs a GPU, in one command of at most eight minutes.

    make gpu-report
    python benchmarks/gpu_report.py                # the same, in an environment that is there already
    python benchmarks/gpu_report.py --device cpu   # the same parts on small sizes, to test this script

Neither a network nor `datasets` or `evaluate` is needed. Each part is a process of its own with a time limit of its
own, the most important first: a part that fails or runs out of time is reported, and the rest still runs. Results are
written as they come, to gpu_report.json (every part with its output) and gpu_report.md, in --output_dir.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).parents[1]
SHOWN_LINES = 40
"""Last lines of a part's output that the Markdown report shows; the JSON report holds all."""


@dataclass(frozen=True)
class Part:
    """One measurement.

    Attributes:
        name: heading in the report.
        goal: the figure that is asked for, or "".
        words: the command line after the interpreter.
        limit: seconds after which the part is ended.
        variables: environment variables beside those of this process.
    """

    name: str
    goal: str
    words: tuple[str, ...]
    limit: int
    variables: tuple[tuple[str, str], ...] = ()


def gpu_parts() -> list[Part]:
    """Return the parts for a GPU; their limits add up to eight minutes."""
    vit = (
        "--hidden_size=768", "--layers=12", "--heads=12", "--mlp_ratio=4", "--image_size=224", "--patch_size=16",
        "--num_labels=1000", "--batch_size=128", "--bf16", "--pairs=40", "--warmup=5",
    )  # fmt: skip
    students = ("--students=16", "--rounds=3", "--epochs=1")
    return [
        Part("Tests that need a GPU", "all pass", ("-m", "pytest", "-q", "-m", "gpu", "tests"), 80),
        Part("A step of ViT-B/16, bf16", "1.02 times Trainer's", ("benchmarks/step.py", *vit), 75),
        Part("The objective", "cross-entropy + 0.10 ms", ("benchmarks/loss.py", "--rounds", "30"), 60),
        Part("16 students, CUDA graphs", "8 times the documented Trainer", ("benchmarks/audit.py", *students), 75),
        Part("16 students without CUDA graphs", "", ("benchmarks/audit.py", *students), 75,
             (("HF_CMIM_CUDA_GRAPHS", "0"),)),
        Part("bf16 on the GPU beside fp32 on the CPU", "loss curves agree", ("benchmarks/precision_twin.py",), 50),
        Part("The objective as classes grow", "", ("benchmarks/loss.py", "--sweep", "classes", "--rounds", "10"), 35),
        Part("The bank at 21,841 classes", "",
             ("benchmarks/bank.py", "--shapes", "256x21841", "--temperatures", "4", "--rounds", "10"), 30),
    ]  # fmt: skip


def cpu_parts() -> list[Part]:
    """Return the same parts on sizes that a CPU takes in seconds."""
    students = ("--students=2", "--rounds=1", "--epochs=1")
    graphs = ("-m", "pytest", "-q", "-m", "not slow and not gpu", "tests/audit/test_graphs.py", "-k", "left_out")
    return [
        Part("Tests that need a GPU", "all pass", graphs, 120),
        Part("A step of ViT-B/16, bf16", "", ("benchmarks/step.py", "--bf16", "--pairs", "10", "--warmup", "1"), 120),
        Part("The objective", "", ("benchmarks/loss.py", "--shapes", "64x10", "--rounds", "3"), 120),
        Part("16 students, CUDA graphs", "", ("benchmarks/audit.py", *students), 180),
        Part("16 students without CUDA graphs", "", ("benchmarks/audit.py", *students), 180,
             (("HF_CMIM_CUDA_GRAPHS", "0"),)),
        Part("bf16 beside fp32", "loss curves agree", ("benchmarks/precision_twin.py", "--steps", "40"), 180),
        Part("The objective as classes grow", "", ("benchmarks/loss.py", "--shapes", "64x1000", "--rounds", "2"), 120),
        Part("The bank", "", ("benchmarks/bank.py", "--shapes", "64x100", "--rounds", "3"), 120),
    ]  # fmt: skip


def run(part: Part) -> dict[str, Any]:
    """Run one part in a process group of its own, and return what came of it."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **dict(part.variables), "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *part.words], cwd=ROOT, env=environment, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=part.limit)
        result = "done" if process.returncode == 0 else f"failed with exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # workers of the part included
        output, _ = process.communicate()
        result = f"ended after its limit of {part.limit} s"
    return {**asdict(part), "result": result, "seconds": time.perf_counter() - started, "output": output}


def write(folder: Path, facts: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Write both reports anew."""
    (folder / "gpu_report.json").write_text(json.dumps({**facts, "parts": results}, indent=1), encoding="utf-8")
    about = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = ["# GPU report", "", about, ""]
    for each in results:
        goal = f" Goal: {each['goal']}." if each["goal"] else ""
        lines += [f"## {each['name']}", "", f"{each['result']}, {each['seconds']:.0f} s.{goal}", ""]
        lines += ["```", f"python {' '.join(each['words'])}", *_last_lines(each["output"]), "```", ""]
    (folder / "gpu_report.md").write_text("\n".join(lines), encoding="utf-8")


def _last_lines(output: str) -> list[str]:
    """Return the end of an output; of a progress bar only what it showed last."""
    lines = [line.rpartition("\r")[2].rstrip() for line in output.splitlines()]
    return [line for line in lines if line and "it/s]" not in line and "s/it]" not in line][-SHOWN_LINES:]


def main() -> int:
    """Run all parts, and return 0 if each was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--output_dir", type=Path, default=Path(os.environ.get("OUT") or "outputs/gpu_report"))
    parser.add_argument("--only", type=int, nargs="+", help="numbers of the parts to run, from 1")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("This machine has no GPU that torch can use. Try the script itself with --device cpu.", file=sys.stderr)
        return 2
    parts = gpu_parts() if options.device == "cuda" else cpu_parts()
    parts = [parts[number - 1] for number in options.only or range(1, len(parts) + 1)]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()} CPU"
    facts = {"device": device, "python": platform.python_version(), "torch": torch.__version__,
             "transformers": transformers.__version__, "date": time.strftime("%Y-%m-%d")}  # fmt: skip
    results: list[dict[str, Any]] = []
    for number, part in enumerate(parts, start=1):
        print(f"[{number}/{len(parts)}] {part.name}, at most {part.limit} s ...", flush=True)
        results.append(run(part))
        print(f"    {results[-1]['result']}, {results[-1]['seconds']:.0f} s", flush=True)
        write(options.output_dir, facts, results)
    print(f"The report is in {options.output_dir / 'gpu_report.md'}.")
    return int(any(each["result"] != "done" for each in results))


if __name__ == "__main__":
    sys.exit(main())
