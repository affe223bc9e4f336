"""`hf-cmim certify`, `card`, `push --dry-run` and `verify` on a folder, with an audit of it."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hub.changed_leaves import unexplained, unnoticed
from hub.signing_keys import write_pair

from hf_cmim.cli.main import main
from hf_cmim.hub.certificate import DIGEST, digest_of
from hf_cmim.report import CERTIFICATE_NAME

STUDENT = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
           "intermediate_size": 8, "patch_size": 4}  # fmt: skip


@pytest.fixture(scope="module")
def audited(data, teacher, tmp_path_factory):
    """A folder of a small audit of the teacher, and the flags of its data and students."""
    folder = tmp_path_factory.mktemp("publish")
    (folder / "student.json").write_text(json.dumps(STUDENT), encoding="utf-8")
    flags = ["--dataset", str(data), "--student-config", str(folder / "student.json")]
    flags += ["--max-test-samples", "500", "--max-validation-samples", "25"]
    plan = ["--suite", "quick-v2", "--looks", "3", "--screening-seeds", "1", "--margin-points", "2"]
    plan += ["--null-families", "1", "--diagnosed", "1", "--set", "num_train_epochs=1", "use_cpu=true"]
    words = ["audit", "--teacher", str(teacher), *flags, *plan, "--output-dir", str(folder / "audit")]
    assert main(words) == 0
    return folder / "audit", flags


@pytest.fixture
def model(teacher, tmp_path):
    return Path(shutil.copytree(teacher, tmp_path / "model"))


@pytest.fixture
def same_draw(monkeypatch):
    """The same arms and seeds at each run: an honest audit fails a spot check in one of twenty."""
    monkeypatch.setattr("hf_cmim.audit.spot_check.random.SystemRandom", lambda: random.Random(0))


def test_from_an_audit_to_a_verified_folder(audited, model, tmp_path, capsys, same_draw):
    """Catches a certificate that its own verification refuses, by hashes, by measuring or by training again."""
    audit, flags = audited
    assert main(["certify", str(model), "--audit", str(audit)]) == 0
    assert main(["card", str(model), "--repo", "someone/model", "--license", "mit"]) == 0
    assert "hf-cmim verify someone/model" in (model / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["push", str(model), "someone/model", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "would send" in printed
    assert "audit_forest.png" in printed
    again = ["--remeasure", "--spot-check", "2", "--output-dir", str(tmp_path / "again")]
    assert main(["verify", str(model), *flags, *again]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert printed.count("holds  trained again") == 2
    assert "holds  audited model" in printed
    assert "holds  accuracy again" in printed
    assert "a difference of 0 in 500 samples" in printed
    assert re.search(r"2 of \d+ arms trained again. Self-reported: the students of the other arms", printed)
    assert "calibration and CMI" not in printed, "they were measured again"


def test_limits_of_the_audit_need_not_be_repeated(audited, model, tmp_path, capsys, same_draw):
    """Catches "no figures for these 640 labels" and a spot check of other data: the report knows the limits."""
    audit, flags = audited
    assert main(["certify", str(model), "--audit", str(audit)]) == 0
    capsys.readouterr()
    again = ["--remeasure", "--spot-check", "1", "--output-dir", str(tmp_path / "again")]
    assert main(["verify", str(model), *flags[:4], *again]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert "a difference of 0 in 500 samples" in printed
    assert "holds  trained again" in printed


def test_every_leaf_of_a_real_report_is_noticed_or_only_data_could_tell(audited):
    """Catches a figure that a liar may change though the report itself contradicts it."""
    values = json.loads((audited[0] / "audit.json").read_text(encoding="utf-8"))
    count, missed = unnoticed(values)
    assert unexplained(missed) == []
    assert len(missed) < count / 4, "of 531 leaves 123 went unnoticed, 54 of them points of the CMI curve"


def test_a_result_made_better_fails_the_spot_check(audited, model, tmp_path, capsys, monkeypatch, same_draw):
    """Catches a spot check that compares with nothing: every accuracy here was written 30 points too high."""
    audit, flags = audited
    assert main(["certify", str(model), "--audit", str(audit)]) == 0
    path = model / CERTIFICATE_NAME
    values = json.loads(path.read_text(encoding="utf-8"))
    del values[DIGEST]
    for arm in values["audit"]["arms"]:
        arm["accuracies"] = [min(1.0, each + 0.3 + 1e-4 * seed) for seed, each in enumerate(arm["accuracies"])]
    path.write_text(json.dumps({**values, DIGEST: digest_of(values)}), encoding="utf-8")
    # A forger would have changed the bounds as well.
    monkeypatch.setattr("hf_cmim.hub.verified_audit.audit_faults", lambda audit, class_names: [])
    status = main(["verify", str(model), *flags, "--spot-check", "2", "--output-dir", str(tmp_path / "again")])
    printed = capsys.readouterr().out
    assert status == 1
    assert "FAILS  trained again" in printed


def test_other_settings_are_named_before_training(audited, model, tmp_path, capsys):
    """Catches students of another kind compared with the audit's."""
    audit, flags = audited
    assert main(["certify", str(model), "--audit", str(audit)]) == 0
    capsys.readouterr()
    other = [*flags[:-1], "30", "--spot-check", "1", "--output-dir", str(tmp_path / "again")]
    assert main(["verify", str(model), *other]) == 2
    assert "validation set:" in capsys.readouterr().err


def test_other_data_fail_to_be_the_measured_ones(audited, model, capsys):
    """Catches an accuracy on other samples taken for a disagreement, or for an agreement."""
    audit, flags = audited
    assert main(["certify", str(model), "--audit", str(audit)]) == 0
    capsys.readouterr()
    assert main(["verify", str(model), *flags, "--max-test-samples", "100", "--remeasure"]) == 1
    assert "no figures for these 100 labels" in capsys.readouterr().out


def test_a_changed_byte_fails_with_its_reason_and_status(audited, model, capsys):
    """Catches exit status 0 under a line that says FAILS."""
    assert main(["certify", str(model), "--audit", str(audited[0])]) == 0
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    capsys.readouterr()
    assert main(["verify", str(model)]) == 1
    printed = capsys.readouterr().out
    assert "FAILS  files: model.safetensors has the sha256" in printed
    assert "does not hold" in printed


def test_signed_and_checked(model, tmp_path, capsys):
    """Catches a signature of the certificate before, and a missing one that passes."""
    private, public = write_pair(tmp_path / "keys", ed25519.Ed25519PrivateKey.generate())
    assert main(["certify", str(model), "--sign", str(private)]) == 0
    capsys.readouterr()
    assert main(["verify", str(model), "--public-key", str(public)]) == 0
    printed = capsys.readouterr().out
    assert "holds  signature" in printed
    assert "Self-reported: training" in printed, "a signature says who, not whether it is true"
    assert main(["certify", str(model)]) == 0
    assert main(["verify", str(model), "--public-key", str(public)]) == 1


def test_attested_and_signed_for_models(audited, model, tmp_path, capsys):
    """Catches flags that write nothing, and a verification that takes a key of one kind for the other."""
    private, public = write_pair(tmp_path / "curve", ec.generate_private_key(ec.SECP256R1()))
    words = ["certify", str(model), "--audit", str(audited[0]), "--attest", "--model-signing", str(private)]
    assert main(words) == 0
    written = capsys.readouterr().out
    assert "cmim_attestation.intoto.json" in written
    assert "model.sig" in written
    assert main(["verify", str(model), "--public-key", str(public)]) == 0
    printed = capsys.readouterr().out
    assert "holds  attestation" in printed
    assert "holds  model signature" in printed
    assert main(["verify", str(model)]) == 0
    assert "model.sig was not checked: give --public-key" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["certify", "{model}", "--attest"], "there is nothing to attest"),
        (["certify", "{model}", "--signing-certificate", "leaf.pem"], "--model-signing names none"),
        (["certify", "{model}", "--model-signing", "nothing.pem"], "cannot be read"),
        (["card", "{model}", "--benchmark", "owner/data", "default"], f"Expected {CERTIFICATE_NAME} in"),
        (["push", "{model}", "not a name"], "Expected a repository as user/name"),
        (["push", "{model}/nothing", "user/name", "--dry-run"], "Expected a folder with a model"),
        (["card", "{model}"], f"Expected {CERTIFICATE_NAME} in"),
        (["certify", "{model}", "--audit", "{model}"], "an audit writes its audit.json when it ends"),
        (["certify", "{model}/nothing"], "Expected a folder with a model"),
        (["verify", "{model}", "--spot-check", "1"], "Expected .*--dataset or --config|FAILS"),
    ],
)
def test_wrong_use_is_explained(model, words, said, capsys):
    """Catches a traceback."""
    status = main([word.format(model=model) for word in words])
    printed = capsys.readouterr()
    assert status in (1, 2)
    assert re.search(said, printed.err + printed.out)
