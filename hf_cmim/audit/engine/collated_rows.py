"""A data set whose samples are read and collated once: every batch is then a selection of rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, final

import torch
from torch import Tensor

from hf_cmim.teachers.base import INDEX_NAME

Path = tuple[str, ...]
"""Keys that lead to a tensor in a batch, which may hold a mapping of its own."""
RIGHT, LEFT = "right", "left"
"""Sides on which a collator fills up short samples."""


@final
class CollatedRows:
    """All samples of a data set that never changes, collated to one length.

    A collator fills up the samples of a batch to the longest one. Here all rows have the length of the longest sample
    of all, and a batch is cut to the length that its own samples need. Collators may do other things, so
    `agrees_with` compares a batch with the one that the collator makes.

    Args:
        columns: `(N, ...)` tensors of all samples.
        ragged: sides on which columns are filled up; columns of one length are missing.
        widths: `(N,)` length to which the collator fills up each sample if it is alone.
    """

    def __init__(self, columns: Mapping[Path, Tensor], ragged: Mapping[Path, str], widths: Tensor) -> None:
        self._columns = columns
        self._ragged = ragged
        self._widths = widths

    @classmethod
    def of(
        cls, dataset: Any, collate: Callable[[list[Any]], Mapping[str, Any]], chunk: int, largest: int
    ) -> Self | None:
        """Return the rows of a data set, or None if they are too large or cannot be cut out of larger batches.

        Args:
            dataset: map-style data set whose samples are mappings.
            collate: collator of batches, on the device.
            chunk: number of samples that are collated together.
            largest: largest size of all rows, in bytes.
        """
        first = _flat(collate(_samples(dataset, range(min(chunk, len(dataset))))))
        if first is None or _num_bytes(first) / len(next(iter(first.values()))) * len(dataset) > largest:
            return None
        chunks = [range(start, min(start + chunk, len(dataset))) for start in range(0, len(dataset), chunk)]
        lengths = [_length(sample) for positions in chunks for sample in _samples(dataset, positions)]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        # Collated beside the longest sample, every chunk gets its length.
        (longest_sample,) = _samples(dataset, [longest])
        parts = [_flat(collate([*_samples(dataset, positions), longest_sample])) for positions in chunks]
        if not _fit_together(parts):
            return None
        columns = {path: torch.cat([part[path][:-1] for part in parts if part is not None]) for path in first}
        alone = {length: _flat(collate(_samples(dataset, [lengths.index(length)]))) for length in set(lengths)}
        ragged: dict[Path, str] = {}
        widths = dict.fromkeys(alone, 0)
        for path, column in columns.items():
            sides = _sides(path, column, alone, lengths)
            if sides is None:
                return None
            side, column_widths = sides
            if side:
                ragged[path] = side
                if any(widths.values()) and widths != column_widths:
                    return None
                widths = column_widths
        return cls(columns, ragged, torch.tensor([widths[length] for length in lengths]))

    def batch(self, positions: Sequence[int]) -> dict[str, Any]:
        """Return the batch of the samples at these positions."""
        rows = torch.tensor(positions)
        width = int(self._widths[rows].max())
        batch: dict[str, Any] = {}
        for path, column in self._columns.items():
            values = column[rows.to(column.device)]
            side = self._ragged.get(path)
            if side is not None:
                # Contiguous, as a collator returns it: some kernels sum another layout in another order.
                values = (values[:, :width] if side == RIGHT else values[:, -width:]).contiguous()
            place = batch
            for key in path[:-1]:
                place = place.setdefault(key, {})
            place[path[-1]] = values
        return batch

    def agrees_with(self, batch: Mapping[str, Any]) -> bool:
        """Return True if the collator's batch has the very values and types of the rows at its positions."""
        expected = _flat(batch)
        rows = None if expected is None else _flat(self.batch(batch[INDEX_NAME].tolist()))
        return (
            expected is not None
            and rows is not None
            and expected.keys() == rows.keys()
            and all(
                value.dtype == rows[path].dtype and torch.equal(value, rows[path]) for path, value in expected.items()
            )
        )


def _samples(dataset: Any, positions: Sequence[int]) -> list[Any]:
    samples: list[Any] = dataset.__getitems__(list(positions))
    return samples


def _flat(batch: Mapping[str, Any]) -> dict[Path, Tensor] | None:
    """Return the tensors of a batch by path, or None if it holds anything else."""
    flat: dict[Path, Tensor] = {}
    for name, value in batch.items():
        if isinstance(value, Tensor) and value.ndim > 0:
            flat[(name,)] = value
        elif isinstance(value, Mapping) and (inner := _flat(value)) is not None:
            flat |= {(name, *path): tensor for path, tensor in inner.items()}
        else:
            return None
    return flat


def _num_bytes(batch: Mapping[Path, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in batch.values())


def _length(sample: Mapping[str, Any]) -> int:
    """Return the length of a sample's longest one-dimensional value; 0 if it has none."""
    sequences = [
        value for value in sample.values() if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1
    ]
    return max((len(value) for value in sequences), default=0)


def _fit_together(chunks: Sequence[dict[Path, Tensor] | None]) -> bool:
    """Return True if all chunks have the same columns, of the same types and shapes but for the number of rows."""
    shapes = {
        None if each is None else tuple((path, value.dtype, value.shape[1:]) for path, value in each.items())
        for each in chunks
    }
    return len(shapes) == 1 and None not in shapes


def _sides(
    path: Path, column: Tensor, alone: Mapping[int, dict[Path, Tensor] | None], lengths: Sequence[int]
) -> tuple[str, dict[int, int]] | None:
    """Return the side on which a column is filled up, and each sample's width if it is alone.

    Returns:
        An empty side for a column of one length; None for a column that is no filled-up version of its samples.
    """
    widths: dict[int, int] = {}
    sides = {RIGHT, LEFT}
    for length, batch in alone.items():
        value = None if batch is None else batch.get(path)
        if value is None or value.ndim != column.ndim or value.dtype != column.dtype:
            return None
        widths[length] = value.shape[1] if value.ndim > 1 else 0
        row = column[lengths.index(length)]
        if value[0].shape == row.shape:
            continue
        cut = {RIGHT: row[: widths[length]], LEFT: row[row.shape[0] - widths[length] :]}
        sides &= {side for side, part in cut.items() if torch.equal(part, value[0])}
    if len(set(widths.values())) == 1:
        return "", widths
    return (RIGHT if RIGHT in sides else LEFT, widths) if sides else None
