"""Evaluation of a classifier, batch by batch, over all processes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers.utils import logging

from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.measurement import Measurement, MeasurementAccumulator

logger = logging.get_logger(__name__)

LARGEST_MEASURED = 5000
"""Largest number of classes to measure: a curve of 32 temperatures keeps 68 C^2 numbers, here 13.6 GB."""


class EvaluationAccumulator:
    """An accumulator of the measurement and the exact loss; above `LARGEST_MEASURED` classes only loss and accuracy.

    The loss is a sum over all valid labels divided by their number. The mean of batch means would differ if batches
    have unequal numbers of valid labels.

    Args:
        temperatures: temperatures at which the CMI is reported.
    """

    def __init__(self, temperatures: Sequence[float]) -> None:
        self.temperatures = tuple(temperatures)
        self._measurement = MeasurementAccumulator(self.temperatures)
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._hits: Tensor | None = None

    def update(self, logits: Tensor, labels: Tensor, summed_components: Mapping[str, Tensor]) -> None:
        """Add a batch gathered from all processes, its duplicates removed.

        Args:
            logits: `(..., C)` outputs.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            summed_components: 0-d loss components summed over the batch's valid labels.
        """
        if logits.shape[-1] <= LARGEST_MEASURED:
            self._measurement.update(logits, labels)
        else:
            hits = (logits.argmax(dim=-1) == labels).sum()
            self._hits = hits if self._hits is None else self._hits + hits
        self._count += int((labels != IGNORE_INDEX).sum())
        for name, value in summed_components.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def compute(self) -> tuple[Measurement | None, dict[str, float], dict[str, float]] | None:
        """Return measurement, flat metrics and means of the loss components; None after fewer than 2 valid labels."""
        if self._count < 2:
            return None
        components = {name: value.item() / self._count for name, value in self._sums.items()}
        if self._hits is None:
            measurement = self._measurement.compute()
            return measurement, measurement.metrics(self.temperatures), components
        logger.warning_once(
            f"Above {LARGEST_MEASURED} classes evaluation gives loss and accuracy, no CMI curve and no"
            " calibration, and the certificate states no evaluation: the curve's sums would take"
            " 68 x classes^2 x 8 bytes. Measure a part of the classes with hf_cmim.functional.cmi_curve."
        )
        return None, {"accuracy": self._hits.item() / self._count}, components
