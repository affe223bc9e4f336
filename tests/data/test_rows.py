"""Which rows are trained on or asked about, chosen on and tested on."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, Value
from datasets.exceptions import DatasetGenerationError
from PIL import Image as PILImage
from scipy.io import wavfile

from hf_cmim.data.rows import DataSource, open_own_rows, open_rows

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


def opened(dataset, **settings):
    """Return the samples of the three parts, and the rows."""
    rows = open_rows(DataSource(str(dataset), **settings), "text")
    return [list(part["text"]) for part in (rows.train, rows.validation, rows.test)], rows


def test_parts_share_no_row_and_are_the_same_each_time(folder):
    """A student measured on what it learned is worth nothing; parts drawn anew would make every audit another."""
    (transfer, validation, test), rows = opened(folder)
    assert [len(transfer), len(validation), len(test)] == [90, 10, 40]
    assert set(transfer) | set(validation) == {f"train {number}" for number in range(100)}
    assert set(test) == {f"test {number}" for number in range(40)}
    assert opened(folder)[0] == [transfer, validation, test]
    assert rows.classes == {0: "no", 1: "yes"}
    source = folder.name
    assert rows.names == (f"{source}: train", f"{source}: train, held out", f"{source}: test")


def test_held_out_rows_are_those_of_the_recipes(folder):
    """Otherwise settings would be chosen on rows that a teacher of vit_cifar.py was trained on."""
    parts = texts("train", 100).train_test_split(test_size=0.2, seed=0)
    (transfer, validation, _), _ = opened(folder, validation_share=0.2, max_train_samples=50)
    assert transfer == list(parts["train"]["text"])[:50]
    assert validation == list(parts["test"]["text"])


def test_rest_of_the_train_split_joins_the_test_set(folder):
    """A rest that overlapped the transfer set would flatter whoever learns by heart; one left out would be wasted."""
    limits = {"max_train_samples": 50, "max_validation_samples": 4, "rest_as_test": True}
    (transfer, validation, test), rows = opened(folder, **limits)
    assert [len(transfer), len(validation), len(test)] == [50, 4, 40 + 40 + 6]
    assert len({*transfer, *validation, *test}) == 140
    assert rows.names[2].endswith(": test and the rest of train")
    assert len(opened(folder, **limits, max_test_samples=60)[0][2]) == 60
    some = opened(folder, **limits, max_test_samples=60)[0][2]
    assert 0 < sum(text.startswith("test") for text in some) < 40  # drawn from both


def test_rest_is_the_test_set_where_there_is_no_other(tmp_path):
    """One file has no test split, and a rest is as good."""
    texts("train", 100).to_json(tmp_path / "all.jsonl")
    (transfer, validation, test), rows = opened(tmp_path / "all.jsonl", max_train_samples=60, rest_as_test=True)
    assert [len(transfer), len(validation), len(test)] == [60, 10, 30]
    assert len({*transfer, *validation, *test}) == 100
    assert rows.names[2] == "all.jsonl: the rest of train"
    assert rows.classes == {0: "0", 1: "1"}  # a file without names of classes


def test_named_splits_are_used(folder):
    """A flag that names a split and is not read."""
    names = {"train_split": "dev", "validation_split": "test", "test_split": "train"}
    (transfer, validation, test), _ = opened(folder, **names, max_validation_samples=9)
    assert [len(transfer), len(validation), len(test)] == [30, 9, 100]
    assert {text.split()[0] for text in transfer} == {"dev"}
    assert {text.split()[0] for text in validation} == {"test"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"test_split": "final"},
            r"no split 'final' for --test-split, only \['train', 'dev', 'test'\].*--rest-as-test",
        ),
        ({"train_split": "other"}, r"no split 'other' for --train-split"),
        ({"validation_split": "test"}, r"One split is used twice.* train, test, test"),
        ({"test_split": "train"}, r"One split is used twice"),
        ({"validation_share": 1.5}, r"--validation-share 1.5 of 100 rows.*between 0 and 1"),
        ({"validation_share": 0.001}, r"--validation-share 0.001 of 100 rows"),
        ({"max_test_samples": 0}, r"'test': 0.*Change --max-test-samples"),
        ({"max_train_samples": -3}, r"Training needs rows to train on.*'train': 0.*Change --max-train-samples"),
        (
            {"max_train_samples": -3, "train_name": "transfer"},
            r"An audit needs.*'transfer': 0.*--max-transfer-samples",
        ),
        (
            {"text_column": "words"},
            r"Expected one column of texts among \['text', .*got words.*--text-column",
        ),
        ({"label_column": "fine"}, r"Expected one column of labels among"),
    ],
)
def test_parts_that_cannot_be_are_refused(settings, message, folder):
    """Each would end in an audit of other rows than were meant, or of none."""
    with pytest.raises(ValueError, match=message):
        opened(folder, **settings)


@pytest.mark.parametrize(("share", "sizes"), [(0.2, [72, 10, 18]), (0.5, [45, 10, 45])])
def test_test_rows_are_held_out_where_there_is_no_split(share, sizes, tmp_path):
    """Catches test rows that were trained on or chosen on, and a share that a present test split would lose."""
    texts("train", 100).to_json(tmp_path / "all.jsonl")
    parts, rows = opened(tmp_path / "all.jsonl", test_share=share)
    assert [len(part) for part in parts] == sizes
    assert len({text for part in parts for text in part}) == 100
    assert rows.names[2] == "all.jsonl: train, held out to test on"


def test_test_share_is_for_data_without_a_test_split(folder):
    """Catches rows taken from training although a test split is there."""
    assert opened(folder, test_share=0.2)[0] == opened(folder)[0]


def test_data_without_a_test_split_show_the_way(tmp_path):
    """Whoever has one file learns how to get a test set from it."""
    texts("train", 20).to_csv(tmp_path / "all.csv")
    with pytest.raises(ValueError, match=r"no split 'test' for --test-split, only \['train'\].*--rest-as-test"):
        opened(tmp_path / "all.csv")
    with pytest.raises(ValueError, match=r"'test': 0.*or leave rows over with a smaller --max-transfer-samples"):
        opened(tmp_path / "all.csv", rest_as_test=True, max_validation_samples=2, train_name="transfer")


def test_data_that_are_not_there_are_refused(tmp_path):
    """A traceback of a Hub's client does not say which flag is wrong."""
    with pytest.raises(ValueError, match=r"cannot open --dataset 'no/such-data'"):
        opened("no/such-data")
    (tmp_path / "data.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"ends in .parquet, .csv, .json, .jsonl"):
        opened(tmp_path / "data.xlsx")


def test_rows_without_a_label_and_columns_of_other_types_are_refused(tmp_path):
    """-1 would be out of range, or a class; splits stored differently cannot be one test set."""
    (tmp_path / "hidden").mkdir()
    texts("train", 20).to_parquet(tmp_path / "hidden" / "train.parquet")
    hidden = Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=FEATURES)
    hidden.to_parquet(tmp_path / "hidden" / "test.parquet")
    with pytest.raises(ValueError, match=r"rows have no class in column 'label' but \{-1\}"):
        opened(tmp_path / "hidden")


def test_splits_stored_differently_are_not_put_together(monkeypatch):
    """Labels would change their meaning from row to row."""
    other = texts("test", 10).cast_column("label", Value("int64"))
    data = DatasetDict({"train": texts("train", 20), "test": other})
    monkeypatch.setattr("hf_cmim.data.rows._open", lambda name, config: data)
    with pytest.raises(ValueError, match=r"Train and test split have different columns"):
        opened("any", rest_as_test=True, max_train_samples=10)


def test_images_are_found_by_their_type(tmp_path):
    """A column taken by its name alone would miss `img`, or take a text for an image."""
    features = Features({"img": Image(), "label": ClassLabel(names=["no", "yes"])})
    pictures = [PILImage.new("L", (4, 4), 9 * number) for number in range(20)]
    for split in ("train", "test"):
        rows = Dataset.from_dict({"img": pictures, "label": [0, 1] * 10}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    found = open_rows(DataSource(str(tmp_path)), "image")
    assert (found.sample_column, found.label_column) == ("img", "label")
    with pytest.raises(ValueError, match=r"Expected one column of texts"):
        opened(tmp_path)


def test_sounds_stay_files(tmp_path):
    """Catches sounds decoded by `datasets`, which needs a package that hf_cmim does not install."""
    features = Features({"audio": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("string")})
    file = io.BytesIO()
    wavfile.write(file, 8_000, np.zeros(80, dtype=np.int16))
    sounds = {"audio": [{"bytes": file.getvalue(), "path": "a.wav"}] * 20, "label": ["low", "high"] * 10}
    for split in ("train", "test"):
        rows = Dataset.from_dict(sounds, features=features).cast_column("audio", Audio(sampling_rate=16_000))
        rows.to_parquet(tmp_path / f"{split}.parquet")
    found = open_rows(DataSource(str(tmp_path)), "audio")
    assert found.sample_column == "audio"
    assert found.train[0]["audio"] == {"bytes": file.getvalue(), "path": "a.wav"}


def test_files_that_cannot_be_read_are_refused(monkeypatch):
    """Catches the sentence of `datasets` that only says that an error occurred."""

    def load(name, config):
        raise DatasetGenerationError("An error occurred") from ImportError("please install 'torchcodec'")

    monkeypatch.setattr("hf_cmim.data.rows.load_dataset", load)
    with pytest.raises(ValueError, match=r"cannot read the files of --dataset 'sounds': please install 'torchcodec'."):
        opened("sounds")


def test_a_source_takes_flags_of_the_same_names():
    """Catches a flag that is not read, and one that a command lacks."""
    flags = SimpleNamespace(dataset="data", test_split="final", max_transfer_samples=7, other=1)
    assert DataSource.of(flags, max_train_samples=flags.max_transfer_samples) == DataSource(
        "data", test_split="final", max_train_samples=7
    )


# An attacker's own rows


def own(folder, split, dataset=None, *, is_labelled=True):
    source = DataSource(str(folder))
    return open_own_rows(source, opened(folder)[1], "text", dataset, split, is_labelled=is_labelled)


def test_own_rows_are_those_of_the_split(folder, tmp_path_factory):
    """Catches an attacker who gets rows of the audit, or rows of another data set under its name."""
    rows, name = own(folder, "dev")
    assert (list(rows["text"]), name) == ([f"dev {number}" for number in range(30)], f"{folder.name}: dev")
    path = tmp_path_factory.mktemp("other") / "other.parquet"
    texts("other", 8).to_parquet(path)
    rows, name = own(folder, "train", str(path))
    assert (rows[0], name) == ({"text": "other 0", "label": 0}, "other.parquet: train")


def test_rows_without_labels_get_labels_that_say_nothing(folder, tmp_path_factory):
    """Catches a label of the data that reaches an attacker who has none, and data without labels refused."""
    path = tmp_path_factory.mktemp("bare") / "bare.parquet"
    texts("bare", 8).remove_columns("label").to_parquet(path)
    assert set(own(folder, "train", str(path), is_labelled=False)[0]["label"]) == {0}
    assert set(own(folder, "dev", is_labelled=False)[0]["label"]) == {0}
    with pytest.raises(ValueError, match="no column 'label' of labels, .*own-unlabelled"):
        own(folder, "train", str(path))


def test_own_rows_that_the_audit_uses_or_cannot_read_are_refused(folder, tmp_path_factory):
    """Catches an attacker's own rows that the teacher was trained on, or of classes that no student has."""
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="One split is used twice"):
            own(folder, split)
    with pytest.raises(ValueError, match="no split 'extra' for --own-split"):
        own(folder, "extra")
    path = tmp_path_factory.mktemp("maybe") / "maybe.parquet"
    Dataset.from_dict({"text": ["a", "b"], "label": [0, 2]}).to_parquet(path)
    with pytest.raises(ValueError, match="have the labels 2, which --dataset does not have"):
        own(folder, "train", str(path))
    Dataset.from_dict({"words": ["a"], "label": [0]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"columns \['words', 'label'\] and not 'text'"):
        own(folder, "train", str(path))
