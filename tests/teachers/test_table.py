"""Answers that were given before."""

import pytest
import torch
from datasets import Dataset

from hf_cmim.channels import Argmax
from hf_cmim.teachers import TableTeacher

NAMES = ("cat", "dog", "owl")
LOG_PROBS = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).mul(3).log_softmax(-1)


def as_dataset(values, column="log_probs"):
    return Dataset.from_dict({column: values.tolist(), "other": ["text"] * len(values)})


@pytest.mark.parametrize(
    ("answers", "settings"),
    [
        (LOG_PROBS, {}),
        (LOG_PROBS.exp(), {"returns": "probs"}),
        (as_dataset(LOG_PROBS), {}),
        (as_dataset(LOG_PROBS.exp(), "scores"), {"returns": "probs", "column": "scores"}),
    ],
    ids=["tensor", "probs", "dataset", "column"],
)
def test_answers_are_looked_up_by_position(answers, settings):
    """Catches answers in the order of the batch, and another column."""
    index = torch.tensor([7, 0, 19, 7])
    asked = TableTeacher(answers, class_names=NAMES, **settings)
    assert asked.wants_index
    assert not asked.hides_classes
    assert torch.allclose(asked({"sample_index": index}), LOG_PROBS[index], atol=1e-6)


@pytest.mark.parametrize("kind", [lambda labels: labels, lambda labels: Dataset.from_dict({"log_probs": labels})])
def test_labels_are_looked_up(kind):
    """Catches a column of integers read as rows."""
    asked = TableTeacher(kind(torch.tensor([2, 0, 1])), class_names=NAMES, returns="labels")
    assert asked({"sample_index": torch.tensor([2, 0])}).argmax(-1).tolist() == [1, 2]
    assert asked.hides_classes


def test_dataset_stays_on_disk(tmp_path):
    """Catches a table that is read into memory: the answers to a large data set do not fit there."""
    as_dataset(LOG_PROBS).save_to_disk(tmp_path)
    asked = TableTeacher(Dataset.load_from_disk(tmp_path), class_names=NAMES)
    assert isinstance(asked.answers, Dataset)
    assert asked.answers.cache_files, "nothing is memory-mapped"
    assert torch.allclose(asked({"sample_index": torch.arange(20)}), LOG_PROBS, atol=1e-6)


def test_table_can_say_what_was_cut_before():
    """Catches stored top-k answers that pass for full ones, and a channel on top that is ignored."""
    assert TableTeacher(LOG_PROBS, class_names=NAMES, hides_classes=True).hides_classes
    answers = TableTeacher(LOG_PROBS, class_names=NAMES, channel=Argmax())({"sample_index": torch.arange(20)})
    assert torch.allclose(answers.exp().amax(-1), torch.ones(20))


@pytest.mark.parametrize(
    ("build", "index", "named"),
    [
        (lambda: TableTeacher(LOG_PROBS, class_names=NAMES), torch.tensor([20]), r"\[0, 20\), got \[20\]"),
        (lambda: TableTeacher(LOG_PROBS, class_names=NAMES), torch.tensor([-1]), r"got \[-1\]"),
        (lambda: TableTeacher(LOG_PROBS, class_names=NAMES), torch.tensor([0.0]), "integers"),
        (lambda: TableTeacher(LOG_PROBS, class_names=NAMES), torch.tensor([[0]]), r"\(B,\)"),
        (lambda: TableTeacher(LOG_PROBS, class_names=NAMES[:2]), torch.tensor([0]), "2 classes"),
        (lambda: TableTeacher(LOG_PROBS.tolist(), class_names=NAMES), None, "list"),
        (lambda: TableTeacher(as_dataset(LOG_PROBS), class_names=NAMES, column="logits"), None, "'logits'"),
    ],
)
def test_misuse_is_refused(build, index, named):
    """Catches answers of other samples, given without a word."""
    with pytest.raises(ValueError, match=named):
        build()({"sample_index": index})


def test_fingerprint_follows_the_answers():
    """Catches two tables taken for one another."""
    tables = [LOG_PROBS, LOG_PROBS.flip(0), as_dataset(LOG_PROBS), as_dataset(LOG_PROBS.flip(0))]
    prints = [TableTeacher(table, class_names=NAMES).fingerprint() for table in tables]
    assert len(set(prints)) == len(prints)
    assert TableTeacher(LOG_PROBS.clone(), class_names=NAMES).fingerprint() == prints[0]
