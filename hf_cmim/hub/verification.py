"""Whether a certificate holds: the files are those it names, and its verdicts follow from its results."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.files import (
    CONFIG_NAME,
    SIGNATURE_NAME,
    certified_names,
    hash_file,
    read_config,
    stays_inside,
    uncertified,
)
from hf_cmim.hub.signature import check_signature
from hf_cmim.report import CERTIFICATE_NAME, AuditReport, CriterionResult
from hf_cmim.statistics import Comparison, decide

CLOSE = 1e-9
"""Difference of two bounds that another machine's rounding may explain; ours."""
SELF_REPORTED = (
    "self-reported: the owner of the model wrote this certificate. That it holds shows that nothing was changed since,"
    " not that the numbers are true. --remeasure and --spot-check measure again."
)


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        name: in a few words.
        holds: whether it is as the certificate says.
        sentence: what was seen.
    """

    name: str
    holds: bool
    sentence: str


def check_certificate(folder: str | Path, public_key: str | Path | None = None) -> Iterator[Finding]:
    """Yield everything that the certificate in a folder says and that needs no data to check.

    Args:
        folder: with the certificate, the weights and what else it names.
        public_key: file of the key that its signature must belong to; None accepts an unsigned certificate.
    """
    folder = Path(folder)
    try:
        certificate = Certificate.read(folder)
    except ValueError as error:
        yield Finding("certificate", False, str(error))
        return
    yield Finding("certificate", True, f"schema {certificate.schema}, of {certificate.date}, its digest is right")
    yield from _check_files(folder, certificate)
    yield from _check_class_names(folder, certificate)
    yield from _check_audit(certificate.audit)
    yield from _check_signature(folder, public_key)


def _check_files(folder: Path, certificate: Certificate) -> Iterator[Finding]:
    wrong = 0
    for name, record in certificate.files.items():
        path = folder / name
        if not (stays_inside(name) and path.is_file()):
            sentence = f"{name} is missing"
        elif path.stat().st_size != record.size:
            sentence = (
                f"{name} has {path.stat().st_size:,} bytes, certified are {record.size:,}: it was cut or replaced"
            )
        elif (found := hash_file(path)) != record:
            sentence = f"{name} has sha256 {found.sha256[:16]}..., certified is {record.sha256[:16]}...: other content"
        else:
            continue
        wrong += 1
        yield Finding("files", False, sentence)
    unknown = uncertified((path.name for path in folder.iterdir()), certificate.files)
    if unknown:
        yield Finding("files", False, f"{', '.join(unknown)}: not certified, and a loader may take it instead")
    if not wrong and not unknown:
        total = sum(record.size for record in certificate.files.values())
        yield Finding("files", True, f"{len(certificate.files)} files, {total / 1e6:.1f} MB, all as certified")


def _check_class_names(folder: Path, certificate: Certificate) -> Iterator[Finding]:
    try:
        names = certified_names(read_config(folder))
    except ValueError as error:
        yield Finding("class names", False, str(error))
        return
    if names == certificate.class_names:
        yield Finding("class names", True, f"{len(names)} classes, named as certified")
        return
    pairs = enumerate(zip_longest(names, certificate.class_names))
    number, (found, known) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    yield Finding(
        "class names",
        False,
        f"{CONFIG_NAME} names {len(names)} classes, certified are {len(certificate.class_names)}; class {number} is"
        f" called {found!r}, certified is {known!r}",
    )


# The audit


def _check_audit(audit: AuditReport | None) -> Iterator[Finding]:
    if audit is None:
        yield Finding("audit", True, "not audited: nothing is claimed about distillation")
        return
    faults = [fault for result in audit.criteria for fault in recomputed_faults(audit, result)]
    faults += _inconsistent_arms(audit)
    for fault in faults:
        yield Finding("audit", False, fault)
    if not faults:
        arms = len(audit.arms)
        students = sum(len(arm.accuracies) for arm in audit.arms)
        yield Finding(
            "audit",
            True,
            f"{audit.primary.verdict}: follows from the accuracies of {students} students in {arms} arms",
        )


def recomputed_faults(audit: AuditReport, result: CriterionResult) -> Iterator[str]:
    """Yield what one criterion says that does not follow from the accuracies of the arms."""
    accuracies = {arm.name: arm.accuracies for arm in audit.arms}
    num_attacks = sum(arm.role == "knockoff" for arm in audit.arms)
    try:
        decision = decide(accuracies, result.baselines, num_attacks, audit.design)
    except (KeyError, ValueError) as error:
        yield f"the verdict under {result.criterion!r} cannot be recomputed: {error}"
        return
    is_void = any(check.severity == "fatal" for check in audit.checks)
    verdict = "inconclusive" if is_void else decision.verdict
    if verdict != result.verdict:
        yield f"under {result.criterion!r} the results say {verdict!r}, the certificate says {result.verdict!r}"
    if abs(decision.smallest_margin - result.smallest_margin) > CLOSE:
        yield (
            f"under {result.criterion!r} the smallest margin is {decision.smallest_margin:.6f}, the certificate says"
            f" {result.smallest_margin:.6f}"
        )
    known = {each.attack: each for each in result.comparisons}
    found = {each.attack: each for each in decision.comparisons}
    wrong = [name for name in {**known, **found} if not _same(known.get(name), found.get(name))]
    if wrong:
        yield f"under {result.criterion!r} the bounds of {', '.join(sorted(wrong))} are not those of the results"


def _same(first: Comparison | None, second: Comparison | None) -> bool:
    if first is None or second is None:
        return first is second
    numbers = ("gain", "standard_error", "lower", "upper")
    names = ("baseline", "seeds", "baseline_seeds")
    return all(abs(getattr(first, each) - getattr(second, each)) <= CLOSE for each in numbers) and all(
        getattr(first, each) == getattr(second, each) for each in names
    )


def _inconsistent_arms(audit: AuditReport) -> Iterator[str]:
    for arm in audit.arms:
        if len(arm.accuracies) != len(arm.seeds) or len(set(arm.seeds)) < len(arm.seeds):
            yield f"arm {arm.name!r} has {len(arm.accuracies)} accuracies of {len(set(arm.seeds))} different seeds"
    if audit.margin < 3 / audit.scope.num_test and audit.primary.verdict != "inconclusive":
        yield f"a margin of {audit.margin:g} is under 3 of {audit.scope.num_test} test samples: no verdict can stand"
    if audit.power is False and audit.primary.verdict != "inconclusive":
        yield "its positive control was not distilled: no verdict can stand"


def _check_signature(folder: Path, public_key: str | Path | None) -> Iterator[Finding]:
    signature = folder / SIGNATURE_NAME
    if public_key is None:
        if signature.is_file():
            yield Finding("signature", True, f"{SIGNATURE_NAME} was not checked: give --public-key")
        return
    fault = check_signature(folder / CERTIFICATE_NAME, signature, Path(public_key))
    yield Finding("signature", not fault, fault or f"made with the private key of {public_key}")
