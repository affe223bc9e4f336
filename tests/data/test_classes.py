"""Labels of a file are read as the classes of the model, or refused with words that help."""

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from hf_cmim.data.classes import read_classes
from hf_cmim.data.rows import DataSource, open_rows

NAMES = ("neg", "neu", "pos")


def part(values, feature=None):
    features = None if feature is None else Features({"label": feature})
    return Dataset.from_dict({"label": values}, features=features)


@pytest.mark.parametrize(
    ("values", "model_names", "classes"),
    [
        ([0, 1, 2], NAMES, {0: "neg", 1: "neu", 2: "pos"}),  # numbers, as Trainer takes them
        (["0", "1", "2"], NAMES, {"0": "neg", "1": "neu", "2": "pos"}),
        ([0.0, 2.0, 1.0], NAMES, {0.0: "neg", 1.0: "neu", 2.0: "pos"}),  # a CSV with an empty cell elsewhere
        ([2, 0], NAMES, {0: "neg", 2: "pos", "neu": "neu"}),  # no row of a rare class
        ([1, 2, 0], ("LABEL_0", "LABEL_1", "LABEL_2"), {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}),
        (["pos", "neg", "neu"], NAMES, {"neg": "neg", "neu": "neu", "pos": "pos"}),
        (["pos", "neg"], NAMES, {"neg": "neg", "pos": "pos", "neu": "neu"}),
        ([10, 20, 30], ("30", "10", "20"), {10: "10", 20: "20", 30: "30"}),  # named after the numbers
        ([1, 2, 3], ("1", "2", "3"), {1: "1", 2: "2", 3: "3"}),
        (["1", "2"], ("0", "1", "2"), {"1": "1", "2": "2", "0": "0"}),
        ([1, 0], ("no", "yes"), {0: "no", 1: "yes"}),
    ],
)  # fmt: skip
def test_labels_are_names_or_numbers_of_the_models_classes(values, model_names, classes):
    """Catches numbers taken for names that no model has, and a class without a row that ends the audit."""
    found = read_classes([part(values), part(values[:1])], "label", model_names)
    assert found == classes
    assert [type(value) for value in found] == [type(value) for value in classes]


@pytest.mark.parametrize(
    ("names", "values", "classes"),
    [
        (["pos", "neg", "neu"], [0, 1, 2], {0: "pos", 1: "neg", 2: "neu"}),
        (["pos", "neg"], [0, 1], {0: "pos", 1: "neg", "neu": "neu"}),
        (["pos", "neg", "neu", "unused"], [0, 1, 2], {0: "pos", 1: "neg", 2: "neu"}),
        (["0", "1", "2"], [2, 1, 0], {0: "neg", 1: "neu", 2: "pos"}),
        (["other", "words"], [0, 1], {0: "other", 1: "words"}),
    ],
)
def test_a_class_label_goes_by_its_names(names, values, classes):
    """Catches the data's numbers taken for the model's, where both name their classes in another order."""
    assert read_classes([part(values, ClassLabel(names=names))], "label", NAMES) == classes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 3], r"labels 1, 2, 3, and the model has 3 classes called neg, neu, pos.*their numbers 0 to 2"),
        ([10, 20, 30], r"labels 10, 20, 30"),
        ([-1, 0, 1], r"labels -1, 0, 1"),
        ([0, None, 1], r"1 rows have no class in column 'label' but \{None\}"),
        ([0.0, float("nan"), 1.0], r"1 rows have no class in column 'label' but \{nan\}"),
    ],
)
def test_labels_that_could_be_any_class_are_refused(values, message):
    """Catches a guess: 1 to 3 may be the first to the third class, or the second to the fourth of another model."""
    with pytest.raises(ValueError, match=message):
        read_classes([part(values)], "label", NAMES)


def test_several_labels_in_a_row_are_refused():
    """Catches a raw TypeError for multi-label data."""
    with pytest.raises(ValueError, match="several classes per row"):
        read_classes([part([[0, 1], [2]], Sequence(Value("int64")))], "label", NAMES)


def test_labels_of_a_csv_file_reach_the_models_classes(tmp_path):
    """Catches integer labels of a file, and a rare class that only one split has."""
    for split, labels in (("train", [0, 1, 2, 0, 1, 0, 1, 0, 1, 0]), ("test", [0, 1, 0])):
        lines = [f"text {number},{label}" for number, label in enumerate(labels)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]))
    rows = open_rows(DataSource(str(tmp_path)), "text", NAMES)
    assert rows.classes == {0: "neg", 1: "neu", 2: "pos"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_without_a_text_are_refused_by_number(split, tmp_path):
    """Catches a raw TypeError of the tokenizer, in the middle of an audit, for an empty cell."""
    for each in ("train", "test"):
        texts = [f"text {number}" for number in range(12)]
        if each == split:
            texts[3] = texts[7] = ""
        lines = [f"{text},{number % 3}" for number, text in enumerate(texts)]
        (tmp_path / f"{each}.csv").write_text("\n".join(["text,label", *lines]))
    message = rf"2 of 12 rows of the split '{split}' have no text in column 'text' \(rows 3, 7, counted from 0.*filter"
    with pytest.raises(ValueError, match=message):
        open_rows(DataSource(str(tmp_path)), "text", NAMES)
