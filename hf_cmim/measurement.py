"""Measurement of one model on one data set: accuracy, calibration, and spread of its output clusters."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.calibration import Calibration, CalibrationStatistics, octave_grid
from hf_cmim.functional.clusters import ClusterStatistics
from hf_cmim.functional.selection import infinite_classes, select_valid
from hf_cmim.functional.spread import spread_of
from hf_cmim.functional.temperatures import check_temperatures

TOP_K = 5


@dataclass(frozen=True)
class Measurement:
    """Figures of one model on one data set.

    Accuracies are fractions, CMI and entropies nats, variances squared logits.

    Attributes:
        num_samples: number of valid samples.
        accuracy: share of samples whose largest logit is at the label.
        top5_accuracy: share of samples whose label is among the 5 largest logits.
        calibration: NLL, ECE, calibration temperature, AURC.
        temperatures: grid of the curves, relative to the model's logit scale by a power of two.
        cmi: CMI of all samples at each temperature.
        cmi_correct: CMI among correctly classified samples at each temperature.
        ncmi: normalized CMI at T = 1; 0 when the data hold only one class.
        separation: Gamma at T = 1, nats.
        prediction_entropy: H(argmax | label), the limit of `cmi` as T goes to 0.
        within_class_variance: trace of the within-class covariance of centred logits.
        within_total_ratio: within-class variance divided by the total variance, in [0, 1].
        logit_scale: root mean square of the centred logits.
        labels_fingerprint: sha256 hex of the valid labels in their order; it tells data sets apart.
    """

    num_samples: int
    accuracy: float
    top5_accuracy: float
    calibration: Calibration
    temperatures: tuple[float, ...]
    cmi: tuple[float, ...]
    cmi_correct: tuple[float, ...]
    ncmi: float
    separation: float
    prediction_entropy: float
    within_class_variance: float
    within_total_ratio: float
    logit_scale: float
    labels_fingerprint: str

    @property
    def cmi_sup(self) -> float:
        """Main figure: the largest CMI over the temperatures, among correctly classified samples, nats."""
        return max(self.cmi_correct)

    @property
    def cmi_sup_temperature(self) -> float:
        """Temperature at which the CMI equals `cmi_sup`."""
        return self.temperatures[self.cmi_correct.index(self.cmi_sup)]

    def cmi_at(self, temperature: float) -> float:
        """Return the CMI of all samples at a temperature of the grid, nats.

        Raises:
            HfCmimError: the temperature was not measured.
        """
        if temperature not in self.temperatures:
            raise HfCmimError(f"Expected one of the measured temperatures {self.temperatures}, got {temperature}.")
        return self.cmi[self.temperatures.index(temperature)]

    def metrics(self, curve: Sequence[float] = ()) -> dict[str, float]:
        """Return the figures by flat names, with `cmi_T...` for each temperature of `curve`."""
        figures = {
            "accuracy": self.accuracy,
            "top5_accuracy": self.top5_accuracy,
            "nll": self.calibration.nll,
            "ece": self.calibration.ece,
            "nll_calibrated": self.calibration.nll_calibrated,
            "ece_calibrated": self.calibration.ece_calibrated,
            "calibration_temperature": self.calibration.temperature,
            "aurc": self.calibration.aurc,
            "cmi": self.cmi_at(1.0),
            "cmi_sup": self.cmi_sup,
            "cmi_sup_temperature": self.cmi_sup_temperature,
            "ncmi": self.ncmi,
            "prediction_entropy": self.prediction_entropy,
            "within_total_ratio": self.within_total_ratio,
        }
        return figures | {f"cmi_T{temperature:g}": self.cmi_at(temperature) for temperature in curve}

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, tuples and dicts, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Measurement":
        """Build a measurement from the result of `to_dict`."""
        curves = {name: tuple(values[name]) for name in ("temperatures", "cmi", "cmi_correct")}
        return cls(**{**values, **curves, "calibration": Calibration(**values["calibration"])})


def labels_fingerprint(labels: Tensor) -> str:
    """Return the `labels_fingerprint` that a measurement on these `(N,)` valid labels has."""
    return hashlib.sha256(_bytes_of(labels)).hexdigest()


def _bytes_of(labels: Tensor) -> bytes:
    return labels.to("cpu", torch.int64).numpy().astype("<i8").tobytes()


class MeasurementAccumulator:
    """Running sums for a `Measurement`, batch by batch: sums and a few numbers per sample, never logits.

    A masked class (see `hf_cmim.functional.inputs`) counts as if the model did not have it. A sample whose label is
    masked is wrong, and its NLL is large but finite.

    The temperature grid spans 2^-5 to 2^8 times the model's logit scale. Scaling the logits only shifts the curve, so
    on a fixed grid a model could hide by inflating its logits. The scale is that of the first batch, rounded to a
    power of two, so that ordinary batches of one model all give the same grid.

    Args:
        temperatures: temperatures of the grid, besides 1 and those relative to the logit scale.
    """

    def __init__(self, temperatures: Sequence[float] = ()) -> None:
        self._absolute_temperatures = check_temperatures(sorted({1.0, *temperatures}))
        self._clusters: ClusterStatistics | None = None
        self._top_hits = 0
        self._labels = hashlib.sha256()

    def _start(self, logits: Tensor, labels: Tensor) -> None:
        num_classes = logits.shape[-1]
        variances, count = spread_of(logits.double(), labels, infinite_classes(logits))
        spread = (variances / count.clamp_min(1)).sqrt().item()
        # Equal logits have no scale.
        scale = math.exp2(round(math.log2(spread))) if 0 < spread < math.inf else 1.0
        grid = sorted({*self._absolute_temperatures, *octave_grid(-5, 8, per_octave=2, scale=scale)})
        self._clusters = ClusterStatistics(num_classes, grid)
        self._correct = ClusterStatistics(num_classes, grid, correct_only=True)
        self._calibration = CalibrationStatistics(octave_grid(-6, 9, per_octave=4, scale=scale))

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch of logits `(..., C)` and labels `(...)` in [0, C), or -100 to ignore.

        Raises:
            HfCmimError: labels out of range, a logit that is nan or +inf, or a sample with every class at -inf.
        """
        logits, labels = select_valid(logits, labels)
        if not len(labels):
            return
        if self._clusters is None:
            self._start(logits, labels)
        assert self._clusters is not None
        self._clusters.update(logits, labels)
        self._correct.update(logits, labels)
        self._calibration.update(logits, labels)
        self._labels.update(_bytes_of(labels))
        top = logits.topk(min(TOP_K, logits.shape[-1]), dim=-1)
        # With fewer than 5 classes that are not masked, masked ones can be among the top 5: they are no hit.
        hits = (top.indices == labels.unsqueeze(-1)) & (top.values > -math.inf)
        self._top_hits += int(hits.any(dim=-1).sum())

    @property
    def is_empty(self) -> bool:
        """True until the first valid sample."""
        return self._clusters is None

    def compute(self) -> Measurement:
        """Return the measurement over all samples so far.

        Raises:
            HfCmimError: fewer than 2 valid samples.
        """
        if self._clusters is None:
            raise HfCmimError(
                "Expected at least 2 valid samples to measure a model, got none: all labels were -100, or there was no"
                " batch. Give samples with labels."
            )
        clusters = self._clusters
        temperatures = clusters.temperatures
        num_samples = int(clusters.counts.sum().item())
        hits = (clusters.recalls() * clusters.counts).sum().item()
        plain = temperatures.index(1.0)
        return Measurement(
            num_samples=num_samples,
            accuracy=hits / num_samples,
            top5_accuracy=self._top_hits / num_samples,
            calibration=self._calibration.compute(),
            temperatures=temperatures,
            cmi=tuple(clusters.cmi().tolist()),
            cmi_correct=tuple(self._correct.cmi().tolist()) if hits else (0.0,) * len(temperatures),
            ncmi=clusters.normalized_cmi()[plain].item(),
            separation=clusters.separation()[plain].item(),
            prediction_entropy=clusters.prediction_entropy().item(),
            within_class_variance=clusters.within_class_variance().item(),
            within_total_ratio=clusters.within_total_ratio().item(),
            logit_scale=clusters.root_mean_square().item(),
            labels_fingerprint=self._labels.hexdigest(),
        )
