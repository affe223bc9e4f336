"""Answers asked once: resumed, shared, and refused where they could not be right."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import tiny
import torch
from datasets import Dataset
from forked import ended, start
from hanging import HANGING

from hf_cmim.channels import TopK
from hf_cmim.teachers import FunctionTeacher, LabelOnlyTeacher, ModelTeacher, QueryLedger, TableTeacher, cache_answers

NAMES = ("a", "b", "c")
WEIGHTS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
SHARDS = {"batch_size": 4, "shard_size": 10}
EVERYTHING = torch.arange(50)


class Linear:
    """A function that counts the samples it is asked, and can die or dither in between."""

    def __init__(self, weights=WEIGHTS, dies_at=None, noise=0.0):
        self.weights = weights
        self.dies_at = dies_at
        self.noise = noise
        self.asked = []

    def __call__(self, inputs):
        self.asked += inputs["number"].tolist()
        if self.dies_at is not None and len(self.asked) >= self.dies_at:
            raise KeyboardInterrupt
        values = inputs["values"] @ self.weights
        return values + self.noise * torch.randn_like(values)


def collate(samples):
    values = torch.stack([torch.as_tensor(sample["values"]) for sample in samples])
    return {"values": values, "number": torch.tensor([sample["number"] for sample in samples]), "labels": 0}


def rows(size=50):
    return [{"values": ROWS[number], "number": number} for number in range(size)]


def teacher(function, version="1", **settings):
    return FunctionTeacher(function, class_names=NAMES, returns="logits", version=version, **settings)


def fill(folder, function=None, dataset=None, collator=collate, asked=None, **settings):
    asked = teacher(function or Linear()) if asked is None else asked
    dataset = rows() if dataset is None else dataset
    return cache_answers(asked, dataset, folder, collator=collator, **(SHARDS | settings))


def answers(table):
    return table({"sample_index": EVERYTHING[: len(table)]})


def test_cached_answers_are_the_live_ones(tmp_path):
    """Catches samples out of order, a ragged last shard that is lost, and bits that change on the way."""
    table = fill(tmp_path)
    assert isinstance(table, TableTeacher)
    assert len(table) == 50
    assert torch.equal(answers(table)[:4], teacher(Linear())(collate(rows(4))))
    assert torch.allclose(answers(table), (ROWS @ WEIGHTS).log_softmax(-1), atol=1e-6)
    assert sorted(path.name for path in tmp_path.glob("*.arrow")) == [f"answers-0000{i}.arrow" for i in range(5)]


def test_each_sample_is_asked_once(tmp_path):
    """Catches second looks at more than was said, a full cache that asks again, and a ledger that forgets either."""
    function, ledger = Linear(), QueryLedger()
    fill(tmp_path, function, ledger=ledger, batches_checked_twice=2)
    counts = torch.tensor(function.asked).bincount()
    assert counts.min() == 1
    assert int((counts == 2).sum()) == 8, "two batches of four are asked twice"
    assert (ledger.num_paid, ledger.num_asked) == (50, len(function.asked))
    again = Linear()
    fill(tmp_path, again)
    assert again.asked == []


def test_channel_is_in_the_cache(tmp_path):
    """Catches full answers stored behind a top-k interface, or hidden classes that the table denies."""
    table = fill(tmp_path, asked=teacher(Linear(), channel=TopK(1)))
    assert table.hides_classes
    assert torch.allclose(answers(table), TopK(1)((ROWS @ WEIGHTS).log_softmax(-1)), atol=1e-6)


def test_models_and_datasets(tmp_path):
    """Catches a cache that works with the functions of these tests alone."""
    data = Dataset.from_dict({"pixels": [row["pixel_values"].tolist() for row in tiny.images(20)]}).with_format(
        "torch"
    )
    model = ModelTeacher(tiny.vit().eval())

    def collator(samples):
        return {"pixel_values": torch.stack([sample["pixels"] for sample in samples])}

    table = cache_answers(model, data, tmp_path, collator=collator, batch_size=8)
    assert torch.allclose(answers(table), model(collator(list(data))), atol=1e-5)
    assert table.class_names == model.class_names
    manifest = json.loads((tmp_path / "cache.json").read_text())
    assert manifest["data"] == data._fingerprint
    assert manifest["record"]["teacher"] == "ModelTeacher"


def test_table_is_memory_mapped(tmp_path):
    """Catches answers that are read into memory as a whole."""
    assert len(fill(tmp_path).answers.cache_files) == 5


def test_finished_shards_survive(tmp_path):
    """Catches a cache that starts anew after it was interrupted."""
    first = Linear(dies_at=31)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, first, batches_checked_twice=1)
    finished = [path.name for path in sorted(tmp_path.glob("*.arrow"))]
    assert finished == ["answers-00000.arrow", "answers-00001.arrow"]
    second, ledger = Linear(), QueryLedger(budget=30)
    table = fill(tmp_path, second, batches_checked_twice=1, ledger=ledger)
    assert min(second.asked) == 20
    assert ledger.remaining == 0
    assert torch.allclose(answers(table), (ROWS @ WEIGHTS).log_softmax(-1), atol=1e-6)


def test_budget_ends_before_it_is_exceeded(tmp_path):
    """Catches queries that are sent and then found too dear."""
    function = Linear()
    with pytest.raises(ValueError, match="budget of 25"):
        fill(tmp_path, function, ledger=QueryLedger(budget=25), batches_checked_twice=1)
    assert len(set(function.asked)) == 24


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"asked": teacher(Linear(), version="2")}, "weights of the teacher"),
        ({"asked": teacher(Linear(), channel=TopK(2))}, r"output channel \(None instead of 'TopK\(k=2"),
        ({"dataset": rows(49)}, r"number of samples \(50 instead of 49\)"),
        ({"dataset": rows()[::-1]}, "output of collator and transforms"),
        ({"collator": lambda samples: collate(samples) | {"size": 8}}, "output of collator and transforms"),
        ({"shard_size": 5}, r"shard size \(10 instead of 5\)"),
    ],
)
def test_folder_made_for_something_else_is_refused(change, named, tmp_path):
    """Catches a student that learns from answers of another teacher, or to other samples."""
    fill(tmp_path)
    with pytest.raises(ValueError, match=named):
        fill(tmp_path, **change)
    fill(tmp_path)


def test_other_data_of_equal_size_is_refused(tmp_path):
    """Catches a data set that differs only where no view is sampled."""

    def data(last):
        values = ROWS.tolist()
        values[48] = last
        return Dataset.from_dict({"values": values, "number": list(range(50))})

    fill(tmp_path, dataset=data([0.0] * 4))
    with pytest.raises(ValueError, match="another data set"):
        fill(tmp_path, dataset=data([1.0] * 4))


def test_answers_without_a_manifest_are_refused(tmp_path):
    """Catches shards of unknown origin that are taken for finished."""
    fill(tmp_path)
    (tmp_path / "cache.json").unlink()
    with pytest.raises(ValueError, match="their teacher is unknown"):
        fill(tmp_path)


def test_shard_of_another_length_is_refused(tmp_path):
    """Catches answers that are all shifted by a foreign file."""
    fill(tmp_path)
    (tmp_path / "answers-00004.arrow").unlink()
    fill(tmp_path / "other", dataset=rows(13))
    (tmp_path / "other" / "answers-00001.arrow").rename(tmp_path / "answers-00003.arrow")
    with pytest.raises(ValueError, match="Expected 10 answers.*got 3"):
        fill(tmp_path)


def jitter(samples):
    inputs = collate(samples)
    return inputs | {"values": inputs["values"] + torch.randn(1)}


class RarelyRandom(list):
    """A data set that draws one sample, which no evenly spaced look at 16 samples meets, at random."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample | {"values": torch.randn(4)} if index == 1 else sample


def test_random_views_are_refused_before_a_query(tmp_path):
    """Catches augmentation in the collator: the cache would hold one draw for ever."""
    function = Linear()
    with pytest.raises(ValueError, match="augmentation"):
        fill(tmp_path, function, collator=jitter)
    assert function.asked == []


def test_random_view_of_one_sample_is_refused(tmp_path):
    """Catches a second look that compares nothing but the sampled views."""
    with pytest.raises(ValueError, match=r"views \(values\).*augmentation"):
        fill(tmp_path, dataset=RarelyRandom(rows()))


def test_random_answers_are_refused(tmp_path):
    """Catches a teacher with noise in its answers."""
    with pytest.raises(ValueError, match=r"answers \(by up to .*teacher"):
        fill(tmp_path, Linear(noise=0.1))
    fill(tmp_path / "rounding", Linear(noise=1e-6))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"asked": LabelOnlyTeacher(3, confidence=0.9)}, "LabelOnlyTeacher"),
        ({"dataset": []}, "at least 1 sample"),
        ({"batches_checked_twice": 0}, "Without a second look"),
        ({"batch_size": 0}, "batch_size"),
        ({"asked": teacher(lambda inputs: torch.zeros(len(inputs["number"]), 2, 3))}, "single tokens"),
        ({"asked": teacher(lambda inputs: torch.zeros(1, 3))}, r"\(4, 3\), one per sample, got \(1, 3\)"),
    ],
)
def test_misuse_is_refused(settings, named, tmp_path):
    """Catches caches that could not be right."""
    with pytest.raises(ValueError, match=named):
        fill(tmp_path, **settings)


def test_second_process_waits_and_asks_nothing(tmp_path):
    """Catches two writers in one folder, each paying for everything."""
    functions = [Linear(), Linear()]
    tables = {}

    def work(number):
        tables[number] = fill(tmp_path, functions[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGING)
    assert sorted(bool(function.asked) for function in functions) == [False, True]
    assert torch.equal(answers(tables[0]), answers(tables[1]))


def fill_and_die(folder: Path, asked_file: Path, dies_in_write: int | None) -> None:
    """Fill the cache, writing down what is asked; die half-way through a file, or before its name appears."""
    function = Linear()
    if dies_in_write is not None:
        original, writes = os.replace, 0

        def replace(source, target):
            nonlocal writes
            writes += 1
            if writes == dies_in_write:
                Path(source).write_bytes(Path(source).read_bytes()[:-7])
                asked_file.write_text(json.dumps(function.asked))
                os.kill(os.getpid(), signal.SIGKILL)
            original(source, target)

        os.replace = replace
    fill(folder, function, batches_checked_twice=1)
    asked_file.write_text(json.dumps(function.asked))


@pytest.mark.slow
@pytest.mark.parametrize("write", range(1, 7))  # the manifest, then five shards
def test_kill_loses_no_finished_shard(write, tmp_path):
    """Catches a shard that counts as finished before it is whole, a stale lock, and answers asked again."""
    asked = []
    for dies_in_write, expected in ((write, -signal.SIGKILL), (None, 0)):
        assert ended(start(fill_and_die, tmp_path / "cache", tmp_path / "asked", dies_in_write)) == [expected]
        asked.append(json.loads((tmp_path / "asked").read_text()))
    finished = max(0, 10 * (write - 2))
    assert set(asked[0]) == set(range(min(finished + 10, 50) if write > 1 else 0))
    assert sorted(set(asked[1])) == list(range(finished, 50))
    assert torch.equal(answers(fill(tmp_path / "cache")), answers(fill(tmp_path / "uninterrupted")))
