"""Result of a hardening within an accuracy budget, as a table of words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hf_cmim.measurement import Measurement

ROUNDING = 1e-9
"""Points by which a loss may exceed the budget through rounding."""


@dataclass(frozen=True)
class TrainedModel:
    """One model of the search, measured on the validation data.

    Attributes:
        name: name of its folder.
        cmi_form: form of the CMI.
        cmi_weight: weight of the CMI; 0 for the twin.
        cmi_sup: largest CMI over the temperatures among correctly classified samples, nats.
        within_total_ratio: variance of the logits within classes divided by the total variance.
        labels_fingerprint: fingerprint of the validation labels.
        num_samples: number of labelled samples.
        correct: one bit per sample, 1 where it is classified correctly, packed into bytes as hex.
    """

    name: str
    cmi_form: str
    cmi_weight: float
    cmi_sup: float
    within_total_ratio: float
    labels_fingerprint: str
    num_samples: int
    correct: str

    @classmethod
    def of(
        cls, name: str, cmi_form: str, cmi_weight: float, measurement: Measurement, is_correct: Sequence[bool]
    ) -> Self:
        """Return the record of a measured model."""
        return cls(
            name,
            cmi_form,
            cmi_weight,
            measurement.cmi_sup,
            measurement.within_total_ratio,
            measurement.labels_fingerprint,
            len(is_correct),
            np.packbits(np.asarray(is_correct, dtype=np.uint8)).tobytes().hex(),
        )

    @property
    def title(self) -> str:
        """Name for readers."""
        return f"{self.cmi_form}, weight {self.cmi_weight:g}" if self.cmi_weight else "cross-entropy twin"

    @property
    def accuracy(self) -> float:
        """Share of samples that are classified correctly."""
        return float(self._hits().mean())

    def points_below(self, twin: "TrainedModel") -> float:
        """Return the loss of accuracy against the twin, in points; negative where this model is better."""
        return float(100 * (twin._hits() - self._hits()).mean())

    def standard_error(self, twin: "TrainedModel") -> float:
        """Return the standard error of `points_below`, from the samples that only one of the two classifies right."""
        return float(100 * (twin._hits() - self._hits()).std() / math.sqrt(self.num_samples))

    def _hits(self) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        packed = np.frombuffer(bytes.fromhex(self.correct), dtype=np.uint8)
        return np.unpackbits(packed)[: self.num_samples].astype(np.float64)


@dataclass(frozen=True)
class Hardened:
    """Result of `harden_within`; `str` gives a table.

    Attributes:
        folder: folder of all models.
        name: name of the strongest model within the budget; None if there is none.
        accuracy_budget: largest loss of accuracy, a fraction.
        twin_record: measurement of the twin.
        tried: measurements of all hardened models, from strong to weak.
    """

    folder: Path
    name: str | None
    accuracy_budget: float
    twin_record: TrainedModel
    tried: tuple[TrainedModel, ...]

    @property
    def model(self) -> str:
        """Folder of the chosen model, with its weights, configuration and certificate."""
        return str(self.folder / self.chosen.name)

    @property
    def twin(self) -> str:
        """Folder of the twin, trained with plain cross-entropy."""
        return str(self.folder / self.twin_record.name)

    @property
    def chosen(self) -> TrainedModel:
        """Record of the chosen model."""
        return next(model for model in self.tried if model.name == self.name)

    def __str__(self) -> str:
        twin = self.twin_record
        rows = [("objective", "accuracy", "against the twin", "CMI", "within/total", "")]
        rows.append((twin.title, f"{twin.accuracy:.2%}", "", *_spread(twin), ""))
        for model in self.tried:
            change, error = 0.0 - model.points_below(twin), model.standard_error(twin)
            is_within = model.points_below(twin) <= 100 * self.accuracy_budget + ROUNDING
            state = "chosen" if model.name == self.name else "within the budget" if is_within else "too costly"
            row = (model.title, f"{model.accuracy:.2%}", f"{change:+.2f} ± {error:.2f} points")
            rows.append((*row, *_spread(model), state))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*(line.rstrip() for line in lines), *self._notes()])

    def _notes(self) -> list[str]:
        """Return sentences about the noise of the comparison."""
        largest = max(model.standard_error(self.twin_record) for model in self.tried)
        budget = 100 * self.accuracy_budget
        notes = [
            f"±: standard error on {self.twin_record.num_samples:,} validation samples, one training each. Another"
            " seed moves the accuracies, too."
        ]
        if round(budget, 1) < round(largest, 1):  # as they are shown
            notes.append(
                f"The budget of {budget:g} points is below this noise: a model that costs nothing can miss it by"
                f" chance. Use more validation samples, or a budget of about {largest:.1f} points."
            )
        return notes


def _spread(model: TrainedModel) -> tuple[str, str]:
    return f"{model.cmi_sup:.4f}", f"{model.within_total_ratio:.3f}"
