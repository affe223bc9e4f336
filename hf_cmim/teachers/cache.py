"""Answers asked once and kept in a folder, so that many students learn from the same ones.

A cache is only right if a sample's view and the answer to it never change. No fingerprint can see that, so a few
batches are asked twice.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from tqdm.auto import tqdm

from hf_cmim.errors import HfCmimError
from hf_cmim.plain_data import read_mapping
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.teachers.fingerprints import digest
from hf_cmim.teachers.ledger import QueryLedger
from hf_cmim.teachers.table import TableTeacher

MANIFEST_NAME = "cache.json"
"""File written first into a cache folder: whose answers to what."""

LARGEST_DIFFERENCE = 1e-3
"""How far two answers to the same view may be apart in log-probability, absolutely and relatively, by rounding."""

_SAMPLED_VIEWS = 16
_COMPARED = {
    "num_samples": "number of samples",
    "data": "data set",
    "views": "what collator and transforms make of the samples",
    "class_names": "classes of the teacher",
    "channel": "output channel",
    "teacher": "weights of the teacher",
    "shard_size": "shard size",
}


@dataclass(frozen=True)
class _Questions:
    """The teacher's views of a data set's samples."""

    teacher: AbstractTeacher
    dataset: Any
    collator: Callable[[list[Any]], Mapping[str, Any]]

    def view(self, positions: Sequence[int]) -> dict[str, Any]:
        """Return the collated inputs without labels, with the positions where the teacher wants them."""
        inputs = dict(self.collator([self.dataset[position] for position in positions]))
        inputs.pop("labels", None)
        if self.teacher.wants_index:
            inputs[INDEX_NAME] = torch.tensor(positions)
        return inputs

    def sampled_views(self) -> str:
        """Return a fingerprint of evenly spaced samples as the teacher sees them."""
        positions = _spaced(len(self.dataset), _SAMPLED_VIEWS)
        return digest(len(self.dataset), self.view(positions))


def cache_answers(
    teacher: AbstractTeacher,
    dataset: Any,
    folder: str | Path,
    *,
    collator: Callable[[list[Any]], Mapping[str, Any]],
    batch_size: int = 256,
    shard_size: int = 4096,
    batches_checked_twice: int = 2,
    ledger: QueryLedger | None = None,
) -> TableTeacher:
    """Ask a teacher each sample once, keep the answers, and return them as a teacher.

    Answers are written shard by shard. After a kill the finished shards are kept, and the same call goes on with the
    rest; once all is there it asks nothing. A second process on the same folder waits until the first has ended, or
    takes over when it was killed. What is stored has passed the teacher's channel.

    Args:
        teacher: teacher that is asked, one `(B, C)` answer a batch.
        dataset: anything with `len` and integer positions; its order is the order of the answers.
        folder: where the answers are kept; created if missing.
        collator: list of samples to the teacher's view of them; what it calls `labels` is left out.
        batch_size: samples asked at once.
        shard_size: samples in a file, and most that a kill can lose. Choose it small where queries are dear.
        batches_checked_twice: batches, evenly spaced among those to be asked, that are collated and asked twice.
        ledger: counts what this call asks and enforces a budget; samples of finished shards are not charged again.

    Returns:
        The answers by `sample_index`.

    Raises:
        HfCmimError: a folder made for something else, views or answers that change, or a teacher that answers from
            labels or for single tokens.
    """
    _check_arguments(teacher, batch_size, shard_size, batches_checked_twice)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    questions = _Questions(teacher, dataset, collator)
    # The kernel releases this lock when its process dies, however it dies.
    with FileLock(folder / "cache.lock"):
        manifest = _manifest(questions, shard_size)
        _keep_manifest(folder, manifest)
        shards = _shards(folder, len(dataset), shard_size)
        missing = {path: span for path, span in shards.items() if not path.is_file()}
        done = len(dataset) - sum(len(span) for span in missing.values())
        twice = _checked_batches(list(missing.values()), batch_size, batches_checked_twice)
        with tqdm(total=len(dataset), initial=done, desc="Answers", leave=False, disable=not missing) as progress:
            for path, span in missing.items():
                answers = []
                for batch in _batches(span, batch_size):
                    answers.append(_ask(questions, batch, ledger, batch.start in twice))
                    progress.update(len(batch))
                _write_shard(path, torch.cat(answers))
        return _open(shards, manifest, teacher)


def _check_arguments(teacher: AbstractTeacher, batch_size: int, shard_size: int, batches_checked_twice: int) -> None:
    if teacher.wants_labels or teacher.class_names is None:
        raise HfCmimError(
            f"Expected a teacher that answers from inputs, got {type(teacher).__name__}, which answers from labels and"
            " costs nothing. Use it as it is."
        )
    if min(batch_size, shard_size, batches_checked_twice) < 1:
        raise HfCmimError(
            f"Expected batch_size, shard_size and batches_checked_twice of at least 1, got {batch_size}, {shard_size}"
            f" and {batches_checked_twice}. Unchecked, answers to random views would be kept as if they were fixed."
        )


def _spaced(size: int, count: int) -> list[int]:
    """Return up to `count` different positions in [0, size), evenly spaced, the first among them."""
    count = min(size, count)
    return [index * size // count for index in range(count)]


def _shards(folder: Path, size: int, shard_size: int) -> dict[Path, range]:
    """Return the file of each shard with the positions of its samples."""
    edges = [*range(0, size, shard_size), size]
    return {
        folder / f"answers-{number:05d}.arrow": range(start, stop)
        for number, (start, stop) in enumerate(pairwise(edges))
    }


def _batches(span: range, batch_size: int) -> list[range]:
    return [span[start : start + batch_size] for start in range(0, len(span), batch_size)]


def _checked_batches(spans: list[range], batch_size: int, count: int) -> set[int]:
    """Return the first positions of the batches that are asked twice."""
    starts = [batch.start for span in spans for batch in _batches(span, batch_size)]
    return {starts[index] for index in _spaced(len(starts), count)} if starts else set()


def _manifest(questions: _Questions, shard_size: int) -> dict[str, Any]:
    """Return what the folder is for, having looked twice at a sample of views.

    Raises:
        HfCmimError: no samples, or views that change.
    """
    if not len(questions.dataset):
        raise HfCmimError("Expected at least 1 sample to ask, got an empty data set.")
    views = questions.sampled_views()
    if views != questions.sampled_views():
        raise HfCmimError(_changing("views", "collator or data set"))
    record = questions.teacher.record()
    return {
        "format": 1,
        "num_samples": len(questions.dataset),
        "data": getattr(questions.dataset, "_fingerprint", None),  # of a datasets.Dataset
        "views": views,
        "class_names": record["class_names"],
        "channel": record["channel"],
        "teacher": record["fingerprint"],
        "shard_size": shard_size,
        "record": record,
    }


def _keep_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest into a new folder, or compare it with that of an old one.

    Raises:
        HfCmimError: naming what differs.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        if list(folder.glob("answers-*.arrow")):
            raise HfCmimError(
                f"Expected {MANIFEST_NAME} beside the answers in {folder}, got none: nobody knows whose answers they"
                " are. Choose another folder, or delete this one."
            )
        _replace(path, json.dumps(manifest, indent=1).encode())
        return
    found = read_mapping(path, f"the cache's {path}")
    differences = [
        f"{meaning} ({found.get(name)!r} instead of {manifest[name]!r})"
        for name, meaning in _COMPARED.items()
        if found.get(name) != manifest[name]
    ]
    if differences:
        named = "; another ".join(differences)
        raise HfCmimError(
            f"Expected a cache of these answers in {folder}, got one made with another {named}: a student"
            " would learn from other answers than planned. Choose another folder, or delete this one."
        )


def _ask(questions: _Questions, batch: range, ledger: QueryLedger | None, twice: bool) -> Tensor:
    """Return the answers to one batch on the CPU, asked twice where that is due.

    Raises:
        HfCmimError: more than one answer a sample, or views or answers that differ.
    """
    inputs = questions.view(batch)
    if ledger is not None:
        ledger.charge_samples(batch)
        ledger.asked(len(batch) * (1 + twice))
    answers = questions.teacher(inputs).cpu()
    if answers.shape != (len(batch), questions.teacher.num_classes):
        raise HfCmimError(
            f"Expected answers ({len(batch)}, {questions.teacher.num_classes}), one a sample, got"
            f" {tuple(answers.shape)}: answers for single tokens depend on the padding of a batch and are not cached."
            " Use the teacher as it is."
        )
    if twice:
        again = questions.view(batch)
        changing = [name for name in inputs if digest(inputs[name]) != digest(again.get(name))]
        if changing or inputs.keys() != again.keys():
            raise HfCmimError(_changing(f"views ({', '.join(changing)})", "collator or data set"))
        difference = questions.teacher(again).cpu() - answers
        if not bool((difference.abs() <= LARGEST_DIFFERENCE * (1 + answers.abs())).all()):
            raise HfCmimError(_changing(f"answers (by up to {difference.abs().max().item():.4g})", "teacher"))
    return answers


def _changing(what: str, whose: str) -> str:
    return (
        f"Expected the same {what} when samples are looked at twice, got different ones: augmentation or other"
        f" randomness in the {whose}. A cache would hold one draw for ever, and a student would pair it with other"
        " views. Take the randomness out, or use the teacher without a cache."
    )


def _write_shard(path: Path, answers: Tensor) -> None:
    """Write answers `(N, C)` as one Arrow stream that is there whole or not at all."""
    import pyarrow as pa  # comes with datasets, which only caches and tables need

    flat = pa.array(answers.numpy().reshape(-1), pa.float32())
    table = pa.table({"log_probs": pa.FixedSizeListArray.from_arrays(flat, answers.shape[-1])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    _replace(path, sink.getvalue())


def _replace(path: Path, content: Any) -> None:
    """Write bytes to a file whose name appears once they are all on the disk."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _open(shards: Mapping[Path, range], manifest: Mapping[str, Any], teacher: AbstractTeacher) -> TableTeacher:
    """Return the answers of all shards, memory-mapped.

    Raises:
        HfCmimError: a shard of another length.
    """
    from datasets import Dataset  # only caches and tables need it
    from datasets.table import MemoryMappedTable, concat_tables

    tables = [MemoryMappedTable.from_file(str(path)) for path in shards]
    for table, (path, span) in zip(tables, shards.items(), strict=True):
        if table.num_rows != len(span):
            raise HfCmimError(
                f"Expected {len(span)} answers in {path}, got {table.num_rows}: every later answer would belong to"
                " another sample. Delete this file and call again."
            )
    identity = digest(*(manifest[name] for name in _COMPARED))
    return TableTeacher(
        Dataset(concat_tables(tables), fingerprint=identity),
        class_names=manifest["class_names"],
        hides_classes=teacher.hides_classes,
    )
