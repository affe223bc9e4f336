"""The batches of a pool: the same as Trainer's, but read and collated as rarely as possible."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, final

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader
from transformers.utils import logging

from hf_cmim.audit.data import varies
from hf_cmim.audit.engine.collated_rows import CollatedRows
from hf_cmim.audit.engine.template import StudentTemplate
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.trainers.distillation.transfer_data import DistillationCollator, IndexedDataset, Repeatable

logger = logging.get_logger(__name__)

LARGEST_KEPT = 2**28
"""Largest size of each kept data set: the transfer set, one seed's batches of it, an evaluation set; in bytes."""
Teachers = Sequence[AbstractTeacher | None]


@final
class PoolBatches:
    """The batches of a transfer set for training, and of any data set in order, on the device.

    A transfer set that never changes is collated once (`CollatedRows`). Of any other, the batches of the present seed
    are kept: its waves of students see the same samples again. Sets that are too large are read each time.

    Args:
        template: template of the students.
        transfer_set: labelled map-style data set.
    """

    def __init__(self, template: StudentTemplate, transfer_set: Any) -> None:
        self.template = template
        self.args = template.args
        self.transfer_set = transfer_set
        self._varies: dict[int, tuple[Any, bool]] = {}
        # Keeping the data set alive reserves its id.
        self._kept: dict[tuple[int, frozenset[str]], tuple[Any, list[dict[str, Any]]]] = {}
        self._collation_varies: dict[frozenset[str], bool] = {}
        self._rows: dict[frozenset[str], CollatedRows | None] = {}
        self._batches_of_seed = _SeedBatches()

    def varies(self, dataset: Any) -> bool:
        """Return True if a data set's samples change from epoch to epoch."""
        if id(dataset) not in self._varies:
            # Keeping the data set alive reserves its id.
            self._varies[id(dataset)] = (dataset, varies(dataset))
        return self._varies[id(dataset)][1]

    def _repeatable(self, dataset: Any, seed: int) -> IndexedDataset:
        return IndexedDataset(Repeatable(dataset, seed) if self.varies(dataset) else dataset)

    # In order

    def ordered(self, dataset: Any, seed: int = 0, teachers: Teachers = ()) -> Iterator[dict[str, Any]]:
        """Yield the batches of a data set in order, as in epoch 0 of a seed; small sets are read only once.

        Args:
            dataset: map-style data set.
            seed: seed of its augmentation.
            teachers: teachers whose inputs the batches need.
        """
        collator = self.template.collator(teachers)
        key = id(dataset), frozenset(collator.teacher_columns)
        if key in self._kept:
            yield from map(dict, self._kept[key][1])
            return
        batches = self._read(dataset, seed, collator)
        if seed != 0 and self.varies(dataset):
            yield from batches
            return
        first = list(islice(batches, 1))
        if sum(map(_num_bytes, first)) / self.args.per_device_eval_batch_size * len(dataset) > LARGEST_KEPT:
            yield from chain(first, batches)
            return
        stored = []
        for batch in chain(first, batches):
            stored.append(batch)
            # A copy, because readers take labels and positions out of a batch.
            yield dict(batch)
        # Only now: a reader may have stopped before the end.
        self._kept[key] = (dataset, stored)

    def _read(self, dataset: Any, seed: int, collator: DistillationCollator) -> Iterator[dict[str, Any]]:
        indexed: Any = self._repeatable(dataset, seed)
        indexed.set_epoch(0)
        loader = DataLoader(
            indexed,
            batch_size=self.args.per_device_eval_batch_size,
            collate_fn=collator,
            generator=torch.Generator().manual_seed(0),
            **self._loading(),
        )
        return map(self.template.on_device, loader)

    def unchanging_transfer_set(
        self, teachers: Teachers, *, only_if_kept: bool = False
    ) -> Iterator[dict[str, Any]] | None:
        """Return the batches of the transfer set in order, or None if samples or collation vary.

        Args:
            teachers: teachers whose inputs the batches need.
            only_if_kept: True to return None also where samples would have to be read.
        """
        collator = self.template.collator(teachers)
        columns = frozenset(collator.teacher_columns)
        if self.varies(self.transfer_set) or (only_if_kept and (id(self.transfer_set), columns) not in self._kept):
            return None
        if columns not in self._collation_varies:
            first, second = (next(self._read(self.transfer_set, 0, collator)) for _ in range(2))
            self._collation_varies[columns] = not _is_equal(first, second)
        return None if self._collation_varies[columns] else self.ordered(self.transfer_set, 0, teachers)

    # For training

    def of_seed(self, seed: int, teachers: Teachers = ()) -> "SeedLoader":
        """Return a loader of the batches that `Trainer` loads under a seed, in the same order.

        Args:
            seed: seed of data order and augmentation.
            teachers: teachers whose inputs the batches need.
        """
        dataset: Any = self._repeatable(self.transfer_set, seed)
        sampler = SeedableRandomSampler(dataset, generator=torch.Generator(), data_seed=seed)
        order = BatchSampler(sampler, self.args.per_device_train_batch_size, self.args.dataloader_drop_last)
        collator = self.template.collator(teachers)
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=order,
            collate_fn=collator,
            generator=torch.Generator().manual_seed(seed),
            **self._loading(),
        )
        return SeedLoader(seed, dataset, sampler, order, collator, loader)

    def epoch(self, of_seed: "SeedLoader", number: int) -> Iterator[dict[str, Any]]:
        """Yield the training batches of an epoch.

        Args:
            of_seed: loader of a seed.
            number: number of the epoch, from 0.
        """
        columns = frozenset(of_seed.collator.teacher_columns)
        rows = self._rows_of(of_seed, columns)
        # After the rows, whose check is a pass that the sampler counts.
        of_seed.set_epoch(number)
        if rows is not None:
            return map(rows.batch, of_seed.order)
        return self._batches_of_seed.epoch((of_seed.seed, columns), number, self._loaded(of_seed))

    def _loaded(self, of_seed: "SeedLoader") -> Iterator[dict[str, Any]]:
        return map(self.template.on_device, of_seed.loader)

    def _rows_of(self, of_seed: "SeedLoader", columns: frozenset[str]) -> CollatedRows | None:
        """Return the rows of a transfer set that never changes, if an epoch of them equals the loader's batches."""
        if columns not in self._rows:
            rows = None
            if not self.varies(self.transfer_set):
                rows = CollatedRows.of(
                    of_seed.dataset,
                    lambda samples: self.template.on_device(of_seed.collator(samples)),
                    self.args.per_device_eval_batch_size,
                    LARGEST_KEPT,
                )
            if rows is not None and not all(map(rows.agrees_with, self._loaded(of_seed))):
                logger.info("Batches are collated anew each time: they are no selections of rows.")
                rows = None
            self._rows[columns] = rows
        return self._rows[columns]

    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        }


@dataclass(frozen=True)
class SeedLoader:
    """A loader of the training batches of one seed, with the parts that decide their order.

    Attributes:
        seed: seed of data order and augmentation.
        dataset: transfer set with positions.
        sampler: order of the samples.
        order: positions of each batch.
        collator: collator of the batches.
        loader: loader of the batches, on the CPU.
    """

    seed: int
    dataset: IndexedDataset
    sampler: SeedableRandomSampler
    order: BatchSampler
    collator: DistillationCollator
    loader: DataLoader[Any]

    def set_epoch(self, number: int) -> None:
        """Set the number of the epoch of samples and order."""
        self.dataset.set_epoch(number)
        self.sampler.set_epoch(number)


class _SeedBatches:
    """The batches of one seed, epoch by epoch; those of another seed replace them."""

    def __init__(self) -> None:
        self._of: Any = None
        self._epochs: dict[int, list[dict[str, Any]]] = {}
        self._num_bytes = 0

    def epoch(self, seed: Any, number: int, loaded: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the batches of an epoch: kept ones, or loaded ones, which are kept while there is room.

        Args:
            seed: seed, and whatever else determines the batches.
            number: number of the epoch.
            loaded: batches to load if none are kept.
        """
        if seed != self._of:
            self._of, self._epochs, self._num_bytes = seed, {}, 0
        if number in self._epochs:
            yield from self._epochs[number]
            return
        batches: list[dict[str, Any]] | None = []
        for batch in loaded:
            self._num_bytes += _num_bytes(batch)
            if batches is not None and self._num_bytes <= LARGEST_KEPT:
                batches.append(batch)
            else:
                batches = None
            yield batch
        if batches is not None:
            self._epochs[number] = batches


def _num_bytes(batch: Mapping[str, Any]) -> int:
    """Return the size of a batch's tensors in bytes."""
    return sum(
        _num_bytes(value) if isinstance(value, Mapping) else value.numel() * value.element_size()
        for value in batch.values()
        if isinstance(value, Mapping | Tensor)
    )


def _is_equal(first: Any, second: Any) -> bool:
    """Return True if two batches have the same values."""
    if isinstance(first, Mapping):
        return all(_is_equal(value, second[name]) for name, value in first.items())
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)
