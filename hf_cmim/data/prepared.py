"""Rows of a data set as the inputs of models."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hf_cmim.data.views import View
from hf_cmim.errors import HfCmimError

TOGETHER = 256
"""Number of samples that are prepared at once."""


@final
class PreparedSamples(Dataset[dict[str, Any]]):
    """Rows in the models' views, prepared once if they fit into memory.

    Args:
        rows: rows with the two columns.
        columns: names of the sample column and the label column.
        numbers: number of the class for each label.
        views: different views by name.
        room: memory for prepared samples, in bytes.
        name: name for the progress bar, or "" for no bar.
    """

    def __init__(
        self,
        rows: Any,
        columns: tuple[str, str],
        numbers: Mapping[Any, int],
        views: Mapping[str, View],
        *,
        room: float,
        name: str = "",
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.numbers = numbers
        self.views = views
        self._kept: list[dict[str, Any]] | None = None
        if _size_of(self[0]) * len(self) <= room:
            starts = tqdm(range(0, len(self), TOGETHER), desc=f"Preparing the {name}", leave=False, disable=not name)
            batches = (range(start, min(start + TOGETHER, len(self))) for start in starts)
            self._kept = [sample for positions in batches for sample in self.__getitems__(list(positions))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """Return several samples at once."""
        if self._kept is not None:
            return [self._kept[position] for position in positions]
        rows = self.rows[positions]
        prepared = {name: view.prepare(rows[self.columns[0]]) for name, view in self.views.items()}
        _check_not_empty(prepared, self.columns[0])
        labels = [self.numbers[label] for label in rows[self.columns[1]]]
        return [
            {"labels": label, **{name: samples[row] for name, samples in prepared.items()}}
            for row, label in enumerate(labels)
        ]


def prepared_when_read(
    rows: Any,
    columns: tuple[str, str],
    numbers: Mapping[Any, int],
    view: View,
    change: Callable[[Any], Any] | None = None,
) -> Any:
    """Return the same rows, which are prepared for one model each time they are read, for `Trainer`.

    Args:
        rows: `datasets.Dataset` with the two columns.
        columns: names of the sample column and the label column.
        numbers: number of the class for each label.
        view: view of the model.
        change: random augmentation of one sample, anew for each reading; None for none.
    """
    return rows.with_transform(partial(_inputs, columns=columns, numbers=numbers, view=view, change=change))


def batch_of_rows(
    rows: Sequence[Mapping[str, Any]], columns: tuple[str, str], numbers: Mapping[Any, int], view: View
) -> dict[str, Any]:
    """Return rows as one batch for one model, for instance as a `data_collator`.

    Args:
        rows: rows with the sample column; without the label column, the batch has no labels.
        columns: names of the sample column and the label column.
        numbers: number of the class for each label.
        view: view of the model.
    """
    prepared = view.prepare([row[columns[0]] for row in rows])
    _check_not_empty({"model": prepared}, columns[0])
    batch: dict[str, Any] = view.batch(prepared)
    if columns[1] in rows[0]:
        batch["labels"] = torch.tensor([numbers[row[columns[1]]] for row in rows])
    return batch


def _inputs(
    batch: Mapping[str, Sequence[Any]],
    columns: tuple[str, str],
    numbers: Mapping[Any, int],
    view: View,
    change: Callable[[Any], Any] | None,
) -> dict[str, Any]:
    samples = batch[columns[0]]
    prepared = view.prepare(samples if change is None else [change(sample) for sample in samples])
    _check_not_empty({"model": prepared}, columns[0])
    inputs = {name: [sample[name] for sample in prepared] for name in prepared[0]}
    return inputs | {"labels": [numbers[label] for label in batch[columns[1]]]}


def _check_not_empty(prepared: Mapping[str, Sequence[Mapping[str, Any]]], column: str) -> None:
    """Refuse texts without a token, which models cannot read."""
    for name, samples in prepared.items():
        empty = sum("input_ids" in sample and len(sample["input_ids"]) == 0 for sample in samples)
        if empty:
            raise HfCmimError(
                f"{empty} texts in column {column!r} are empty: the {name}'s tokenizer makes no tokens of them, and"
                f" the model cannot read them. Remove them, for instance with dataset.filter(lambda row:"
                f" row[{column!r}].strip()), and save the data again."
            )


def _size_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_size_of, value.values()))
    return 64 * len(value) if isinstance(value, list) else 64  # Python's numbers, with room to spare
