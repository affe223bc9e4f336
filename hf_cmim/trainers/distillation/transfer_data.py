"""The attacker's data: samples to ask about, and the views of them for student and teacher."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_cmim.attacks.k_center import k_center
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.trainers.shared.class_labels import LABEL_COLUMNS
from hf_cmim.trainers.shared.components import unchanged_random_states

Collator = Callable[[list[Any]], Mapping[str, Any]]
TEACHER_VIEW = "teacher_inputs"
"""Key of the teacher's view in a batch, if it differs from the student's."""


class IndexedDataset(Dataset[dict[str, Any]]):
    """A map-style data set whose samples carry their position, under `sample_index`.

    Args:
        dataset: data set that returns mappings of names to values, by position.

    Raises:
        HfCmimError: no length or no positions (an iterable data set).
    """

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise HfCmimError(
                f"Expected a transfer set with a length and positions, got {type(dataset).__name__}: queries could not"
                " be counted, and precomputed answers could not be looked up. Load the set, or a part of it, into a"
                " list."
            )
        self.dataset: Any = dataset
        self._size = len(dataset)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> dict[str, Any]:
        return _indexed(self.dataset[position], position)

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """Return the samples of a batch."""
        # datasets.Dataset reads a batch much faster at once than sample by sample; data loaders look for this method.
        get_batch = getattr(self.dataset, "__getitems__", self._one_by_one)
        samples = get_batch(positions)
        return [_indexed(sample, position) for sample, position in zip(samples, positions, strict=True)]

    def _one_by_one(self, positions: list[int]) -> list[Any]:
        return [self.dataset[position] for position in positions]

    def set_epoch(self, epoch: int) -> None:
        """Tell the data set the number of the pass, if it has a method for that."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def _indexed(sample: Any, position: int) -> dict[str, Any]:
    if not isinstance(sample, Mapping):
        raise HfCmimError(
            f"Expected samples that are mappings of names to values, got {type(sample).__name__}: labels and"
            " inputs could not be told apart. Return {'pixel_values': ..., 'labels': ...}."
        )
    return {**sample, INDEX_NAME: int(position)}


class Repeatable(Dataset[Any]):
    """A data set whose random augmentation depends only on (seed, epoch, position), not on earlier samples.

    So all students of one seed see the same sample, independent of order, process and worker.

    Args:
        dataset: any map-style data set; its transforms may draw from the generators of Python, NumPy and torch.
        seed: seed of the augmentation.

    Attributes:
        epoch: number of the pass over the data; trainers set it.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the pass over the data, and tell it to the data set if that has a method for it."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __getitem__(self, position: int) -> Any:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[Any]:
        """Return the samples of a batch, and restore the random states."""
        samples = []
        with unchanged_random_states(torch.device("cpu")):
            for position in positions:
                # A hash, because neighbouring seeds give related numbers in some generators.
                text = f"{self.seed} {self.epoch} {int(position)}".encode()
                seed = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")
                random.seed(seed)
                np.random.seed(seed)
                # torch.manual_seed would also initialise every accelerator, in each worker.
                torch.default_generator.manual_seed(seed)
                samples.append(self.dataset[position])
        return samples


class EpochTeller(TrainerCallback):
    """A callback that tells the transfer set the epoch: with several processes Accelerate tells only the sampler."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """Tell the transfer set the epoch."""
        dataset = getattr(keywords.get("train_dataloader"), "dataset", None)
        if isinstance(dataset, IndexedDataset):
            dataset.set_epoch(int(state.epoch or 0))


class Unlabelled(Dataset[dict[str, Any]]):
    """A transfer set without labels: the attacker has only inputs, and uses the teacher's answers as labels.

    Args:
        dataset: data set that returns mappings of names to values, by position.
        label_names: names to leave out of each sample.
    """

    def __init__(self, dataset: Any, label_names: Sequence[str] = LABEL_COLUMNS) -> None:
        self.dataset = dataset
        self.label_names = tuple(label_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {name: value for name, value in self.dataset[position].items() if name not in self.label_names}


def _share_of(count: int, share: float) -> int:
    """Return the number of samples in a share of `count`.

    Raises:
        HfCmimError: a share that leaves no sample.
    """
    size = round(share * count) if 0 < share <= 1 else 0
    if size < 1:
        raise HfCmimError(
            f"Expected a share in (0, 1] that leaves a sample of {count}, got {share}: the attacker would"
            f" have nothing to ask about. Use at least {1 / max(count, 1):.2g}."
        )
    return size


class Fraction(Dataset[Any]):
    """A random part of a transfer set, the same for the same seed, for an attacker with few samples.

    Args:
        dataset: any map-style data set.
        share: fraction of its samples, in (0, 1].
        seed: seed of the choice.

    Raises:
        HfCmimError: a share that leaves no sample.
    """

    def __init__(self, dataset: Any, share: float, seed: int = 0) -> None:
        count = _share_of(len(dataset), share)
        self.dataset = dataset
        self.share = share
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(len(dataset), generator=generator)
        self.positions: list[int] = sorted(shuffled[:count].tolist())

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[self.positions[position]]


class KCenter(Dataset[Any]):
    """The part of a transfer set that covers it best, for an attacker who pays for queries and has a large pool.

    Args:
        dataset: any map-style data set, labelled or not.
        features: `(N, D)` features of its samples in their order, for instance of a pretrained encoder. Only the
            attacker's own knowledge belongs here: answers of the teacher would be queries.
        share: fraction of the samples to ask about, in (0, 1].
        seed: seed of the first sample; the others follow from it.

    Attributes:
        positions: positions of the chosen samples in the data set, in their order there.

    Raises:
        HfCmimError: a share that leaves no sample, or features that are not one finite row for each sample.

    Source: see `hf_cmim.attacks.k_center`.
    """

    def __init__(self, dataset: Any, features: Tensor, share: float, seed: int = 0) -> None:
        count = _share_of(len(dataset), share)
        if features.ndim != 2 or len(features) != len(dataset):
            raise HfCmimError(
                f"Expected features of shape ({len(dataset)}, D), a row for each sample, got {tuple(features.shape)}:"
                " the chosen positions would be those of other samples. Compute them in the order of the data set."
            )
        self.dataset = dataset
        self.share = share
        self.seed = seed
        chosen = k_center(features, count, torch.Generator().manual_seed(seed))
        self.positions: list[int] = sorted(chosen.tolist())

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[self.positions[position]]


class DistillationCollator:
    """A collator of the student's batch, and of the teacher's view of the same samples if it differs.

    Args:
        student_collator: collator of the student's batch.
        teacher_collator: collator of the teacher's batch of the same samples; None if both get the same inputs.
        student_columns: columns of the student's batch, or None for all.
        teacher_columns: names of inputs that the teacher can use. Without a `teacher_collator` the student's collator
            makes these too; those that the student does not take are only in the teacher's view.
    """

    def __init__(
        self,
        student_collator: Collator,
        teacher_collator: Collator | None,
        student_columns: Sequence[str] | None,
        teacher_columns: Iterable[str] = (),
    ) -> None:
        self.student_collator = student_collator
        self.teacher_collator = teacher_collator
        self.student_columns = None if student_columns is None else set(student_columns)
        self.teacher_columns = set() if teacher_collator is not None else set(teacher_columns)

    def __call__(self, samples: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the student's batch, with `sample_index` and `teacher_inputs` if there are any."""
        # A collator would take the positions for an input.
        plain = [{name: value for name, value in sample.items() if name != INDEX_NAME} for sample in samples]
        batch = dict(self.student_collator([self._with_used_columns(sample) for sample in plain]))
        teacher_only = self._teacher_only_columns & batch.keys()
        if teacher_only:
            view = {name: value for name, value in batch.items() if name != "labels"}
            batch = {name: value for name, value in batch.items() if name not in teacher_only}
            batch[TEACHER_VIEW] = view
        if INDEX_NAME in samples[0]:
            batch[INDEX_NAME] = torch.tensor([sample[INDEX_NAME] for sample in samples])
        if self.teacher_collator is not None:
            batch[TEACHER_VIEW] = dict(self.teacher_collator(plain))
        return batch

    @property
    def tokenizer(self) -> Any:
        """Tokenizer of the student's collator, or None; `Trainer` saves it if it has no processing class."""
        return getattr(self.student_collator, "tokenizer", None)

    @property
    def _teacher_only_columns(self) -> set[str]:
        """Columns that only the teacher takes; none if the student's batch keeps all."""
        return set() if self.student_columns is None else self.teacher_columns - self.student_columns

    def _with_used_columns(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.student_columns is None:
            return sample
        used_columns = self.student_columns | self._teacher_only_columns
        return {name: value for name, value in sample.items() if name in used_columns}
