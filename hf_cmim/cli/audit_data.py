"""Data of an audit from the command line: disjoint splits, columns and class names."""

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
"""Words in the name of a test set with the unused rows of the train split."""
SHOWN_ROWS = 8
"""Number of row numbers that an error lists."""
FEATURES = {"image": "Image", "text": "string", "label": "ClassLabel"}
"""Name or dtype of the feature by which a column is recognised."""


@dataclass(frozen=True)
class AuditRows:
    """Three data sets with the same two columns and no common row.

    Attributes:
        transfer: rows that the attacker asks about.
        validation: rows on which settings are chosen.
        test: rows that the verdict is about.
        names: names of the three in the report.
        sample_column: column of images or texts.
        label_column: column of labels.
        classes: name of the class for each value in the label column.
    """

    transfer: Dataset
    validation: Dataset
    test: Dataset
    names: tuple[str, str, str]
    sample_column: str
    label_column: str
    classes: dict[Any, str]


def open_rows(options: argparse.Namespace, kind: str, model_names: Sequence[str] | None = None) -> AuditRows:
    """Open the data given by flags.

    Args:
        options: flags of `hf-cmim audit`.
        kind: kind of the teacher's input, "image" or "text".
        model_names: class names in the order of the teacher's logits, to read labels by; None to use labels as names.

    Raises:
        HfCmimError: data, a split or a column that does not exist, rows without a sample or label, or parts that would
            overlap or be empty.
    """
    data = _open(options.dataset)
    train = _split(data, options.train_split or "train", "--train-split")
    sample_column = _find_column(options, kind, dict(train.features))
    label_column = _find_column(options, "label", dict(train.features))
    columns = [sample_column, label_column]
    splits = {
        name: split.select_columns(columns) for name, split in data.items() if set(columns) <= set(split.features)
    }
    requested_splits = {options.train_split or "train", options.validation_split, options.test_split or "test"}
    for name in sorted(requested_splits & splits.keys()):
        _check_no_gaps(splits[name], sample_column, kind, name)
    transfer, validation, test, names = _parts(options, splits)
    classes = read_classes([transfer, validation, test], label_column, model_names)
    return AuditRows(transfer, validation, test, names, sample_column, label_column, classes)


def _open(name: str) -> DatasetDict:
    path = Path(name)
    if path.is_file() and path.suffix not in FILE_FORMATS:
        raise HfCmimError(
            f"Expected --dataset as a folder, a Hub id or a file that ends in {', '.join(FILE_FORMATS)}, got {name!r},"
            " a file of unknown format. Convert it to parquet."
        )
    try:
        if path.is_file():
            return load_dataset(FILE_FORMATS[path.suffix], data_files=str(path))
        return load_dataset(name)
    except (OSError, ValueError) as error:
        raise HfCmimError(
            f"datasets.load_dataset cannot open --dataset {name!r}: {_first_line(error)} Check the path; a Hub id"
            " needs a network, or a copy from an earlier run."
        ) from error


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else f"{line}."


def _split(data: DatasetDict, name: str, flag: str) -> Dataset:
    if name not in data:
        raise HfCmimError(
            f"The data have no split {name!r} for {flag}, only {list(data)}. Choose one of these{_without_test(flag)}."
        )
    return data[name]


def _without_test(flag: str) -> str:
    if flag != "--test-split":
        return ""
    return ", or test on the rows that the attacker does not ask about: --max-transfer-samples N --rest-as-test"


# Parts


def _parts(
    options: argparse.Namespace, data: dict[str, Dataset]
) -> tuple[Dataset, Dataset, Dataset, tuple[str, str, str]]:
    """Return transfer, validation and test set with their names; equal flags always choose equal rows."""
    train_name, validation_name = options.train_split or "train", options.validation_split
    test_name = options.test_split or "test"
    _check_apart([train_name, validation_name, test_name])
    train = _split(data, train_name, "--train-split")
    unused: list[Dataset] = []
    if validation_name is None:
        share = VALIDATION_SHARE if options.validation_share is None else options.validation_share
        train, held_out = _held_out(train, share)
        validation = _first(held_out, options.max_validation_samples)
        unused.append(_beyond(held_out, options.max_validation_samples))
        validation_name = f"{train_name}, held out"
    else:
        rows = _split(data, validation_name, "--validation-split").shuffle(seed=0)
        validation = _first(rows, options.max_validation_samples)
    transfer = _first(train, options.max_transfer_samples)
    unused.append(_beyond(train, options.max_transfer_samples))
    test_parts = unused if options.rest_as_test else []
    if test_name in data or options.test_split is not None or not options.rest_as_test:
        test_parts = [_split(data, test_name, "--test-split"), *test_parts]
        test_words = f"{test_name} and {REST} {train_name}" if options.rest_as_test else test_name
    else:
        test_words = f"{REST} {train_name}"
    test = _first(_joined(test_parts).shuffle(seed=0), options.max_test_samples)
    _check_not_empty(transfer, validation, test, options)
    source = Path(options.dataset).name
    names = (f"{source}: {train_name}", f"{source}: {validation_name}", f"{source}: {test_words}")
    return transfer, validation, test, names


def _check_apart(names: list[str | None]) -> None:
    splits = [name for name in names if name is not None]
    if len(set(splits)) < len(splits):
        raise HfCmimError(
            f"One split is used twice, to ask about, choose on and test on: {', '.join(splits)}. Students would be"
            " measured on samples that trained or selected them. Give different splits; without --validation-split a"
            " share of the train split is held out."
        )


def _held_out(train: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Split rows into a remaining and a held-out part, the same rows that the recipes hold out."""
    if not 0 < share < 1 or not 1 <= round(share * len(train)) < len(train):
        raise HfCmimError(
            f"--validation-share {share} of {len(train)} rows leaves no row to choose settings on, or none to ask"
            " about. Give a share between 0 and 1, for instance 0.1."
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
            f"Train and test split have different columns, {[dict(part.features) for part in parts]}: --rest-as-test"
            " cannot join them. Leave it out, or store both splits with the same columns."
        )
    return concatenate_datasets(parts)


def _check_not_empty(transfer: Dataset, validation: Dataset, test: Dataset, options: argparse.Namespace) -> None:
    sizes = {"transfer": len(transfer), "validation": len(validation), "test": len(test)}
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise HfCmimError(
            f"An audit needs rows to ask about, to choose on and to test on, and has {sizes}. Change"
            f" {', '.join(f'--max-{name}-samples' for name in empty)}"
            f"{', or leave rows over with a smaller --max-transfer-samples' if options.rest_as_test else ''}."
        )


# Columns


def _find_column(options: argparse.Namespace, kind: str, features: dict[str, Any]) -> str:
    """Return the column of a kind: that of the flag, the only one of this kind, or that named `kind`."""
    matching_columns = [
        name
        for name, feature in features.items()
        if FEATURES[kind] in f"{type(feature).__name__} {getattr(feature, 'dtype', '')}"
    ]
    requested: str | None = getattr(options, f"{kind}_column")
    column = requested or (matching_columns[0] if len(matching_columns) == 1 else kind)
    if column not in features:
        raise HfCmimError(
            f"Expected one column of {kind}s among {list(features)}, got {requested or matching_columns or 'none'}:"
            f" another column would be another task. Choose with --{kind}-column."
        )
    return column


def _check_no_gaps(rows: Dataset, column: str, kind: str, split: str) -> None:
    """Refuse a split with empty cells in the column of texts or images."""
    # The count is cheap; the list of row numbers is made only for the error.
    if rows.data.column(column).null_count == 0:
        return
    missing = rows.data.column(column).is_null().to_pylist()
    numbers = [number for number, is_missing in enumerate(missing) if is_missing]
    listed = ", ".join(map(str, numbers[:SHOWN_ROWS])) + (", ..." if len(numbers) > SHOWN_ROWS else "")
    raise HfCmimError(
        f"{len(numbers):,} of {len(rows):,} rows of the split {split!r} have no {kind} in column {column!r} (rows"
        f" {listed}, counted from 0; in a CSV, an empty cell, NA and null are no value): a teacher cannot answer them."
        " Remove them, for instance with"
        f" dataset.filter(lambda row: row[{column!r}] is not None), and save the data again."
    )
