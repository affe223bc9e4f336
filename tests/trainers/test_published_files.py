"""Which files a trainer certifies and publishes: those that its processor wrote, whatever they are called."""

import json

import pytest
import tiny
from trainers.publishing_job import SETTINGS
from trainers.tiny_tokenizers import BUILDERS
from transformers import AutoTokenizer, DataCollatorWithPadding

from hf_cmim import CMIMConfig, CMIMTrainer, DistillationConfig
from hf_cmim.attacks import KD
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.certify import certify
from hf_cmim.hub.processor_files import files_of_processor
from hf_cmim.hub.upload import planned_upload
from hf_cmim.hub.verification import check_certificate


def saved_by_trainer(folder, tokenizer):
    args = CMIMConfig(str(folder), **SETTINGS)
    trainer = CMIMTrainer(tiny.bert(), args, train_dataset=tiny.sentences(16), processing_class=tokenizer)
    trainer.save_model()
    trainer.create_model_card()
    return folder


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_published_holds_every_file_of_the_tokenizer(tmp_path, name):
    """Catches word_shape.json, emoji.json or prophetnet.tokenizer left behind, which nobody could load without."""
    (tmp_path / "vocabulary").mkdir()
    tokenizer = BUILDERS[name](tmp_path / "vocabulary")
    folder = saved_by_trainer(tmp_path / "model", tokenizer)
    published = planned_upload(folder).files
    assert files_of_processor(tokenizer) <= published.keys()
    assert "training_args.bin" not in published
    copy = tmp_path / "copy"
    for path in published:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((folder / path).read_bytes())
    loaded = AutoTokenizer.from_pretrained(copy)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert all(finding.holds for finding in check_certificate(copy))


def test_a_file_of_the_tokenizer_is_certified_again(tmp_path):
    """Catches `hf-cmim certify` after an audit, which would forget the files that only the trainer knew of."""
    (tmp_path / "vocabulary").mkdir()
    folder = saved_by_trainer(tmp_path / "model", BUILDERS["RoCBertTokenizer"](tmp_path / "vocabulary"))
    assert "word_shape.json" in certify(folder).files
    (folder / "word_shape.json").write_text(json.dumps({"other": 0}), encoding="utf-8")
    assert [each.name for each in check_certificate(folder) if not each.holds] == ["files"]


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "..", "a\\b"])
def test_a_certificate_cannot_name_a_file_outside_of_its_folder(tmp_path, name):
    """Catches a hostile certificate that makes a verifier read, and hash, any file of the machine."""
    folder = saved_by_trainer(tmp_path / "model", None)
    (tmp_path / "outside.json").write_text("{}", encoding="utf-8")
    certificate = Certificate.read(folder)
    certificate.files[name] = certificate.files["config.json"]
    (folder / "cmim_certificate.json").write_text(certificate.to_json(), encoding="utf-8")
    # The card no longer matches this certificate either; what counts here is the finding about the files.
    (finding,) = (each for each in check_certificate(folder) if each.name == "files")
    assert not finding.holds
    assert finding.sentence == f"{name}: a certificate may not name this, because it is no file of a model"


def test_the_tokenizer_of_a_collator_is_published(tmp_path):
    """Catches a student saved without its tokenizer, because the trainer wraps the collator that holds it."""
    (tmp_path / "vocabulary").mkdir()
    tokenizer = BUILDERS["BertTokenizer"](tmp_path / "vocabulary")
    args = DistillationConfig(str(tmp_path / "model"), **SETTINGS)
    trainer = tiny.DistillationTrainer(
        tiny.bert(), args, train_dataset=tiny.sentences(16), teacher=tiny.bert(1).eval(), attack=KD(),
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    trainer.save_model()
    assert files_of_processor(tokenizer) <= Certificate.read(tmp_path / "model").files.keys()
