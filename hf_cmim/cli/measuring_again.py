"""Repeated measurements of `hf-cmim verify`: accuracy and CMI on given data, and students of the audit."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from hf_cmim.attacks.suites import RELEASED_SUITES
from hf_cmim.cli.audit_flags import AuditFlags
from hf_cmim.cli.audit_models import open_classifier
from hf_cmim.cli.audit_setup import AuditSetup, audited_source
from hf_cmim.cli.flags import read_flags
from hf_cmim.data.prepared import PreparedSamples
from hf_cmim.data.rows import REST, open_rows
from hf_cmim.data.views import View, kind_of
from hf_cmim.environment import describe_environment
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.remeasurement import compare_measurement
from hf_cmim.hub.verification import Finding
from hf_cmim.measurement import Measurement, MeasurementAccumulator, labels_fingerprint
from hf_cmim.positions import usable_positions
from hf_cmim.report import UNKNOWN_ATTACKER, AuditReport
from hf_cmim.teachers import ModelTeacher, match_classes

OUTPUT_DIR = "outputs/spot_check"
TOGETHER = 256
"""Number of samples per batch."""


def remeasure(options: argparse.Namespace, folder: Path, certificate: Certificate) -> Iterator[Finding]:
    """Measure the model on the test data of the flags, and yield findings against the certificate.

    Raises:
        HfCmimError: missing data, or data of other classes.
    """
    flags = _audit_flags(options, folder)
    if certificate.audit is not None:
        flags = _as_sampled(flags, certificate.audit)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = open_classifier(str(folder), "TARGET", device)
    yield from compare_measurement(certificate, *_measure(flags, folder, teacher))


def _measure(flags: AuditFlags, folder: Path, teacher: ModelTeacher) -> tuple[Measurement, set[str]]:
    """Return the measurement, and the fingerprints of the labels in the model's and in the data's order of classes."""
    kind = kind_of(teacher.model)
    rows = open_rows(audited_source(flags), kind, teacher.class_names)
    view = View.of(str(folder), kind).limited_to(usable_positions(teacher.model))
    match_classes(teacher.class_names, list(rows.classes.values()))
    numbers = {value: list(teacher.class_names or ()).index(name) for value, name in rows.classes.items()}
    columns = (rows.sample_column, rows.label_column)
    samples = PreparedSamples(rows.test, columns, numbers, {"teacher": view}, room=0, name="test set")
    accumulator = MeasurementAccumulator()
    loader: Any = DataLoader(samples, TOGETHER, collate_fn=list)
    for batch in loader:
        labels = torch.tensor([sample["labels"] for sample in batch])
        answers = teacher(view.batch([sample["teacher"] for sample in batch]))
        accumulator.update(answers.cpu(), labels)
    measurement = accumulator.compute()
    # A certificate made by a trainer numbers labels in the order of the data.
    positions = {value: number for number, value in enumerate(rows.classes)}
    ordered = torch.tensor([positions[value] for value in rows.test[rows.label_column]])
    return measurement, {measurement.labels_fingerprint, labels_fingerprint(ordered)}


def train_again(options: argparse.Namespace, folder: Path, certificate: Certificate) -> Iterator[Finding]:
    """Retrain random students of the audit, and yield one finding each.

    Raises:
        HfCmimError: a certificate without an audit, or data or students that differ from the audit's.
    """
    if certificate.audit is None:
        raise HfCmimError(
            "The certificate contains no audit, so --spot-check has no student to retrain. Remove the flag."
        )
    flags = _as_sampled(_audit_flags(options, folder), certificate.audit)
    setup = AuditSetup.of(_as_audited(flags, certificate.audit))
    audit_device, this_device = certificate.audit.reproduction.get("device"), describe_environment()["device"]
    device_note = (
        ""
        if audit_device == this_device
        else f" (audited on {audit_device}, retrained on {this_device}: investigate a failure)"
    )
    for check in setup.audit.spot_check(certificate.audit, options.spot_check):
        yield Finding(
            "trained again",
            check.holds,
            f"{check.arm}, seed {check.seed}: {100 * check.accuracy:.2f} %; the audit predicts"
            f" {100 * check.lower:.2f} to {100 * check.upper:.2f} %{device_note}",
        )


def _audit_flags(options: argparse.Namespace, folder: Path) -> AuditFlags:
    """Return the flags of `hf-cmim audit` for this model; those of this command override those of the file."""
    flags = read_flags(options, AuditFlags)
    if flags.dataset is None:
        raise HfCmimError(
            "Expected --dataset or --config with the data that the model was measured on, got neither: nothing can"
            " be measured. Give one of them."
        )
    output_dir = options.output_dir or OUTPUT_DIR
    removed = {"twin": None, "control": None, "defence": None}
    return replace(flags, teacher=str(folder), dry_run=None, output_dir=output_dir, **removed)


def _as_sampled(flags: AuditFlags, audit: AuditReport) -> AuditFlags:
    """Return the flags with missing limits of samples as in the audit; the same number gives the same rows."""
    # Other data may be those that the trainer measured on, and have limits of their own.
    if not audit.scope.test_set.startswith(f"{Path(str(flags.dataset)).name}: "):
        return flags
    limits = {
        "max_transfer_samples": audit.scope.num_transfer,
        "max_validation_samples": audit.scope.num_validation,
        "max_test_samples": audit.scope.num_test,
    }
    attacker = audit.scope.attacker
    if attacker.has_own_samples or attacker.share < 1:
        del limits["max_transfer_samples"]  # the audit counts a part of the rows, or others
    missing: dict[str, Any] = {name: limit for name, limit in limits.items() if getattr(flags, name) is None}
    if flags.rest_as_test is None:
        missing["rest_as_test"] = REST in audit.scope.test_set
    return replace(flags, **missing)


def _as_audited(flags: AuditFlags, audit: AuditReport) -> AuditFlags:
    """Return the flags with plan and training of the report."""
    suite, families = flags.suite, flags.families
    # With one of these flags, the suite is composed as for the audit.
    if families is None and flags.attack is None:
        suite, families = _suite_of(audit)
    plan: dict[str, Any] = audit.reproduction.get("plan", {})
    counts = {name: plan.get(name) for name in ("screening_seeds", "final_seeds", "null_families", "diagnosed")}
    attacker = audit.scope.attacker
    training = [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in audit.scope.training.items()
        if value is not None
    ]
    return replace(
        flags,
        suite=suite,
        families=families,
        attacker=None if attacker == UNKNOWN_ATTACKER else [attacker.name],
        criterion=audit.primary.criterion,
        margin_points=100 * audit.margin,
        looks=list(audit.design.looks),
        training=training,
        **counts,
    )


def _suite_of(audit: AuditReport) -> tuple[str, list[str] | None]:
    """Return the audit's released suite, and its families if only some of them were tried.

    Raises:
        HfCmimError: a suite with attacks of the user's own.
    """
    name = audit.scope.suite.partition(",")[0]
    if audit.scope.suite in RELEASED_SUITES:
        return audit.scope.suite, None
    if name in RELEASED_SUITES and not audit.scope.suite.endswith("+ own"):
        return name, [arm.family for arm in audit.arms if arm.role == "knockoff"]
    raise HfCmimError(
        f"The suite {audit.scope.suite!r} of the audit contains its author's own attacks: their code is not in the"
        " report, so they cannot be retrained. Give the file of the audit with --config, with its attack: entries."
    )
