"""Certificates: what they hold, what they notice, and what they refuse to be written for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hub.certified import certified_model, genuine_audit, save_model
from safetensors.numpy import load_file, save_file

from hf_cmim.hub.certificate import DIGEST, Certificate, digest_of
from hf_cmim.hub.certify import certify
from hf_cmim.hub.verification import check_certificate
from hf_cmim.report import CERTIFICATE_NAME, AuditReport
from hf_cmim.trainers.defending import defense_state
from hf_cmim.trainers.distillation import attack_state
from hf_cmim.trainers.hardening import hardening_state


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A certified, audited model; tests copy it."""
    return certified_model(tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def model(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def faults(folder):
    return [f"{finding.name}: {finding.sentence}" for finding in check_certificate(folder) if not finding.holds]


def rewritten(folder, change):
    """Change the certificate's content, and give it the digest of what it then says."""
    path = folder / CERTIFICATE_NAME
    values = json.loads(path.read_text(encoding="utf-8"))
    del values[DIGEST]
    change(values)
    path.write_text(json.dumps({**values, DIGEST: digest_of(values)}), encoding="utf-8")


def test_what_was_certified_holds(model):
    """Catches a check that always fails, and one that looks at nothing."""
    findings = list(check_certificate(model))
    assert [finding.name for finding in findings] == ["certificate", "files", "class names", "audit", "audited model"]
    assert all(finding.holds for finding in findings)
    assert (
        "undistillable within the margin: follows from the accuracies of 195 students in 13 arms"
        in findings[-2].sentence
    )


def test_written_and_read_it_is_the_same(model):
    """Catches a number, a tuple or None that JSON does not bring back."""
    certificate = Certificate.read(model)
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert certificate.audit == AuditReport.read(model)


def flip_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "position"), [("model.safetensors", -1), ("config.json", 5), ("preprocessor_config.json", 5)]
)
def test_one_bit_of_any_file_is_noticed(model, name, position):
    """Catches hashes of some files only."""
    flip_byte(model / name, position)
    assert any(f"files: {name} has the sha256" in fault for fault in faults(model))


def test_truncated_weights_are_noticed_by_their_size(model):
    """Catches hashing alone, which would not say that the download was cut."""
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "it was cut or replaced" in faults(model)[0]


def test_a_missing_file_is_noticed(model):
    """Catches checking only what is there."""
    (model / "preprocessor_config.json").unlink()
    assert faults(model) == ["files: preprocessor_config.json is missing"]


def test_the_certificate_of_another_model_is_noticed(model, tmp_path):
    """Catches a copied certificate: its audit is of the other model's files."""
    other = certified_model(tmp_path / "other", seed=1)
    shutil.copy(other / CERTIFICATE_NAME, model / CERTIFICATE_NAME)
    assert [fault.partition(" has")[0] for fault in faults(model)] == ["files: model.safetensors"]


def test_files_of_a_training_are_no_other_weights(model):
    """Catches a trainer's own output folder that never verifies."""
    states = [module.STATE_NAME for module in (hardening_state, attack_state, defense_state)]
    for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth", *states):
        (model / name).write_bytes(b"state")
    assert faults(model) == []


def test_numbers_of_another_kind_are_refused(model):
    """Catches a text where a number stands, which would fail far from here."""
    rewritten(model, lambda values: values["audit"]["teacher"].update(accuracy="0.93"))
    assert "as certificate.audit.teacher.accuracy" in faults(model)[0]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.safetensors", "tf_model.h5", "tokenizer.json"])
def test_files_that_a_loader_may_take_instead_are_noticed(model, name):
    """Catches weights beside the certified ones, which some loader prefers."""
    (model / name).write_bytes(b"weights")
    assert any(name in fault and "not certified" in fault for fault in faults(model))


def test_one_class_name_is_noticed_by_name(model):
    """Catches class names that are read from the certificate on both sides."""
    rewritten(model, lambda values: values["class_names"].__setitem__(1, "eleven"))
    (fault,) = faults(model)
    assert "class 1 is 'one' in config.json, 'eleven' in the certificate" in fault


def test_one_result_that_changes_no_verdict_is_noticed(model):
    """Catches a check of verdicts alone: the digest covers every number."""
    path = model / CERTIFICATE_NAME
    values = json.loads(path.read_text(encoding="utf-8"))
    values["audit"]["arms"][0]["agreement"][0] += 1e-4
    path.write_text(json.dumps(values), encoding="utf-8")
    assert "was changed after it was written" in faults(model)[0]


def set_verdict(values):
    values["audit"]["criteria"][0]["verdict"] = "distillable"


def raise_accuracies(values):
    arm = next(arm for arm in values["audit"]["arms"] if arm["name"] == "kd")
    arm["accuracies"] = [each + 0.02 for each in arm["accuracies"]]


def lower_bound(values):
    values["audit"]["criteria"][0]["comparisons"][0]["upper"] -= 0.001


def shrink_margin(values):
    values["audit"]["criteria"][0]["smallest_margin"] -= 0.0001


def drop_seed(values):
    values["audit"]["arms"][0]["seeds"].pop()


def without_power(values):
    values["audit"]["power"] = False


def fatal_check(values):
    values["audit"]["checks"].append({"name": "x", "severity": "fatal", "sentence": "seen"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_verdict, "the results say 'undistillable within the margin', the certificate says 'distillable'"),
        (raise_accuracies, "the results say 'distillable'"),
        (lower_bound, "do not follow from the results"),
        (shrink_margin, "the smallest margin is"),
        (drop_seed, "it has 15 accuracies for 14 seeds"),
        (without_power, "its positive control was not distilled"),
        (fatal_check, "the results say 'inconclusive'"),
    ],
)
def test_verdicts_that_do_not_follow_are_noticed_behind_a_right_digest(model, change, said):
    """Catches a verdict that is read instead of recomputed."""
    rewritten(model, change)
    assert any(said in fault for fault in faults(model)), faults(model)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "got a text that is no JSON"),
        ("[]", "of schema 1, got None"),
        ('{"schema": 2}', "of schema 1, got 2: its fields could be misread. Install the release"),
        ('{"schema": 1}', "was changed after it was written"),
    ],
)
def test_what_is_no_certificate_is_refused(model, text, said):
    """Catches a traceback, and a newer certificate read as an older one."""
    (model / CERTIFICATE_NAME).write_text(text, encoding="utf-8")
    assert said in faults(model)[0]


def test_no_certificate_is_said(tmp_path):
    """Catches a folder without a certificate that passes."""
    assert "got none: there are no claims about these weights" in faults(save_model(tmp_path / "model"))[0]


def test_unknown_fields_are_refused(model):
    """Catches a certificate that says more than is checked."""
    rewritten(model, lambda values: values.update(award="best model"))
    assert "award" in faults(model)[0]


# Writing


def test_an_audit_of_another_model_is_refused(model, tmp_path):
    """Catches a verdict bound to weights that nobody attacked."""
    other = save_model(tmp_path / "other", seed=1)
    before = (model / CERTIFICATE_NAME).read_bytes()
    with pytest.raises(ValueError, match="Expected an audit of the model in .* its verdict is about"):
        certify(model, audit=genuine_audit(other))
    assert (model / CERTIFICATE_NAME).read_bytes() == before


def test_a_defence_on_the_way_out_protects_no_weights(tmp_path):
    """Catches the verdict of a channel as that of weights: of the audited answers, or of a defence beside them."""
    folder = save_model(tmp_path / "model")
    audit = genuine_audit(folder, gain=0.02)
    defended = replace(audit.controls[1], name="argmax", facts=replace(audit.teacher, channel="Argmax()"))
    audit = replace(audit, controls=(audit.controls[0], defended))
    certificate = certify(folder, audit=audit)
    assert (defended.verdict, certificate.audit.primary.verdict) == ("undistillable within the margin", "distillable")
    assert [finding.sentence[:11] for finding in check_certificate(folder) if finding.name == "audit"] == [
        "distillable"
    ]
    behind = replace(audit, teacher=replace(audit.teacher, channel="Argmax()"))
    with pytest.raises(ValueError, match=r"answered through the channel Argmax\(\), so its figures are those of an"):
        certify(folder, audit=behind)
    assert Certificate.read(folder).audit == audit


def test_what_is_known_of_the_same_files_is_kept(model):
    """Catches an audit that is lost when a model is saved once more, and a lineage that changes."""
    before = Certificate.read(model)
    after = certify(model)
    assert (after.audit, after.lineage) == (before.audit, before.lineage)


def test_other_weights_lose_the_audit_but_not_the_lineage(model):
    """Catches the verdict of earlier weights beside new ones."""
    before = Certificate.read(model)
    weights = load_file(model / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"})
    after = certify(model)
    assert after.audit is None
    assert after.lineage == before.lineage
    assert faults(model) == []


def break_config(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")


def drop_config(folder):
    (folder / "config.json").unlink()


def remote_code(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}), encoding="utf-8")


def base_model(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["ViTModel"]}), encoding="utf-8")


def pickles_alone(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def missing_shard(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (break_config, "got none .*Save the model again"),
        (drop_config, "which has no config.json"),
        (remote_code, "with code of its own"),
        (base_model, "got ViTModel"),
        (pickles_alone, "only pytorch_model.bin, which may run code"),
        (cut_weights, "bytes that are no safetensors file"),
        (missing_shard, "are missing in .*: model-00002-of-00002.safetensors"),
    ],
)
def test_what_cannot_be_published_is_not_certified(tmp_path, spoil, said):
    """Catches a certificate for files that nobody can or should load."""
    folder = save_model(tmp_path / "model")
    spoil(folder)
    with pytest.raises(ValueError, match=said):
        certify(folder)
    assert not (folder / CERTIFICATE_NAME).exists()


def test_a_kill_while_writing_leaves_the_earlier_certificate(model, monkeypatch):
    """Catches a certificate written in place."""
    before = Certificate.read(model)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        certify(model, audit=replace(genuine_audit(model), title="another"))
    assert Certificate.read(model) == before
