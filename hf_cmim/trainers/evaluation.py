"""Evaluation of a hardened model, batch by batch, over all processes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.measurement import Measurement, MeasurementAccumulator


class EvaluationAccumulator:
    """Accumulate the measurement and the exact loss of an evaluation.

    The loss is a sum over all valid labels divided by their number, which the mean of batch means is not when batches
    hold unequal numbers of them.

    Args:
        temperatures: temperatures whose CMI is reported.
    """

    def __init__(self, temperatures: Sequence[float]) -> None:
        self.temperatures = tuple(temperatures)
        self._measurement = MeasurementAccumulator(self.temperatures)
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def update(self, logits: Tensor, labels: Tensor, summed_components: Mapping[str, Tensor]) -> None:
        """Add a batch gathered from all processes, its duplicates removed.

        Args:
            logits: `(..., C)` outputs.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            summed_components: 0-d loss components summed over the batch's valid labels.
        """
        self._measurement.update(logits, labels)
        self._count += int((labels != IGNORE_INDEX).sum())
        for name, value in summed_components.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def compute(self) -> tuple[Measurement, dict[str, float]] | None:
        """Return the measurement and the flat metrics without prefix, or None when fewer than 2 labels were seen."""
        if self._count < 2:
            return None
        measurement = self._measurement.compute()
        components = {name: value.item() / self._count for name, value in self._sums.items()}
        metrics = measurement.metrics(self.temperatures)
        if "ce" in components:
            metrics |= {"loss": sum(components.values()), "ce": components["ce"]}
        return measurement, metrics
