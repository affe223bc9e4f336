"""Evaluation of a student, batch by batch, over all processes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hf_cmim.functional.divergence import (
    IGNORE_INDEX,
    kl_divergence,
    softened_log_probs,
    summed_cross_entropy,
)


class StudentEvaluation:
    """An accumulator of accuracy, cross-entropy, and agreement with the teacher, over valid labels.

    Attributes:
        correctness: batches of `(N,)` bool, True for each valid sample that was classified correctly, in the order of
            evaluation.
    """

    def __init__(self) -> None:
        self.correctness: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor, teacher_log_probs: Tensor | None) -> None:
        """Add a batch gathered from all processes, its duplicates removed.

        Args:
            logits: `(..., C)` outputs of the student.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            teacher_log_probs: `(..., C)` answers of the teacher, or None.
        """
        labels, logits = labels.flatten(), logits.flatten(0, -2)
        valid = labels != IGNORE_INDEX
        labels, logits = labels[valid], logits[valid]
        predictions = logits.argmax(dim=-1)
        is_correct = predictions == labels
        self.correctness.append(is_correct.cpu())
        sums = {"accuracy": is_correct.sum(), "loss": summed_cross_entropy(logits, labels)}
        if teacher_log_probs is not None:
            answers = teacher_log_probs.flatten(0, -2)[valid]
            teacher_predictions = answers.argmax(dim=-1)
            sums["agreement"] = (predictions == teacher_predictions).sum()
            sums["teacher_accuracy"] = (teacher_predictions == labels).sum()
            sums["teacher_kl"] = kl_divergence(answers, softened_log_probs(logits, 1.0)).sum()
        self._count += len(labels)
        # float64, so that the sums hardly depend on the batch size.
        for name, value in sums.items():
            total = self._sums.get(name, torch.zeros_like(value, dtype=torch.float64))
            self._sums[name] = total + value.double()

    def compute(self) -> dict[str, float]:
        """Return the means over valid labels, without prefix; an empty dict without valid labels."""
        if not self._count:
            return {}
        return {name: value.item() / self._count for name, value in self._sums.items()}


def write_correctness(folder: Path, prefix: str, correctness: Tensor) -> None:
    """Write `(N,)` bools, True for each correctly classified sample, to PREFIX_correctness.npy in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{prefix}_correctness.npy", correctness.numpy())
