"""Measure what hardening does to membership inference: can the loss tell training samples from others?

    python evidence/membership.py

Perceptrons of cross-entropy, of label smoothing and of CMIM at its defaults, three paired seeds on the digits of
scikit-learn (1,078 training and 450 test images) and on 2,000 training and 4,000 test images of recipes/data. The
AUC is `hf_cmim.functional.membership_auc` of all training and test samples; the last epoch counts. Each finished model
is a line in evidence/membership and is not trained again.
"""

import argparse
import io
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardening import ARMS, Task, _images, digits
from PIL import Image
from pyarrow import parquet
from torch.nn import functional
from transformers import PreTrainedConfig, set_seed

from hf_cmim import CMIMConfig, CMIMTrainer
from hf_cmim.functional import membership_auc

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "membership"
NAMES = {"ce": "cross-entropy", "ls": "label smoothing .1", "cmim": "**CMIM, defaults**"}
SEEDS = (0, 1, 2)
SCHEDULE = {"num_train_epochs": 30, "learning_rate": 3e-3, "per_device_train_batch_size": 100}


class Perceptron(torch.nn.Module):
    """One hidden layer of 128 units over all pixels."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.config = PreTrainedConfig(num_labels=10)
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, 128), torch.nn.ReLU())
        self.head = torch.nn.Linear(128, 10)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return the logits; the trainer computes the loss."""
        return {"logits": self.head(self.body(pixel_values))}


def clothes() -> Task:
    """The slice of Fashion-MNIST in recipes/data: 2,000 training and 4,000 test images of 14x14."""

    def samples(split: str, size: int) -> list[dict[str, Any]]:
        rows = parquet.read_table(ROOT / "recipes" / "data" / f"{split}.parquet").slice(0, size)
        images = [Image.open(io.BytesIO(image["bytes"])).convert("L") for image in rows["image"].to_pylist()]
        return _images(np.stack([np.asarray(image) for image in images]) / 255, rows["label"].to_numpy())

    parts = (samples("train", 2_000), samples("validation", 500), samples("test", 4_000))
    return Task(*parts, lambda: Perceptron(196), SCHEDULE)


def written_digits() -> Task:
    """The digits of evidence/hardening.py, with a perceptron in place of its ViT."""
    return replace(digits(""), build_model=lambda: Perceptron(64), schedule={**SCHEDULE, "num_train_epochs": 40})


TASKS: dict[str, Callable[[], Task]] = {"digits": written_digits, "clothes": clothes}


def answers(trainer: CMIMTrainer, samples: list[dict[str, Any]]) -> tuple[torch.Tensor, float]:
    """Return the cross-entropy of each sample, and the accuracy."""
    model = trainer.model.eval()
    labels = torch.tensor([sample["labels"] for sample in samples])
    with torch.no_grad():
        parts = torch.stack([sample["pixel_values"] for sample in samples]).split(500)
        logits = torch.cat([model(pixel_values=part)["logits"] for part in parts])
    hits = (logits.argmax(dim=1) == labels).double().mean().item()
    return functional.cross_entropy(logits, labels, reduction="none"), hits


def run(task: Task, arm: str, seed: int) -> dict[str, Any]:
    """Train one model and return its figures."""
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        config = CMIMConfig(
            output_dir=folder, seed=seed, warmup_steps=0.1, weight_decay=0.01, per_device_eval_batch_size=500,
            save_strategy="no", logging_strategy="no", disable_tqdm=True, report_to="none", use_cpu=True,
            **(task.schedule | ARMS[arm]),
        )  # fmt: skip
        trainer = CMIMTrainer(task.build_model(), config, task.collator, task.train, task.validation)
        trainer.train()
        (trained, trained_hits), (other, other_hits) = (answers(trainer, part) for part in (task.train, task.test))
    auc, lower, upper = membership_auc(trained, other)
    figures = {"train_accuracy": trained_hits, "accuracy": other_hits, "train_nll": trained.mean().item()}
    figures |= {"nll": other.mean().item()}
    return {"arm": arm, "seed": seed, "auc": auc, "lower": lower, "upper": upper, **figures}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the mean of each arm, its models' AUCs with their intervals, and the differences to cross-entropy.

    Only seeds with all arms count.
    """
    whole = [seed for seed in SEEDS if {row["arm"] for row in rows if row["seed"] == seed} == set(NAMES)]
    rows = [row for row in rows if row["seed"] in whole]
    lines = [
        "| model | accuracy, % | training accuracy, % | test NLL | AUC of each seed [95 %] | minus cross-entropy |"
    ]
    lines.append("|---" * 6 + "|")
    first = {row["seed"]: row["auc"] for row in rows if row["arm"] == "ce"}
    for arm, name in NAMES.items():
        own = [row for row in rows if row["arm"] == arm]
        mean = {key: statistics.fmean(row[key] for row in own) for key in ("accuracy", "train_accuracy", "nll")}
        aucs = ", ".join(f"{row['auc']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}]" for row in own)
        change = ", ".join(f"{row['auc'] - first[row['seed']]:+.3f}" for row in own) if arm != "ce" else ""
        shares = f"{100 * mean['accuracy']:.2f} | {100 * mean['train_accuracy']:.2f}"
        lines.append(f"| {name} | {shares} | {mean['nll']:.3f} | {aucs} | {change} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}; without one, all")
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in parser.parse_args().tasks:
        path = FOLDER / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.open()] if path.is_file() else []
        missing = [
            (s, arm) for s in SEEDS for arm in NAMES if not any((r["seed"], r["arm"]) == (s, arm) for r in rows)
        ]
        task = TASKS[name]() if missing else None
        for seed, arm in missing:
            rows.append(run(task, arm, seed))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        print(f"{name}\n\n{table(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
