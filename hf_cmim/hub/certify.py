"""Certify the model in a folder."""

import time
import uuid
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from hf_cmim.environment import describe_environment
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.attestation import attestation_of
from hf_cmim.hub.certificate import Certificate, Evaluation, Training
from hf_cmim.hub.files import (
    ATTESTATION_NAME,
    BOUND_TO_CERTIFICATE,
    SIGNATURE_NAME,
    certified_names,
    hash_model,
    read_config,
)
from hf_cmim.hub.safe_loading import loaded_fingerprint
from hf_cmim.hub.signature import signature_of
from hf_cmim.hub.verified_audit import audit_faults
from hf_cmim.hub.verified_files import content_faults
from hf_cmim.names import safe_text
from hf_cmim.private_paths import public_record
from hf_cmim.report import CERTIFICATE_NAME, AuditReport
from hf_cmim.whole_files import write_whole

logger = logging.get_logger(__name__)


def certify(
    folder: str | Path,
    *,
    training: Training | None = None,
    evaluation: Evaluation | None = None,
    audit: AuditReport | None = None,
    processor_files: Collection[str] | None = None,
    private_key: str | Path | None = None,
    attests: bool = False,
) -> Certificate:
    """Write the certificate of the model in a folder, its signature if a key is given, and an attestation if asked.

    Training, evaluation and audit of an earlier certificate are kept if the files are unchanged and no newer value is
    given. Its signatures and its attestation are removed, because they do not fit the new certificate. On any error
    all files stay as they were.

    Args:
        folder: folder of a classifier, as `save_pretrained` writes it.
        training: record of the training.
        evaluation: measurement of these weights.
        audit: report of an audit of these weights.
        processor_files: names of the files that the model's processor wrote; None to take them from the earlier
            certificate.
        private_key: path of an Ed25519 key in PEM; None to leave certificate and attestation unsigned.
        attests: True to write an in-toto attestation of the audit as well.

    Returns:
        The certificate that was written.

    Raises:
        HfCmimError: no classifier in the folder, an audit of another model, an audit that `hf-cmim verify` would
            refuse, an earlier certificate that cannot be read, no audit to attest, or no Ed25519 key.
    """
    folder = Path(folder)
    earlier = Certificate.read(folder) if (folder / CERTIFICATE_NAME).is_file() else None
    if processor_files is None and earlier is not None:
        processor_files = earlier.files
    files = hash_model(folder, processor_files or ())
    config = read_config(folder)
    certificate = Certificate(
        lineage=earlier.lineage if earlier is not None else uuid.uuid4().hex,
        date=time.strftime("%Y-%m-%d"),
        architecture=str(config["architectures"][0]),
        class_names=certified_names(config),
        files=files,
        training=training,
        evaluation=evaluation,
        # Audits of older releases may hold paths of this machine.
        audit=None if audit is None else public_record(audit),
        environment=describe_environment(),
    )
    certificate = _with_earlier(certificate, earlier, folder)
    _check_verifies(folder, certificate)
    _write(folder, certificate, None if private_key is None else Path(private_key), attests=attests)
    return certificate


def _write(folder: Path, certificate: Certificate, key: Path | None, *, attests: bool) -> None:
    """Write a certificate with its signature and its attestation in the place of earlier ones."""
    # Everything that can fail happens before the first file is touched.
    content = certificate.to_json().encode("utf-8")
    documents: dict[str, str | bytes] = {} if key is None else {SIGNATURE_NAME: signature_of(content, key)}
    if attests:
        documents[ATTESTATION_NAME] = attestation_of(certificate, content, key)
    # What is about the certificate goes before it changes: a kill in between leaves none, never a wrong one.
    for name in BOUND_TO_CERTIFICATE:
        (folder / name).unlink(missing_ok=True)
    write_whole(folder / CERTIFICATE_NAME, content)
    for name, document in documents.items():
        write_whole(folder / name, document)


def _with_earlier(certificate: Certificate, earlier: Certificate | None, folder: Path) -> Certificate:
    """Return the certificate with the claims of an earlier one, if both are about identical files."""
    if earlier is None:
        return certificate
    if earlier.files == certificate.files:
        claims = {
            name: getattr(certificate, name) or getattr(earlier, name) for name in ("training", "evaluation", "audit")
        }
        return replace(certificate, **claims)
    if earlier.audit is not None and certificate.audit is None:
        logger.warning(
            f"The files in {folder} changed since they were audited: the new certificate has no audit. The audit's own"
            " folder is untouched. Audit the new weights with: hf-cmim audit"
        )
    return certificate


def _check_verifies(folder: Path, certificate: Certificate) -> None:
    """Raise an `HfCmimError` if `hf-cmim verify` would refuse the certificate."""
    for fault in content_faults(folder, certificate):
        raise HfCmimError(f"The model in {folder} cannot be certified: {fault}. Save it again with save_pretrained.")
    audit = certificate.audit
    if audit is None:
        return
    for fault in audit_faults(audit, certificate.class_names):
        raise HfCmimError(
            f"The audit {safe_text(audit.title)!r} cannot be certified: {fault}. hf-cmim verify would refuse the"
            " certificate. Run hf-cmim audit again, and certify its new report."
        )
    # An audit names the model as it was in memory, so the files are loaded once and compared there.
    fingerprint = loaded_fingerprint(folder, list(certificate.files))
    if fingerprint != audit.teacher.fingerprint:
        raise HfCmimError(
            f"Expected an audit of the model in {folder} (fingerprint {fingerprint[:16]}...), got one of"
            f" {audit.teacher.path or audit.teacher.name} ({audit.teacher.fingerprint[:16]}...): its verdict is about"
            " other weights, or about a model read by another release of transformers. Audit this model."
        )
