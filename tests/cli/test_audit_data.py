"""Which rows an audit from the command line asks about, chooses on and tests on."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_cmim.cli.audit_data import open_rows

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})


def texts(split, size):
    return Dataset.from_dict(
        {"text": [f"{split} {number}" for number in range(size)], "label": [0, 1] * (size // 2)}, features=FEATURES
    )


@pytest.fixture
def folder(tmp_path):
    """A data set with the splits train (100), dev (30) and test (40)."""
    for split, size in (("train", 100), ("dev", 30), ("test", 40)):
        texts(split, size).to_parquet(tmp_path / f"{split}.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in ("train", "dev", "test"))
        + "---\n"
    )
    return tmp_path


@pytest.fixture
def opened(audit_options):
    def rows(folder, *words):
        found = open_rows(audit_options("--dataset", folder, *words), "text")
        return [list(part["text"]) for part in (found.transfer, found.validation, found.test)], found

    return rows


def test_parts_share_no_row_and_are_the_same_each_time(folder, opened):
    """A student measured on what it learned is worth nothing; parts drawn anew would make every audit another."""
    (transfer, validation, test), rows = opened(folder)
    assert [len(transfer), len(validation), len(test)] == [90, 10, 40]
    assert set(transfer) | set(validation) == {f"train {number}" for number in range(100)}
    assert set(test) == {f"test {number}" for number in range(40)}
    assert opened(folder)[0] == [transfer, validation, test]
    assert rows.classes == {0: "no", 1: "yes"}
    source = folder.name
    assert rows.names == (f"{source}: train", f"{source}: train, held out", f"{source}: test")


def test_held_out_rows_are_those_of_the_recipes(folder, opened):
    """Otherwise settings would be chosen on rows that a teacher of vit_cifar.py was trained on."""
    parts = texts("train", 100).train_test_split(test_size=0.2, seed=0)
    (transfer, validation, _), _ = opened(folder, "--validation-share", "0.2", "--max-transfer-samples", "50")
    assert transfer == list(parts["train"]["text"])[:50]
    assert validation == list(parts["test"]["text"])


def test_rest_of_the_train_split_joins_the_test_set(folder, opened):
    """A rest that overlapped the transfer set would flatter whoever learns by heart; one left out would be wasted."""
    words = ("--max-transfer-samples", "50", "--max-validation-samples", "4", "--rest-as-test")
    (transfer, validation, test), rows = opened(folder, *words)
    assert [len(transfer), len(validation), len(test)] == [50, 4, 40 + 40 + 6]
    assert len({*transfer, *validation, *test}) == 140
    assert rows.names[2].endswith(": test and the rest of train")
    assert len(opened(folder, *words, "--max-test-samples", "60")[0][2]) == 60
    some = opened(folder, *words, "--max-test-samples", "60")[0][2]
    assert 0 < sum(text.startswith("test") for text in some) < 40  # drawn from both


def test_rest_is_the_test_set_where_there_is_no_other(tmp_path, opened):
    """One file has no test split, and a rest is as good."""
    texts("train", 100).to_json(tmp_path / "all.jsonl")
    (transfer, validation, test), rows = opened(
        tmp_path / "all.jsonl", "--max-transfer-samples", "60", "--rest-as-test"
    )
    assert [len(transfer), len(validation), len(test)] == [60, 10, 30]
    assert len({*transfer, *validation, *test}) == 100
    assert rows.names[2] == "all.jsonl: the rest of train"
    assert rows.classes == {0: "0", 1: "1"}  # a file without names of classes


def test_named_splits_are_used(folder, opened):
    """A flag that names a split and is not read."""
    words = (
        "--train-split",
        "dev",
        "--validation-split",
        "test",
        "--test-split",
        "train",
        "--max-validation-samples",
        "9",
    )
    (transfer, validation, test), _ = opened(folder, *words)
    assert [len(transfer), len(validation), len(test)] == [30, 9, 100]
    assert {text.split()[0] for text in transfer} == {"dev"}
    assert {text.split()[0] for text in validation} == {"test"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--test-split final", r"no split 'final' for --test-split, only \['train', 'dev', 'test'\].*--rest-as-test"),
        ("--train-split other", r"no split 'other' for --train-split"),
        ("--validation-split test", r"One split is used twice.* train, test, test"),
        ("--test-split train", r"One split is used twice"),
        ("--validation-share 1.5", r"--validation-share 1.5 of 100 rows.*between 0 and 1"),
        ("--validation-share 0.001", r"--validation-share 0.001 of 100 rows"),
        ("--max-test-samples 0", r"'test': 0.*Change --max-test-samples"),
        ("--max-transfer-samples -3", r"'transfer': 0.*Change --max-transfer-samples"),
        ("--text-column words", r"Expected one column of texts among \['text', 'label'\], got words.*--text-column"),
        ("--label-column fine", r"Expected one column of labels among"),
    ],
)
def test_parts_that_cannot_be_are_refused(words, message, folder, opened):
    """Each would end in an audit of other rows than were meant, or of none."""
    with pytest.raises(ValueError, match=message):
        opened(folder, *words.split())


def test_data_without_a_test_split_show_the_way(tmp_path, opened):
    """Whoever has one file learns how to get a test set from it."""
    texts("train", 20).to_csv(tmp_path / "all.csv")
    with pytest.raises(ValueError, match=r"no split 'test' for --test-split, only \['train'\].*--rest-as-test"):
        opened(tmp_path / "all.csv")
    with pytest.raises(ValueError, match=r"'test': 0.*or leave rows over with a smaller --max-transfer-samples"):
        opened(tmp_path / "all.csv", "--rest-as-test", "--max-validation-samples", "2")


def test_data_that_are_not_there_are_refused(tmp_path, opened):
    """A traceback of a Hub's client does not say which flag is wrong."""
    with pytest.raises(ValueError, match=r"cannot open --dataset 'no/such-data'"):
        opened("no/such-data")
    (tmp_path / "data.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"ends in .parquet, .csv, .json, .jsonl"):
        opened(tmp_path / "data.xlsx")


def test_rows_without_a_label_and_columns_of_other_types_are_refused(tmp_path, opened):
    """-1 would be out of range, or a class; splits stored differently cannot be one test set."""
    (tmp_path / "hidden").mkdir()
    texts("train", 20).to_parquet(tmp_path / "hidden" / "train.parquet")
    hidden = Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=FEATURES)
    hidden.to_parquet(tmp_path / "hidden" / "test.parquet")
    with pytest.raises(ValueError, match=r"rows have no class in column 'label' but \{-1\}"):
        opened(tmp_path / "hidden")


def test_splits_stored_differently_are_not_put_together(audit_options, monkeypatch):
    """Labels would change their meaning from row to row."""
    other = texts("test", 10).cast_column("label", Value("int64"))
    data = DatasetDict({"train": texts("train", 20), "test": other})
    monkeypatch.setattr("hf_cmim.cli.audit_data._open", lambda name: data)
    options = audit_options("--dataset", "any", "--rest-as-test", "--max-transfer-samples", "10")
    with pytest.raises(ValueError, match=r"Train and test split have different columns"):
        open_rows(options, "text")


def test_images_are_found_by_their_type(data, audit_options):
    """A column taken by its name alone would miss `img`, or take a text for an image."""
    rows = open_rows(audit_options("--dataset", data), "image")
    assert (rows.sample_column, rows.label_column) == ("image", "label")
    with pytest.raises(ValueError, match=r"Expected one column of texts"):
        open_rows(audit_options("--dataset", data), "text")
