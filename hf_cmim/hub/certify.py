"""Certify the model in a folder."""

import time
import uuid
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging

from hf_cmim.environment import describe_environment
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate, Evaluation, Training
from hf_cmim.hub.files import SIGNATURE_NAME, certified_names, hash_model, read_config
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
) -> Certificate:
    """Write the certificate of the model in a folder, and its signature if there is a key.

    What an earlier certificate said about the very same files is kept where nothing newer is given. Its signature is
    removed: it would not be of the new one. If anything fails, both files stay as they were.

    Args:
        folder: of a classifier, as `save_pretrained` leaves it.
        training: how the weights came about.
        evaluation: of these weights.
        audit: of these weights.
        processor_files: names of the files that the model's processor wrote; None for those of the earlier
            certificate.
        private_key: Ed25519 key in PEM to sign with; None to leave the certificate unsigned.

    Raises:
        HfCmimError: no such model, an audit of another one or one that `hf-cmim verify` would refuse, an earlier
            certificate that cannot be read, or no such key.
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
        audit=None if audit is None else public_record(audit),  # it may be older than our care for paths
        environment=describe_environment(),
    )
    certificate = _with_earlier(certificate, earlier, folder)
    _check_verifies(folder, certificate)
    content = certificate.to_json().encode("utf-8")
    signature = None if private_key is None else signature_of(content, Path(private_key))
    (folder / SIGNATURE_NAME).unlink(missing_ok=True)  # it was of the certificate before
    write_whole(folder / CERTIFICATE_NAME, content)
    if signature is not None:
        write_whole(folder / SIGNATURE_NAME, signature)
    return certificate


def _with_earlier(certificate: Certificate, earlier: Certificate | None, folder: Path) -> Certificate:
    """Return the certificate with what an earlier one said of the very same files."""
    if earlier is None:
        return certificate
    if earlier.files == certificate.files:
        kept = {
            name: getattr(certificate, name) or getattr(earlier, name) for name in ("training", "evaluation", "audit")
        }
        return replace(certificate, **kept)
    if earlier.audit is not None and certificate.audit is None:
        logger.warning(
            f"The weights in {folder} are others than those that were audited: the new certificate has no audit. The"
            f" earlier one stays in its own folder; audit these weights with hf-cmim audit."
        )
    return certificate


def _check_verifies(folder: Path, certificate: Certificate) -> None:
    """Raise an `HfCmimError` if `hf-cmim verify` would refuse what is to be certified."""
    for fault in content_faults(folder, certificate):
        raise HfCmimError(f"The model in {folder} cannot be certified: {fault}. Save it again with save_pretrained.")
    audit = certificate.audit
    if audit is None:
        return
    fingerprint = loaded_fingerprint(folder, list(certificate.files))
    if fingerprint != audit.teacher.fingerprint:
        raise HfCmimError(
            f"Expected an audit of the model in {folder} (fingerprint {fingerprint[:16]}...), got one of"
            f" {audit.teacher.path or audit.teacher.name} ({audit.teacher.fingerprint[:16]}...): its verdict is about"
            " other weights, or about a model read by another release of transformers. Audit this model."
        )
    for fault in audit_faults(audit, certificate.class_names):
        raise HfCmimError(
            f"The audit {safe_text(audit.title)!r} cannot be certified: {fault}. hf-cmim verify would refuse the"
            " certificate. Run the audit again with hf-cmim audit, and certify what it writes."
        )
