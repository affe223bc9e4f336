"""Signatures of OpenSSF's model_signing: its own verifier and ours find every change of what was signed."""

import base64
import json
import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hub.certified import certified_model, moved_into_the_hubs_cache
from hub.signing_keys import issued, write_pair
from model_signing import signing, verifying

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.certify import certify
from hf_cmim.hub.files import ATTESTATION_NAME, MODEL_SIGNATURE_NAME
from hf_cmim.hub.model_signature import ModelSigner, is_for_models, model_signature_fault
from hf_cmim.hub.upload import planned_upload
from hf_cmim.hub.verification import check_certificate
from hf_cmim.report import CERTIFICATE_NAME


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("keys"), ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return issued(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def original(tmp_path_factory, keys):
    folder = certified_model(tmp_path_factory.mktemp("original") / "model", audited=False)
    ModelSigner(keys[0]).sign(folder, Certificate.read(folder))
    return folder


@pytest.fixture
def model(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def fault(folder, public_key):
    return model_signature_fault(folder, Certificate.read(folder), public_key)


def accepted_by_model_signing(folder, public_key):
    """What the library itself says, without a word from us."""
    config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    config.verify(folder, folder / MODEL_SIGNATURE_NAME)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_model_signing_accepts_the_folder_and_what_may_change(model, keys):
    """Catches a signature that a card, a picture or our own signature breaks."""
    accepted_by_model_signing(model, keys[1])
    for name in ("README.md", "audit.html", "cmi_curve.png", "LICENSE", "cmim_certificate.json.sig"):
        (model / name).write_bytes(b"later")
    (model / ".eval_results").mkdir()
    (model / ".eval_results" / "hf_cmim.yaml").write_bytes(b"later")
    accepted_by_model_signing(model, keys[1])
    assert fault(model, keys[1]) == ""


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocessor_config.json", CERTIFICATE_NAME])
def test_both_verifiers_find_a_changed_byte(model, keys, name):
    """Catches a file that is published and not signed."""
    certificate = Certificate.read(model)
    flip(model / name)
    with pytest.raises(ValueError, match=f"Hash mismatch for .*{name}"):
        accepted_by_model_signing(model, keys[1])
    assert f"Hash mismatch for '{name}'" in model_signature_fault(model, certificate, keys[1]).replace("\\", "")


def test_states_of_a_training_are_not_signed(model, keys):
    """Catches a signature that lists files which never leave this machine, and fails once they are gone."""
    (model / "training_args.bin").write_bytes(b"state")
    ModelSigner(keys[0]).sign(model, Certificate.read(model))
    assert "training_args" not in payload_of(model)
    assert fault(model, keys[1]) == ""
    (model / "training_args.bin").unlink()
    accepted_by_model_signing(model, keys[1])


def payload_of(folder):
    bundle = json.loads((folder / MODEL_SIGNATURE_NAME).read_text(encoding="utf-8"))
    return base64.b64decode(bundle["dsseEnvelope"]["payload"]).decode()


def test_the_attestation_is_signed_with_the_model(model, keys):
    """Catches a statement that can be taken away or added behind a signature."""
    (model / ATTESTATION_NAME).write_bytes(b"{}")
    assert "Extra files found" in fault(model, keys[1])
    ModelSigner(keys[0]).sign(model, Certificate.read(model))
    assert fault(model, keys[1]) == ""
    (model / ATTESTATION_NAME).unlink()
    assert "Missing files" in fault(model, keys[1])


def test_another_key_and_a_missing_signature_are_said(model, keys, tmp_path):
    """Catches any signature that passes."""
    _, stranger = write_pair(tmp_path / "stranger", ec.generate_private_key(ec.SECP256R1()))
    assert "another key made it" in fault(model, stranger)
    (model / MODEL_SIGNATURE_NAME).unlink()
    assert "was not signed for this kind of key" in fault(model, keys[1])


def test_a_certificate_leads_to_its_root_only(model, authority, tmp_path):
    """Catches a chain that ends anywhere."""
    ModelSigner(authority.private, [authority.certificate]).sign(model, Certificate.read(model))
    assert fault(model, authority.root) == ""
    assert "does not fit" in fault(model, issued(tmp_path / "other").root)
    flip(model / "model.safetensors")
    assert "Hash mismatch" in fault(model, authority.root)


def test_verification_takes_the_kind_of_signature_from_the_key(model, keys, tmp_path):
    """Catches an Ed25519 key that is given to model_signing, and a certificate that is not."""
    findings = {finding.name: finding for finding in check_certificate(model, keys[1])}
    assert findings["model signature"].holds
    assert "signature" not in findings
    _, other_kind = write_pair(tmp_path / "ed", ed25519.Ed25519PrivateKey.generate())
    assert not is_for_models(other_kind)
    failing = [finding.sentence for finding in check_certificate(model, other_kind) if not finding.holds]
    assert failing == ["there is no cmim_certificate.json.sig: the certificate was not signed"]
    not_checked = [finding.sentence for finding in check_certificate(model) if finding.name == "signature"]
    assert not_checked == [f"{MODEL_SIGNATURE_NAME} was not checked: give --public-key"]


def test_it_travels_and_a_new_certificate_removes_it(model):
    """Catches a signature that stays on this machine, or stays beside another certificate."""
    assert MODEL_SIGNATURE_NAME in planned_upload(model).files
    certify(model)
    assert not (model / MODEL_SIGNATURE_NAME).exists()


def test_a_model_in_the_hubs_cache_verifies(model, keys, tmp_path):
    """Catches a downloaded snapshot, whose files are links, which model_signing refuses by default."""
    assert fault(moved_into_the_hubs_cache(model, tmp_path), keys[1]) == ""


def signed_alone(folder, keys, names):
    """A signature, by the right key, of some of the files."""
    ignored = [path.name for path in folder.iterdir() if path.name not in names]
    config = signing.Config().use_elliptic_key_signer(private_key=keys[0])
    config.set_hashing_config(signing.hashing.Config().set_ignored_paths(paths=ignored))
    config.sign(folder, folder / MODEL_SIGNATURE_NAME)


def test_a_signature_of_some_files_is_none_of_the_model(model, keys):
    """Catches a list of files to ignore that the weights are on."""
    signed_alone(model, keys, ["config.json"])
    accepted_by_model_signing(model, keys[1])
    assert "Extra files found" in fault(model, keys[1])


CONTENTS = [
    b"", b"{}", b"[]", b"5", b"\xff\xfe", b'{"mediaType": "x"}', b"[" * 100_000, b'{"verificationMaterial": {}}',
    b'{"verificationMaterial": {"publicKey": {}}, "dsseEnvelope": {"signatures": []}, "mediaType": "x"}',
]  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS, ids=[repr(content[:20]) for content in CONTENTS])
def test_what_is_no_signature_is_one_sentence(model, keys, content):
    """Catches a traceback of the library."""
    (model / MODEL_SIGNATURE_NAME).write_bytes(content)
    sentence = fault(model, keys[1])
    assert sentence.startswith(f"{MODEL_SIGNATURE_NAME} does not fit")
    assert "\n" not in sentence


def test_hostile_files_in_its_place_are_not_read(model, keys, tmp_path):
    """Catches a pipe that is waited for, and a file of this machine behind a link."""
    (model / MODEL_SIGNATURE_NAME).unlink()
    os.mkfifo(model / MODEL_SIGNATURE_NAME)
    assert "was not signed" in fault(model, keys[1])
    (model / MODEL_SIGNATURE_NAME).unlink()
    (tmp_path / "secret").write_bytes(b"{}")
    (model / MODEL_SIGNATURE_NAME).symlink_to(tmp_path / "secret")
    assert "is a link out of the folder" in fault(model, keys[1])


def test_wrong_keys_are_refused_before_anything_is_written(keys, authority, tmp_path):
    """Catches a traceback of the library after the certificate was written."""
    private, public = write_pair(tmp_path / "ed", ed25519.Ed25519PrivateKey.generate())
    for words in ((private,), (public,), (keys[0], [authority.certificate])):
        with pytest.raises(HfCmimError, match="Expected a private key on a curve.*nothing was signed"):
            ModelSigner(*words)
    with pytest.raises(HfCmimError, match="cannot be read"):
        ModelSigner(tmp_path / "nothing.pem")


def test_a_wrong_public_key_is_refused(model, tmp_path):
    """Catches a key of another kind that is reported as a fault of the model."""
    _, public = write_pair(tmp_path / "ed", ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(HfCmimError, match="Expected a public key on a curve.*nothing was checked"):
        fault(model, public)


def test_without_the_library_it_says_which_extra(keys, monkeypatch):
    """Catches an ImportError."""
    monkeypatch.setattr("hf_cmim.hub.model_signature.find_spec", lambda name: None)
    with pytest.raises(HfCmimError, match=r"hf_cmim\[sigstore\]"):
        ModelSigner(keys[0])
