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
from hf_cmim.plain_data import write_whole
from hf_cmim.report import CERTIFICATE_NAME, AuditReport
from hf_cmim.teachers.model import ModelTeacher

logger = logging.get_logger(__name__)


def certify(
    folder: str | Path,
    *,
    training: Training | None = None,
    evaluation: Evaluation | None = None,
    audit: AuditReport | None = None,
    processor_files: Collection[str] | None = None,
) -> Certificate:
    """Write the certificate of the model in a folder.

    What an earlier certificate said about the very same files is kept where nothing newer is given. Its signature is
    removed: it would not be of the new one.

    Args:
        folder: of a classifier, as `save_pretrained` leaves it.
        training: how the weights came about.
        evaluation: of these weights.
        audit: of these weights.
        processor_files: names of the files that the model's processor wrote; None for those of the earlier
            certificate.

    Raises:
        HfCmimError: no such model, an audit of another one, or an earlier certificate that cannot be read.
    """
    folder = Path(folder)
    known = Certificate.read(folder) if (folder / CERTIFICATE_NAME).is_file() else None
    if processor_files is None and known is not None:
        processor_files = known.files
    files = hash_model(folder, processor_files or ())
    config = read_config(folder)
    if audit is not None:
        check_audited(folder, audit)
    certificate = Certificate(
        lineage=known.lineage if known is not None else uuid.uuid4().hex,
        date=time.strftime("%Y-%m-%d"),
        architecture=str(config["architectures"][0]),
        class_names=certified_names(config),
        files=files,
        training=training,
        evaluation=evaluation,
        audit=audit,
        environment=describe_environment(),
    )
    if known is not None and known.files == files:
        kept = {
            name: getattr(certificate, name) or getattr(known, name) for name in ("training", "evaluation", "audit")
        }
        certificate = replace(certificate, **kept)
    elif known is not None and known.audit is not None and audit is None:
        logger.warning(
            f"The weights in {folder} are others than those that were audited: the new certificate has no audit. The"
            f" earlier one stays in its own folder; audit these weights with hf-cmim audit."
        )
    (folder / SIGNATURE_NAME).unlink(missing_ok=True)  # it was of the certificate before
    write_whole(folder / CERTIFICATE_NAME, certificate.to_json())
    return certificate


def check_audited(folder: Path, audit: AuditReport) -> None:
    """Raise an `HfCmimError` unless the audit asked the model in the folder."""
    fingerprint = ModelTeacher(folder).fingerprint()
    if fingerprint != audit.teacher.fingerprint:
        raise HfCmimError(
            f"Expected an audit of the model in {folder} (fingerprint {fingerprint[:16]}...), got one of"
            f" {audit.teacher.path or audit.teacher.name} ({audit.teacher.fingerprint[:16]}...): its verdict is about"
            " other weights, or about a model read by another release of transformers. Audit this model."
        )
