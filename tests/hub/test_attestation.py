"""Attestations: tools that are not ours read and check them, and ours finds every change."""

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from hub.certified import genuine_audit, save_model
from hub.signing_keys import write_pair
from hub.test_certificate import rewritten
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.attestation import attestation_of, folder_digest
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.certify import certify
from hf_cmim.hub.files import ATTESTATION_NAME, SIGNATURE_NAME
from hf_cmim.hub.upload import check_is_certified, planned_upload
from hf_cmim.hub.verification import check_certificate
from hf_cmim.hub.verified_attestation import attestation_faults, attestation_signature_fault
from hf_cmim.report import CERTIFICATE_NAME, Attacker


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("keys"), ed25519.Ed25519PrivateKey.generate())


@pytest.fixture(scope="module")
def original(tmp_path_factory, keys):
    folder = save_model(tmp_path_factory.mktemp("original") / "model")
    certify(folder, audit=genuine_audit(folder), private_key=keys[0], attests=True)
    return folder


@pytest.fixture
def model(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model"))


def failing(folder, public_key=None):
    """What the whole verification says, which loads the model."""
    findings = check_certificate(folder, public_key)
    return [f"{finding.name}: {finding.sentence}" for finding in findings if not finding.holds]


def faults(folder):
    return list(attestation_faults(folder, Certificate.read(folder)))


def envelope_in(folder):
    return json.loads((folder / ATTESTATION_NAME).read_text(encoding="utf-8"))


def statement_in(folder):
    return json.loads(base64.b64decode(envelope_in(folder)["payload"]))


def changed_statement(folder, change):
    """Change the statement inside the envelope, and leave the signature as it is."""
    envelope, statement = envelope_in(folder), statement_in(folder)
    change(statement)
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (folder / ATTESTATION_NAME).write_text(json.dumps(envelope), encoding="utf-8")


def securesystemslib_accepts(envelope, public_key):
    read = Envelope.from_dict(json.loads(json.dumps(envelope)))
    (keyid,) = read.signatures
    key = SSlibKey.from_crypto(load_pem_public_key(public_key.read_bytes()), keyid=keyid)
    return list(read.verify([key], threshold=1)) == [keyid]


# Tools that are not ours


def test_securesystemslib_accepts_the_envelope_and_finds_a_changed_byte(model, keys):
    """Catches a signature of the statement itself, without the type and lengths that DSSE signs with it."""
    envelope = envelope_in(model)
    assert securesystemslib_accepts(envelope, keys[1])
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[100] ^= 1
    with pytest.raises(VerificationError):
        securesystemslib_accepts({**envelope, "payload": base64.b64encode(payload).decode()}, keys[1])
    with pytest.raises(VerificationError):
        securesystemslib_accepts({**envelope, "payloadType": "text/plain"}, keys[1])


def test_in_toto_reads_the_statement_and_its_files(model):
    """Catches a field that is no field of a Statement, and a subject without a digest."""
    message = json_format.ParseDict(statement_in(model), statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    files = {subject.name: dict(subject.digest) for subject in message.subject}
    assert files == {name: {"sha256": file.sha256} for name, file in Certificate.read(model).files.items()}
    assert message.predicate_type == "https://in-toto.io/attestation/eval-result/v0.1"
    message.subject[0].digest.clear()
    with pytest.raises(ValueError, match="At least one digest required"):
        Statement.copy_from_pb(message).validate()


def test_the_digest_of_the_folder_is_that_of_the_standards_own_command(model):
    """Catches another order of names or another line: the command is in in-toto's text about digests."""
    certificate = Certificate.read(model)
    clean = model.parent / "clean"
    clean.mkdir()
    for name in certificate.files:
        shutil.copy(model / name, clean / name)
    command = "find . -type f | cut -c3- | LC_ALL=C sort | xargs -r sha256sum | sha256sum | cut -f1 -d' '"
    printed = subprocess.run(["bash", "-c", command], cwd=clean, capture_output=True, text=True, check=True).stdout
    assert folder_digest(certificate.files) == printed.strip()
    assert statement_in(model)["predicate"]["model"]["digest"] == {"dirHash": printed.strip()}


# What it states


def test_the_predicate_has_every_field_of_the_proposal(model):
    """Catches a missing field, a threshold as a float, and a verdict that is not the certificate's."""
    audit = Certificate.read(model).audit
    predicate = statement_in(model)["predicate"]
    assert predicate["claims"] == [
        {"metric": "distillation_gain_upper_bound:unknown", "comparator": "<", "threshold": "0.005", "passed": True},
        {"metric": "positive_controls_distilled", "comparator": ">=", "threshold": "1", "passed": True},
    ]
    assert predicate["sampleSize"] == audit.scope.num_test
    assert predicate["suite"]["name"] == "quick-v2"
    assert predicate["assuranceLevel"] == "self_attested"
    assert predicate["subjectProfile"] == "public-model"
    assert predicate["evaluatedAt"] == f"{audit.date}T00:00:00Z"
    ours = predicate["hf_cmim"]
    assert ours["confidence"] == "0.95"
    assert ours["sampleSizes"]["students"] == 195
    assert ours["attackers"][0]["criterion"] == "teacher-free"
    assert "0c70fc3cc5e40ba3eda6abf424f9a281068f312e" in ours["proposal"]
    # One representation of model and data set each, as the proposal asks.
    assert "commitments" not in predicate
    assert {"model", "dataset"} < {*predicate}


def primary_verdict(audit, verdict):
    return replace(audit, criteria=(replace(audit.criteria[0], verdict=verdict), *audit.criteria[1:]))


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        (lambda audit: primary_verdict(audit, "leaks less than the margin"), [True, True]),
        (lambda audit: primary_verdict(audit, "inconclusive"), [False, True]),
        (lambda audit: primary_verdict(audit, "distillable"), [False, True]),
        (lambda audit: replace(audit, power=False), [True, False]),
        (lambda audit: replace(audit, power=None), [True, False]),
    ],
)
def test_a_claim_passes_only_on_evidence(model, change, passed):
    """Catches an inconclusive audit, or one that could distil nothing at all, that passes a policy."""
    certificate = Certificate.read(model)
    certificate = replace(certificate, audit=change(certificate.audit))
    statement = json.loads(attestation_of(certificate, b"", None))
    assert [claim["passed"] for claim in statement["predicate"]["claims"]] == passed


def test_each_attacker_has_a_claim(model):
    """Catches an attacker with the training data who distils the model, behind one without them who does not."""
    certificate = Certificate.read(model)
    audit = certificate.audit
    other = primary_verdict(audit, "distillable")
    other = replace(other, scope=replace(other.scope, attacker=Attacker("training")))
    certificate = replace(certificate, audit=replace(audit, other_attackers=(other,)))
    claims = json.loads(attestation_of(certificate, b"", None))["predicate"]["claims"]
    assert {claim["metric"]: claim["passed"] for claim in claims} == {
        "distillation_gain_upper_bound:unknown": True,
        "distillation_gain_upper_bound:training": False,
        "positive_controls_distilled": True,
    }


def test_numbers_are_decimal_digits(model):
    """Catches an exponent, which a reader of decimal strings may refuse."""
    certificate = Certificate.read(model)
    design = replace(certificate.audit.design, margin=1e-05)
    certificate = replace(certificate, audit=replace(certificate.audit, design=design))
    assert json.loads(attestation_of(certificate, b"", None))["predicate"]["claims"][0]["threshold"] == "0.00001"


# Writing


def test_without_an_audit_nothing_is_attested(original, tmp_path):
    """Catches a statement about nothing, and a certificate that is lost on the way."""
    folder = save_model(tmp_path / "model")
    certify(folder)
    before = (folder / CERTIFICATE_NAME).read_bytes()
    with pytest.raises(HfCmimError, match="there is nothing to attest"):
        certify(folder, attests=True)
    assert (folder / CERTIFICATE_NAME).read_bytes() == before


def test_a_new_certificate_removes_what_was_about_the_old_one(model):
    """Catches an attestation that stays beside a certificate it is not about."""
    certify(model)
    assert not (model / ATTESTATION_NAME).exists()
    assert not (model / SIGNATURE_NAME).exists()


def test_it_travels_and_a_stale_one_does_not(model):
    """Catches an attestation that stays on this machine, and one of another certificate that is published."""
    assert ATTESTATION_NAME in planned_upload(model).files
    check_is_certified(model)
    kept = (model / ATTESTATION_NAME).read_bytes()
    certify(model, attests=True)
    (model / ATTESTATION_NAME).write_bytes(kept)
    rewritten(model, lambda values: values.update(date="2020-01-01"))
    with pytest.raises(HfCmimError, match="differs from the certificate in predicate.evidence.*nothing was published"):
        check_is_certified(model)


def test_a_bare_statement_holds_until_a_signature_is_asked_for(model, keys):
    """Catches an unsigned statement that passes for a signed one, and a finding that no command shows."""
    certify(model, attests=True)
    assert envelope_in(model)["_type"] == "https://in-toto.io/Statement/v1"
    assert faults(model) == []
    assert "it is a bare statement" in attestation_signature_fault(model, keys[1])
    certify(model, private_key=keys[0])
    (model / ATTESTATION_NAME).write_text("{}", encoding="utf-8")
    assert [fault.partition(": ")[0] for fault in failing(model, keys[1])] == [
        "attestation",
        "signature of the attestation",
    ]


# Hostile attestations


def test_a_signed_attestation_holds(model, keys):
    """Catches checks that always fail."""
    findings = {finding.name: finding for finding in check_certificate(model, keys[1])}
    assert all(finding.holds for finding in findings.values())
    assert {"attestation", "signature", "signature of the attestation"} < {*findings}


def other_verdict(statement):
    statement["predicate"]["claims"][0]["passed"] = False


STATEMENTS = [
    (other_verdict, "predicate.claims"),
    (lambda statement: statement["predicate"]["claims"][0].update(passed=1), "predicate.claims"),
    (lambda statement: statement["predicate"]["claims"][0].update(threshold="0.05"), "predicate.claims"),
    (lambda statement: statement["predicate"]["claims"].pop(), "predicate.claims"),
    (lambda statement: statement["subject"][0]["digest"].update(sha256="0" * 64), "subject"),
    (lambda statement: statement["subject"].pop(), "subject"),
    (lambda statement: statement["predicate"].update(assuranceLevel="third_party"), "predicate.assuranceLevel"),
    (lambda statement: statement["predicate"].update(sampleSize=10**6), "predicate.sampleSize"),
    (lambda statement: statement["predicate"]["hf_cmim"].update(proposal="final"), "predicate.hf_cmim"),
    (lambda statement: statement["predicate"].update(award="best\x1b[2K"), r"predicate.award"),
    (lambda statement: statement.update(award="best"), "award"),
    (lambda statement: statement.update({"\x1b[2K\nholds": 1}), r"\x1b[2K\nholds"),
    (lambda statement: statement.update(predicate=[]), "predicate, predicate.assuranceLevel"),
    (lambda statement: statement.update(predicateType="https://slsa.dev/provenance/v1"), "predicateType"),
    # A part of the predicate may not stand in for a part of the statement.
    (lambda statement: statement["predicate"].update(subject=statement.pop("subject")), "predicate.subject, subject"),
]


@pytest.mark.parametrize(("change", "said"), STATEMENTS, ids=[repr(said)[:40] for _, said in STATEMENTS])
def test_a_changed_statement_is_noticed_without_and_with_a_key(model, keys, change, said):
    """Catches a statement that says more than the certificate, or is about other files."""
    changed_statement(model, change)
    assert len(faults(model)) == 1
    assert f"differs from the certificate in {said}" in faults(model)[0]
    assert not any("\x1b" in fault or "\n" in fault for fault in faults(model))
    assert attestation_signature_fault(model, keys[1]).startswith("no signature in")


def test_an_attestation_of_another_release_is_held_to_files_and_certificate(model):
    """Catches a check that another release turns off: its words may differ, its subject may not."""
    rewritten(model, lambda values: values["environment"]["versions"].update(hf_cmim="0.0.1"))
    assert ["in predicate.evidence:" in fault for fault in faults(model)] == [True]
    content = (model / CERTIFICATE_NAME).read_bytes()
    certificate = Certificate.read(model)
    (model / ATTESTATION_NAME).write_text(attestation_of(certificate, content, None), encoding="utf-8")
    assert faults(model) == []
    statement = envelope_in(model)
    statement["predicate"]["hf_cmim"]["more"] = "words of another release"
    (model / ATTESTATION_NAME).write_text(json.dumps(statement), encoding="utf-8")
    assert faults(model) == []
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    (model / ATTESTATION_NAME).write_text(json.dumps(statement), encoding="utf-8")
    assert "in subject" in faults(model)[0]


CONTENTS = [
    (b"", "cannot be read"),
    (b"[]", "got neither"),
    (b"{}", "got neither"),
    (b'{"payload": "%%%", "payloadType": "x", "signatures": []}', "one that breaks at"),
    (b'{"payload": 5, "payloadType": "x", "signatures": []}', "one that breaks at"),
    (b'{"payload": "e30="}', "one that breaks at"),
    (b'{"payload": "e30=", "payloadType": 5, "signatures": []}', "one that breaks at"),
    (b'{"payload": "e30=", "payloadType": "x", "signatures": [5]}', "one that breaks at"),
    (b'{"payload": "e30=", "payloadType": "text/\\u001b", "signatures": []}', r"holds 'text/\x1b', which is no"),
    (b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}', "differs from"),
    (b'{"payload": "W10=", "payloadType": "application/vnd.in-toto+json", "signatures": []}', "differs from"),
    (b'{"payload": "ew==", "payloadType": "application/vnd.in-toto+json", "signatures": []}', "cannot be read"),
    (b'{"_type": "a", "_type": "b"}', "is given twice"),
    (b"[" * 100_000, "cannot be read"),
    (b"\xff\xfe", "cannot be read"),
    (b" " * 1_000_001, "more than the 1,000,000"),
]


@pytest.mark.parametrize(("content", "said"), CONTENTS, ids=[said + repr(text[:30]) for text, said in CONTENTS])
def test_what_is_no_attestation_is_one_sentence(model, keys, content, said):
    """Catches a traceback of a decoder."""
    (model / ATTESTATION_NAME).write_bytes(content)
    (fault,) = faults(model)
    assert said in fault
    assert "\x1b" not in fault
    assert attestation_signature_fault(model, keys[1])


def test_an_attestation_outside_of_the_folder_is_not_read(model, tmp_path):
    """Catches a file of this machine that is shown."""
    shutil.move(model / ATTESTATION_NAME, tmp_path / "secret.json")
    (model / ATTESTATION_NAME).symlink_to(tmp_path / "secret.json")
    assert "is a link out of the folder" in faults(model)[0]


def test_an_attestation_without_an_audit_is_refused(model):
    """Catches an audit that only the attestation claims."""
    rewritten(model, lambda values: values.update(audit=None))
    assert "attests an audit, and the certificate has none" in faults(model)[-1]


def test_an_audit_without_a_primary_criterion_is_one_sentence(model):
    """Catches a traceback: a statement needs the one criterion that was chosen before."""
    rewritten(model, lambda values: values["audit"]["criteria"][0].update(primary=False))
    assert any("has not exactly one primary criterion" in fault for fault in faults(model))
