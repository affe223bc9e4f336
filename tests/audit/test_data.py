"""What is seen of the data: copies whatever the padding, the labels that count, and whether samples change."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hf_cmim.audit.data import DataFacts, check_reads_alike, examine, varies

Sample = dict[str, Any]


def collated(samples: list[Sample], size: int) -> list[dict[str, Tensor]]:
    """Batches as tokenizers make them: zeros up to the longest of a batch, -100 where the labels are of tokens."""
    parts = [samples[start : start + size] for start in range(0, len(samples), size)]
    return [
        {
            name: pad_sequence(
                [torch.as_tensor(sample[name]).reshape(-1) for sample in part],
                batch_first=True,
                padding_value=-100 if name == "labels" else 0,
            )
            for name in part[0]
        }
        for part in parts
    ]


def seen(samples: list[Sample], size: int = 3) -> DataFacts:
    return examine(collated(samples, size), len(samples), "test set", quiet=True)


def texts(count: int = 7, seed: int = 0) -> list[Sample]:
    """Texts of 1 to 9 tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(1, 50, (1 + 5 * number % 9,), generator=generator) for number in range(count)]
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": int(row[0] % 4)} for row in ids]


# Copies


@pytest.mark.parametrize("make", [texts, tiny.images], ids=["texts", "images"])
def test_a_planted_copy_is_found_and_nothing_else(make):
    """Catches copies missed because of their label, their place or their batch, and strangers taken for copies."""
    first, second = make(7, seed=1), make(7, seed=2)
    copy = first[2] | {"labels": (first[2]["labels"] + 1) % 4}
    assert len(seen(first).samples) == 7
    assert seen(first).samples & seen(second).samples == set()
    both = seen(first).samples & seen([*second[:5], copy, *second[5:]], size=2).samples
    assert both == seen([copy]).samples


def test_one_bit_makes_another_sample():
    """Catches a digest of a part of the inputs, of one of them, or of rounded numbers."""
    (image,), (text,) = tiny.images(1), [sample for sample in texts() if len(sample["input_ids"]) > 2][:1]
    pixels, ids, mask = image["pixel_values"].clone(), text["input_ids"].clone(), text["attention_mask"].clone()
    pixels[0, 7, 7] = torch.nextafter(pixels[0, 7, 7], torch.tensor(9.0))
    ids[0] += 1
    mask[1] = 0
    for sample, other in (
        (image, {"pixel_values": pixels}),
        (text, {"input_ids": ids}),
        (text, {"attention_mask": mask}),
    ):
        assert not seen([sample]).samples & seen([sample | other]).samples


@pytest.mark.parametrize("size", [1, 2, 7])
def test_padding_is_no_part_of_a_sample(size):
    """Catches copies that are missed, or a folder that is refused, because a text stood in another batch."""
    once = seen(texts(), size=3)
    again = seen(texts(), size=size)
    assert again.samples == once.samples
    assert again.fingerprint == once.fingerprint
    shuffled = texts()
    random.Random(0).shuffle(shuffled)
    assert seen(shuffled, size).samples == once.samples
    assert seen(shuffled, size).fingerprint != once.fingerprint


def test_what_is_no_input_makes_no_other_sample():
    """Catches the position in the data set, which differs for every copy, counted as an input."""
    plain = collated(texts(), 3)
    numbered = [batch | {"sample_index": torch.arange(len(batch["labels"])) + 50} for batch in plain]
    found = [examine(batches, 7, "test set", quiet=True) for batches in (plain, numbered)]
    assert found[0].samples == found[1].samples
    assert found[0].fingerprint == found[1].fingerprint


# Labels


def test_labels_that_do_not_count_are_left_out():
    """Catches -100 taken for a class: accuracies would be over samples that nobody is asked about."""
    rows = [sample | {"labels": torch.arange(len(sample["input_ids"])) % 4} for sample in texts()]
    expected = [label for sample in rows for label in sample["labels"].tolist()]
    found = seen(rows)
    assert found.labels.tolist() == expected
    assert found.size == 7
    rows[1]["labels"] = torch.full_like(rows[1]["labels"], -100)
    assert len(seen(rows).labels) == len(expected) - len(rows[1]["labels"])
    assert seen(rows).size == 7


def test_the_fingerprint_knows_inputs_labels_and_order():
    """Catches data with other inputs or labels, or in another order, taken for the same."""
    rows = texts()
    relabelled = [rows[0] | {"labels": rows[0]["labels"] ^ 1}, *rows[1:]]
    reworded = [*rows[:-1], rows[-1] | {"input_ids": rows[-1]["input_ids"] + 1}]
    prints = {seen(each).fingerprint for each in (rows, relabelled, reworded, rows[::-1], rows[:-1])}
    assert len(prints) == 5
    assert seen(rows).fingerprint == seen(texts()).fingerprint


def test_data_without_labels_are_refused():
    """Catches an audit that would measure accuracy against nothing."""
    batches = [{name: value for name, value in batch.items() if name != "labels"} for batch in collated(texts(), 3)]
    with pytest.raises(ValueError, match=r"The transfer set has no labels, .*attention_mask.*Unlabelled"):
        examine(batches, 7, "transfer set", quiet=True)


# Augmentation


class Drawn(torch.utils.data.Dataset):
    """Samples, of which some are changed by what a generator gives."""

    def __init__(self, draw: Callable[[], float], changed: range) -> None:
        self.draw = draw
        self.changed = changed

    def __len__(self) -> int:
        return 100

    def __getitem__(self, position: int) -> Sample:
        noise = self.draw() if position in self.changed else 0.0
        return {"pixel_values": torch.full((2,), position + noise), "labels": position % 4}


DRAWS: dict[str, Callable[[], float]] = {
    "python": random.random,
    "numpy": lambda: float(np.random.rand()),
    "torch": lambda: float(torch.rand(())),
}


def states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("changed", [range(100), range(99, 100), range(1)], ids=["all", "last", "first"])
@pytest.mark.parametrize("generator", DRAWS)
def test_augmentation_is_seen(generator, changed):
    """Catches samples at one end, or a generator, that are not looked at, and a look that changes later draws."""
    before = states()
    assert varies(Drawn(DRAWS[generator], changed))
    assert states() == before


@pytest.mark.parametrize("samples", [Drawn(random.random, range(0)), tiny.images(5), tiny.images(1), texts(40)],
                         ids=["drawn", "images", "one", "texts"])  # fmt: skip
def test_a_set_that_stays_the_same_is_seen_to(samples):
    """Catches a teacher asked in every epoch about what it answered before."""
    assert not varies(samples)


class OfItsOwnGenerator:
    """Adds noise from a generator that no seed outside reaches."""

    def __init__(self) -> None:
        self.samples, self.generator = tiny.images(8), torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        sample = self.samples[position]
        return sample | {"pixel_values": sample["pixel_values"] + torch.randn(1, 8, 8, generator=self.generator)}


class OfGlobalGenerators(OfItsOwnGenerator):
    """Adds noise that a seed outside repeats."""

    def __getitem__(self, position: int) -> Sample:
        sample = self.samples[position]
        return sample | {"pixel_values": sample["pixel_values"] + torch.randn(1, 8, 8) * random.random()}


def test_a_generator_of_its_own_is_refused():
    """Catches students that cannot be repeated, and a teacher that is blamed for what the data do."""
    message = "The validation set gives a sample differently each time it is read.*Use the generators of torch"
    with pytest.raises(ValueError, match=message):
        check_reads_alike(OfItsOwnGenerator(), "validation set")


@pytest.mark.parametrize("dataset", [OfGlobalGenerators(), tiny.images(8)], ids=["augmented", "fixed"])
def test_what_a_seed_repeats_passes(dataset):
    """Catches a refusal of augmentation."""
    check_reads_alike(dataset, "transfer set")
