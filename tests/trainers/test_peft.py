"""PEFT adapters: hardened, resumed, attacked, saved without a certificate, and certified once they are merged."""

import shutil

import pytest
import tiny
import torch
from hub.certified import NAMES, genuine_audit
from peft import PeftModel
from trainers.adapters import image_adapter, text_adapter

from hf_cmim import CMIMConfig, CMIMTrainer
from hf_cmim.attacks import KD
from hf_cmim.cli.main import main
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.certify import certify
from hf_cmim.hub.verification import check_certificate
from hf_cmim.teachers import ModelTeacher
from hf_cmim.trainers.shared.publication import publication_of, rehearsed_files

# peft 0.21 reads an attribute that transformers 5.23 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in owner/base"),  # there is no Hub here
]

ADAPTERS = [(text_adapter, tiny.sentences), (image_adapter, tiny.images)]
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}


def trainer_of(adapter, data, folder, **settings):
    return tiny.cmim_trainer(adapter(), data(32), folder, learning_rate=0.5, eval_dataset=data(16, 1), **settings)


def logits_of(model, rows):
    names = [name for name in rows[0] if name != "labels"]
    with torch.no_grad():
        return model.eval()(**{name: torch.stack([row[name] for row in rows]) for name in names}).logits


@pytest.mark.parametrize(("adapter", "data"), ADAPTERS)
def test_an_adapter_resumes_exactly_and_its_best_state_is_restored(tmp_path, adapter, data):
    """Catches a resume that starts the adapter anew, and a best model whose adapter is that of the last step."""
    whole = trainer_of(adapter, data, tmp_path / "whole", max_steps=4)
    whole.train()
    settings = {"save_strategy": "steps", "save_steps": 2}
    trainer_of(adapter, data, tmp_path / "cut", max_steps=4, **settings).train()
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    resumed = trainer_of(adapter, data, tmp_path / "cut", max_steps=4, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert tiny.largest_difference(tiny.weights(whole.model), tiny.weights(resumed.model)) == 0

    best = trainer_of(
        adapter, data, tmp_path / "best", max_steps=4, eval_strategy="steps", eval_steps=2, **settings,
        load_best_model_at_end=True, metric_for_best_model="accuracy",
    )  # fmt: skip
    best.train()
    chosen = PeftModel.from_pretrained(adapter().unload(), best.state.best_model_checkpoint)
    rows = data(8, 2)
    torch.testing.assert_close(logits_of(best.model, rows), logits_of(chosen, rows), rtol=0, atol=0)


@pytest.mark.parametrize(("adapter", "data"), ADAPTERS)
def test_an_adapter_is_saved_without_a_certificate_and_its_card_says_why(tmp_path, adapter, data, caplog):
    """Catches a run killed in its first save, a card of placeholders, and a certificate that binds half a model."""
    trainer = trainer_of(adapter, data, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    trainer.save_model()
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        *ADAPTER_FILES, "README.md", "training_args.bin",
    }  # fmt: skip
    assert len([each for each in caplog.messages if "no certificate" in each]) == 1
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card
    assert "base_model: owner/base" in card
    assert "More Information Needed" not in card
    assert "It has no certificate" in card
    assert 'save_pretrained("merged")' in card
    assert "num_labels=4" in card


def test_a_card_of_the_user_survives_an_adapter_being_saved(tmp_path):
    """Catches PEFT's placeholders in a card that somebody wrote."""
    (tmp_path / "README.md").write_text("# Mine\n", encoding="utf-8")
    trainer_of(text_adapter, tiny.sentences, tmp_path).save_model()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Mine\n"


@pytest.mark.parametrize(("adapter", "data"), ADAPTERS)
def test_an_adapter_can_be_the_student_and_the_teacher(tmp_path, adapter, data):
    """Catches an attack that trains the frozen weights, and a teacher whose adapter is not asked."""
    student = adapter()
    frozen = {name: value.clone() for name, value in student.named_parameters() if not value.requires_grad}
    trainer = tiny.distillation_trainer(student, data(32), tmp_path, KD(), adapter(1).eval(), max_steps=4)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    assert all(torch.equal(value, frozen[name]) for name, value in student.named_parameters() if name in frozen)
    assert {path.name for path in tmp_path.iterdir()} >= ADAPTER_FILES
    assert "This is a knockoff student" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("adapter", "data"), ADAPTERS)
def test_a_merged_adapter_is_certified_with_its_audit(tmp_path, adapter, data):
    """Catches a merged model that answers otherwise than the adapter, or whose certificate does not hold."""
    rows = [row for row in data(64) if row["labels"] < len(NAMES)]  # as many classes as the audit is about
    trainer = tiny.cmim_trainer(adapter(num_labels=len(NAMES)), rows, tmp_path / "adapter", max_steps=2)
    trainer.train()
    answers = logits_of(trainer.model, rows)
    trainer.model.merge_and_unload().save_pretrained(tmp_path / "merged")
    certify(tmp_path / "merged", audit=genuine_audit(tmp_path / "merged"))
    assert [each for each in check_certificate(tmp_path / "merged") if not each.holds] == []
    assert Certificate.read(tmp_path / "merged").audit is not None
    merged = ModelTeacher(tmp_path / "merged")
    inputs = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "labels"}
    torch.testing.assert_close(merged(inputs), answers.log_softmax(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("command", ["certify", "push"])
def test_the_command_line_says_how_to_merge(tmp_path, capsys, command):
    """Catches "no config.json", which tells the owner of an adapter nothing."""
    trainer_of(text_adapter, tiny.sentences, tmp_path).save_model()
    words = [command, str(tmp_path), *(["owner/name"] if command == "push" else [])]
    assert main(words) != 0
    said = capsys.readouterr().err
    assert "holds an adapter" in said
    assert "merge_and_unload" in said
    assert "hf-cmim certify merged" in said


def test_an_adapter_of_a_folder_is_refused_before_training(tmp_path):
    """Catches the path of a home folder published as base_model, and an adapter that nobody could use."""
    tiny.bert().save_pretrained(tmp_path / "base")
    base = type(tiny.bert()).from_pretrained(tmp_path / "base")
    model = text_adapter()
    for settings in model.peft_config.values():
        settings.base_model_name_or_path = base.name_or_path
    args = CMIMConfig(str(tmp_path / "run"), push_to_hub=True, hub_model_id="owner/name", report_to="none")
    with pytest.raises(ValueError, match="base model is the folder .* nobody else could use the adapter"):
        CMIMTrainer(model, args, train_dataset=tiny.sentences(8))


def test_a_rehearsal_changes_no_random_state_and_names_every_file():
    """Catches a training that pushes and ends with other weights than one that does not."""
    for model in (tiny.vit(), image_adapter()):
        state = torch.random.get_rng_state()
        names = rehearsed_files(model, None, publication_of(model))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert {*names} - {"README.md"} in ({"config.json", "model.safetensors"}, ADAPTER_FILES)
