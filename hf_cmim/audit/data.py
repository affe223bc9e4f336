"""Facts about the data of an audit: fingerprints, labels, duplicates, and changes by augmentation."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.teachers.fingerprints import digest
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW, Repeatable

_SAMPLED_FOR_CHANGE = 32
"""Number of samples that are read twice to detect changes."""


@dataclass(frozen=True)
class DataFacts:
    """Facts about a data set, in the student's view.

    Attributes:
        size: number of samples.
        labels: `(N,)` valid labels, in order.
        samples: digests of the samples' inputs without padding.
        fingerprint: sha256 hex of all inputs and labels.
    """

    size: int
    labels: NDArray[np.int64]
    samples: frozenset[bytes]
    fingerprint: str


def examine(batches: Any, size: int, name: str, *, quiet: bool) -> DataFacts:
    """Read every sample once and return the facts about the data set.

    Args:
        batches: collated batches of the whole data set, in order.
        size: number of samples.
        name: name for the progress bar and for errors.
        quiet: True to hide the progress bar.

    Raises:
        HfCmimError: a batch without labels, on which no accuracy can be measured.
    """
    digests: list[bytes] = []
    teacher_digests: list[bytes] = []
    counts: list[Tensor] = []
    labels: list[Tensor] = []
    with tqdm(total=size, desc=f"Reading the {name}", unit="sample", leave=False, disable=quiet) as bar:
        for batch in batches:
            if "labels" not in batch:
                raise HfCmimError(
                    f"The {name} has no labels, only {sorted(batch)}: an audit measures accuracy and needs them. For"
                    " an attack without labels, use DistillationTrainer with Unlabelled, which reports accuracy."
                )
            digests += _digests(batch)
            teacher_digests += _digests(batch.get(TEACHER_VIEW, {}))
            valid = batch["labels"].cpu() != IGNORE_INDEX
            labels.append(batch["labels"].cpu()[valid])
            counts.append(valid.reshape(len(valid), -1).sum(dim=1))
            bar.update(len(batch["labels"]))
    all_labels = torch.cat(labels)
    fingerprint = digest(b"".join(digests), b"".join(teacher_digests), all_labels, torch.cat(counts))
    return DataFacts(size, all_labels.numpy(), frozenset(digests), fingerprint)


def _digests(batch: Mapping[str, Any]) -> list[bytes]:
    """Return one digest per sample of its tensors, without padding."""
    tensors = {
        name: value.cpu()
        for name, value in sorted(batch.items())
        if isinstance(value, Tensor) and name not in ("labels", INDEX_NAME)
    }
    mask = tensors.get("attention_mask")

    def content(tensor: Tensor, row: int) -> bytes:
        is_masked = mask is not None and mask.ndim == 2 and tensor.shape[:2] == mask.shape
        values = tensor[row][mask[row].bool()] if is_masked and mask is not None else tensor[row]
        # Padding outside a mask is zeros at the end; its length depends on the rest of the batch.
        return np.ascontiguousarray(values.numpy()).tobytes().rstrip(b"\0")

    size = len(next(iter(tensors.values()), ()))
    return [
        blake2b(b"|".join(content(tensor, row) for tensor in tensors.values()), digest_size=16).digest()
        for row in range(size)
    ]


def varies(dataset: Any) -> bool:
    """Return True if some of 32 samples change from one epoch to the next."""
    return _digest_of_some(dataset, epoch=0) != _digest_of_some(dataset, epoch=1)


def check_reads_alike(dataset: Any, name: str) -> None:
    """Refuse a data set whose samples differ between readings under one seed, by trying 32 of them.

    Args:
        dataset: map-style data set.
        name: name for the error.

    Raises:
        HfCmimError: two readings under one seed that differ.
    """
    if _digest_of_some(dataset, epoch=0) != _digest_of_some(dataset, epoch=0):
        raise HfCmimError(
            f"The {name} gives a sample differently each time it is read, even under one seed: its transforms use a"
            " random generator of their own. Teachers and students would see different inputs, and no student could"
            " be reproduced. Use the generators of torch, NumPy (numpy.random) or Python (random): an audit seeds"
            " them for each sample."
        )


def _digest_of_some(dataset: Any, epoch: int) -> str:
    """Return the digest of evenly spaced samples in one epoch under seed 0."""
    positions = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLED_FOR_CHANGE).astype(int)).tolist()
    repeatable = Repeatable(dataset, 0)
    repeatable.set_epoch(epoch)
    return digest(repeatable.__getitems__(positions))
