"""Fitted channels: channels with one table that is fitted to held-out answers, told apart by a digest, and saved."""

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel
from hf_cmim.errors import HfCmimError
from hf_cmim.whole_files import read_bounded, write_whole

LARGEST_FILE = 2_000_000_000
"""Largest file in bytes that is loaded: 22,000 classes in a square table."""
TOLERANCE = 1e-3
"""Largest distance from 1 of the sum of a row of probabilities."""


@dataclass(frozen=True, eq=False, repr=False)
class AbstractFittedChannel(AbstractChannel):
    """Abstract channel with one table of numbers, `(..., C)`, and settings that are numbers.

    A concrete channel has a class method `fit(log_probs, labels, ...)`, which returns the channel for a model's
    answers to held-out samples. Its first field is the table.

    Attributes:
        file_name: usual name of its file.
    """

    file_name: ClassVar[str]

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        """Return the names of the table and of all settings."""
        return tuple(field.name for field in fields(cls))

    @property
    def table(self) -> Tensor:
        """Table of the channel, `(..., C)` fp32 on the CPU."""
        table: Tensor = getattr(self, self._names()[0])
        return table

    def _keep_copy(self) -> None:
        """Keep a copy of the table on the CPU in fp32, which no caller can change."""
        object.__setattr__(self, self._names()[0], self.table.detach().to("cpu", torch.float32, copy=True))

    def _check_classes(self, log_probs: Tensor) -> None:
        num_classes = self.table.shape[-1]
        if log_probs.shape[-1] != num_classes:
            raise HfCmimError(
                f"Expected answers for {num_classes} classes, as many as the table has, got"
                f" {log_probs.shape[-1]}: the table belongs to another model. Fit {type(self).__name__} to this one."
            )

    def __repr__(self) -> str:
        """Return the channel's settings, with the table as a digest: every reader of results can compare it."""
        settings = [f"{name}={getattr(self, name)}" for name in self._names()[1:]]
        parts = [f"{self.table.shape[-1]} classes", *settings, f"table={self.digest[:16]}"]
        return f"{type(self).__name__}({', '.join(parts)})"

    @cached_property
    def digest(self) -> str:
        """Sha256 hex of the table."""
        return hashlib.sha256(self.table.numpy().astype("<f4").tobytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the channel to a safetensors file, which `load` reads.

        Args:
            path: path of the file, for instance "class_answers.safetensors".
        """
        table_name, *names = self._names()
        settings = {name: repr(float(getattr(self, name))) for name in names}
        write_whole(Path(path), save({table_name: self.table}, {"kind": _kind(type(self)), **settings}))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a channel from a file that `save` wrote. Nothing in the file is run.

        Raises:
            HfCmimError: no such file, or a file of another kind.
        """
        table_name, *names = cls._names()
        content = read_bounded(Path(path), LARGEST_FILE)
        try:
            tensors = load(content)
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
            if metadata.get("kind") != _kind(cls) or set(tensors) != {table_name}:
                raise ValueError(f"it holds {', '.join(sorted(tensors)) or 'nothing'}")
            settings: dict[str, Any] = {name: float(metadata[name]) for name in names}
        except (SafetensorError, ValueError, KeyError) as error:
            raise HfCmimError(
                f"{path} holds no {cls.__name__} ({error}): no answer could be given. Give the file that"
                f" {cls.__name__}.save wrote."
            ) from error
        return cls(**{table_name: tensors[table_name]}, **settings)


def _kind(channel: type[AbstractFittedChannel]) -> str:
    """Return the mark of a saved channel."""
    return f"hf_cmim.{channel.__name__}"


def check_held_out_answers(log_probs: Tensor) -> None:
    """Check that answers `(N, C)` can be fitted.

    Raises:
        HfCmimError: fewer than 2 samples, or rows that are no log-probabilities.
    """
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


def check_distributions(table: Any, shape: str, maker: str) -> None:
    """Check that a table holds one distribution a row.

    Args:
        table: table to check.
        shape: shape that the table should have, for the error: "(C, C)", or "(K, C)" for any number of rows.
        maker: method that builds such a table, for the error.

    Raises:
        HfCmimError: no tensor of this shape, fewer than 2 classes, no floating-point numbers, or rows that do not sum
            to 1.
    """
    if (
        not isinstance(table, Tensor)
        or table.ndim != 2
        or table.shape[1] < 2
        or len(table) < 1
        or (shape == "(C, C)" and table.shape[0] != table.shape[1])
    ):
        actual = tuple(table.shape) if isinstance(table, Tensor) else type(table).__name__
        raise HfCmimError(
            f"Expected a table {shape} of at least 2 classes, one answer per row, got {actual}. Build it with {maker}."
        )
    if not table.is_floating_point():
        raise HfCmimError(f"Expected probabilities, got a table of {table.dtype}. Build it with {maker}.")
    sums = table.double().sum(dim=-1)
    is_distribution = (table >= 0).all(dim=-1) & ((sums - 1).abs() <= TOLERANCE)
    if not is_distribution.all():
        row = int((~is_distribution).nonzero()[0])
        raise HfCmimError(
            f"Expected rows of probabilities that sum to 1, got row {row} with the sum {sums[row]:.4g} and values from"
            f" {table[row].min():.4g} to {table[row].max():.4g}: its answer would be no distribution. Build the table"
            f" with {maker}; log-probabilities need .exp() first."
        )
