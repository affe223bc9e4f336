"""Labelled data, opened in one way by the command line and the recipes: disjoint splits, columns and class names."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from datasets import Audio, Dataset, DatasetDict, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from hf_cmim.data.classes import read_classes
from hf_cmim.errors import HfCmimError, abbreviated

FILE_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
VALIDATION_SHARE = 0.1
REST = "the rest of"
"""Words in the name of a test set with the unused rows of the train split."""
PURPOSES = {"train": "Training needs rows to train on", "transfer": "An audit needs rows to ask about"}
FEATURES = {"image": "Image", "text": "string", "audio": "Audio", "label": "ClassLabel"}
"""Name or dtype of the feature by which a column is recognised."""


@dataclass(frozen=True)
class DataSource:
    """A data set by name, with the choice of its splits, rows and columns.

    Args:
        dataset: Hub id or folder for `datasets.load_dataset`, or one parquet, csv, json or jsonl file.
        dataset_config: configuration of a data set that has several.
        train_split: split of the rows to train on, or to ask about.
        validation_split: split on which settings are chosen; None to hold out rows of the train split.
        validation_share: share of the train split to hold out, always the same rows; None for a tenth.
        test_split: split to test on; None for "test".
        test_share: share of the remaining train rows that is held out to test on if there is no test split; None to
            refuse data without a test split.
        max_train_samples: largest number of training rows.
        max_validation_samples: largest number of validation rows.
        max_test_samples: largest number of test rows.
        rest_as_test: True to add the unused rows of the train split to the test set.
        image_column: column of images; None for the only one, or that named "image".
        text_column: column of texts; None for the only one, or that named "text".
        audio_column: column of sounds; None for the only one, or that named "audio".
        label_column: column of labels; None for the only column of classes, or that named "label".
        train_name: name of the training rows in errors, as in the flag --max-NAME-samples.
    """

    dataset: str
    dataset_config: str | None = None
    train_split: str | None = None
    validation_split: str | None = None
    validation_share: float | None = None
    test_split: str | None = None
    test_share: float | None = None
    max_train_samples: int | None = None
    max_validation_samples: int | None = None
    max_test_samples: int | None = None
    rest_as_test: bool | None = None
    image_column: str | None = None
    text_column: str | None = None
    audio_column: str | None = None
    label_column: str | None = None
    train_name: Literal["train", "transfer"] = "train"

    @classmethod
    def of(cls, options: Any, **changes: Any) -> Self:
        """Return the source described by the attributes of an object with the same names, for instance flags."""
        names = [field.name for field in fields(cls) if hasattr(options, field.name)]
        return cls(**({name: getattr(options, name) for name in names} | changes))


@dataclass(frozen=True)
class DataRows:
    """Three data sets with the same two columns and no common row.

    Attributes:
        train: rows that a model is trained on, or that an attacker asks about.
        validation: rows on which settings are chosen.
        test: rows that a verdict is about.
        names: names of the three in a report.
        sample_column: column of images, texts or sounds.
        label_column: column of labels.
        classes: name of the class for each value in the label column.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    names: tuple[str, str, str]
    sample_column: str
    label_column: str
    classes: dict[Any, str]


def open_rows(source: DataSource, kind: str, model_names: Sequence[str] | None = None) -> DataRows:
    """Open data.

    Args:
        source: data set, splits and columns.
        kind: kind of the model's input: "image", "text" or "audio".
        model_names: class names in the order of a model's logits, to read labels by; None to use labels as names.

    Raises:
        HfCmimError: data, a split or a column that does not exist, rows without a sample or label, or parts that would
            overlap or be empty.
    """
    data = _open(source.dataset, source.dataset_config)
    train = _split(data, source.train_split or "train", "--train-split")
    sample_column = _find_column(source, kind, dict(train.features))
    label_column = _find_column(source, "label", dict(train.features))
    columns = [sample_column, label_column]
    if kind == "audio":
        # Decoding by `datasets` would need another package; the model's view reads the files.
        data = DatasetDict({name: _undecoded(split, sample_column) for name, split in data.items()})
    splits = {
        name: split.select_columns(columns) for name, split in data.items() if set(columns) <= set(split.features)
    }
    requested_splits = {source.train_split or "train", source.validation_split, source.test_split or "test"}
    for name in sorted(splits.keys() & requested_splits):
        _check_no_gaps(splits[name], sample_column, kind, name)
    train, validation, test, names = _parts(source, splits)
    classes = read_classes([train, validation, test], label_column, model_names)
    return DataRows(train, validation, test, names, sample_column, label_column, classes)


def _open(name: str, config: str | None) -> DatasetDict:
    path = Path(name)
    if path.is_file() and path.suffix not in FILE_FORMATS:
        raise HfCmimError(
            f"Expected --dataset as a folder, a Hub id or a file that ends in {', '.join(FILE_FORMATS)}, got {name!r},"
            " a file of unknown format. Convert it to parquet."
        )
    try:
        if path.is_file():
            return load_dataset(FILE_FORMATS[path.suffix], data_files=str(path))
        return load_dataset(name, config)
    except (OSError, ValueError) as error:
        raise HfCmimError(
            f"datasets.load_dataset cannot open --dataset {name!r}: {_first_line(error)} Check the path; a Hub id"
            " needs a network, or a copy from an earlier run."
        ) from error
    except DatasetGenerationError as error:
        # Says only that something failed; its cause says what, for instance that a folder of sounds needs torchcodec.
        reason = _first_line(error.__cause__ or error)
        raise HfCmimError(
            f"datasets.load_dataset cannot read the files of --dataset {name!r}: {reason}"
            " Mend or remove the file, or store the data as parquet."
        ) from error


def _undecoded(rows: Dataset, column: str) -> Dataset:
    return rows.cast_column(column, Audio(decode=False)) if column in rows.features else rows


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else f"{line}."


def _split(data: dict[str, Dataset], name: str, flag: str) -> Dataset:
    if name not in data:
        raise HfCmimError(
            f"The data have no split {name!r} for {flag}, only {list(data)}. Choose one of these{_without_test(flag)}."
        )
    return data[name]


def _without_test(flag: str) -> str:
    if flag != "--test-split":
        return ""
    return ", or test on the rows that the attacker does not ask about: --max-transfer-samples N --rest-as-test"


def open_own_rows(
    source: DataSource, rows: DataRows, kind: str, dataset: str | None, split: str, *, is_labelled: bool
) -> tuple[Dataset, str]:
    """Open the data of an attacker with data of its own, and return them with their name.

    Args:
        source: data set of the audit.
        rows: rows of the audit, whose columns and classes these data share.
        kind: kind of the model's input: "image", "text" or "audio".
        dataset: other data set, or None for that of the audit.
        split: split of the data set.
        is_labelled: True if a student learns the labels of these data.

    Raises:
        HfCmimError: data, a split or a column that does not exist, rows without a sample or class, or a split that the
            audit uses otherwise.
    """
    if dataset is None:
        _check_apart([split, source.train_split or "train", source.validation_split, source.test_split or "test"])
    name = dataset or source.dataset
    # Another data set has its own configurations: its default one is read.
    own = _split(_open(name, source.dataset_config if dataset is None else None), split, "--own-split")
    own = _undecoded(own, rows.sample_column) if kind == "audio" else own
    if rows.sample_column not in own.features:
        raise HfCmimError(
            f"The attacker's own data have the columns {list(own.features)} and not {rows.sample_column!r}, the column"
            f" of {kind}s in --dataset: nothing could be asked about. Rename the column."
        )
    _check_no_gaps(own, rows.sample_column, kind, split)
    if is_labelled:
        _check_classes(own, rows)
    else:
        # Labels that no student sees: an attacker without labels learns those of the teacher.
        own = own.select_columns([rows.sample_column])
        own = own.add_column(rows.label_column, [next(iter(rows.classes))] * len(own))
    return own.select_columns([rows.sample_column, rows.label_column]), f"{Path(name).name}: {split}"


def _check_classes(own: Dataset, rows: DataRows) -> None:
    """Refuse own data with another label column, or labels that the other data do not have."""
    if rows.label_column not in own.features:
        raise HfCmimError(
            f"The attacker's own data have no column {rows.label_column!r} of labels, only {list(own.features)}. Name"
            " the column so, or audit the attacker own-unlabelled."
        )
    unknown = sorted(set(own[rows.label_column]) - set(rows.classes), key=str)
    if unknown:
        raise HfCmimError(
            f"The attacker's own data have the labels {abbreviated(unknown)}, which --dataset"
            " does not have: students could not learn them. Store both with the same labels."
        )


# Parts


def _parts(source: DataSource, data: dict[str, Dataset]) -> tuple[Dataset, Dataset, Dataset, tuple[str, str, str]]:
    """Return training, validation and test set with their names; equal sources always give equal rows."""
    train_name, validation_name = source.train_split or "train", source.validation_split
    test_name = source.test_split or "test"
    _check_apart([train_name, validation_name, test_name])
    train = _split(data, train_name, "--train-split")
    share = VALIDATION_SHARE if source.validation_share is None else source.validation_share
    unused: list[Dataset] = []
    if validation_name is None:
        train, held_out = _held_out(train, share, "--validation-share")
        validation = _first(held_out, source.max_validation_samples)
        unused.append(_beyond(held_out, source.max_validation_samples))
        validation_name = f"{train_name}, held out"
    else:
        # Shuffled, because files are often sorted by class, and a limit takes the first rows.
        rows = _split(data, validation_name, "--validation-split").shuffle(seed=0)
        validation = _first(rows, source.max_validation_samples)
    test_parts, test_words = [], test_name
    if test_name in data or source.test_split is not None:
        test_parts.append(_split(data, test_name, "--test-split"))
    elif source.test_share is not None and not source.rest_as_test:
        train, held_out = _held_out(train, source.test_share, "--test-share")
        test_parts.append(held_out)
        test_words = f"{train_name}, held out to test on"
    elif not source.rest_as_test:
        _split(data, test_name, "--test-split")
    chosen = _first(train, source.max_train_samples)
    unused.append(_beyond(train, source.max_train_samples))
    if source.rest_as_test:
        test_words = f"{test_name} and {REST} {train_name}" if test_parts else f"{REST} {train_name}"
        test_parts += unused
    test = _first(_joined(test_parts).shuffle(seed=0), source.max_test_samples)
    _check_not_empty(source, len(chosen), len(validation), len(test))
    name = Path(source.dataset).name
    names = (f"{name}: {train_name}", f"{name}: {validation_name}", f"{name}: {test_words}")
    return chosen, validation, test, names


def _check_apart(names: list[str | None]) -> None:
    splits = [name for name in names if name is not None]
    if len(set(splits)) < len(splits):
        raise HfCmimError(
            f"One split is used twice, to ask about, choose on and test on: {', '.join(splits)}. Students would be"
            " measured on samples that trained or selected them. Give different splits; without --validation-split a"
            " share of the train split is held out."
        )


def _held_out(train: Dataset, share: float, flag: str) -> tuple[Dataset, Dataset]:
    """Split rows into a remaining and a held-out part, always the same rows for the same share."""
    if not 0 < share < 1 or not 1 <= round(share * len(train)) < len(train):
        raise HfCmimError(
            f"{flag} {share} of {len(train)} rows leaves no row to choose settings on, or none to ask"
            " about. Give a share between 0 and 1, for instance 0.1."
        )
    parts = train.train_test_split(test_size=share, seed=0)
    return parts["train"], parts["test"]


def _first(rows: Dataset, limit: int | None) -> Dataset:
    return rows.select(list(range(len(rows)))[: None if limit is None else max(0, limit)])


def _beyond(rows: Dataset, limit: int | None) -> Dataset:
    return rows.select(list(range(len(rows)))[len(_first(rows, limit)) :])


def _joined(parts: list[Dataset]) -> Dataset:
    # concatenate_datasets would fill a missing column with nulls, or fail with an error about types.
    features = parts[0].features
    if any(part.features != features for part in parts):
        raise HfCmimError(
            f"Train and test split have different columns, {[dict(part.features) for part in parts]}: --rest-as-test"
            " cannot join them. Leave it out, or store both splits with the same columns."
        )
    return concatenate_datasets(parts)


def _check_not_empty(source: DataSource, num_train: int, num_validation: int, num_test: int) -> None:
    sizes = {source.train_name: num_train, "validation": num_validation, "test": num_test}
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise HfCmimError(
            f"{PURPOSES[source.train_name]}, to choose on and to test on, and there are {sizes}. Change"
            f" {', '.join(f'--max-{name}-samples' for name in empty)}{_with_rest(source)}."
        )


def _with_rest(source: DataSource) -> str:
    return f", or leave rows over with a smaller --max-{source.train_name}-samples" if source.rest_as_test else ""


# Columns


def _find_column(source: DataSource, kind: str, features: dict[str, Any]) -> str:
    """Return the column of a kind: that of the flag, the only one of this kind, or that named `kind`."""
    matching_columns = [
        name
        for name, feature in features.items()
        if FEATURES[kind] in f"{type(feature).__name__} {getattr(feature, 'dtype', '')}"
    ]
    requested: str | None = getattr(source, f"{kind}_column")
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
    raise HfCmimError(
        f"{len(numbers):,} of {len(rows):,} rows of the split {split!r} have no {kind} in column {column!r} (rows"
        f" {abbreviated(numbers)}, counted from 0; in a CSV, an empty cell, NA and null are no value): a teacher"
        " cannot answer them. Remove them, for instance with"
        f" dataset.filter(lambda row: row[{column!r}] is not None), and save the data again."
    )
