"""Attestation of an audit: an in-toto Statement that tools without hf_cmim can read, in a signed envelope.

Statement: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
Envelope: https://github.com/secure-systems-lab/dsse/blob/master/envelope.md
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import FileRecord
from hf_cmim.hub.signature import key_id, signature_of
from hf_cmim.plain_data import Plain, parsed_json
from hf_cmim.report import CERTIFICATE_NAME, AuditReport

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/eval-result/v0.1"
PROPOSAL = "in-toto/attestation pull request 575, revision 0c70fc3cc5e40ba3eda6abf424f9a281068f312e"
"""State of the proposal that the predicate follows. in-toto has not accepted it yet, so it may still change."""
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BELOW_THE_MARGIN = ("undistillable within the margin", "leaks less than the margin")
"""Verdicts that say of every attack that its gain is below the margin."""


@dataclass(frozen=True)
class Envelope:
    """The content of an attestation's file.

    Attributes:
        payload: bytes of the statement.
        payload_type: type of the payload that the envelope names; "" for a bare statement without an envelope.
        signatures: signatures in the envelope; empty for a bare statement.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[bytes, ...]

    @property
    def statement(self) -> Plain:
        """The statement.

        Raises:
            HfCmimError: a payload that is no JSON.
        """
        values: Plain = parsed_json(self.payload, "a statement of in-toto")
        return values

    @property
    def signed_content(self) -> bytes:
        """Bytes that the signatures are about: type and payload with their lengths."""
        return signed_content(self.payload_type, self.payload)


def attestation_of(certificate: Certificate, content: bytes, private_key: Path | None) -> str:
    """Return the attestation of a certificate's audit: a DSSE envelope, or the bare statement without a key.

    Args:
        certificate: certificate of the model.
        content: bytes of the certificate's file.
        private_key: Ed25519 key in PEM, or None.

    Raises:
        HfCmimError: a certificate without an audit, or no Ed25519 key.
    """
    if certificate.audit is None:
        raise HfCmimError(
            "An attestation states the result of an audit, but the model was not audited: there is nothing to attest."
            " Run hf-cmim audit, then certify with --audit FOLDER."
        )
    statement = json.dumps(statement_of(certificate, certificate.audit, content), indent=1, sort_keys=True)
    if private_key is None:
        return statement + "\n"
    payload = statement.encode("utf-8")
    signature = signature_of(signed_content(PAYLOAD_TYPE, payload), private_key)
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": key_id(private_key), "sig": base64.b64encode(signature).decode("ascii")}],
    }
    return json.dumps(envelope, indent=1, sort_keys=True) + "\n"


def signed_content(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that a signature of DSSE is about.

    >>> signed_content("text", b"hello")
    b'DSSEv1 4 text 5 hello'
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def statement_of(certificate: Certificate, audit: AuditReport, content: bytes) -> Plain:
    """Return the statement about a certificate's files and its audit.

    Args:
        certificate: certificate of the model.
        audit: its audit.
        content: bytes of the certificate's file.
    """
    files = sorted(certificate.files.items())
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": record.sha256}} for name, record in files],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            # The owner stays unnamed: the random id of the model's versions tells owners apart, the signer has a key.
            "evaluator": {"id": f"urn:uuid:{_dashed(certificate.lineage)}"},
            # An audit records its day only.
            "evaluatedAt": f"{audit.date}T00:00:00Z",
            "suite": {"name": audit.scope.suite, "version": _release(audit)},
            "claims": list(_claims(audit)),
            "sampleSize": audit.scope.num_test,
            "model": {"name": certificate.architecture, "digest": {"dirHash": folder_digest(certificate.files)}},
            "dataset": {"name": audit.scope.test_set, "digest": {"labelsSha256": audit.teacher.labels_fingerprint}},
            "assuranceLevel": "self_attested",
            "subjectProfile": "public-model",
            "evidence": [
                {
                    "name": CERTIFICATE_NAME,
                    "digest": {"sha256": hashlib.sha256(content).hexdigest()},
                    "mediaType": "application/json",
                }
            ],
            "harness": {"name": "hf_cmim", "version": _release(audit)},
            "hf_cmim": _extension(audit),
        },
    }


def _claims(audit: AuditReport) -> list[Plain]:
    """Return the claims: one for each attacker, and one for the positive controls, without which none counts."""
    claims = [
        {
            "metric": f"distillation_gain_upper_bound:{name}",
            "comparator": "<",
            "threshold": _decimal(report.margin),
            # A void audit is inconclusive, whatever its bound.
            "passed": report.primary.verdict in BELOW_THE_MARGIN,
        }
        for name, report in audit.by_attacker.items()
    ]
    controls = {"metric": "positive_controls_distilled", "comparator": ">=", "threshold": "1"}
    return [*claims, {**controls, "passed": audit.power is True}]


def _extension(audit: AuditReport) -> Plain:
    """Return the facts that the proposal has no field for."""
    return {
        "proposal": PROPOSAL,
        "confidence": _decimal(1 - audit.design.error_rate),
        "student": audit.scope.student,
        "sampleSizes": {
            "transfer": audit.scope.num_transfer,
            "validation": audit.scope.num_validation,
            "test": audit.scope.num_test,
            "students": sum(len(arm.accuracies) for arm in audit.arms),
        },
        "attackers": [
            {
                "name": name,
                "samples": report.scope.num_transfer,
                "criterion": report.primary.criterion,
                "verdict": report.primary.verdict,
                "smallestMargin": _decimal(report.primary.smallest_margin),
            }
            for name, report in audit.by_attacker.items()
        ],
    }


def folder_digest(files: Mapping[str, FileRecord]) -> str:
    """Return in-toto's `dirHash` of a folder with these files and no others: sha256 hex of `sha256sum`'s output."""
    names = sorted(files, key=lambda name: name.encode("utf-8"))
    lines = "".join(f"{files[name].sha256}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode("utf-8")).hexdigest()


def _release(audit: AuditReport) -> str:
    versions = audit.reproduction.get("versions")
    return str(versions.get("hf_cmim", "unknown")) if isinstance(versions, dict) else "unknown"


def _decimal(number: float) -> str:
    """Return a number in decimal digits without an exponent; binary fractions would be rounded anew by each reader."""
    return f"{Decimal(repr(round(number, 12))):f}"


def _dashed(lineage: str) -> str:
    return "-".join(lineage[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, None)))


def opened(content: bytes) -> Envelope:
    """Return the content of an attestation's file.

    Raises:
        HfCmimError: a text that is neither an envelope nor a statement.
    """
    values = parsed_json(content, "an attestation")
    if not isinstance(values, dict) or not {"payload", "_type"} & {*values}:
        raise HfCmimError(
            "Expected an envelope of DSSE or a statement of in-toto, got neither: the file was changed or replaced."
            " Use the original file, or write it again with hf-cmim certify --attest."
        )
    if "payload" not in values:
        return Envelope(content, "", ())
    try:
        signatures = tuple(_decoded(signature["sig"]) for signature in values["signatures"])
        payload_type = values["payloadType"]
        if not isinstance(payload_type, str):
            raise TypeError(f"the type of its payload is {payload_type!r}")
        return Envelope(_decoded(values["payload"]), payload_type, signatures)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise HfCmimError(
            f"Expected an envelope of DSSE with payload, payloadType and signatures in base64, got one that breaks at"
            f" {error}: the file was changed or replaced. Use the original file."
        ) from None


def _decoded(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)
