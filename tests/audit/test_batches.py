"""Batches of a pool: what the collator would make, read and collated as rarely as possible."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from planted import Student
from torch import Tensor

from hf_cmim import DistillationConfig
from hf_cmim.audit.engine import batches as module
from hf_cmim.audit.engine.collated_rows import CollatedRows
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.trainers.distillation.transfer_data import IndexedDataset

LENGTHS = [3, 9, 1, 4, 4, 7, 2, 9, 5, 6, 8]


class Texts(torch.utils.data.Dataset):
    """Token lists of several lengths; counts how often a sample is read.

    Args:
        noise: largest random change of a token.
    """

    def __init__(self, noise: int = 0) -> None:
        self.noise = noise
        self.num_reads = 0

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, position: int) -> dict[str, Any]:
        self.num_reads += 1
        shift = int(torch.randint(self.noise + 1, ()))
        tokens = [10 * position + number + 1 + shift for number in range(LENGTHS[position])]
        return {"input_ids": tokens, "labels": position % 3}


class Padding:
    """A padding collator; counts its calls."""

    def __init__(self, side: str = "right", multiple: int = 1, noise: bool = False, shape: str = "") -> None:
        self.side, self.multiple, self.noise, self.shape = side, multiple, noise, shape
        self.num_calls = 0

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        self.num_calls += 1
        longest = max(len(sample["input_ids"]) for sample in samples)
        width = -(-longest // self.multiple) * self.multiple
        rows, masks = [], []
        for sample in samples:
            tokens = list(sample["input_ids"])
            empty = [0] * (width - len(tokens))
            rows.append(tokens + empty if self.side == "right" else empty + tokens)
            ones = [1] * len(tokens)
            masks.append(ones + empty if self.side == "right" else empty + ones)
        batch: dict[str, Any] = {
            "input_ids": torch.tensor(rows) + (int(torch.randint(100, ())) if self.noise else 0),
            "attention_mask": torch.tensor(masks),
            "labels": torch.tensor([sample["labels"] for sample in samples]),
        }
        if self.shape == "sizes":
            batch["batch_mean"] = torch.full((len(samples),), float(len(samples)))
        if self.shape == "names":
            batch["names"] = ["a"] * len(samples)
        if "sample_index" in samples[0]:
            batch["sample_index"] = torch.tensor([sample["sample_index"] for sample in samples])
        return batch


def rows_of(collator: Padding, largest: int = 2**20) -> CollatedRows | None:
    return CollatedRows.of(IndexedDataset(Texts()), collator, 4, largest)


def assert_same(batch: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert batch[name].dtype == value.dtype
        assert batch[name].is_contiguous()
        assert torch.equal(batch[name], value), name


@pytest.mark.parametrize("collator", [Padding(), Padding("left"), Padding(multiple=4), Padding("left", 3)])
def test_rows_are_cut_to_what_the_collator_would_make(collator):
    """Catches a batch with the padding of the longest sample of all, or padded on the other side."""
    rows = rows_of(collator)
    assert rows is not None
    dataset = IndexedDataset(Texts())
    for positions in ([2, 6, 0], [1], [10, 3, 4, 5], [2], list(range(11))):
        expected = collator(dataset.__getitems__(positions))
        assert_same(rows.batch(positions), expected)
        assert rows.agrees_with(expected)


def test_rows_that_would_be_wrong_are_noticed():
    """Catches trust in a collator that makes something of the whole batch, or something random."""
    for collator in (Padding(shape="sizes"), Padding(noise=True)):
        rows = rows_of(collator)
        dataset = IndexedDataset(Texts())
        assert rows is None or not rows.agrees_with(collator(dataset.__getitems__([2, 6, 0])))
    assert rows_of(Padding(shape="names")) is None, "a list of texts is no tensor of rows"
    assert rows_of(Padding(), largest=300) is None, "too large to keep"


# In the pool


def _first_tokens(batches: list[dict[str, Tensor]]) -> dict[int, int]:
    """The first token of each sample, by its position."""
    positions = torch.cat([batch["sample_index"] for batch in batches])
    tokens = torch.cat([batch["input_ids"][:, 0] for batch in batches])
    return dict(zip(positions.tolist(), tokens.tolist(), strict=True))


def pool(folder: Any, dataset: Any, collator: Padding, monkeypatch: Any) -> StudentPool:
    args = DistillationConfig(
        str(folder), per_device_train_batch_size=3, per_device_eval_batch_size=4, report_to="none", use_cpu=True,
        remove_unused_columns=False,
    )  # fmt: skip
    return StudentPool(Student, args, dataset, collator)


def epochs(made: StudentPool, seed: int, numbers: range) -> list[dict[str, Tensor]]:
    of_seed = made.batches.of_seed(seed)
    return [batch for number in numbers for batch in made.batches.epoch(of_seed, number)]


def loaded(made: StudentPool, seed: int, numbers: range) -> list[dict[str, Tensor]]:
    """The same batches from the loader itself, as Trainer reads them."""
    of_seed = made.batches.of_seed(seed)
    result: list[dict[str, Tensor]] = []
    for number in numbers:
        of_seed.set_epoch(number)
        result += list(of_seed.loader)
    return result


def test_samples_that_never_change_are_read_once_for_all_seeds(tmp_path, monkeypatch):
    """Catches a collator called in every epoch, and an order that is not that of the seed and epoch."""
    dataset, collator = Texts(), Padding()
    made = pool(tmp_path, dataset, collator, monkeypatch)
    for seed in (3, 4):
        found, expected = epochs(made, seed, range(3)), loaded(made, seed, range(3))
        assert len(found) == len(expected) == 12
        for batch, other in zip(found, expected, strict=True):
            assert_same(batch, other)
    assert not torch.equal(found[0]["sample_index"], found[4]["sample_index"]), "another order in another epoch"
    calls, reads = collator.num_calls, dataset.num_reads
    epochs(made, 5, range(4))
    assert (collator.num_calls, dataset.num_reads) == (calls, reads)


def test_samples_that_change_are_read_once_a_seed_and_epoch(tmp_path, monkeypatch):
    """Catches augmentation frozen over epochs or seeds, and batches loaded anew for every wave of one seed."""
    dataset = Texts(noise=1000)
    made = pool(tmp_path, dataset, Padding(), monkeypatch)
    first, again = epochs(made, 3, range(2)), None
    reads = dataset.num_reads
    again = epochs(made, 3, range(2))
    assert dataset.num_reads == reads
    for batch, other, expected in zip(first, again, loaded(made, 3, range(2)), strict=True):
        assert_same(batch, other)
        assert_same(batch, expected)
    by_position = [_first_tokens(part) for part in (first[:4], first[4:], epochs(made, 4, range(1)))]
    assert by_position[0] != by_position[1] != by_position[2]
    monkeypatch.setattr(module, "LARGEST_KEPT", 10)
    small = pool(tmp_path, dataset, Padding(), monkeypatch)
    epochs(small, 3, range(1))
    reads = dataset.num_reads
    epochs(small, 3, range(1))
    assert dataset.num_reads > reads, "nothing larger than the limit is kept"


class ByEpoch(Texts):
    """Samples that never differ within an epoch, and always between two."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, position: int) -> dict[str, Any]:
        sample = super().__getitem__(position)
        return sample | {"input_ids": [token + 1000 * self.epoch for token in sample["input_ids"]]}


def test_samples_that_change_with_the_epoch_are_not_frozen(tmp_path, monkeypatch):
    """Catches a data set that is read twice within an epoch, found to be steady, and kept for all epochs."""
    made = pool(tmp_path, ByEpoch(), Padding(), monkeypatch)
    found = epochs(made, 3, range(3))
    for number in range(3):
        tokens = _first_tokens(found[4 * number : 4 * number + 4])
        assert all(token // 1000 == number for token in tokens.values())


def test_an_interrupted_epoch_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    """Catches a wave that stopped at max_steps and leaves the next one a short epoch."""
    made = pool(tmp_path, Texts(noise=5), Padding(), monkeypatch)
    next(made.batches.epoch(made.batches.of_seed(3), 0))
    assert len(epochs(made, 3, range(1))) == 4
    ordered = made.batches.ordered(made.transfer_set)
    next(ordered)
    assert sum(len(batch["labels"]) for batch in made.batches.ordered(made.transfer_set)) == len(LENGTHS)


def test_sets_in_order_are_read_once_and_survive_their_readers(tmp_path, monkeypatch):
    """Catches a test set collated for every wave, and a reader that takes the labels from the next one."""
    dataset = Texts()
    made = pool(tmp_path, dataset, Padding(), monkeypatch)
    first = list(made.batches.ordered(dataset))
    reads = dataset.num_reads
    for batch in made.batches.ordered(dataset):
        batch.pop("labels")
    again = list(made.batches.ordered(dataset))
    assert dataset.num_reads == reads
    for batch, other in zip(first, again, strict=True):
        assert_same(batch, other)
