"""Harden a small ViT in bf16 on the GPU and its twin in fp32 on the CPU, and compare their losses step by step.

    python benchmarks/precision_twin.py

Same weights, data, order and settings; no dropout. Rounding makes single steps differ more and more, so means of 20
steps are compared: each must agree to 5 % of the largest such mean. Exit status 1 if one does not. Without a GPU both
run on the CPU.
"""

import argparse
import sys
import tempfile
from typing import Any

import numpy as np
import torch
from audit import digits
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification, set_seed

from hf_cmim import CMIMConfig, CMIMTrainer

WINDOW = 20
"""Steps in a mean."""
TOLERANCE = 0.05
"""Largest difference of two means, as a fraction of the largest mean."""


class Losses(TrainerCallback):
    """Keep the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep one."""
        if logs and "loss" in logs:
            self.values.append(float(logs["loss"]))


def losses_of(steps: int, *, on_gpu: bool, bf16: bool) -> np.ndarray:
    """Train, and return the loss of each step."""
    set_seed(0)
    model = ViTForImageClassification(
        ViTConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, image_size=8,
                  patch_size=2, num_channels=1, num_labels=10, hidden_dropout_prob=0.0,
                  attention_probs_dropout_prob=0.0)
    )  # fmt: skip
    losses = Losses()
    with tempfile.TemporaryDirectory() as folder:
        config = CMIMConfig(
            folder, max_steps=steps, per_device_train_batch_size=32, learning_rate=1e-3, logging_steps=1, bf16=bf16,
            use_cpu=not on_gpu, report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        CMIMTrainer(model, config, train_dataset=digits(), callbacks=[losses]).train()
    return np.array(losses.values)


def main() -> int:
    """Print the means side by side, and whether they agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    reduced = losses_of(options.steps, on_gpu=torch.cuda.is_available(), bf16=True)
    full = losses_of(options.steps, on_gpu=False, bf16=False)
    means = [curve[: len(curve) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(axis=1) for curve in (reduced, full)]
    largest = float(np.abs(means[0] - means[1]).max() / max(means[0].max(), means[1].max()))
    print("| steps | bf16 | fp32 on the CPU |\n|---|---|---|")
    for number, (first, second) in enumerate(zip(*means, strict=True)):
        print(f"| {number * WINDOW + 1} to {(number + 1) * WINDOW} | {first:.4f} | {second:.4f} |")
    print(f"Largest difference: {100 * largest:.2f} % of the largest mean; at most {100 * TOLERANCE:g} % is allowed.")
    return int(largest > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
