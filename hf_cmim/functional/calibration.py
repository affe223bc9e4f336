"""Calibration of a classifier: NLL and ECE, both before and after temperature calibration, and AURC.

Hardening concentrates the outputs, which changes their calibration on purpose. These figures state that cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import LOWEST
from hf_cmim.functional.selection import select_valid
from hf_cmim.functional.temperatures import check_temperatures

NUM_BINS = 15
"""Confidence bins of the expected calibration error: equal widths over (0, 1]."""


@dataclass(frozen=True)
class Calibration:
    """Calibration of one model on one data set.

    Attributes:
        nll: mean negative log-likelihood of the labels, nats.
        ece: expected calibration error of the top class, fraction in [0, 1].
        temperature: temperature of the grid with the smallest NLL.
        nll_calibrated: NLL at a temperature chosen on the other half of the samples, nats.
        ece_calibrated: ECE at a temperature chosen on the other half of the samples, fraction.
        aurc: area under the risk-coverage curve of the top probability, fraction; lower is better.
    """

    nll: float
    ece: float
    temperature: float
    nll_calibrated: float
    ece_calibrated: float
    aurc: float


class CalibrationStatistics:
    """Running sums from which calibration is computed, without keeping logits.

    The calibration temperature is fitted on a grid by two-fold cross-fitting. Samples at even positions of the stream
    choose the temperature of those at odd positions, and the reverse, so no sample judges its own choice. Besides
    sums, one confidence and one hit per sample are stored for the AURC.

    A masked class (see `hf_cmim.functional.inputs`) has probability 0. A sample whose label is masked is wrong. Its
    NLL is that of a label `exp(LOWEST)` times as probable as the largest: at least 87.3 nats at any temperature.

    Args:
        temperatures: grid of calibration temperatures; 1 is added when it is missing.

    Source: temperature scaling and ECE, Guo et al. 2017 (arXiv 1706.04599); AURC, Geifman et al. 2019
    (arXiv 1805.08206). The cross-fitting is ours.
    """

    def __init__(self, temperatures: Sequence[float]) -> None:
        self.temperatures = check_temperatures(sorted({*temperatures, 1.0}))
        grid = len(self.temperatures)
        self._nll_sums = torch.zeros(2, grid, dtype=torch.float64)
        self._bins = torch.zeros(2, grid, NUM_BINS, 3, dtype=torch.float64)
        self._confidences: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._seen = 0

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch of logits `(..., C)` and labels `(...)` in [0, C), or -100 to ignore."""
        logits, labels = select_valid(logits, labels)
        if not len(labels):
            return
        raised = logits.to(torch.float32 if logits.device.type == "mps" else torch.float64)
        top, predicted = raised.max(dim=-1)
        label_logits = raised.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        # Lower bound of the label's logit, relative to the largest, where the label is masked.
        bounds = torch.full_like(label_logits, -torch.inf).masked_fill(label_logits == -torch.inf, LOWEST)
        hits = (predicted == labels).double().cpu()
        folds = (torch.arange(len(labels)) + self._seen) % 2
        for level, temperature in enumerate(self.temperatures):
            normalizers = (raised / temperature).logsumexp(dim=-1)
            scaled_labels = torch.maximum(label_logits / temperature, top / temperature + bounds)
            nlls = (normalizers - scaled_labels).double().cpu()
            confidences = (top / temperature - normalizers).exp().double().cpu()
            self._nll_sums[:, level].index_add_(0, folds, nlls)
            # A confidence on an edge belongs to the bin below: bins are half-open intervals (lower, upper].
            bins = (confidences * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
            cells = folds * NUM_BINS + bins
            columns = torch.stack([torch.ones_like(hits), confidences, hits], dim=-1)
            totals = torch.zeros(2 * NUM_BINS, 3, dtype=torch.float64).index_add_(0, cells, columns)
            self._bins[:, level] += totals.reshape(2, NUM_BINS, 3)
            if temperature == 1.0:
                self._confidences.append(confidences)
        self._hits.append(hits)
        self._seen += len(labels)

    def compute(self) -> Calibration:
        """Return the calibration over all samples so far.

        Raises:
            HfCmimError: fewer than 2 valid samples; cross-fitting needs one in each half.
        """
        if self._seen < 2:
            raise HfCmimError(
                f"Expected at least 2 valid samples to judge calibration, got {self._seen}: one half of the samples"
                " chooses the temperature for the other. Give more samples with labels other than -100."
            )
        plain = self.temperatures.index(1.0)
        # The even half chooses for the odd half, and the reverse.
        chosen = self._nll_sums.argmin(dim=-1).flip(0)
        folds = torch.arange(2)
        return Calibration(
            nll=self._nll_sums[:, plain].sum().item() / self._seen,
            ece=_expected_calibration_error(self._bins[:, plain].sum(dim=0)),
            temperature=self.temperatures[int(self._nll_sums.sum(dim=0).argmin())],
            nll_calibrated=self._nll_sums[folds, chosen].sum().item() / self._seen,
            ece_calibrated=_expected_calibration_error(self._bins[folds, chosen].sum(dim=0)),
            aurc=_area_under_risk_coverage(torch.cat(self._confidences), torch.cat(self._hits)),
        )


def _expected_calibration_error(bins: Tensor) -> float:
    """Return the ECE, a fraction, from the sums of count, confidence and hits of each bin, `(NUM_BINS, 3)`."""
    return float((bins[:, 1] - bins[:, 2]).abs().sum() / bins[:, 0].sum())


def _area_under_risk_coverage(confidences: Tensor, hits: Tensor) -> float:
    """Return the mean error rate over all coverages, the most confident samples first; ties share their errors."""
    values, inverse, counts = torch.unique(-confidences, sorted=True, return_inverse=True, return_counts=True)
    errors = torch.zeros(len(values), dtype=torch.float64).index_add_(0, inverse, 1 - hits)
    cumulative = (errors / counts).repeat_interleave(counts).cumsum(0)
    return float((cumulative / torch.arange(1, len(hits) + 1)).mean())


def octave_grid(lowest: int, highest: int, per_octave: int = 1, scale: float = 1.0) -> list[float]:
    """Return `scale * 2^k` for k from `lowest` to `highest` in steps of `1 / per_octave`.

    >>> octave_grid(-1, 1)
    [0.5, 1.0, 2.0]
    """
    return [scale * math.exp2(step / per_octave) for step in range(lowest * per_octave, highest * per_octave + 1)]
