"""Data that are set after construction meet the same checks, and data without a label are refused."""

import pytest
import tiny
import torch
from torch.utils.data import IterableDataset

from hf_cmim import DistillationConfig, Repeatable
from hf_cmim.attacks import DIST, KD, CrossEntropy
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.teachers import TableTeacher

NAMES = tuple(f"LABEL_{number}" for number in range(tiny.NUM_LABELS))


def teacher():
    return tiny.vit(7).eval()


def trainer_on(data, tmp_path, attack=None, answering=None, **changes):
    return tiny.distillation_trainer(tiny.vit(1), data, tmp_path, attack or KD(), answering or teacher(), **changes)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield from tiny.images(8)


class TestTransferSet:
    def test_is_paid_for(self, tmp_path):
        """Catches queries that nobody counts."""
        trainer = trainer_on(tiny.images(8), tmp_path)
        trainer.train_dataset = tiny.images(24, seed=1)
        trainer.train()
        assert trainer.query_report()["queries"]["paid"] == 24

    @pytest.mark.parametrize("before", [None, tiny.images(8)], ids=["none before", "one before"])
    def test_must_be_within_the_budget(self, before, tmp_path):
        """Catches a budget that is checked against the set before."""
        trainer = trainer_on(before, tmp_path, query_budget=16)
        trainer.train_dataset = tiny.images(24)
        with pytest.raises(ValueError, match="covers 24 queries in the first epoch.*got 16"):
            trainer.train()
        assert trainer.query_report()["queries"]["paid"] == 0

    def test_is_numbered_for_stored_answers(self, tmp_path):
        """Catches stored answers that cannot be found, or those of other samples."""
        data = tiny.images(16)
        table = TableTeacher(torch.randn(16, tiny.NUM_LABELS).log_softmax(-1), class_names=NAMES)
        students = []
        for first in (data, data[:8]):
            trainer = trainer_on(first, tmp_path, answering=table)
            trainer.train_dataset = data
            trainer.train()
            students.append(tiny.weights(trainer.model))
        assert tiny.largest_difference(*students) == 0

    def test_is_told_the_epoch(self, tmp_path):
        """Catches augmentation of the first epoch for ever, or epochs told to the set before."""
        epochs = []

        class Listening(Repeatable):
            def set_epoch(self, epoch):
                epochs.append(epoch)
                super().set_epoch(epoch)

        trainer = trainer_on(Repeatable(tiny.images(8), 0), tmp_path, num_train_epochs=3)
        trainer.train_dataset = Listening(tiny.images(8), 0)
        trainer.train()
        assert sorted(set(epochs)) == [0, 1, 2]

    @pytest.mark.parametrize(("data", "changes", "message"), [
        (Repeatable(tiny.images(8), 0), {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
         "dataloader_persistent_workers=False"),
        (Endless(), {"max_steps": 2}, "length and positions, got Endless"),
    ])  # fmt: skip
    def test_meets_the_checks_of_construction(self, data, changes, message, tmp_path):
        """Catches checks that look at the constructor's keywords only."""
        trainer = trainer_on(tiny.images(8), tmp_path, **changes)
        trainer.train_dataset = data
        with pytest.raises(ValueError, match=message):
            trainer.train()

    def test_must_fit_the_attack(self, tmp_path):
        """Catches a last batch of one sample for a loss that compares samples."""
        trainer = trainer_on(tiny.images(16), tmp_path, DIST())
        trainer.train_dataset = tiny.images(17)
        with pytest.raises(ValueError, match="got 1 in the last batch of 17 samples"):
            trainer.train()


def ignored(size: int):
    return [row | {"labels": torch.full((10,), -100)} for row in tiny.tagged_sentences(size)]


def labelled():
    """Return a sentence of which every token has a label."""
    return [row | {"labels": row["input_ids"] % tiny.NUM_LABELS} for row in tiny.sentences(1)]


class TestNoLabel:
    """Not one valid label in the whole set."""

    MESSAGE = "All labels of the 12 training samples are -100 .ignored.: the model would learn nothing"

    @pytest.mark.parametrize("when", ["at construction", "later"])
    def test_is_refused_by_both_trainers(self, when, tmp_path):
        """Catches a training in which nothing happens."""
        data = ignored(12)
        first = data if when == "at construction" else tiny.tagged_sentences(4)
        for trainer in (
            tiny.cmim_trainer(tiny.token_bert(), first, tmp_path),
            tiny.distillation_trainer(tiny.token_bert(), first, tmp_path, CrossEntropy()),
        ):
            trainer.train_dataset = data
            with pytest.raises(ValueError, match=self.MESSAGE):
                trainer.train()

    def test_is_refused_by_a_pool(self, tmp_path):
        """Catches an audit of students that never learn."""
        with pytest.raises(ValueError, match=self.MESSAGE):
            StudentPool(tiny.token_bert, DistillationConfig(**tiny.settings(tmp_path)), ignored(12))

    def test_one_label_is_enough(self, tmp_path):
        """Catches a look at the first samples only."""
        tiny.cmim_trainer(tiny.token_bert(), [*ignored(12), *labelled()], tmp_path).train()
