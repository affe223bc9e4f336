"""Students behind class answers are, bit for bit, those that learn from the teacher's labels and one table."""

import pytest
import tiny
import torch

from hf_cmim.attacks import DKD, KD, Averager, Composition, MixupQueries
from hf_cmim.channels import ClassAnswers
from hf_cmim.teachers import FunctionTeacher, ModelTeacher, fit_class_answers

NAMES = tuple(f"LABEL_{number}" for number in range(tiny.NUM_LABELS))
ATTACKS = [
    KD(temperature=4.0),
    DKD(),
    Composition(KD(), MixupQueries()),
    Composition(KD(), Averager()),
]


@pytest.fixture(scope="module")
def teacher():
    """A ViT that has learned something."""
    trainer = tiny.plain_trainer(tiny.vit(9), tiny.images(200), "unused", num_train_epochs=6, learning_rate=0.05)
    trainer.train()
    return trainer.model.eval()


@pytest.fixture(scope="module")
def channel(teacher):
    held_out = tiny.images(300, seed=5)
    pixels, labels = (torch.stack([torch.as_tensor(row[name]) for row in held_out]) for name in held_out[0])
    return fit_class_answers(ModelTeacher(teacher), [({"pixel_values": pixels}, labels)])


def label_teacher(teacher, rows):
    """A teacher that sees only the predicted labels, and looks up a row for each."""

    def labels_of(inputs):
        with torch.no_grad():
            return teacher(**inputs).logits.argmax(-1)

    return FunctionTeacher(lambda inputs: rows[labels_of(inputs)], class_names=NAMES)


def weights_of(attack, teacher, folder):
    trainer = tiny.distillation_trainer(tiny.vit(1), tiny.images(64, seed=2), folder, attack, teacher)
    trainer.train()
    return tiny.weights(trainer.model)


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_a_student_is_that_of_the_labels_and_the_table(attack, teacher, channel, tmp_path):
    """Catches anything of the single sample that reaches the student on any way through the trainer."""
    guarded = weights_of(attack, ModelTeacher(teacher, channel=channel), tmp_path)
    labelled = weights_of(attack, label_teacher(teacher, channel.log_probs), tmp_path)
    assert tiny.largest_difference(guarded, labelled) == 0
    sharper = ModelTeacher(teacher, channel=ClassAnswers(channel.probs, 0.01))
    assert tiny.largest_difference(guarded, weights_of(attack, sharper, tmp_path)) > 0
