"""Check of an attestation: it states what the certificate says, and about the same files."""

import json
from collections.abc import Iterator
from pathlib import Path

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.attestation import PAYLOAD_TYPE, opened, statement_of
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import ATTESTATION_NAME, link_out_of
from hf_cmim.hub.signature import is_signed_by
from hf_cmim.hub.verified_card import is_comparable
from hf_cmim.names import safe_text
from hf_cmim.plain_data import Plain
from hf_cmim.report import CERTIFICATE_NAME
from hf_cmim.whole_files import read_bounded

MOST_BYTES_OF_ATTESTATION = 1_000_000
_OF_EVERY_RELEASE = ("subject", "predicate.evidence")
"""Parts that every release writes alike; another release may word the others differently."""


def attestation_faults(folder: Path, certificate: Certificate) -> Iterator[str]:
    """Yield the differences between an attestation and the certificate, as sentences.

    Args:
        folder: folder with the attestation and the certificate.
        certificate: certificate of the model.
    """
    path = folder / ATTESTATION_NAME
    if target := link_out_of(folder, path):
        yield f"{ATTESTATION_NAME} is a link out of the folder, to {safe_text(target)}"
        return
    try:
        envelope = opened(read_bounded(path, MOST_BYTES_OF_ATTESTATION))
        statement = envelope.statement
    except HfCmimError as error:
        yield safe_text(f"{ATTESTATION_NAME} cannot be read ({error})")
        return
    if envelope.payload_type not in ("", PAYLOAD_TYPE):
        yield f"{ATTESTATION_NAME} holds {envelope.payload_type!r}, which is no statement of in-toto"
        return
    if certificate.audit is None:
        yield f"{ATTESTATION_NAME} attests an audit, and the certificate has none"
        return
    reports = certificate.audit.by_attacker.values()
    if any(sum(result.primary for result in report.criteria) != 1 for report in reports):
        yield f"{ATTESTATION_NAME} attests an audit that has not exactly one primary criterion"
        return
    expected = statement_of(certificate, certificate.audit, read_bounded(folder / CERTIFICATE_NAME))
    actual, wanted = _parts(statement), _parts(expected)
    names = sorted({*actual, *wanted}) if is_comparable(certificate) else _OF_EVERY_RELEASE
    if different := [name for name in names if actual.get(name) != wanted.get(name)]:
        yield (
            f"{ATTESTATION_NAME} differs from the certificate in {safe_text(', '.join(different[:5]))}: it was"
            " changed, or is about another certificate. Write both again with: hf-cmim certify --attest"
        )


def attestation_signature_fault(folder: Path, public_key: Path) -> str:
    """Return the reason why no signature of an attestation fits an Ed25519 key, or "" if one fits.

    Args:
        folder: folder with an attestation.
        public_key: Ed25519 key in PEM.
    """
    try:
        envelope = opened(read_bounded(folder / ATTESTATION_NAME, MOST_BYTES_OF_ATTESTATION))
    except HfCmimError:
        return f"{ATTESTATION_NAME} cannot be read, so that no signature in it can be checked"
    if not envelope.signatures:
        return f"{ATTESTATION_NAME} was not signed: it is a bare statement"
    if any(is_signed_by(envelope.signed_content, signature, public_key) for signature in envelope.signatures):
        return ""
    return f"no signature in {ATTESTATION_NAME} fits {public_key}: another key made it, or the statement changed since"


def _parts(statement: Plain) -> dict[str, str]:
    """Return the parts of a statement and of its predicate as canonical JSON, in which True is not 1."""
    values = statement if isinstance(statement, dict) else {"": statement}
    predicate = values.get("predicate")
    if isinstance(predicate, dict):
        inner = {f"predicate.{name}": value for name, value in predicate.items()}
        values = {**{name: value for name, value in values.items() if name != "predicate"}, **inner}
    return {name: json.dumps(value, sort_keys=True) for name, value in values.items()}
