"""Augmentation that can be repeated: a view of a sample depends on seed, epoch and position alone."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from trainers.epoch_job import Augmented, Recorder, train
from two_processes import on_two_processes

from hf_cmim.trainers.distillation.transfer_data import IndexedDataset, Repeatable, Unlabelled
from hf_cmim.trainers.shared.class_labels import LABEL_COLUMNS

JOB = Path(__file__).with_name("epoch_job.py")
SIZE = 24


def views(seed: int = 0, epoch: int = 0, positions: Any = range(SIZE)) -> dict[int, tuple[float, ...]]:
    """What each sample looks like, asked one by one."""
    dataset = Repeatable(Augmented(SIZE), seed)
    dataset.set_epoch(epoch)
    return {position: tuple(dataset[position]["noise"].tolist()) for position in positions}


def test_neither_order_nor_batches_change_a_view():
    """Catches generators seeded once a batch or once an epoch: a sample would depend on those before it."""
    expected = views()
    assert views(positions=reversed(range(SIZE))) == expected
    dataset = Repeatable(Augmented(SIZE), 0)
    for positions in ([3, 17, 5], [17], [5, 5, 3], torch.tensor([17, 3]).tolist(), np.array([5, 17])):
        samples = dataset.__getitems__(positions)
        assert [tuple(each["noise"].tolist()) for each in samples] == [
            expected[int(position)] for position in positions
        ]


@pytest.mark.parametrize("generator", range(3), ids=["python", "numpy", "torch"])
def test_what_others_draw_changes_nothing(generator):
    """Catches a generator that is not seeded: a view would depend on what ran before."""
    draw = (random.random, np.random.rand, lambda: torch.rand(()))[generator]
    expected = [view[generator] for view in views().values()]
    draw()
    assert [view[generator] for view in views().values()] == expected


def test_seeds_epochs_and_positions_each_give_another_view():
    """Catches a part that is left out, and parts that run into each other: 1 and 11, 11 and 1."""
    asked = [(seed, epoch) for seed in (0, 1, 11) for epoch in (0, 1, 11)]
    found = [view for seed, epoch in asked for view in views(seed, epoch).values()]
    for generator in range(3):
        assert len({view[generator] for view in found}) == len(asked) * SIZE, generator


def test_random_states_outside_stay_as_they_were():
    """Catches augmentation that changes the student's dropout or the order of its data, an error's way out too."""
    dataset = Repeatable(Augmented(SIZE), 0)

    def states() -> tuple[Any, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    dataset.__getitems__([1, 2])
    assert states() == before
    with pytest.raises(IndexError):
        dataset[SIZE]
    assert states() == before


def loaded(workers: int, epoch: int) -> dict[int, tuple[float, ...]]:
    dataset = IndexedDataset(Repeatable(Augmented(SIZE), 0))
    dataset.set_epoch(epoch)
    loader = DataLoader(dataset, batch_size=5, shuffle=True, num_workers=workers)
    batches = [(batch["sample_index"].tolist(), batch["noise"].tolist()) for batch in loader]
    return {position: tuple(row) for positions, rows in batches for position, row in zip(positions, rows, strict=True)}


def test_worker_processes_give_the_same_views():
    """Catches views that depend on a worker's own seed, and an epoch that does not reach the workers."""
    for epoch in (0, 1):
        assert loaded(2, epoch) == loaded(0, epoch) == views(epoch=epoch)


# The epoch reaches it


def expected_of(epochs: int) -> list[dict[int, tuple[float, ...]]]:
    return [views(seed=7, epoch=epoch) for epoch in range(epochs)]


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 5},
    "workers": {"dataloader_num_workers": 2},
}


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_a_trainer_tells_the_epoch(changes, tmp_path):
    """Catches augmentation that is the same in every epoch, because nobody says that another one came."""
    recorder = Recorder(SIZE)
    train(tmp_path, Augmented(SIZE), recorder, num_train_epochs=3, **changes)
    assert recorder.epochs() == expected_of(3)


def test_a_resumed_trainer_tells_the_epoch_it_resumes_in(tmp_path):
    """Catches epochs counted from where this process began."""
    settings = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 3}
    train(tmp_path, Augmented(SIZE), Recorder(SIZE), max_steps=4, **settings)
    recorder = Recorder(SIZE)
    train(tmp_path, Augmented(SIZE), recorder, resume=True, **settings)
    first, second = expected_of(3)[1:]
    assert len(recorder.views) == 2 * 8 + SIZE  # two batches of the epoch that was cut, then a whole one
    assert dict(recorder.views[-SIZE:]) == second
    assert all(first[position] == view for position, view in recorder.views[:-SIZE])


@pytest.mark.slow
def test_two_processes_tell_the_epoch(tmp_path):
    """Catches an epoch told to the first process alone, or to the sampler alone, as Accelerate does."""
    first, second = on_two_processes(JOB, tmp_path, {"num_train_epochs": 2})["epochs"]
    assert [len(views) for views in (*first, *second)] == [SIZE // 2] * 4
    assert [one | other for one, other in zip(first, second, strict=True)] == expected_of(2)


def test_unlabelled_hides_every_column_that_trainer_reads_labels_from():
    """Catches an attacker without labels who still gets them, under one of the names that Trainer reads."""
    sample = {"pixel_values": torch.zeros(1), **dict.fromkeys(LABEL_COLUMNS, 3)}
    assert set(Unlabelled([sample])[0]) == {"pixel_values"}
    assert set(Unlabelled([sample], label_names=["label"])[0]) == set(sample) - {"label"}
