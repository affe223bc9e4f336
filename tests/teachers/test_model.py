"""Models as teachers: what they answer, what they refuse, and what they never load."""

import json

import pytest
import tiny
import torch
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

from hf_cmim.channels import TopK
from hf_cmim.teachers import ModelTeacher
from hf_cmim.teachers.model import load_classifier

NAMES = ("north", "east", "south", "west")


def batch(rows, *names):
    return {name: torch.stack([row[name] for row in rows]) for name in names}


def images(size=6):
    return batch(tiny.images(size), "pixel_values")


class Plain(nn.Module):
    """A module without a config, with dropout."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Dropout(0.5))

    def forward(self, pixel_values):
        return self.layer(pixel_values)


@pytest.mark.parametrize("build", [tiny.vit, tiny.convnext], ids=["vit", "convnext"])
def test_image_model_answers_with_its_softmax(build):
    """Catches logits taken from another place, and labels or positions handed to a forward that rejects them."""
    model = build().eval()
    inputs = images()
    teacher = ModelTeacher(model)
    with torch.no_grad():
        expected = model(**inputs).logits.log_softmax(-1)
    answers = teacher(inputs | {"sample_index": torch.arange(6), "labels": torch.zeros(6).long()})
    assert torch.equal(answers, expected)
    assert (teacher.num_classes, teacher.class_names) == (4, ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"))


@pytest.mark.parametrize("build", [tiny.bert, tiny.token_bert], ids=["sequence", "token"])
def test_text_model_answers_with_its_softmax(build):
    """Catches a token classifier whose positions are flattened, and an attention mask that is dropped."""
    model = build().eval()
    inputs = batch(tiny.sentences(3), "input_ids", "attention_mask")
    inputs["attention_mask"][:, 6:] = 0
    with torch.no_grad():
        expected = model(**inputs).logits.log_softmax(-1)
    answers = ModelTeacher(model)(inputs)
    assert answers.shape == ((3, 10, 4) if build is tiny.token_bert else (3, 4))
    assert torch.equal(answers, expected)


def test_plain_module_needs_names():
    """Catches an order of classes that is assumed."""
    model = Plain().eval()
    with pytest.raises(ValueError, match="class_names for a Plain"):
        ModelTeacher(model)
    teacher = ModelTeacher(model, class_names=NAMES)
    inputs = images()
    assert torch.allclose(teacher(inputs), model(**inputs).log_softmax(-1))
    assert teacher.class_names == NAMES


def test_wrapper_gets_all_that_is_an_input():
    """Catches an input dropped because a wrapper's forward does not name it, and labels that come along."""
    seen = set()

    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, input_ids, **kwargs):
            seen.update(kwargs)
            return self.model(input_ids=input_ids, **kwargs)

    inputs = batch(tiny.sentences(3), "input_ids", "attention_mask")
    inputs["token_type_ids"] = torch.ones_like(inputs["input_ids"])
    model = tiny.bert().eval()
    with torch.no_grad():
        expected = model(**inputs).logits.log_softmax(-1)
    wrapped = ModelTeacher(Wrapper(model).eval(), class_names=NAMES)
    others = {"labels": torch.zeros(3).long(), "sample_index": torch.arange(3)}
    assert torch.equal(wrapped(inputs | others), expected)
    assert seen == {"attention_mask", "token_type_ids"}


def test_names_come_from_the_config_by_number():
    """Catches names in the order of a dict, which a JSON file may have shuffled."""
    model = tiny.vit(id2label={2: "south", 0: "north", 3: "west", 1: "east"})
    assert ModelTeacher(model.eval()).class_names == NAMES


@pytest.mark.parametrize("part", ["", "layer.2"])
def test_train_mode_is_refused_at_construction_and_at_each_call(part):
    """Catches dropout that blurs the answers, even where only one module of the model has it on."""
    model = Plain().eval()
    teacher = ModelTeacher(model, class_names=NAMES)
    model.get_submodule(part).train()
    with pytest.raises(ValueError, match="train mode"):
        teacher(images())
    assert model.get_submodule(part).training, "the teacher's mode was changed silently"
    with pytest.raises(ValueError, match="train mode"):
        ModelTeacher(model, class_names=NAMES)


def test_answer_leaves_the_model_as_it_is():
    """Catches gradients, moved buffers, or random numbers drawn in a query."""
    model = tiny.vit(dropout=0.1).eval()
    before, state = tiny.weights(model), torch.get_rng_state()
    ModelTeacher(model)(images())
    assert tiny.largest_difference(before, tiny.weights(model)) == 0
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_of_the_student_does_not_reach_it():
    """Catches answers that depend on how the student is trained."""
    teacher = ModelTeacher(tiny.vit().eval())
    expected = teacher(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher(images()), expected)


def test_half_precision_weights_answer_in_fp32():
    """Catches log-probabilities computed in bf16."""
    teacher = ModelTeacher(tiny.vit().eval().bfloat16())
    answers = teacher({"pixel_values": images()["pixel_values"].bfloat16()})
    assert answers.dtype == torch.float32
    assert torch.logsumexp(answers, -1).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("build", [tiny.vit, tiny.convnext], ids=["vit", "convnext"])
def test_half_precision_weights_take_images_as_processors_make_them(build, dtype, tmp_path):
    """Catches a raw RuntimeError: fp32 images, and convolutions in half precision that do not take them."""
    model = build().eval().to(dtype)
    with torch.no_grad():
        expected = model(pixel_values=images()["pixel_values"].to(dtype)).logits.float().log_softmax(-1)
    assert torch.equal(ModelTeacher(model)(images()), expected)
    model.save_pretrained(tmp_path)
    assert torch.equal(ModelTeacher(tmp_path)(images()), expected)


def test_only_numbers_with_a_fraction_change_their_precision():
    """Catches token ids in half precision, where 2049 and 2048 are one number."""
    model = tiny.bert().eval().bfloat16()
    inputs = batch(tiny.sentences(3), "input_ids", "attention_mask")
    with torch.no_grad():
        expected = model(**inputs).logits.float().log_softmax(-1)
    assert torch.equal(ModelTeacher(model)(inputs), expected)


def test_images_in_another_precision_than_the_weights_are_taken():
    """Catches a raw RuntimeError for images that NumPy made in float64."""
    model = tiny.convnext().eval()
    inputs = {"pixel_values": images()["pixel_values"].double()}
    assert torch.equal(ModelTeacher(model)(inputs), ModelTeacher(model)(images()))


def test_names_of_the_inputs_are_those_that_the_model_uses():
    """Catches columns lost on the way to a model in a wrapper or under an adapter."""

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tiny.bert()

        def forward(self, **inputs):
            return self.model(**inputs)

    inputs = {"input_ids", "attention_mask", "token_type_ids"}
    assert inputs <= ModelTeacher(tiny.bert().eval()).input_names
    assert inputs <= ModelTeacher(Wrapper().eval(), class_names=NAMES).input_names
    assert "labels" not in ModelTeacher(tiny.bert().eval()).input_names
    assert ModelTeacher(Plain().eval(), class_names=NAMES).input_names == {"pixel_values"}


def sound_model(seed=0):
    torch.manual_seed(seed)
    return Wav2Vec2ForSequenceClassification(
        Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8, 8),
            conv_stride=(5, 5), conv_kernel=(10, 5), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2, classifier_proj_size=8, mask_time_prob=0.0, num_labels=4,
        )
    ).eval()  # fmt: skip


def test_a_classifier_of_sounds_is_loaded_by_its_own_class(tmp_path):
    """Catches Wav2Vec2ForSequenceClassification asked of AutoModelForSequenceClassification, which has no such."""
    model = sound_model()
    model.save_pretrained(tmp_path)
    inputs = {"input_values": torch.randn(3, 400, generator=torch.Generator().manual_seed(0))}
    teacher = ModelTeacher(tmp_path)
    assert type(teacher.model) is Wav2Vec2ForSequenceClassification
    assert torch.equal(teacher(inputs), ModelTeacher(model)(inputs))


@pytest.mark.parametrize(
    ("build", "inputs", "named"),
    [
        (lambda: ModelTeacher(tiny.vit(problem_type="regression").eval()), {}, "single-label"),
        (lambda: ModelTeacher(tiny.vit(problem_type="multi_label_classification").eval()), {}, "single-label"),
        (lambda: ModelTeacher(tiny.vit(num_labels=1).eval()), {}, "2 classes"),
        (lambda: ModelTeacher(tiny.vit().eval(), class_names=NAMES[:3]), images(), r"\(6, 4\)"),
        (lambda: ModelTeacher(tiny.vit().eval()), {"input_ids": torch.zeros(1, 1)}, "pixel_values"),
        (lambda: ModelTeacher(tiny.vit().vit.eval(), class_names=NAMES), images(), "base model"),
        (lambda: ModelTeacher(nn.Sequential(Plain(), nn.Softmax(-1)).eval(), class_names=NAMES), {}, "take"),
    ],
)
def test_what_is_no_classifier_is_refused(build, inputs, named):
    """Catches heads whose softmax is no answer, and batches of another modality."""
    with pytest.raises(ValueError, match=named):
        build()(inputs)


def test_folder_is_loaded_in_evaluation_mode(tmp_path):
    """Catches fresh weights under new names, and a guess of the wrong head."""
    for build, inputs in (
        (lambda: tiny.vit(dropout=0.1, id2label=dict(enumerate(NAMES))), images()),
        (tiny.token_bert, batch(tiny.sentences(3), "input_ids", "attention_mask")),
    ):
        model = build().eval()
        model.save_pretrained(tmp_path)
        teacher = ModelTeacher(tmp_path, channel=TopK(2))
        assert torch.equal(teacher(inputs), ModelTeacher(model, channel=TopK(2))(inputs))
        assert teacher.class_names == ModelTeacher(model).class_names
        assert teacher.fingerprint() == ModelTeacher(model, channel=TopK(2)).fingerprint()


def test_pickled_weights_are_refused(tmp_path):
    """Catches a checkpoint that runs code when it is loaded."""
    model = tiny.vit()
    model.config.architectures = ["ViTForImageClassification"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights"):
        ModelTeacher(tmp_path)


def test_code_of_a_repository_is_never_run(tmp_path):
    """Catches trust_remote_code, in the configuration and in the model."""
    tiny.vit().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    planted = tmp_path / "planted.py"
    planted.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    code = {"AutoConfig": "planted.Config", "AutoModelForImageClassification": "planted.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": code}))
    assert ModelTeacher(tmp_path).num_classes == 4  # transformers' own class is used
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": code, "model_type": "planted"}))
    with pytest.raises(ValueError, match="never run"):
        ModelTeacher(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_head_without_weights_is_refused(tmp_path):
    """Catches a base checkpoint under a classifier's name: its head would be drawn at random."""
    tiny.vit().vit.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"ForImageClassification.*got ViTModel"):
        ModelTeacher(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(ValueError, match="classifier"):
        load_classifier(str(tmp_path))


def test_fingerprint_follows_weights_and_settings():
    """Catches a cache of one checkpoint that is taken for another's, or refused for its own."""
    model = tiny.vit().eval()
    same = ModelTeacher(model).fingerprint()
    assert ModelTeacher(tiny.vit().eval()).fingerprint() == same
    assert ModelTeacher(tiny.vit(seed=1).eval()).fingerprint() != same
    assert ModelTeacher(tiny.vit(layer_norm_eps=1e-3).eval()).fingerprint() != same
    assert ModelTeacher(model, channel=TopK(2)).fingerprint() != same
    with torch.no_grad():
        model.classifier.bias[0] += 1e-6
    assert ModelTeacher(model).fingerprint() != same
