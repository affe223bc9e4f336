"""The attacker's data: which samples are asked about, and each model's own view of them."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.trainers.components import unchanged_random_states

Collator = Callable[[list[Any]], Mapping[str, Any]]
TEACHER_VIEW = "teacher_inputs"
"""Key of the teacher's own view in a batch, where it has one."""


class IndexedDataset(Dataset[dict[str, Any]]):
    """A map-style data set whose samples say where they stand, under `sample_index`.

    Args:
        dataset: yields mappings of names to values, by position.

    Raises:
        HfCmimError: no length or no positions (an iterable data set).
    """

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise HfCmimError(
                f"Expected a transfer set with a length and positions, got {type(dataset).__name__}: queries could not"
                " be counted, and precomputed answers not be found. Load it whole, or take a part of it into a list."
            )
        self.dataset: Any = dataset
        self._size = len(dataset)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> dict[str, Any]:
        return _indexed(self.dataset[position], position)

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """Return a batch at once, as data loaders ask for it: much faster where the data set can do so."""
        together = getattr(self.dataset, "__getitems__", None)
        samples = [self.dataset[each] for each in positions] if together is None else together(positions)
        return [_indexed(sample, position) for sample, position in zip(samples, positions, strict=True)]

    def set_epoch(self, epoch: int) -> None:
        """Tell the data set which pass over it comes, where it wants to know."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


def _indexed(sample: Any, position: int) -> dict[str, Any]:
    if not isinstance(sample, Mapping):
        raise HfCmimError(
            f"Expected samples that are mappings of names to values, got {type(sample).__name__}: labels and"
            " inputs could not be told apart. Yield {'pixel_values': ..., 'labels': ...}."
        )
    return {**sample, INDEX_NAME: int(position)}


class Repeatable(Dataset[Any]):
    """A data set whose random augmentation depends on (seed, epoch, position) alone, not on who asked what before.

    So a sample looks the same to every student of one seed, in whatever order, process or worker it is loaded.

    Args:
        dataset: any map-style data set; its transforms may draw from the generators of Python, NumPy and torch.
        seed: seed of the augmentation.

    Attributes:
        epoch: the pass over the data; trainers set it.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Go to another pass over the data."""
        self.epoch = epoch

    def __getitem__(self, position: int) -> Any:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[Any]:
        """Return a batch at once; the random states outside stay as they were."""
        samples = []
        with unchanged_random_states(torch.device("cpu")):
            for position in positions:
                text = f"{self.seed} {self.epoch} {int(position)}".encode()
                seed = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")
                random.seed(seed)
                np.random.seed(seed)
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would also wake every accelerator
                samples.append(self.dataset[position])
        return samples


class EpochTeller(TrainerCallback):
    """A callback that tells the transfer set the epoch; under several processes Accelerate tells the sampler only."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Tell it."""
        dataset = getattr(others.get("train_dataloader"), "dataset", None)
        if isinstance(dataset, IndexedDataset):
            dataset.set_epoch(int(state.epoch or 0))


class Unlabelled(Dataset[dict[str, Any]]):
    """A transfer set without its labels: the attacker has inputs alone, and takes the teacher's answers as labels.

    Args:
        dataset: yields mappings of names to values, by position.
        label_names: what is left out of each sample.
    """

    def __init__(self, dataset: Any, label_names: Sequence[str] = ("label", "labels", "label_ids")) -> None:
        self.dataset = dataset
        self.label_names = tuple(label_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {name: value for name, value in self.dataset[position].items() if name not in self.label_names}


class Fraction(Dataset[Any]):
    """A random part of a transfer set, the same for the same seed: what an attacker with few samples has.

    Args:
        dataset: any map-style data set.
        share: fraction of its samples, in (0, 1].
        seed: seed of the choice.

    Raises:
        HfCmimError: a share that leaves no sample.
    """

    def __init__(self, dataset: Any, share: float, seed: int = 0) -> None:
        count = round(share * len(dataset)) if 0 < share <= 1 else 0
        if count < 1:
            raise HfCmimError(
                f"Expected a share in (0, 1] that leaves a sample of {len(dataset)}, got {share}: there would be"
                " nothing to ask."
            )
        self.dataset = dataset
        self.share = share
        self.seed = seed
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:count]
        self.positions: list[int] = sorted(chosen.tolist())

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[self.positions[position]]


class DistillationCollator:
    """Collate a batch for the student, and for the teacher where its view of the same samples is another.

    Args:
        student_collator: makes the student's batch.
        teacher_collator: makes the teacher's batch of the same samples, or None where it sees what the student sees.
        student_columns: columns the student's batch keeps, or None for all.
        teacher_columns: names of inputs that the teacher can use. Without a `teacher_collator` the student's collator
            makes these too, and only the teacher's view holds those that the student does not take.
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
        """Return the student's batch, with `sample_index` and `teacher_inputs` where there are such."""
        plain = [{name: value for name, value in sample.items() if name != INDEX_NAME} for sample in samples]
        batch = dict(self.student_collator([self._kept(sample) for sample in plain]))
        teachers_own = self._teachers_own & batch.keys()
        if teachers_own:
            view = {name: value for name, value in batch.items() if name != "labels"}
            batch = {name: value for name, value in batch.items() if name not in teachers_own}
            batch[TEACHER_VIEW] = view
        if INDEX_NAME in samples[0]:
            batch[INDEX_NAME] = torch.tensor([sample[INDEX_NAME] for sample in samples])
        if self.teacher_collator is not None:
            batch[TEACHER_VIEW] = dict(self.teacher_collator(plain))
        return batch

    @property
    def tokenizer(self) -> Any:
        """The student collator's tokenizer, which `Trainer` saves where it was given no processing class, or None."""
        return getattr(self.student_collator, "tokenizer", None)

    @property
    def _teachers_own(self) -> set[str]:
        """Columns that only the teacher takes; none where the student's batch keeps all."""
        return set() if self.student_columns is None else self.teacher_columns - self.student_columns

    def _kept(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.student_columns is None:
            return sample
        kept = self.student_columns | self._teachers_own
        return {name: value for name, value in sample.items() if name in kept}


def share_teacher_columns(trainers: Iterable[Any]) -> None:
    """Let the collator of each trainer make what any of their teachers can use: all learn from the batches of one.

    Args:
        trainers: `DistillationTrainer` objects of students that see the same batches.
    """
    collators: list[DistillationCollator] = [trainer.data_collator for trainer in trainers]
    columns = set().union(*(collator.teacher_columns for collator in collators))
    for collator in collators:
        collator.teacher_columns = columns
