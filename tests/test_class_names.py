"""Class names are read in one way, whatever form a configuration gives them in."""

import json

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForImageClassification, PretrainedConfig, TimmWrapperConfig

from hf_cmim import CMIMConfig, CMIMTrainer
from hf_cmim.attacks import KD
from hf_cmim.class_names import are_default_names, check_names_differ, class_names_of
from hf_cmim.hub.certify import certify
from hf_cmim.teachers import ModelTeacher

TWELVE = tuple(f"class{number}" for number in range(12))
NAMES = ("north", "east", "south", "west")


class Wrapper(nn.Module):
    """A module of the user's own around a model, with or without a configuration."""

    def __init__(self, config=None):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        if config is not None:
            self.config = config


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"id2label": dict(enumerate(TWELVE))}, TWELVE),
        ({"id2label": {str(number): name for number, name in enumerate(TWELVE)}}, TWELVE),
        ({"id2label": {(number if number % 2 else str(number)): name for number, name in enumerate(TWELVE)}}, TWELVE),
        ({"id2label": {number: TWELVE[number] for number in (*range(5, 12), *range(5))}}, TWELVE),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": "0", "b": "1"}}, ("a", "b")),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ("a", "b")),
        ({"id2label": {0: "crane", 1: "dog", 2: "crane"}, "label2id": {"crane": 2}}, ("crane", "dog", "crane")),
        ({"id2label": {0: 0, 1: 1}}, ("0", "1")),
        ({"label_names": ["ant", "bee"], "num_classes": 2}, ("ant", "bee")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"num_classes": 2}, ("LABEL_0", "LABEL_1")),
        ({"model_type": "custom"}, None),
    ],
)  # fmt: skip
def test_names_are_in_the_order_of_the_logits(settings, names):
    """Catches keys sorted as text, by which class10 comes before class2, and names in the order of a file."""
    assert class_names_of(settings) == names
    assert class_names_of(json.loads(json.dumps(settings))) == names

    class Config:
        """The same settings as attributes."""

    config = Config()
    vars(config).update(settings)
    assert class_names_of(config) == names
    assert class_names_of(Wrapper(config)) == names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id2label": {0: "a", 2: "b"}}, r"2 classes, but has no name for class 1 \(its numbers are 0, 2\)"),
        ({"id2label": {1: "a", 2: "b"}}, "no name for class 0"),
        ({"id2label": {"1": "a", 1: "b", 0: "c"}}, "names class 1 twice, 'a' and 'b'"),
        ({"id2label": {"cat": 0, "dog": 1}}, "key 'cat'.*Is it label2id"),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 3}, "names 2 classes, its num_labels is 3"),
        ({"label_names": ["a", "b"], "num_classes": 1000}, "names 2 classes, its num_labels is 1000"),
        (
            {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 1, "b": 0, "c": 2}},
            r"class 0 'a', but label2id says that 'a' is class 1.*model.config.label2id = ",
        ),
    ],
)
def test_names_that_contradict_each_other_are_refused(settings, message):
    """Catches a choice between two orders, of which one teaches the wrong classes."""
    with pytest.raises(ValueError, match=message):
        class_names_of(settings)


def test_label2id_is_refused_before_training(tmp_path):
    """Catches labels made in one order and outputs read in the other, in both trainers."""
    wrong = {name: number for number, name in enumerate(reversed(NAMES))}
    model = tiny.vit(id2label=dict(enumerate(NAMES)), label2id=wrong)
    with pytest.raises(ValueError, match="label2id says"):
        tiny.cmim_trainer(model, tiny.images(), tmp_path)
    with pytest.raises(ValueError, match="label2id says"):
        tiny.distillation_trainer(model, tiny.images(), tmp_path, KD(), tiny.vit().eval())
    with pytest.raises(ValueError, match="label2id says"):
        ModelTeacher(model.eval())


def test_two_classes_of_one_name_come_with_the_line_that_renames_one():
    """Catches ImageNet's two cranes refused without a remedy; the line given must work."""
    model = tiny.vit(id2label={0: "dog", 1: "crane", 2: "cat", 3: "crane"}).eval()
    with pytest.raises(ValueError, match=r"'crane' for the classes 1 and 3") as refusal:
        ModelTeacher(model)
    line = next(part for part in str(refusal.value).replace("; ", ": ").split(": ") if part.startswith("model.config"))
    exec(line, {"model": model})  # the remedy, as the message says it
    assert ModelTeacher(model).class_names == ("dog", "crane", "cat", "crane (3)")
    check_names_differ(class_names_of(model))


def test_a_module_without_a_configuration_has_no_names():
    """Catches a count of something else taken for classes."""
    module = Wrapper()
    module.num_classes = 7
    assert class_names_of(module) is None


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft calls a deprecated property
def test_a_peft_model_has_the_names_of_the_model_it_adapts():
    """Catches names looked for beside the adapter only."""
    model = tiny.vit(id2label=dict(enumerate(NAMES)))
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    assert class_names_of(adapted) == NAMES
    assert ModelTeacher(adapted.eval()).class_names == NAMES


def test_a_timm_wrapper_keeps_its_names_on_disk(tmp_path):
    """Catches a certificate that says LABEL_0: a timm wrapper saves label_names instead of id2label."""
    config = TimmWrapperConfig(architecture="resnet10t", id2label=dict(enumerate(NAMES)))
    saved = config.to_dict()
    assert "id2label" not in saved, "transformers writes id2label now: this test needs another wrapper"
    assert class_names_of(saved) == class_names_of(config) == NAMES
    tiny.vit().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({**saved, "architectures": ["TimmWrapperForImageClassification"], "model_type": "timm_wrapper"})
    )
    assert certify(tmp_path).class_names == NAMES


def test_defaults_do_not_tell_classes_apart():
    """Catches LABEL_0 taken for a name that somebody chose."""
    assert are_default_names(class_names_of(PretrainedConfig(num_labels=3)))
    assert not are_default_names(["LABEL_0", "cat"])


def test_names_by_text_keys_reach_teacher_student_and_certificate(tmp_path):
    """Catches the documentation's own recipe, id2label[str(i)] = name, which permuted a teacher of 12 classes."""
    tiny.vit(num_labels=12).save_pretrained(tmp_path / "start")
    student = AutoModelForImageClassification.from_pretrained(
        tmp_path / "start",
        id2label={str(number): name for number, name in enumerate(TWELVE)},
        label2id={name: str(number) for number, name in enumerate(TWELVE)},
    )
    teacher = tiny.vit(1, num_labels=12, id2label=dict(enumerate(TWELVE))).eval()
    data = tiny.images(24, num_classes=12)
    trainer = tiny.distillation_trainer(student, data, tmp_path / "run", KD(), teacher, eval_dataset=data)
    labels = torch.tensor([row["labels"] for row in data])
    with torch.no_grad():
        predicted = teacher(pixel_values=torch.stack([row["pixel_values"] for row in data])).logits.argmax(-1)
    expected = (predicted == labels).double().mean().item()
    assert trainer.evaluate()["eval_teacher_accuracy"] == pytest.approx(expected)
    trainer.save_model(tmp_path / "saved")
    assert certify(tmp_path / "saved").class_names == TWELVE


@pytest.mark.parametrize("names", [NAMES[:3], (*NAMES, "up")], ids=["shorter", "longer"])
def test_names_and_head_of_different_sizes_are_refused_before_the_first_step(names, tmp_path):
    """Catches a model that trains, is saved with other names than it has logits, and cannot be loaded again."""
    model = tiny.vit()
    model.config.id2label = dict(enumerate(names))
    data = tiny.images(8, num_classes=3)
    before = tiny.weights(model)
    message = f"gives 4 logits, but its id2label names {len(names)} classes"
    trainer = CMIMTrainer(model, CMIMConfig(**tiny.settings(tmp_path)), train_dataset=data)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    teacher = tiny.vit(1, num_labels=len(names), id2label=dict(enumerate(names))).eval()
    with pytest.raises(ValueError, match=message):
        tiny.distillation_trainer(model, data, tmp_path, KD(), teacher).train()
    assert tiny.largest_difference(before, tiny.weights(model)) == 0
