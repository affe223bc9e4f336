"""Each side of a distillation gets the columns that it takes, and no other."""

import pytest
import tiny
import torch
from torch import nn
from transformers import DataCollatorWithPadding, DistilBertConfig, DistilBertForSequenceClassification, set_seed

from hf_cmim import DistillationConfig
from hf_cmim.attacks import KD, ClassCentroid, Composition, CrossEntropy
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.teachers import AbstractTeacher, ArgmaxNull, ModelTeacher, cache_answers
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW, DistillationCollator

KINDS = 2


def pairs(size=32, seed=0):
    """Pairs of sentences whose class only shows in `token_type_ids`: which half is longer."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(size):
        cut = int(torch.randint(2, 8, (), generator=generator))
        kinds = (torch.arange(10) >= cut).long()
        ids = torch.randint(5, 50, (10,), generator=generator)
        rows.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": kinds,
                     "labels": int(cut >= 5)})  # fmt: skip
    return rows


class StrictStudent(nn.Module):
    """A student that takes nothing besides `input_ids`."""

    def __init__(self):
        super().__init__()
        self.config = DistilBertConfig(num_labels=KINDS)
        self.embedding = nn.EmbeddingBag(50, KINDS)

    def forward(self, input_ids, labels=None):
        return {"logits": self.embedding(input_ids)}


def teacher_of_pairs():
    return tiny.bert(num_labels=KINDS, initializer_range=1.0).eval()


def student_of_pairs():
    set_seed(0)
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=KINDS)
    )


def direct_answers(model, rows):
    inputs = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "labels"}
    with torch.no_grad():
        return model(**inputs).logits.log_softmax(-1)


class Recorder(AbstractTeacher):
    """A teacher that notes what it was asked and passes it on."""

    def __init__(self, teacher):
        super().__init__(teacher.num_classes, teacher.class_names)
        self.teacher, self.input_names, self.seen = teacher, teacher.input_names, []

    def _answer(self, inputs, labels):
        self.seen.append(dict(inputs))
        return self.teacher(inputs, labels)

    def _identity(self):
        return self.teacher.fingerprint()


@pytest.mark.parametrize("build", [student_of_pairs, StrictStudent])
def test_teacher_sees_what_the_student_does_not_take(build, tmp_path):
    """Catches token_type_ids dropped with the student's unused columns: a teacher of pairs that guesses."""
    model, rows = teacher_of_pairs(), pairs()
    expected = direct_answers(model, rows)
    without = {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert (model(**without).logits.log_softmax(-1) - expected).abs().max() > 0.1, (
            "the column decides nothing here"
        )
    teacher = Recorder(ModelTeacher(model))
    trainer = tiny.distillation_trainer(build(), rows, tmp_path, KD(), teacher, eval_dataset=rows)
    trainer.train()
    for asked in teacher.seen:
        positions = asked["sample_index"]
        assert torch.equal(
            asked["token_type_ids"], torch.stack([rows[int(each)]["token_type_ids"] for each in positions])
        )
    labels = torch.tensor([row["labels"] for row in rows])
    accuracy = (expected.argmax(-1) == labels).double().mean().item()
    assert trainer.evaluate()["eval_teacher_accuracy"] == pytest.approx(accuracy)
    stored = cache_answers(
        ModelTeacher(model), rows, tmp_path / "answers", collator=trainer.data_collator.student_collator
    )
    assert torch.allclose(stored({"sample_index": torch.arange(len(rows))}), expected, atol=1e-5)


def test_survey_and_nulls_ask_about_the_teachers_own_view(tmp_path):
    """Catches a survey of answers to other questions than those in training."""
    model, rows = teacher_of_pairs(), pairs()
    teacher = Recorder(ArgmaxNull(ModelTeacher(model), confidence=0.9))
    attack = Composition(KD(), ClassCentroid())
    assert attack.needs_survey
    tiny.distillation_trainer(student_of_pairs(), rows, tmp_path, attack, teacher, max_steps=1).train()
    assert len(teacher.seen) > 1
    assert all("token_type_ids" in asked for asked in teacher.seen)


def test_students_batch_holds_only_what_the_student_takes(tmp_path):
    """Catches a student that is handed the teacher's columns, and a view built where both see the same."""
    rows = [row | {"text": "raw"} for row in pairs(4)]
    trainer = tiny.distillation_trainer(StrictStudent(), rows, tmp_path, KD(), teacher_of_pairs())
    batch = trainer.data_collator([{**row, "sample_index": 0} for row in rows])
    assert set(batch) == {"input_ids", "labels", "sample_index", TEACHER_VIEW}
    assert set(batch[TEACHER_VIEW]) == {"input_ids", "attention_mask", "token_type_ids"}
    trainer = tiny.distillation_trainer(tiny.bert(num_labels=KINDS), rows, tmp_path, KD(), teacher_of_pairs())
    assert TEACHER_VIEW not in trainer.data_collator(rows)
    trainer = tiny.distillation_trainer(
        StrictStudent(), rows, tmp_path, KD(), teacher_of_pairs(), teacher_collator=lambda _: {"input_ids": None}
    )
    assert set(trainer.data_collator(rows)[TEACHER_VIEW]) == {"input_ids"}


def test_columns_of_different_lengths_are_padded_for_both():
    """Catches a teacher's column that the student's tokenizer pads, and that is left unpadded."""

    class Tokenizer:
        """What DataCollatorWithPadding needs of a tokenizer."""

        def pad(self, samples, **settings):
            longest = max(len(sample["input_ids"]) for sample in samples)
            return {
                name: torch.tensor([[*sample[name], *[0] * (longest - len(sample[name]))] for sample in samples])
                for name in samples[0]
            }

    collator = DistillationCollator(
        DataCollatorWithPadding(Tokenizer()), None, ["input_ids", "labels"], ["input_ids", "token_type_ids"]
    )
    batch = collator([{"input_ids": [1, 2], "token_type_ids": [1, 1]}, {"input_ids": [3], "token_type_ids": [1]}])
    assert batch["input_ids"].tolist() == [[1, 2], [3, 0]]
    assert batch[TEACHER_VIEW]["token_type_ids"].tolist() == [[1, 1], [1, 0]]


def test_a_teacher_of_other_data_is_refused_by_name(tmp_path):
    """Catches a teacher that is asked about nothing, and a message without the names of both sides."""
    model = tiny.vit(num_labels=KINDS).eval()
    student = student_of_pairs()
    before = tiny.weights(student)
    with pytest.raises(ValueError, match=r"pixel_values.*got attention_mask, input_ids.*teacher_collator"):
        tiny.distillation_trainer(student, pairs(8), tmp_path, KD(), model).train()
    assert tiny.largest_difference(before, tiny.weights(student)) == 0


def test_a_pooled_student_sees_what_it_would_see_alone(tmp_path):
    """Catches batches made for the first student only, which has no teacher whose columns they would keep."""
    model, rows = teacher_of_pairs(), pairs()
    pool = StudentPool(student_of_pairs, DistillationConfig(**tiny.settings(tmp_path)), rows)
    arms = [
        PooledArm("ce", Composition(CrossEntropy()), None),
        PooledArm("kd", Composition(KD()), ModelTeacher(model)),
        PooledArm("surveyed", Composition(KD(), ClassCentroid()), ModelTeacher(model)),
    ]
    for arm, pooled in zip(arms, pool.train(arms, seed=0), strict=True):
        trainer = tiny.distillation_trainer(student_of_pairs(), rows, tmp_path, arm.attack, arm.teacher)
        trainer.train()
        assert tiny.largest_difference(tiny.weights(trainer.model), tiny.weights(pooled.model)) == 0, arm.name
