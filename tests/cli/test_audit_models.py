"""Which classifiers and students are built from the command line."""

import json

import pytest
import torch
from datasets import Dataset
from PIL import Image as PILImage
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BertForSequenceClassification,
    ConvNextImageProcessorPil,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessorPil,
    set_seed,
)

from hf_cmim.cli.audit_models import StudentBuilder, open_classifier
from hf_cmim.data.views import View
from hf_cmim.errors import HfCmimError

COLOURS = ("red", "green", "blue")
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "red", "green", "blue", "sky"]


@pytest.fixture
def rows(data):
    return Dataset.from_parquet(str(data / "test.parquet")).select(range(20))


@pytest.fixture(scope="module")
def tokenizer():
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def built(teacher, audit_options, rows):
    """Build students from flags, for the image teacher."""

    def build(*words, names=COLOURS):
        view, flags = View.of(str(teacher), "image"), audit_options(*words)
        sample = view.prepare(rows["image"][:1])[0]
        return StudentBuilder(flags.student, flags.student_config, names, view, sample), view

    return build


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


# Classifiers


def test_classifier_that_is_not_there_is_refused():
    """A traceback of a Hub's client does not say which flag is wrong."""
    with pytest.raises(ValueError, match=r"No classifier for --twin at 'no/model'"):
        open_classifier("no/model", "--twin", torch.device("cpu"))


# Students


def test_shape_gets_classes_and_size_from_data_and_teacher(built, student_config):
    """Ten of LABEL_0, or images of 224 pixels, would be refused far from here."""
    builder, view = built("--student-config", student_config)
    student = builder()
    assert student.config.id2label == dict(enumerate(COLOURS))
    assert list(student.config.image_size) == [12, 12]
    assert student.config.hidden_size == 16
    assert builder.view is view
    builder.check(view.prepare([PILImage.new("RGB", (12, 12))])[0])


def test_new_students_differ_by_the_seed_alone(built, student_config):
    """One initialisation for all seeds would make their spread too small, and every verdict too sure."""
    builder, _ = built("--student-config", student_config)
    found = []
    for seed in (0, 0, 1):
        set_seed(seed)
        found.append(weights(builder()))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_shape_in_a_folder_brings_its_own_view(built, tmp_path):
    """A student of 8 pixels would be shown 12."""
    ViTConfig(**SHAPE, image_size=8, patch_size=4).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    builder, _ = built("--student-config", tmp_path)
    sample = builder.view.prepare([PILImage.new("RGB", (12, 12))])[0]
    assert sample["pixel_values"].shape == (3, 8, 8)
    builder.check(sample)


def test_equal_processors_are_one_view(built, teacher, tmp_path):
    """Two views of the same pixels would cost twice the memory, and shut out attacks that need a common one."""
    ViTConfig(**SHAPE, image_size=12, patch_size=4).save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(teacher).save_pretrained(tmp_path)
    builder, view = built("--student-config", tmp_path)
    assert builder.view is view
    ConvNextImageProcessorPil(size={"shortest_edge": 12}).save_pretrained(tmp_path)
    builder, view = built("--student-config", tmp_path)
    assert builder.view is not view


def test_checkpoint_goes_on_with_its_trained_head(built, teacher):
    """A head read in another order, or begun anew, is not the checkpoint's."""
    builder, _ = built("--student", teacher)
    first = builder()
    expected = AutoModelForImageClassification.from_pretrained(teacher)
    assert torch.equal(weights(first), weights(expected))
    assert first.config.id2label == expected.config.id2label
    assert list(first.config.id2label.values()) != list(COLOURS)


def test_checkpoint_of_other_classes_gets_a_new_head(built, teacher):
    """Its head would name classes that are not there; one drawn once would be the same for every seed."""
    builder, _ = built("--student", teacher, names=("a", "b"))
    heads = []
    for seed in (0, 1):
        set_seed(seed)
        heads.append(builder())
    assert heads[0].config.id2label == {0: "a", 1: "b"}
    assert heads[0].classifier.weight.shape == (2, 16)
    assert not torch.equal(heads[0].classifier.weight, heads[1].classifier.weight)
    assert torch.equal(heads[0].vit.layernorm.weight, heads[1].vit.layernorm.weight)


def test_text_student_gets_its_vocabulary_from_the_teacher(tokenizer, tmp_path):
    """Tokens beyond a default vocabulary would stop the first batch."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "student.json").write_text(json.dumps({"model_type": "bert", **SHAPE, "max_position_embeddings": 4}))
    view = View.of(str(tmp_path), "text")
    sample = view.prepare(["red"])[0]
    builder = StudentBuilder(None, str(tmp_path / "student.json"), ("no", "yes"), view, sample)
    assert isinstance(student := builder(), BertForSequenceClassification)
    assert (student.config.vocab_size, student.config.pad_token_id) == (6, 0)
    assert len(builder.view.prepare(["red " * 9])[0]["input_ids"]) == 4
    builder.check(builder.view.prepare(["red sky"])[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"No configuration can be read from"),
        ('{"hidden_size": 8}', r"Expected the model_type of a transformers model in .*got ''"),
        ('{"model_type": "vitt"}', r"got 'vitt'"),
        ("[]", r"Expected the model_type of a transformers model in .*student.json, got ''"),
        ('{"model_type": ["vit"]}', r"got \['vit'\]"),
        ('{"model_type": "vit", "hidden_size": "big"}', r"makes no vit of .*student.json .*'hidden_size' exp"),
        ('{"model_type": "vit", "id2label": 3}', r"makes no vit of .*AttributeError"),
        ('{"model_type": "vit", "hidden_act": "gelux"}', r"makes no image classifier of .*student.json .*'gelux'"),
        ('{"model_type": "vit", "patch_size": 0}', r"makes no image classifier of .*student.json .*ZeroDivisionError"),
        ('{"model_type": "bert"}', r"makes no image classifier of .*student.json .*BertConfig"),
    ],
)
def test_configuration_that_says_no_model_is_refused(text, message, built, tmp_path):
    """A default model in its place would be another student."""
    (tmp_path / "student.json").write_text(text)
    with pytest.raises(HfCmimError, match=message):
        built("--student-config", tmp_path / "student.json")


def test_student_that_is_not_there_or_does_not_fit_is_refused(built, tmp_path):
    """It would be found out after the teacher was asked about everything."""
    with pytest.raises(HfCmimError, match=r"No configuration of a model for the student at 'no/student'"):
        built("--student", "no/student")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", **SHAPE, "hidden_size": "big"}))
    with pytest.raises(HfCmimError, match=rf"makes no model of the configuration in {tmp_path} .*'hidden_size'"):
        built("--student-config", tmp_path)
    (tmp_path / "student.json").write_text(json.dumps({"model_type": "vit", **SHAPE, "num_channels": 1}))
    builder, view = built("--student-config", tmp_path / "student.json")
    with pytest.raises(
        ValueError, match=r"The student cannot read inputs of shapes \{'pixel_values': \(2, 3, 12, 12\)"
    ):
        builder.check(view.prepare([PILImage.new("RGB", (12, 12))])[0])


def test_relatives_of_roberta_get_texts_that_fit(tokenizer, tmp_path):
    """Catches texts cut to rows that such a model never uses, a raw IndexError."""
    tokenizer.save_pretrained(tmp_path)
    settings = {"model_type": "xlm-roberta", **SHAPE, "max_position_embeddings": 8}
    (tmp_path / "student.json").write_text(json.dumps(settings))
    view = View.of(str(tmp_path), "text")
    builder = StudentBuilder(None, str(tmp_path / "student.json"), ("no", "yes"), view, {})
    sample = builder.view.prepare(["red " * 9])[0]
    assert len(sample["input_ids"]) == 8 - 1 - tokenizer.pad_token_id
    builder.check(sample)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_are_asked_and_trained(dtype, built, rows, teacher, tmp_path):
    """Catches a raw RuntimeError for such a teacher, and students that are trained in half precision."""
    AutoModelForImageClassification.from_pretrained(teacher).to(dtype).save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(teacher).save_pretrained(tmp_path)
    half = open_classifier(str(tmp_path), "--teacher", torch.device("cpu"))
    assert half.model.dtype == dtype
    view = View.of(str(tmp_path), "image")
    answers = half(view.batch(view.prepare(rows["image"][:4])))
    assert answers.dtype == torch.float32
    builder, _ = built("--student", tmp_path)
    assert {weight.dtype for weight in builder().parameters()} == {torch.float32}
