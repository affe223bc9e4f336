"""Class answers: a channel that names a class and gives that class's mean answer, the same for all its samples."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel, floored_log_probs, normalized, precise
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.calibration import CalibrationStatistics, octave_grid
from hf_cmim.functional.selection import select_valid
from hf_cmim.whole_files import read_bounded, write_whole

MEAN_SAMPLES = 100
"""Number of samples that the mean answer of a class counts as, beside its held-out labels; ours."""
KIND = "hf_cmim.ClassAnswers"
"""Mark of a saved table."""
LARGEST_FILE = 2_000_000_000
"""Largest file in bytes that is loaded: 22,000 classes."""
TOLERANCE = 1e-3
"""Largest distance from 1 of the sum of a row."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class ClassAnswers(AbstractChannel):
    """One answer per class: every sample that is predicted as class c gets the same answer, row c of a table.

    A classifier must at least name a class. With sharpness 0 this channel tells nothing else: the answer is a function
    of the prediction, I(X; P | prediction) = 0, and a student learns what it would learn from the labels and the
    table. The prediction stays, so accuracy stays. The confidence tells only how often such a prediction is right,
    so it no longer ranks samples of one class.

    The answer is (1 - s) Q[c] + s p, with the sharpness s, the model's own answer p, and its class c. At T = 1 the
    answers hold at most the share s of the information beyond the prediction that p holds.

    Args:
        probs: `(C, C)` table Q of probabilities: row c answers samples that are predicted as class c. Each row sums to
            1, and its largest entry is that of its own class.
        sharpness: share s of the model's own answer, in [0, 1]; 1 changes nothing.

    Raises:
        HfCmimError: a table that would change predictions or is no table of distributions, or a sharpness outside
            [0, 1].

    Source: ours.

    >>> import torch
    >>> channel = ClassAnswers(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    >>> channel(torch.tensor([[0.51, 0.49], [0.99, 0.01]]).log()).exp().mul(100).round().tolist()
    [[90.0, 10.0], [90.0, 10.0]]
    """

    probs: Tensor
    sharpness: float = 0.0

    def __post_init__(self) -> None:
        """Check the table and the sharpness, and keep a copy of the table on the CPU in fp32."""
        if not 0 <= self.sharpness <= 1:
            raise HfCmimError(
                f"Expected a sharpness in [0, 1], got {self.sharpness}: it is the share of the model's own answer. Use"
                " 0 to give away nothing beyond the label."
            )
        _check_table(self.probs)
        object.__setattr__(self, "probs", self.probs.detach().to("cpu", torch.float32, copy=True))
        _check_predictions(self.log_probs)

    @classmethod
    def fit(cls, log_probs: Tensor, labels: Tensor | None = None, *, sharpness: float = 0.0) -> Self:
        """Return the channel for a model's answers to held-out samples, with calibrated confidences.

        Row c is the mean answer to the samples that are predicted as class c, after the temperature that fits the
        labels best. The labels of these samples then correct it; the mean answer counts as `MEAN_SAMPLES` samples
        among them. If the labels would make another class the most probable of row c, the row stays the mean answer,
        in which class c always leads. A class that is never predicted gets the model's mean confidence, spread evenly
        over the other classes.

        Use samples that the model was not trained on. On training samples it is too confident.

        Args:
            log_probs: `(..., C)` log-probabilities of the model.
            labels: `(...)` classes in [0, C), or -100 to ignore. Without labels row c is the mean answer as it is, and
                as over-confident as the model.
            sharpness: share of the model's own answer, in [0, 1].

        Raises:
            HfCmimError: no samples, answers that are no distributions, or labels out of range.
        """
        given = log_probs.argmax(dim=-1) if labels is None else labels
        rows, targets = select_valid(log_probs.detach().cpu().double(), given.cpu())
        _check_answers(rows)
        predicted = rows.argmax(dim=-1)
        answers = (rows / (1.0 if labels is None else _temperature(rows, targets))).softmax(dim=-1)
        # One more sample, of full confidence, so that class c leads in row c even if all answers are uniform.
        confidence = (answers.amax(dim=-1).sum() + 1) / (len(answers) + 1)
        table = _means(answers, predicted, _even_rows(confidence, answers.shape[-1]), 1)
        if labels is not None:
            votes = torch.zeros_like(answers).scatter_(-1, targets.unsqueeze(-1), 1.0)
            calibrated = _means(votes, predicted, table, MEAN_SAMPLES)
            # Judged as the answers that are given, in fp32.
            table = torch.where(_leads(floored_log_probs(calibrated)).unsqueeze(-1), calibrated, table)
        return cls(table, sharpness)

    @cached_property
    def log_probs(self) -> Tensor:
        """Table as the answers that are given, `(C, C)` fp32 log-probabilities; a probability of 0 counts as FLOOR."""
        return floored_log_probs(self.probs.double())

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the answer of each predicted class, mixed with the model's own answer.

        Raises:
            HfCmimError: answers for another number of classes than the table has.
        """
        if log_probs.shape[-1] != len(self.probs):
            raise HfCmimError(
                f"Expected answers for {len(self.probs)} classes, as many as the table has, got"
                f" {log_probs.shape[-1]}: the table belongs to another model. Fit ClassAnswers to this one."
            )
        predicted = log_probs.argmax(dim=-1)
        rows = self.log_probs.to(log_probs.device)[predicted]
        if self.sharpness == 0:
            return rows
        if self.sharpness == 1:
            return log_probs.float()
        own, common = precise(log_probs) + math.log(self.sharpness), precise(rows) + math.log1p(-self.sharpness)
        mixed = normalized(torch.logaddexp(own, common).float())
        # Rounding to fp32 can make two classes equal; the prediction must stay.
        return torch.where((mixed.argmax(dim=-1) == predicted).unsqueeze(-1), mixed, rows)

    def __repr__(self) -> str:
        """Return the channel's settings, with the table as a digest: every reader of results can compare it."""
        return f"ClassAnswers({len(self.probs)} classes, sharpness={self.sharpness}, table={self.digest[:16]})"

    @cached_property
    def digest(self) -> str:
        """Sha256 hex of the table."""
        return hashlib.sha256(self.probs.numpy().astype("<f4").tobytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the channel to a safetensors file, which `load` reads.

        Args:
            path: path of the file, for instance "class_answers.safetensors".
        """
        metadata = {"kind": KIND, "sharpness": repr(float(self.sharpness))}
        write_whole(Path(path), save({"probs": self.probs}, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a channel from a file that `save` wrote. Nothing in the file is run.

        Raises:
            HfCmimError: no such file, or a file of another kind.
        """
        content = read_bounded(Path(path), LARGEST_FILE)
        try:
            tensors = load(content)
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
            if metadata.get("kind") != KIND or set(tensors) != {"probs"}:
                raise ValueError(f"it holds {', '.join(sorted(tensors)) or 'nothing'}")
            probs, sharpness = tensors["probs"], float(metadata["sharpness"])
        except (SafetensorError, ValueError, KeyError) as error:
            raise HfCmimError(
                f"{path} holds no ClassAnswers ({error}): no answer could be given. Give the file that"
                " ClassAnswers.save wrote."
            ) from error
        return cls(probs, sharpness)


def _check_table(probs: Any) -> None:
    if not isinstance(probs, Tensor) or probs.ndim != 2 or probs.shape[0] != probs.shape[1] or len(probs) < 2:
        shape = tuple(probs.shape) if isinstance(probs, Tensor) else type(probs).__name__
        raise HfCmimError(
            f"Expected a table (C, C) of at least 2 classes, one answer per class, got {shape}. Build it with"
            " ClassAnswers.fit."
        )
    if not probs.is_floating_point():
        raise HfCmimError(f"Expected probabilities, got a table of {probs.dtype}. Build it with ClassAnswers.fit.")
    sums = probs.double().sum(dim=-1)
    is_distribution = (probs >= 0).all(dim=-1) & ((sums - 1).abs() <= TOLERANCE)
    if not is_distribution.all():
        row = int((~is_distribution).nonzero()[0])
        raise HfCmimError(
            f"Expected rows of probabilities that sum to 1, got row {row} with the sum {sums[row]:.4g} and values from"
            f" {probs[row].min():.4g} to {probs[row].max():.4g}: its answer would be no distribution. Build the table"
            " with ClassAnswers.fit; log-probabilities need .exp() first."
        )


def _check_predictions(log_probs: Tensor) -> None:
    leads = _leads(log_probs)
    if not leads.all():
        row = int((~leads).nonzero()[0])
        raise HfCmimError(
            f"Expected the largest entry of each row at its own class, got row {row} with its largest at class"
            f" {int(_others(log_probs)[row].argmax())}: answers would name another class than the model predicts."
            " Build the table with ClassAnswers.fit, which keeps every prediction."
        )


def _check_answers(log_probs: Tensor) -> None:
    if len(log_probs) < 2:
        raise HfCmimError(
            f"Expected at least 2 held-out samples, got {len(log_probs)}: no answer can be calibrated on them. Give"
            " some hundreds, and more than ten per class."
        )
    excess = torch.logsumexp(log_probs, dim=-1)
    if not bool((excess.abs() <= TOLERANCE).all()):
        smallest, largest = (sums.item() for sums in excess.exp().aminmax())
        raise HfCmimError(
            f"Expected log-probabilities whose rows sum to 1, got sums from {smallest:.4g} to {largest:.4g}: means of"
            " logits are no answers. Pass logits.log_softmax(-1), or probs.log()."
        )


def _temperature(log_probs: Tensor, labels: Tensor) -> float:
    """Return the temperature at which the answers fit the labels best."""
    statistics = CalibrationStatistics(octave_grid(-4, 4, per_octave=4))
    statistics.update(log_probs, labels)
    return statistics.compute().temperature


def _even_rows(confidence: Tensor, num_classes: int) -> Tensor:
    """Return `(C, C)` rows with the confidence at their own class and the rest spread evenly."""
    rows = ((1 - confidence) / (num_classes - 1)).expand(num_classes, num_classes).clone()
    return rows.fill_diagonal_(confidence.item())


def _means(values: Tensor, predicted: Tensor, prior: Tensor, weight: int) -> Tensor:
    """Return the mean of the values of each predicted class, `(C, C)`; the prior counts as `weight` samples."""
    sums = torch.zeros_like(prior).index_add_(0, predicted, values)
    counts = predicted.bincount(minlength=len(prior)).unsqueeze(-1)
    return (sums + weight * prior) / (counts + weight)


def _others(log_probs: Tensor) -> Tensor:
    """Return the table with -inf on its diagonal."""
    return log_probs.clone().fill_diagonal_(-math.inf)


def _leads(log_probs: Tensor) -> Tensor:
    """Return for each row of a table, `(C,)`, whether its own class is the most probable, alone."""
    return log_probs.diagonal() > _others(log_probs).amax(dim=-1)
