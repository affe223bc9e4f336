"""Folders that would load something else than was certified: each with what verification says of it."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
import transformers
from hub.certified import certified_model, moved_into_the_hubs_cache, save_model
from hub.test_certificate import rewritten
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.certify import certify
from hf_cmim.hub.files import hash_file, is_certified
from hf_cmim.hub.verification import check_certificate
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.teachers import ModelTeacher

NOT_CERTIFIED = "not certified, and a loader may use it instead of a certified file"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return certified_model(tmp_path_factory.mktemp("original") / "model", audited=False)


@pytest.fixture
def model(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def faults(folder):
    return [finding.sentence for finding in check_certificate(folder) if not finding.holds]


def certified_again(folder):
    """Give the certificate the hashes of the files as they are now, as a publisher who lies would."""

    def change(values):
        files = {**values["files"]}
        for name in files:
            record = hash_file(folder / name)
            files[name] = {"size": record.size, "sha256": record.sha256}
        values["files"] = files

    rewritten(folder, change)


STRANGERS = [
    # what tokenizers, processors and loaders of transformers look for
    "tekken.json", "tiktoken.model", "word_shape.json", "word_pronunciation.json", "sentencepiece.model",
    "sentencepiece.bpe.model", "entity_vocab.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.json",
    "tokenizer.model", "tokenizer.model.v3", "tokenizer_config.json", "tokenizer.4.0.0.json", "added_tokens.json",
    "special_tokens_map.json", "spiece.model", "spm.model", "source.spm", "target.spm", "bpe.codes", "dict.txt",
    "emoji.json", "normalizer.json", "prophetnet.tokenizer", "chat_template.jinja", "chat_template.json",
    "processor_config.json", "video_preprocessor_config.json", "audio_tokenizer_config.json", "generation_config.json",
    "config.4.0.0.json", "modelcard.json", "additional_chat_templates/other.jinja", "tokenizer/vocab.json",
    # weights
    "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin", "adapter_model.bin",
    "adapter_model.safetensors", "adapter_config.json", "tf_model.h5", "flax_model.msgpack", "model.gguf",
    "model.onnx", "onnx/model.onnx", "openvino_model.xml", "model.fp16.safetensors", "weights.ckpt", "model.pkl",
    "model-00001-of-00002.safetensors", "model.safetensors.index.json", "other/model.safetensors",
    "1/model.safetensors",
    # code
    "modeling.py", "handler.py", "tokenization_own.py", "custom_generate/generate.py", "requirements.txt", "setup.py",
    "evil", ".env", "__init__.py", "conversion.sh", "kernel.so", "data.arrow",
]  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_every_path_is_certified_or_a_document(model, name):
    """Catches a list of what is forbidden: some loader knows a name that is not on it."""
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"{}")
    assert faults(model) == [
        f"{name}: {NOT_CERTIFIED}. Allowed are certified files, documents and checkpoint-N folders"
    ]


DOCUMENTS = ["README.md", "LICENSE", "LICENSE.txt", ".gitattributes", "NOTICE", "figure.png", "assets/curve.svg",
             "checkpoint-500/model.safetensors", "last-checkpoint/optimizer.pt", "training_args.bin", "optimizer.pt",
             "trainer_state.json", "all_results.json", "runs/events.out.tfevents.1", "rng_state_0.pth"]  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_and_states_of_training_may_be_there_and_change_nothing(model, name):
    """Catches an honest folder that is refused, and one that is accepted and answers otherwise."""
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"x")
    assert faults(model) == []
    assert_answers_are_certified(model)


# Files that are certified themselves, by a publisher who lies


def setting(name, **settings):
    def change(folder):
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**values, **settings}), encoding="utf-8")

    return change


def index(weight_map, **others):
    def change(folder):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map, **others}))
        rewritten(folder, lambda values: values["files"].update({"model.safetensors.index.json": {}}))

    return change


def raw(name, content):
    return lambda folder: (folder / name).write_bytes(content)


CONFIG, IMAGES = "config.json", "preprocessor_config.json"
LEADING = [
    (setting(CONFIG, auto_map={"AutoModel": "evil.Model"}), "auto_map names code of the repository's own"),
    (setting(CONFIG, auto_map={"AutoConfig": "someone/else--evil.C"}), "auto_map names code"),
    (setting(CONFIG, custom_pipelines={"image-classification": {"impl": "evil.P"}}), "custom_pipelines names code"),
    (setting(CONFIG, custom_generate="evil"), "custom_generate names code"),
    (setting(CONFIG, transformers_weights="adapter_model.bin"), "transformers_weights names another file to load"),
    (setting(CONFIG, transformers_weights="other/model.safetensors"), "transformers_weights names another file"),
    (setting(CONFIG, configuration_files=["config.4.0.0.json"]), "configuration_files names another file"),
    (setting(CONFIG, gguf_file="model.gguf"), "gguf_file names another file"),
    (setting(CONFIG, checkpoint_path="/tmp/evil.pt"), "checkpoint_path names another file"),
    (setting(CONFIG, model_args={"checkpoint_path": "/tmp/evil.pt"}), "checkpoint_path names another file"),
    (setting(CONFIG, base_model_name_or_path="someone/else"), "base_model_name_or_path names another model"),
    (setting(CONFIG, use_pretrained_backbone=True), "use_pretrained_backbone loads another model's weights"),
    (setting(CONFIG, subfolder="other"), "subfolder names another folder"),
    (setting(CONFIG, revision="refs/pr/1"), "revision names another commit"),
    (setting(CONFIG, attn_implementation="someone/kernel"), "attn_implementation names code on the Hub"),
    (setting(CONFIG, _attn_implementation="someone/kernel:f"), "_attn_implementation names code on the Hub"),
    (setting(CONFIG, _attn_implementation_internal={"": "a/b"}), "_attn_implementation_internal names code"),
    (setting(CONFIG, experts_implementation="a/b"), "experts_implementation names code on the Hub"),
    (setting(CONFIG, vocab_file="/etc/passwd"), "vocab_file names another file"),
    (setting(IMAGES, auto_map={"AutoImageProcessor": "evil.P"}), "auto_map names code"),
    (setting(IMAGES, tokenizer_file="../x.json"), "tokenizer_file names another file"),
    (setting(IMAGES, image_processor={"auto_map": {"a": "b.C"}}), "auto_map names code"),
    (setting(IMAGES, parts=[{"vocab_file": "x"}]), "vocab_file names another file"),
    (setting(IMAGES, fast_tokenizer_files=["tokenizer.1.json"]), "fast_tokenizer_files names another file"),
    (setting(IMAGES, init_inputs=["/etc/passwd"]), "init_inputs names another file"),
    (setting(IMAGES, source_spm="/etc/passwd"), "source_spm names another file"),
    (setting(IMAGES, merges="/etc/passwd"), "merges names another file"),
    (setting(IMAGES, mecab_kwargs={"mecab_option": "-r /etc/passwd"}), "mecab_option names another file"),
    (setting(CONFIG, architectures=["ViTForMaskedImageModeling"]), "got ViTForMaskedImageModeling"),
    (setting(CONFIG, architectures=[]), "got none"),
    (setting(CONFIG, architectures="ViT"), "got V"),
    (setting(CONFIG, num_labels=10**10), "num_labels = 10000000000, expected 1 to 1,000,000 classes"),
    (setting(CONFIG, num_labels=0), "num_labels = 0"),
    (setting(CONFIG, num_labels="3"), "num_labels = 3"),
    (setting(CONFIG, num_labels=1000, id2label=None), "counts 1,000 classes, and no weight is wider than"),
    (setting(CONFIG, id2label={str(n): f"c{n}" for n in range(500)}, label2id={}), "names 500 classes, and no weight"),
    (setting(CONFIG, id2label={"a": "b"}), "id2label has the key 'a'"),
    (setting(CONFIG, num_hidden_layers=10**9), "num_hidden_layers = 1,000,000,000, more than 10,000"),
    (setting(CONFIG, num_hidden_layers=9000), "num_hidden_layers = 9,000, and there are 24 weights in all"),
    (setting(CONFIG, hidden_size=2**40), "hidden_size = 1,099,511,627,776, more than all weights together hold"),
    (raw(CONFIG, b"{"), "got a text that is no JSON"),
    (raw(CONFIG, b"[]"), "got none"),
    (raw(CONFIG, b"\xff\xfe{}"), "got a text that is no JSON"),
    (raw(CONFIG, b"\xef\xbb\xbf{}"), "got a text that is no JSON"),
    (raw(CONFIG, b'{"architectures": ["A"], "architectures": ["B"]}'), "'architectures' is given twice"),
    (raw(CONFIG, b"[" * 100_000), "got a text that is no JSON"),
    (raw(CONFIG, b'{"a": ' * 70 + b"1" + b"}" * 70), "more: reading it could stop"),
    (raw(CONFIG, b'{"a": ' + b"1" * 5000 + b"}"), "got a text that is no JSON"),
    (raw(IMAGES, b"{"), "got a text that is no JSON"),
    (raw("model.safetensors", b""), "complete weights"),
    (raw("model.safetensors", b"\xff" * 100), "complete weights"),
    (raw("model.safetensors", (2**40).to_bytes(8, "little") + b"{}"), "complete weights"),
    (index({"a": "other/model.safetensors"}), "takes weights from other/model.safetensors"),
    (index({"a": "../model.safetensors"}), "takes weights from ../model.safetensors"),
    (index({"a": "/etc/passwd"}), "takes weights from /etc/passwd"),
    (index({"a": "pytorch_model.bin"}), "takes weights from pytorch_model.bin"),
    (index({"a": 5}), "takes weights from 5"),
    (index([]), "does not say which file holds which weight"),
]


@pytest.mark.parametrize(("change", "said"), LEADING, ids=[said[:50] for _, said in LEADING])
def test_certified_files_that_lead_elsewhere_are_refused(model, change, said):
    """Catches hashes of files that name other files, code on the Hub, or sizes that take all memory."""
    change(model)
    certified_again(model)
    assert any(said in fault for fault in faults(model)), faults(model)
    with pytest.raises(HfCmimError):
        certify(model)


def without(*names):
    def change(values):
        for name in names:
            del values["files"][name]

    return change


def naming(name):
    return lambda values: values["files"].update({name: values["files"]["config.json"]})


CERTIFICATES = [
    (without("model.safetensors"), "no weights are certified"),
    (without("config.json"), "config.json is not certified"),
    (without("preprocessor_config.json"), f"preprocessor_config.json: {NOT_CERTIFIED}"),
    *((naming(name), "a certificate may not name this, because it is no file of a model") for name in (
        "../config.json", "/etc/passwd", "a/b.json", "a\\b.json", "pytorch_model.bin", "training_args.bin", "evil.py",
        "README.md", "handler.pkl", ".hidden.json", "", ".", "..", "x.json\n", "model.gguf", "con\x1bfig.json",
        CERTIFICATE_NAME, "trainer_state.json", "config.json/", "adapter_model.safetensors")),
    (lambda values: values["files"]["config.json"].update(size=5), "the certified file has 5: it was cut or replaced"),
    (lambda values: values["files"]["config.json"].update(sha256="0" * 64), "the certified file has 0000000000000000"),
    (lambda values: values["files"]["config.json"].update(size=10**30), "as certificate.files"),
    (lambda values: values["files"]["config.json"].update(size="5"), "as certificate.files"),
    (lambda values: values.update(files=[]), "as certificate.files"),
    (lambda values: values.update(architecture="Evil\x1b[2K\rholds"), r"the certified model is a Evil\x1b[2K\rholds"),
    (lambda values: values.update(class_names=["zero", "one"]), "the certificate 2; class 2"),
    (lambda values: values.update(class_names=["zero", "one", "t\nwo"]), r"'t\nwo' in the certificate"),
    (lambda values: values.update(schema=99), "of schema 1, got 99"),
    (lambda values: values.update(schema=True), "got True"),
    (lambda values: values.update(audit=[]), "an audit report of schema 1"),
    (lambda values: values.update(audit={"schema": 9}), "an audit report of schema 1, got 9"),
    (lambda values: values.update(award="best"), "award"),
    (lambda values: values.pop("lineage"), "lineage"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), CERTIFICATES, ids=[repr(said)[:50] for _, said in CERTIFICATES])
def test_certificates_that_say_something_else_are_refused(model, change, said):
    """Catches names that lead out of the folder, and values that no certificate of ours holds."""
    rewritten(model, change)
    assert any(said in fault for fault in faults(model)), faults(model)
    assert not any("\x1b" in fault or "\n" in fault for fault in faults(model))


TEXTS = [
    b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"{}{}", b'{"schema": 1, "schema": 1}',
    b'{"schema": NaN}', b'{"schema": Infinity}', b'{"schema": 1e999}', b'{"a": "\\ud800"}', b"[" * 200_000,
    b'{"schema": ' + b"9" * 5000 + b"}", b'{"a":' * 80 + b"1" + b"}" * 80, b"\x00", b"{'schema': 1}",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=[repr(text[:20]) for text in TEXTS])
def test_what_is_no_json_is_one_sentence(model, text):
    """Catches a traceback, and a number or letter that only fails far from here."""
    (model / CERTIFICATE_NAME).write_bytes(text)
    (fault,) = faults(model)
    assert fault.startswith("Expected a certificate")


# Links


def test_links_out_of_the_folder_are_refused(model, tmp_path):
    """Catches a file of the machine that is hashed, shown, or sent with a push."""
    secret = tmp_path / "secret.json"
    shutil.move(model / "preprocessor_config.json", secret)
    (model / "preprocessor_config.json").symlink_to(secret)
    assert faults(model) == [f"preprocessor_config.json is a link out of the folder, to {secret}"]
    with pytest.raises(HfCmimError, match="outside of the folder: that file would be published"):
        certify(model)
    (model / "preprocessor_config.json").unlink()
    shutil.move(model / CERTIFICATE_NAME, secret)
    (model / CERTIFICATE_NAME).symlink_to(secret)
    assert faults(model)[0].endswith("Put the file itself there.")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(model):
    """Catches a verification that hangs for ever."""
    (model / CERTIFICATE_NAME).unlink()
    os.mkfifo(model / CERTIFICATE_NAME)
    assert "got none: there are no claims about these weights" in faults(model)[0]


def test_a_certificate_of_any_size_is_not_read(model):
    """Catches a file that takes all memory."""
    with (model / CERTIFICATE_NAME).open("r+b") as file:
        file.truncate(10**9)
    assert "1,000,000,000 bytes, more than the 64,000,000" in faults(model)[0]


def test_the_hubs_cache_is_a_folder_of_links_that_verifies(model, tmp_path):
    """Catches a downloaded snapshot, whose files are links, refused as hostile."""
    assert faults(moved_into_the_hubs_cache(model, tmp_path)) == []


# What loads


def assert_answers_are_certified(folder):
    """The model that loads plainly answers as the certified weights do, by themselves and through a pipeline."""
    certificate = Certificate.read(folder)
    assert all(hash_file(folder / name) == record for name, record in certificate.files.items())
    image = Image.new("RGB", (4, 4), (200, 30, 60))
    inputs = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    clean = folder.parent / "certified_alone"
    clean.mkdir()
    for name in certificate.files:
        shutil.copy(folder / name, clean / name)
    with torch.no_grad():
        expected = AutoModelForImageClassification.from_pretrained(clean)(**inputs).logits.softmax(-1)[0]
        answered = AutoModelForImageClassification.from_pretrained(folder)(**inputs).logits.softmax(-1)[0]
    assert torch.equal(answered, expected)
    answers = {each["label"]: each["score"] for each in pipeline("image-classification", str(folder))(image)}
    assert list(answers.values()) == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)
    assert set(answers) == set(certificate.class_names)


def test_sharded_models_load_what_was_certified(tmp_path):
    """Catches shards that are refused, or an index that is not followed to the end."""
    folder = save_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    files = {f"model-0000{part}-of-00002.safetensors": names[part - 1 :: 2] for part in (1, 2)}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    certify(folder)
    assert faults(folder) == []
    assert_answers_are_certified(folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"transformers_weights": "adapter_model.bin"}, "transformers_weights names another file"),
        ({"num_labels": 10**10}, "expected 1 to 1,000,000 classes"),
        ({"num_hidden_layers": 10**9}, "more than 10,000"),
        ({"hidden_size": 7}, "do not fit together"),
        ({"hidden_size": "8"}, "do not fit together|is broken"),
        ({"num_attention_heads": 0}, "do not fit together|is broken"),
        ({"model_type": "no-such"}, "of no known type"),
        ({"patch_size": 0}, "do not fit together|is broken"),
    ],
)
def test_a_teacher_is_not_loaded_from_what_could_harm(model, settings, said):
    """Catches a pickle read behind "safetensors only", and a traceback from the middle of transformers."""
    setting(CONFIG, **settings)(model)
    with pytest.raises(HfCmimError, match=said):
        ModelTeacher(str(model))


def test_every_file_that_a_tokenizer_of_transformers_reads_is_certified():
    """Catches a tokenizer whose files are left out of certificate and push: its copy could not be loaded."""
    root = Path(transformers.__file__).parent
    declared = re.compile(r"(?:VOCAB_FILES_NAMES|vocab_files_names)[^=\n]*=\s*\{([^}]*)\}")
    names = {
        name
        for path in root.glob("models/*/tokenization*.py")
        for block in declared.findall(path.read_text(encoding="utf-8"))
        for name in re.findall(r':\s*\(?"([^"]+\.[^"]+)"', block)
    }
    assert len(names) > 15
    assert sorted(name for name in names if not is_certified(name)) == []


def test_ten_thousand_names_are_compared_in_no_time():
    """Catches a configuration of some kilobytes that keeps a processor busy for hours."""
    names = {str(number): f"class {number}" for number in range(100_000)}
    begin = time.process_time()
    assert len(class_names_of({"id2label": names, "label2id": {name: int(n) for n, name in names.items()}})) == 100_000
    assert time.process_time() - begin < 2
