"""The data of an audit from the command line: splits that never overlap, columns, and the names of the classes."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset

from hf_cmim.cli.audit_labels import read_classes
from hf_cmim.errors import HfCmimError

FILE_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
VALIDATION_SHARE = 0.1
REST = "the rest of"
"""Words in the name of a test set that holds what is left of the train split."""
SHOWN_ROWS = 8
"""Numbers of rows that an error lists."""
FEATURES = {"image": "Image", "text": "string", "label": "ClassLabel"}
"""What a column's type is called, or holds, by which it is recognised."""


@dataclass(frozen=True)
class AuditRows:
    """Three data sets of the same two columns that share no row.

    Attributes:
        transfer: what the attacker asks about.
        validation: what settings are chosen on.
        test: what the verdict is about.
        names: of the three, for the report.
        sample_column: images or texts.
        label_column: their classes.
        classes: name of the class that each value in the label column stands for.
    """

    transfer: Dataset
    validation: Dataset
    test: Dataset
    names: tuple[str, str, str]
    sample_column: str
    label_column: str
    classes: dict[Any, str]


def open_rows(options: argparse.Namespace, kind: str, model_names: Sequence[str] | None = None) -> AuditRows:
    """Open the data that the flags name.

    Args:
        options: with the flags of `hf-cmim audit`.
        kind: "image" or "text", what the teacher reads.
        model_names: classes in the order of the teacher's logits, by which labels are read; None for the labels' own.

    Raises:
        HfCmimError: no such data, split or column, rows without a sample or label, or parts that would overlap or be
            empty.
    """
    data = _open(options.dataset)
    train = _split(data, options.train_split or "train", "--train-split")
    columns = [_find_column(options, each, dict(train.features)) for each in (kind, "label")]
    splits = {name: each.select_columns(columns) for name, each in data.items() if set(columns) <= set(each.features)}
    used = {options.train_split or "train", options.validation_split, options.test_split or "test"}
    for name in sorted(used & splits.keys()):
        _check_no_gaps(splits[name], columns[0], kind, name)
    transfer, validation, test, names = _parts(options, splits)
    classes = read_classes([transfer, validation, test], columns[1], model_names)
    return AuditRows(transfer, validation, test, names, columns[0], columns[1], classes)


def _open(name: str) -> DatasetDict:
    path = Path(name)
    if path.is_file() and path.suffix not in FILE_FORMATS:
        raise HfCmimError(
            f"Expected --dataset as a folder, a Hub id or a file that ends in {', '.join(FILE_FORMATS)}, got {name!r}:"
            " its format is not known. Convert it to parquet."
        )
    try:
        if path.is_file():
            return load_dataset(FILE_FORMATS[path.suffix], data_files=str(path))
        return load_dataset(name)
    except (OSError, ValueError) as error:
        raise HfCmimError(
            f"Expected --dataset to be what datasets.load_dataset opens, got {name!r}: {_first_line(error)} Check the"
            " path; an id of the Hub needs a network, or a copy from an earlier run."
        ) from error


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else f"{line}."


def _split(data: DatasetDict, name: str, flag: str) -> Dataset:
    if name not in data:
        raise HfCmimError(
            f"Expected {flag} among {list(data)}, got {name!r}: there are no such rows. Name one of them"
            f"{_without_test(flag)}."
        )
    return data[name]


def _without_test(flag: str) -> str:
    if flag != "--test-split":
        return ""
    return ", or test on what the attacker does not ask about: --max-transfer-samples N --rest-as-test"


# Parts


def _parts(
    options: argparse.Namespace, data: dict[str, Dataset]
) -> tuple[Dataset, Dataset, Dataset, tuple[str, str, str]]:
    """Return transfer, validation and test set with their names. The same flags always choose the same rows."""
    train_name, validation_name = options.train_split or "train", options.validation_split
    test_name = options.test_split or "test"
    _check_apart([train_name, validation_name, test_name])
    train = _split(data, train_name, "--train-split")
    left: list[Dataset] = []
    if validation_name is None:
        share = VALIDATION_SHARE if options.validation_share is None else options.validation_share
        train, held_out = _held_out(train, share)
        validation = _first(held_out, options.max_validation_samples)
        left.append(_beyond(held_out, options.max_validation_samples))
        validation_name = f"{train_name}, held out"
    else:
        every = _split(data, validation_name, "--validation-split").shuffle(seed=0)
        validation = _first(every, options.max_validation_samples)
    transfer = _first(train, options.max_transfer_samples)
    left.append(_beyond(train, options.max_transfer_samples))
    tests = left if options.rest_as_test else []
    if test_name in data or options.test_split is not None or not options.rest_as_test:
        tests = [_split(data, test_name, "--test-split"), *tests]
        words = f"{test_name} and {REST} {train_name}" if options.rest_as_test else test_name
    else:
        words = f"{REST} {train_name}"
    test = _first(_joined(tests).shuffle(seed=0), options.max_test_samples)
    _check_not_empty(transfer, validation, test, options)
    source = Path(options.dataset).name
    names = (f"{source}: {train_name}", f"{source}: {validation_name}", f"{source}: {words}")
    return transfer, validation, test, names


def _check_apart(names: list[str | None]) -> None:
    given = [name for name in names if name is not None]
    if len(set(given)) < len(given):
        raise HfCmimError(
            f"Expected different splits to ask about, to choose on and to test on, got {', '.join(given)}: students"
            " would be measured on what they learned or were chosen by. Without --validation-split a share of the"
            " train split is held out."
        )


def _held_out(train: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Return a split less a share of it, and the share: the rows that our recipes hold out."""
    if not 0 < share < 1 or not 1 <= round(share * len(train)) < len(train):
        raise HfCmimError(
            f"Expected --validation-share between 0 and 1 that leaves rows on both sides of {len(train)}, got {share}:"
            " settings could not be chosen, or nothing be asked. A tenth is 0.1."
        )
    parts = train.train_test_split(test_size=share, seed=0)
    return parts["train"], parts["test"]


def _first(rows: Dataset, limit: int | None) -> Dataset:
    return rows.select(list(range(len(rows)))[: None if limit is None else max(0, limit)])


def _beyond(rows: Dataset, limit: int | None) -> Dataset:
    return rows.select(list(range(len(rows)))[len(_first(rows, limit)) :])


def _joined(parts: list[Dataset]) -> Dataset:
    features = parts[0].features
    if any(part.features != features for part in parts):
        raise HfCmimError(
            f"Expected the same columns in the train and the test split, got {[dict(each.features) for each in parts]}"
            ": --rest-as-test could not put them together. Leave it out, or store both splits alike."
        )
    return concatenate_datasets(parts)


def _check_not_empty(transfer: Dataset, validation: Dataset, test: Dataset, options: argparse.Namespace) -> None:
    sizes = {"transfer": len(transfer), "validation": len(validation), "test": len(test)}
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise HfCmimError(
            f"Expected rows to ask about, to choose on and to test on, got {sizes}: an audit needs all three. Change"
            f" {', '.join(f'--max-{name}-samples' for name in empty)}"
            f"{', or leave a rest with a smaller --max-transfer-samples' if options.rest_as_test else ''}."
        )


# Columns


def _find_column(options: argparse.Namespace, kind: str, features: dict[str, Any]) -> str:
    """Return the column of labels, images or texts: the one asked for, or else the only one, or that of this name."""
    found = [
        name
        for name, each in features.items()
        if FEATURES[kind] in f"{type(each).__name__} {getattr(each, 'dtype', '')}"
    ]
    asked: str | None = getattr(options, f"{kind}_column")
    column = asked or (found[0] if len(found) == 1 else kind)
    if column not in features:
        raise HfCmimError(
            f"Expected one column of {kind}s among {list(features)}, got {asked or found or 'none'}: another column"
            f" would be another task. Choose with --{kind}-column."
        )
    return column


def _check_no_gaps(rows: Dataset, column: str, kind: str, split: str) -> None:
    """Refuse a split with empty cells in the column of texts or images."""
    if rows.data.column(column).null_count == 0:
        return
    missing = rows.data.column(column).is_null().to_pylist()
    numbers = [number for number, is_missing in enumerate(missing) if is_missing]
    listed = ", ".join(map(str, numbers[:SHOWN_ROWS])) + (", ..." if len(numbers) > SHOWN_ROWS else "")
    raise HfCmimError(
        f"{len(numbers):,} of {len(rows):,} rows of the split {split!r} have no {kind} in column {column!r} (rows"
        f" {listed}, counted from 0; in a CSV an empty cell, NA or null is none): nothing could be asked about them."
        " Remove them, for instance with"
        f" dataset.filter(lambda row: row[{column!r}] is not None), and save the data again."
    )
