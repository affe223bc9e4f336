"""What an audit has to know of its data: fingerprints, labels, copies, and whether augmentation changes it."""

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
from hf_cmim.trainers.transfer_data import TEACHER_VIEW, Repeatable

_SAMPLED_FOR_CHANGE = 32


@dataclass(frozen=True)
class DataFacts:
    """A data set as the student sees it.

    Attributes:
        size: samples.
        labels: `(N,)` valid labels, in order.
        samples: a digest of each sample's inputs, padding left out.
        fingerprint: sha256 hex of them all.
    """

    size: int
    labels: NDArray[np.int64]
    samples: frozenset[bytes]
    fingerprint: str


def examine(batches: Any, size: int, name: str, *, quiet: bool) -> DataFacts:
    """Look at every sample once.

    Args:
        batches: collated batches of the whole data set, in order.
        size: samples in it.
        name: for the progress bar and for errors.
        quiet: without the bar.

    Raises:
        HfCmimError: a batch without labels: what an audit measures is accuracy.
    """
    digests: list[bytes] = []
    teacher_digests: list[bytes] = []
    counts: list[Tensor] = []
    labels: list[Tensor] = []
    with tqdm(total=size, desc=f"Looking at the {name}", unit="sample", leave=False, disable=quiet) as bar:
        for batch in batches:
            if "labels" not in batch:
                raise HfCmimError(
                    f"Expected labels in the {name}, got {sorted(batch)}: criteria exist for labelled data alone. For"
                    " an attack without labels use DistillationTrainer with Unlabelled, which reports accuracy."
                )
            digests += _digests(batch)
            teacher_digests += _digests(batch.get(TEACHER_VIEW, {}))
            valid = batch["labels"].cpu() != IGNORE_INDEX
            labels.append(batch["labels"].cpu()[valid])
            counts.append(valid.reshape(len(valid), -1).sum(dim=1))
            bar.update(len(batch["labels"]))
    every = torch.cat(labels)
    fingerprint = digest(b"".join(digests), b"".join(teacher_digests), every, torch.cat(counts))
    return DataFacts(size, every.numpy(), frozenset(digests), fingerprint)


def _digests(batch: Mapping[str, Any]) -> list[bytes]:
    """Return a digest of each sample's tensors; where the mask is 0, or else in trailing zeros, there is padding."""
    tensors = {name: value.cpu() for name, value in sorted(batch.items())
               if isinstance(value, Tensor) and name not in ("labels", INDEX_NAME)}  # fmt: skip
    mask = tensors.get("attention_mask")

    def content(tensor: Tensor, row: int) -> bytes:
        is_masked = mask is not None and mask.ndim == 2 and tensor.shape[:2] == mask.shape
        kept = tensor[row][mask[row].bool()] if is_masked and mask is not None else tensor[row]
        return np.ascontiguousarray(kept.numpy()).tobytes().rstrip(b"\0")

    size = len(next(iter(tensors.values()), ()))
    return [
        blake2b(b"|".join(content(tensor, row) for tensor in tensors.values()), digest_size=16).digest()
        for row in range(size)
    ]


def varies(dataset: Any) -> bool:
    """Return whether samples of a data set change from epoch to epoch, as some of them show."""
    return _digest_of_some(dataset, epoch=0) != _digest_of_some(dataset, epoch=1)


def check_reads_alike(dataset: Any, name: str) -> None:
    """Refuse a data set that gives a sample differently each time, whatever the seed, as some of its samples show.

    Args:
        dataset: map-style.
        name: for the error.

    Raises:
        HfCmimError: two readings under one seed differ.
    """
    if _digest_of_some(dataset, epoch=0) != _digest_of_some(dataset, epoch=0):
        raise HfCmimError(
            f"The {name} gives a sample differently each time it is read, even under one seed: its transforms draw"
            " from a random generator of their own. Teachers and students would see different inputs, and no student"
            " could be repeated. Draw from the generators of torch, NumPy (numpy.random) or Python (random) instead:"
            " an audit seeds them for each sample."
        )


def _digest_of_some(dataset: Any, epoch: int) -> str:
    """Return the digest of some samples as an epoch of seed 0 sees them."""
    positions = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLED_FOR_CHANGE).astype(int)).tolist()
    repeatable = Repeatable(dataset, 0)
    repeatable.set_epoch(epoch)
    return digest(repeatable.__getitems__(positions))
