"""What cannot be distilled is refused before anything is trained or written, with a message that says what to do."""

import pytest
import tiny
import torch
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from hf_cmim import Composition, DistillationConfig, DistillationTrainer, Fraction, Repeatable, Unlabelled
from hf_cmim.attacks import (
    ATTACKS,
    DKD,
    DOT,
    KD,
    ClassCentroid,
    LabelOnly,
    LabelSmoothing,
    MixupQueries,
    PartialBayes,
    PerturbedQueries,
    ShiftedViews,
)
from hf_cmim.channels import Argmax, TopK
from hf_cmim.teachers import FunctionTeacher, ModelTeacher, TableTeacher

NAMES = tuple(f"LABEL_{number}" for number in range(tiny.NUM_LABELS))
DATA = tiny.images(20)
ANSWERS = torch.randn(20, tiny.NUM_LABELS).log_softmax(-1)
TABLE = TableTeacher(ANSWERS, class_names=NAMES)


def teacher(**settings):
    return tiny.vit(7, **settings).eval()


def in_train_mode():
    return tiny.vit(7).train()


def answering(values, returns="probs"):
    return FunctionTeacher(
        lambda inputs: values.expand(len(inputs["pixel_values"]), -1), class_names=NAMES, returns=returns
    )


class Endless(IterableDataset):
    def __iter__(self):
        return iter(DATA)


CASES = {
    "no teacher": (KD(), None, {}, "Expected a teacher for .*got None"),
    "another number of classes": (KD(), lambda: teacher(num_labels=5), {}, "teacher of 4 classes.*got one of 5"),
    "names that do not match": (
        KD(), lambda: ModelTeacher(teacher(), class_names=("a", "b", "c", "d")), {}, "Expected .*names on both sides"
    ),
    "a teacher in train mode": (KD(), in_train_mode, {}, r"Expected .*eval.*got"),
    "not a teacher": (KD(), lambda: 3, {}, "Expected a teacher of hf_cmim.teachers.*got int"),
    "hidden classes": (DKD(), lambda: ModelTeacher(teacher(), channel=TopK(2)), {}, "answers with a probability"),
    "labels alone": (DKD(), lambda: ModelTeacher(teacher(), channel=Argmax()), {}, "answers with a probability"),
    "labels alone, averaged": (
        Composition(DKD(), ClassCentroid()), lambda: ModelTeacher(teacher(), channel=Argmax()), {},
        "answers with a probability",
    ),
    "new queries of stored answers": (MixupQueries(), lambda: TABLE, {}, "Expected a teacher that answers live"),
    "a budget below an epoch": (KD(), teacher, {"query_budget": 19}, "within the first epoch"),
    "a budget below the training": (
        KD(), teacher, {"query_budget": 30, "num_train_epochs": 2}, "before the end of training"
    ),
    "a batch of one": (
        ATTACKS["dist"](), teacher, {"per_device_train_batch_size": 1}, "Expected at least 2 samples in each batch"
    ),
    "a last batch of one": (
        ATTACKS["dist"](), teacher, {"per_device_train_batch_size": 19}, "at least 2 samples.*got 1 in the last"
    ),
    "fp16 with two momenta": (Composition(KD(), DOT()), teacher, {"fp16": True}, "Expected bf16 or full precision"),
    "a loss of your own": (KD(), teacher, {"compute_loss_func": lambda *_: None}, "Expected no compute_loss_func"),
    "an optimizer of your own": (
        DOT(), teacher, {"optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), None)},
        "Expected no optimizer of your own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_is_refused_at_construction(case, tmp_path):
    """Catches a run that starts, asks and pays before it fails or, worse, does not fail."""
    attack, build, changes, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        tiny.distillation_trainer(
            tiny.vit(1), DATA, tmp_path / "run", attack, build() if build is not None else None, **changes
        )
    assert not list(tmp_path.glob("run/*")), "something was written"


@pytest.mark.parametrize(("values", "returns", "message"), [
    (torch.tensor([[3.0, 1.0, 0.0, -2.0]]), "probs", "Expected .*prob.*got"),
    (torch.tensor([[3.0, 1.0, 0.0, -2.0]]), "log_probs", "Expected .*got"),
    (torch.tensor([[0.5, float("nan"), 0.25, 0.25]]), "probs", "Expected .*got"),
], ids=["logits for probs", "logits for log_probs", "nan"])  # fmt: skip
def test_answers_that_are_not_what_was_promised(values, returns, message, tmp_path):
    """Catches a student trained from logits taken as probabilities, or from nan."""
    trainer = tiny.distillation_trainer(tiny.vit(1), DATA, tmp_path, KD(), answering(values, returns))
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_a_teacher_put_into_train_mode_later(tmp_path):
    """Catches dropout that begins in the middle."""
    model = teacher()
    trainer = tiny.distillation_trainer(tiny.vit(1), DATA, tmp_path, KD(), model)
    model.train()
    with pytest.raises(ValueError, match="Expected .*eval"):
        trainer.train()


@pytest.mark.parametrize("protocol", [MixupQueries(), PerturbedQueries(), ShiftedViews()], ids=repr)
def test_texts_have_no_mixture(protocol, tmp_path):
    """Catches numbers of tokens that are averaged, or a protocol that silently does nothing."""
    trainer = tiny.distillation_trainer(
        tiny.bert(1), tiny.sentences(20), tmp_path, protocol, ModelTeacher(tiny.bert(3).eval())
    )
    with pytest.raises(ValueError, match="Expected (floating-point inputs|pixel_values).*got"):
        trainer.train()


def test_data_without_positions(tmp_path):
    """Catches queries that nobody counts."""
    with pytest.raises(ValueError, match="Expected a transfer set with a length and positions, got Endless"):
        tiny.distillation_trainer(tiny.vit(1), Endless(), tmp_path, KD(), teacher(), max_steps=2)


def test_settings_of_another_class(tmp_path):
    """Catches an attacker's settings that were never there."""
    with pytest.raises(ValueError, match="Expected args of class DistillationConfig, got TrainingArguments"):
        DistillationTrainer(tiny.vit(1), TrainingArguments(str(tmp_path)), attack=KD(), teacher=teacher())


@pytest.mark.parametrize(("changes", "message"), [
    ({"label_smoothing_factor": 0.1}, "Expected no label_smoothing_factor, got 0.1"),
    ({"query_budget": 0}, "Expected a query_budget of at least 1 answer, got 0"),
])  # fmt: skip
def test_settings_out_of_range(changes, message, tmp_path):
    """Catches smoothed labels under every attack, and a budget that means nothing."""
    with pytest.raises(ValueError, match=message):
        DistillationConfig(str(tmp_path), **changes)


@pytest.mark.parametrize(("parts", "message"), [
    ((), "got nothing"), ((KD(), DKD()), "Expected at most one Attack, got"), ((Trainer,), "Expected losses"),
    ((KD(ce_weight=0.0), DOT()), "Expected a loss with a cross-entropy beside DOT"),
], ids=["none", "two losses", "not a part", "no cross-entropy"])  # fmt: skip
def test_parts_that_do_not_compose(parts, message):
    """Catches a second loss that is dropped, and momenta of gradients that do not exist."""
    with pytest.raises(ValueError, match=message):
        Composition(*parts)


def test_a_fraction_of_nothing():
    """Catches an empty transfer set."""
    with pytest.raises(ValueError, match=r"Expected a share in \(0, 1\] that leaves a sample of 20, got 0.01"):
        Fraction(DATA, 0.01)


def test_label_only_copes_with_hidden_classes(tmp_path):
    """Shows that the refusal is not blind."""
    channel = ModelTeacher(teacher(), channel=Argmax())
    tiny.distillation_trainer(tiny.vit(1), DATA, tmp_path, LabelOnly(), channel).train()


def test_recovery_gives_hidden_classes_back():
    """Catches a refusal, or a pass, that looks at any transform instead of at those that restore classes."""
    recovery = PartialBayes(perturbation=TopK(2))
    assert not Composition(DKD(), recovery).needs_every_class
    assert Composition(DKD(), ClassCentroid()).needs_every_class
    assert not Composition(KD(), ClassCentroid()).needs_every_class


def test_neither_labels_nor_answers(tmp_path):
    """Catches an arm without a teacher that learns class 0 for every unlabelled sample."""
    trainer = tiny.distillation_trainer(tiny.vit(1), Unlabelled(DATA), tmp_path, LabelSmoothing())
    with pytest.raises(ValueError, match="Expected labels for .*LabelSmoothing.*got none"):
        trainer.train()


def test_workers_that_never_hear_of_the_epoch_are_refused(tmp_path):
    """Catches augmentation that repeats the first epoch's views for ever."""
    data = Repeatable(tiny.images(16), 0)
    with pytest.raises(ValueError, match="dataloader_persistent_workers"):
        tiny.distillation_trainer(
            tiny.vit(), data, tmp_path, KD(), tiny.vit(5).eval(),
            dataloader_num_workers=1, dataloader_persistent_workers=True,
        )  # fmt: skip
