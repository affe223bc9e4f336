"""Checks of a certificate: the files are the certified ones, and the verdicts follow from the results."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import ATTESTATION_NAME, CARD_NAME, EVAL_RESULTS_NAME, MODEL_SIGNATURE_NAME, SIGNATURE_NAME
from hf_cmim.hub.model_signature import is_for_models, model_signature_fault
from hf_cmim.hub.signature import check_signature
from hf_cmim.hub.verified_files import class_name_fault, content_faults, file_faults
from hf_cmim.names import safe_text
from hf_cmim.report import CERTIFICATE_NAME


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: name of the check in a few words.
        holds: True if the check agrees with the certificate.
        sentence: the observation.
    """

    name: str
    holds: bool
    sentence: str


def check_certificate(
    folder: str | Path,
    public_key: str | Path | None = None,
    *,
    paths: Collection[str] | None = None,
    repo_id: str = "",
) -> Iterator[Finding]:
    """Check every claim of a folder's certificate that needs no data, and yield the findings.

    Args:
        folder: folder with the certificate and the files that it names.
        public_key: file of the public key that the signatures must belong to, or of a root certificate for
            `model_signing`; None accepts an unsigned certificate.
        paths: paths of all files in the repository that the folder was downloaded from; None to list the folder.
        repo_id: user/name of that repository, which the card must name; "" for a local folder.
    """
    folder = Path(folder)
    try:
        certificate = Certificate.read(folder)
    except HfCmimError as error:
        yield Finding("certificate", False, safe_text(str(error)))
        return
    date = safe_text(certificate.date)
    yield Finding("certificate", True, f"schema {certificate.schema}, of {date}, its digest is right")
    files = list(_check_files(folder, certificate, paths))
    yield from files
    yield from _check_audit(certificate)
    # Files that are not as certified are never given to transformers.
    if all(finding.holds for finding in files):
        yield from _check_audited_model(folder, certificate)
    yield from _check_card(folder, certificate, repo_id)
    yield from _check_eval_results(folder, certificate)
    yield from _check_attestation(folder, certificate)
    yield from _check_signatures(folder, certificate, public_key)


def _check_card(folder: Path, certificate: Certificate, repo_id: str) -> Iterator[Finding]:
    if not (folder / CARD_NAME).is_file():
        return
    from hf_cmim.hub.verified_card import card_faults, is_comparable

    # Another release words its cards differently, so that every difference would look like a change by hand.
    if not is_comparable(certificate):
        return
    faults = list(card_faults(folder, certificate, repo_id))
    for fault in faults:
        yield Finding("card", False, fault)
    if not faults:
        yield Finding("card", True, f"hf_cmim's part of {CARD_NAME} says what the certificate says")


def _check_files(folder: Path, certificate: Certificate, paths: Collection[str] | None) -> Iterator[Finding]:
    faults = list(file_faults(folder, certificate, paths)) or list(content_faults(folder, certificate))
    for fault in faults:
        yield Finding("files", False, fault)
    if faults:
        return
    total = sum(record.size for record in certificate.files.values())
    yield Finding("files", True, f"{len(certificate.files)} files, {total / 1e6:.1f} MB, all as certified")
    fault = class_name_fault(folder, certificate)
    yield Finding("class names", not fault, fault or f"{len(certificate.class_names)} classes, named as certified")


def _check_audited_model(folder: Path, certificate: Certificate) -> Iterator[Finding]:
    """Compare the audited model with the one that transformers loads from the certified files."""
    if certificate.audit is None:
        return
    # Imported here: transformers takes seconds, and a model without an audit does not need it.
    from hf_cmim.hub.safe_loading import loaded_fingerprint

    audited = certificate.audit.teacher.fingerprint
    try:
        loaded = loaded_fingerprint(folder, list(certificate.files))
    except HfCmimError as error:
        yield Finding("audited model", False, safe_text(str(error)))
        return
    is_same = audited == loaded
    sentence = f"these weights, fingerprint {loaded[:16]}..."
    if not is_same:
        sentence = (
            f"the audited model has the fingerprint {safe_text(audited[:16])}..., these weights have"
            f" {loaded[:16]}...: the verdict is about another model"
        )
    yield Finding("audited model", is_same, sentence)


def _check_audit(certificate: Certificate) -> Iterator[Finding]:
    audit = certificate.audit
    if audit is None:
        yield Finding("audit", True, "not audited: nothing is claimed about distillation")
        return
    from hf_cmim.hub.verified_audit import audit_faults

    faults = list(audit_faults(audit, certificate.class_names))
    for fault in faults:
        yield Finding("audit", False, safe_text(fault))
    if not faults:
        arms = len(audit.arms)
        students = sum(len(arm.accuracies) for arm in audit.arms)
        yield Finding(
            "audit",
            True,
            f"{audit.primary.verdict}: follows from the accuracies of {students} students in {arms} arms",
        )


def _check_eval_results(folder: Path, certificate: Certificate) -> Iterator[Finding]:
    if not (folder / EVAL_RESULTS_NAME).is_file():
        return
    from hf_cmim.hub.eval_results import eval_results_fault

    fault = eval_results_fault(folder, certificate)
    yield Finding("evaluation results", not fault, fault or f"{EVAL_RESULTS_NAME} says what the certificate says")


def _check_attestation(folder: Path, certificate: Certificate) -> Iterator[Finding]:
    if not (folder / ATTESTATION_NAME).is_file():
        return
    from hf_cmim.hub.verified_attestation import attestation_faults

    faults = list(attestation_faults(folder, certificate))
    for fault in faults:
        yield Finding("attestation", False, fault)
    if not faults:
        yield Finding("attestation", True, f"{ATTESTATION_NAME} is about this certificate and its files")


def _check_signatures(folder: Path, certificate: Certificate, public_key: str | Path | None) -> Iterator[Finding]:
    if public_key is None:
        for name in (SIGNATURE_NAME, MODEL_SIGNATURE_NAME):
            if (folder / name).is_file():
                yield Finding("signature", True, f"{name} was not checked: give --public-key")
        return
    key = Path(public_key)
    holds = f"made with the private key of {public_key}"
    if is_for_models(key):
        fault = model_signature_fault(folder, certificate, key)
        yield Finding("model signature", not fault, fault or f"{MODEL_SIGNATURE_NAME}: {holds}")
        return
    fault = check_signature(folder / CERTIFICATE_NAME, folder / SIGNATURE_NAME, key)
    yield Finding("signature", not fault, fault or holds)
    if (folder / ATTESTATION_NAME).is_file():
        from hf_cmim.hub.verified_attestation import attestation_signature_fault

        fault = attestation_signature_fault(folder, key)
        yield Finding("signature of the attestation", not fault, fault or holds)


def self_reported(certificate: Certificate, *, trained_again: int = 0, is_remeasured: bool = False) -> Iterator[str]:
    """Yield the claims that no check can confirm, as sentences: only data show whether they are true.

    Args:
        certificate: certificate that passed all checks.
        trained_again: number of arms with a student that was trained again.
        is_remeasured: True if accuracy and CMI were measured again.
    """
    audit = certificate.audit
    if audit is not None:
        from hf_cmim.attacks.suites import RELEASED_SUITES, released_suite

        arms = len(audit.arms)
        if trained_again:
            yield f"{trained_again} of {arms} arms trained again. Self-reported: the students of the other arms."
        else:
            yield f"Self-reported: the students of all {arms} arms (check some with --spot-check N)."
        yield (
            "Self-reported: the settings chosen on validation data, the control teacher (and so the audit's power),"
            " costs, and the findings about the data."
        )
        if released_suite(audit.scope.suite) is None:
            yield (
                f"Self-reported: the attacks in {safe_text(audit.scope.suite)!r}, a suite of the owner and not one of"
                f" {', '.join(RELEASED_SUITES)}."
            )
    if (audit is not None or certificate.evaluation is not None) and not is_remeasured:
        yield "Self-reported: accuracy, calibration and CMI (check them with --remeasure)."
    yield "Not checked: pictures, audit.html, and the owner's own text in README.md, outside of hf_cmim's part."
    yield (
        "Self-reported: training, dates and names. The owner of the model wrote this certificate. The checks show that"
        " it belongs to these files, and that its verdict follows from its own numbers."
    )
