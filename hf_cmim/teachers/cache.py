"""A cache of a teacher's answers in a folder: each sample is asked once, and many students learn from the answers.

A cache is valid only if a sample's view and the answer to it never change. No fingerprint can detect a change, so a
few batches are asked twice.
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
"""File written first into a cache folder: the teacher and the samples of its answers."""

LARGEST_DIFFERENCE = 1e-3
"""Largest difference of two answers to the same view from rounding, in log-probability, absolute and relative."""

_SAMPLED_VIEWS = 16
_COMPARED = {
    "num_samples": "number of samples",
    "data": "data set",
    "views": "output of collator and transforms",
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
        """Return the collated inputs without labels, with the positions if the teacher wants them."""
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
    """Ask a teacher each sample once, store the answers, and return them as a teacher.

    Answers are written shard by shard, after the teacher's channel. After a kill the finished shards stay, and the
    same call asks the missing samples; a complete cache asks nothing. A second process on the same folder waits until
    the first has ended, or continues when it was killed.

    Args:
        teacher: teacher that answers a batch with `(B, C)`.
        dataset: samples, any object with `len` and integer positions; its order is the order of the answers.
        folder: folder of the answers; created if missing.
        collator: function from a list of samples to the teacher's view of them; an entry `labels` is left out.
        batch_size: number of samples asked at once.
        shard_size: number of samples in a file, and most samples that a kill can lose. Use a small number where
            queries are expensive.
        batches_checked_twice: number of batches, evenly spaced among the missing ones, that are collated and asked
            twice.
        ledger: ledger that counts the queries of this call and enforces a budget. Samples of finished shards are not
            charged again.

    Returns:
        Teacher that answers by `sample_index`.

    Raises:
        HfCmimError: a folder with other answers, views or answers that change, or a teacher that answers from labels
            or for single tokens.
    """
    _check_arguments(teacher, batch_size, shard_size, batches_checked_twice)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    questions = _Questions(teacher, dataset, collator)
    # The kernel releases this lock when its process dies, however it dies.
    with FileLock(folder / "cache.lock"):
        # The manifest comes before the first shard: a folder never holds answers of an unknown teacher.
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
            " costs nothing. Use it without a cache."
        )
    if min(batch_size, shard_size, batches_checked_twice) < 1:
        raise HfCmimError(
            f"Expected batch_size, shard_size and batches_checked_twice of at least 1, got {batch_size}, {shard_size}"
            f" and {batches_checked_twice}. Without a second look, answers to random views would be stored as if they"
            " were fixed. Use numbers of at least 1."
        )


def _spaced(size: int, count: int) -> list[int]:
    """Return up to `count` different positions in [0, size), evenly spaced and starting at 0."""
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
    """Return the description of the answers, after comparing two looks at some views.

    Raises:
        HfCmimError: no samples, or views that change.
    """
    if not len(questions.dataset):
        raise HfCmimError("Expected at least 1 sample to ask, got an empty data set. Give the attacker's samples.")
    # Random augmentation shows here before any query is paid for.
    views = questions.sampled_views()
    if views != questions.sampled_views():
        raise HfCmimError(_changing("views", "collator or data set"))
    record = questions.teacher.record()
    return {
        "format": 1,
        "num_samples": len(questions.dataset),
        # Only a `datasets.Dataset` has a fingerprint.
        "data": getattr(questions.dataset, "_fingerprint", None),
        "views": views,
        "class_names": record["class_names"],
        "channel": record["channel"],
        "teacher": record["fingerprint"],
        "shard_size": shard_size,
        "record": record,
    }


def _keep_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest into a new folder, or compare it with the stored one.

    Raises:
        HfCmimError: a manifest of other answers; the message names the differences.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        if list(folder.glob("answers-*.arrow")):
            raise HfCmimError(
                f"Expected {MANIFEST_NAME} beside the answers in {folder}, got none: their teacher is unknown. Choose"
                " another folder, or delete this one."
            )
        _replace(path, json.dumps(manifest, indent=1).encode())
        return
    stored = read_mapping(path, f"the cache's {path}")
    differences = [
        f"{meaning} ({stored.get(name)!r} instead of {manifest[name]!r})"
        for name, meaning in _COMPARED.items()
        if stored.get(name) != manifest[name]
    ]
    if differences:
        listed = "; another ".join(differences)
        raise HfCmimError(
            f"Expected a cache of these answers in {folder}, got one made with another {listed}: a student"
            " would learn from other answers than planned. Choose another folder, or delete this one."
        )


def _ask(questions: _Questions, batch: range, ledger: QueryLedger | None, twice: bool) -> Tensor:
    """Return the answers to one batch on the CPU; with `twice`, ask again and compare.

    Raises:
        HfCmimError: more than one answer per sample, or views or answers that differ.
    """
    inputs = questions.view(batch)
    # Charged before the queries are sent: a budget is never exceeded. A second look is asked but not paid.
    if ledger is not None:
        ledger.charge_samples(batch)
        ledger.asked(len(batch) * (1 + twice))
    answers = questions.teacher(inputs).cpu()
    if answers.shape != (len(batch), questions.teacher.num_classes):
        raise HfCmimError(
            f"Expected answers ({len(batch)}, {questions.teacher.num_classes}), one per sample, got"
            f" {tuple(answers.shape)}: answers for single tokens depend on the padding of a batch and are not cached."
            " Use the teacher without a cache."
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


def _changing(part: str, source: str) -> str:
    """Return the message about a part of the answers that changes, and the source of the randomness."""
    return (
        f"Expected the same {part} when samples are looked at twice, got different ones: augmentation or other"
        f" randomness in the {source}. A cache would store one random draw, and a student would pair it with other"
        " views. Remove the randomness, or use the teacher without a cache."
    )


def _write_shard(path: Path, answers: Tensor) -> None:
    """Write answers `(N, C)` as one Arrow stream; the file is complete or missing."""
    # pyarrow comes with datasets, which only caches and tables need.
    import pyarrow as pa

    flat = pa.array(answers.numpy().reshape(-1), pa.float32())
    table = pa.table({"log_probs": pa.FixedSizeListArray.from_arrays(flat, answers.shape[-1])})
    # Built in memory first, so that the file is written in one go.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    _replace(path, sink.getvalue())


def _replace(path: Path, content: Any) -> None:
    """Write bytes to a file whose name appears only when all of them are on the disk."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        # Without fsync a crash of the machine could leave the final name with an empty file.
        os.fsync(file.fileno())
    os.replace(partial, path)


def _open(shards: Mapping[Path, range], manifest: Mapping[str, Any], teacher: AbstractTeacher) -> TableTeacher:
    """Return the answers of all shards, memory-mapped.

    Raises:
        HfCmimError: a shard of another length.
    """
    # Only caches and tables need datasets.
    from datasets import Dataset
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
