"""Teachers from other frameworks: what comes in and goes out as NumPy arrays, and students that learn from them."""

import numpy as np
import pytest
import tiny
import torch
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformers import PreTrainedConfig

from hf_cmim import DistillationTrainer, Unlabelled
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers import FunctionTeacher

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Student(nn.Module):
    """One linear layer over 64 pixels, with classes in the order of the digits."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PreTrainedConfig(id2label=dict(enumerate(WORDS)))
        self.head = nn.Linear(64, 10)

    def forward(self, pixel_values, labels=None):
        return {"logits": self.head(pixel_values.flatten(1))}


@pytest.fixture(scope="module")
def pixels() -> tuple[np.ndarray, np.ndarray]:
    rows, numbers = load_digits(return_X_y=True)
    return (rows / 16).astype(np.float32), numbers


@pytest.fixture(scope="module")
def classifier(pixels) -> Pipeline:
    """A pipeline that names classes: `classes_` has eight first and zero last."""
    rows, numbers = pixels
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return pipeline.fit(rows[:400], np.array(WORDS)[numbers[:400]])


def samples(pixels, part):
    return [
        {"pixel_values": torch.from_numpy(row).reshape(1, 8, 8), "labels": int(number)}
        for row, number in zip(pixels[0][part], pixels[1][part], strict=True)
    ]


def distilled(teacher, pixels, folder) -> dict[str, float]:
    """Train a student without labels, and return its figures on other digits."""
    settings = {
        "num_train_epochs": 5, "learning_rate": 0.03, "optim": "adamw_torch", "per_device_train_batch_size": 50,
        "per_device_eval_batch_size": 200, "logging_steps": 1000,
    }  # fmt: skip
    trainer = tiny.distillation_trainer(
        Student(), Unlabelled(samples(pixels, slice(400, 1200))), folder, "kd", teacher, **settings,
        eval_dataset=samples(pixels, slice(1200, None)),
    )  # fmt: skip
    trainer.train()
    return trainer.evaluate()


def test_a_student_learns_from_a_scikit_learn_pipeline(classifier, pixels, tmp_path):
    """Catches answers in the order of `classes_` that are taken for the student's: it would learn other digits."""
    teacher = FunctionTeacher(
        lambda images: classifier.predict_proba(images.reshape(len(images), -1)),
        input_name="pixel_values", class_names=classifier.classes_, returns="probs",
    )  # fmt: skip
    figures = distilled(teacher, pixels, tmp_path)
    right = classifier.predict(pixels[0][1200:]) == np.array(WORDS)[pixels[1][1200:]]
    assert figures["eval_teacher_accuracy"] == pytest.approx(right.mean())
    assert figures["eval_accuracy"] > 0.8
    assert figures["eval_agreement"] > 0.85


def test_answers_are_the_pipelines_own(classifier, pixels):
    """Catches single precision before the logarithm, a transposed table, and rows in another order."""
    asked = FunctionTeacher(
        classifier.predict_proba, input_name="rows", class_names=classifier.classes_, returns="probs"
    )
    answers = asked({"rows": torch.from_numpy(pixels[0][:20])})
    assert asked.class_names == tuple(sorted(WORDS))
    assert answers.numpy() == pytest.approx(classifier.predict_log_proba(pixels[0][:20]), abs=1e-4)


def test_class_numbers_become_names(pixels):
    """Catches class names that JSON or a config cannot hold."""
    numbered = LogisticRegression(max_iter=20, tol=1).fit(pixels[0][:100], pixels[1][:100])
    asked = FunctionTeacher(numbered.predict, input_name="rows", class_names=numbered.classes_, returns="labels")
    assert asked.class_names == tuple("0123456789")
    answers = asked({"rows": torch.from_numpy(pixels[0][:20])})
    assert answers.argmax(-1).tolist() == numbered.predict(pixels[0][:20]).tolist()


def test_texts_reach_the_pipeline_as_they_are(tmp_path):
    """Catches texts that the student's collator drops, and a list that becomes an array of another kind."""
    sentences = [{**row, "text": f"{WORDS[row['labels']]} of them"} for row in tiny.sentences(32)]
    texts, names = [row["text"] for row in sentences], [WORDS[row["labels"]] for row in sentences]
    pipeline = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, names)
    teacher = FunctionTeacher(
        pipeline.predict_proba, input_name="text", class_names=pipeline.classes_, returns="probs"
    )
    names = {"id2label": dict(enumerate(WORDS[:4])), "label2id": {name: i for i, name in enumerate(WORDS[:4])}}
    trainer = tiny.distillation_trainer(
        tiny.bert(**names), sentences, tmp_path, "kd", teacher, eval_dataset=sentences,
        teacher_collator=lambda rows: {"text": [row["text"] for row in rows]},
    )  # fmt: skip
    assert isinstance(trainer, DistillationTrainer)
    trainer.train()
    assert trainer.evaluate()["eval_teacher_accuracy"] == 1


def test_an_input_of_its_own_reaches_the_function(pixels, tmp_path):
    """Catches a column that only the teacher takes, dropped because the student has no such argument."""
    seen = []

    def answer(rows):
        seen.append(rows)
        return np.full((len(rows), 10), 0.1)

    teacher = FunctionTeacher(answer, input_name="features", class_names=WORDS, returns="probs")
    rows = [{**row, "features": torch.tensor([7.0, 8.0])} for row in samples(pixels, slice(0, 8))]
    tiny.distillation_trainer(Student(), rows, tmp_path, "kd", teacher).train()
    assert [(type(each), each.tolist()) for each in seen] == [(np.ndarray, [[7.0, 8.0]] * 8)]


@pytest.mark.parametrize(
    ("answers", "settings", "named"),
    [
        (np.array(["cat", "dog"]), {"returns": "labels"}, "names of classes"),
        (np.array([{"cat": 1.0}, {"cat": 0.0}]), {}, "array of object"),
        (np.ones((2, 2)), {"input_name": "rows"}, r"Expected 'rows' among the inputs, got \['pixels'\]"),
        (np.ones((2, 3)), {}, r"\(2, 3\)"),
        (np.ones((2, 2)), {}, "sum to 1"),
    ],
)
def test_what_no_student_could_learn_from_is_refused(answers, settings, named):
    """Catches names in place of numbers, a misspelt input, and arrays that pass by the checks of tensors."""
    asked = FunctionTeacher(lambda inputs: answers, class_names=["cat", "dog"], **{"returns": "probs", **settings})
    with pytest.raises(HfCmimError, match=named):
        asked({"pixels": torch.zeros(2, 4)})


def test_arrays_that_cannot_be_written_are_answers():
    """Catches torch's warning about read-only memory, for instance of memory-mapped answers."""
    answers = np.broadcast_to(np.float32(0.5), (2, 2))
    asked = FunctionTeacher(lambda inputs: answers, class_names=["cat", "dog"], returns="probs")
    assert asked({}).exp().tolist() == [[0.5, 0.5]] * 2


def test_fingerprint_tells_inputs_apart():
    """Catches stored answers to one view of the samples that are used for another."""

    def fingerprint(**settings):
        return FunctionTeacher(len, class_names=["cat", "dog"], version="1", **settings).fingerprint()

    assert len({fingerprint(), fingerprint(input_name="a"), fingerprint(input_name="b")}) == 3
    assert fingerprint(input_name="a") == fingerprint(input_name="a")
