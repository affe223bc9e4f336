"""What `hf-cmim verify` measures again: accuracy and CMI on given data, and students of the audit."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from hf_cmim.attacks.suites import SUITES
from hf_cmim.cli.audit import add_arguments
from hf_cmim.cli.audit_data import REST, open_rows
from hf_cmim.cli.audit_models import PreparedSamples, View, kind_of, open_classifier
from hf_cmim.cli.audit_setup import AuditSetup
from hf_cmim.cli.words import with_config
from hf_cmim.environment import describe_environment
from hf_cmim.errors import HfCmimError
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.remeasurement import compare_measurement
from hf_cmim.hub.verification import Finding
from hf_cmim.measurement import Measurement, MeasurementAccumulator, labels_fingerprint
from hf_cmim.positions import usable_positions
from hf_cmim.report import AuditReport
from hf_cmim.teachers import ModelTeacher, match_classes

OUTPUT_DIR = "outputs/spot_check"
TOGETHER = 256
"""Samples that are asked about at once."""


def remeasure(options: argparse.Namespace, folder: Path, certificate: Certificate) -> Iterator[Finding]:
    """Yield what was found when the model was asked about the test data that the flags name.

    Raises:
        HfCmimError: no data, or data of other classes.
    """
    flags = _audit_flags(options, folder)
    if certificate.audit is not None:
        _as_sampled(flags, certificate.audit)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = open_classifier(str(folder), "TARGET", device)
    yield from compare_measurement(certificate, *_measure(flags, folder, teacher))


def _measure(flags: argparse.Namespace, folder: Path, teacher: ModelTeacher) -> tuple[Measurement, set[str]]:
    """Return the measurement, and the labels' fingerprints in the model's and in the data's order of classes."""
    kind = kind_of(teacher)
    rows = open_rows(flags, kind, teacher.class_names)
    view = View.of(str(folder), kind).limited_to(usable_positions(teacher.model))
    match_classes(teacher.class_names, list(rows.classes.values()))
    numbers = {value: list(teacher.class_names or ()).index(name) for value, name in rows.classes.items()}
    columns = (rows.sample_column, rows.label_column)
    samples = PreparedSamples(rows.test, columns, numbers, {"teacher": view}, room=0, name="test set")
    accumulator = MeasurementAccumulator()
    loader: Any = DataLoader(samples, TOGETHER, collate_fn=list)
    for batch in loader:
        labels = torch.tensor([each["labels"] for each in batch])
        accumulator.update(teacher(view.batch([each["teacher"] for each in batch])).cpu(), labels)
    measured = accumulator.compute()
    positions = {value: number for number, value in enumerate(rows.classes)}
    ordered = torch.tensor([positions[value] for value in rows.test[rows.label_column]])
    return measured, {measured.labels_fingerprint, labels_fingerprint(ordered)}


def train_again(options: argparse.Namespace, folder: Path, certificate: Certificate) -> Iterator[Finding]:
    """Yield what became of random students of the audit, trained again.

    Raises:
        HfCmimError: no audit, or other data or students than the audit's.
    """
    if certificate.audit is None:
        raise HfCmimError(
            "Expected a certificate with an audit for --spot-check, got one without: there is no student to train"
            " again. Leave the flag out."
        )
    flags = _audit_flags(options, folder)
    _as_sampled(flags, certificate.audit)
    _as_audited(flags, certificate.audit)
    setup = AuditSetup.of(flags)
    then, now = certificate.audit.reproduction.get("device"), describe_environment()["device"]
    elsewhere = "" if then == now else f" (those on {then}, this one on {now}: a failure calls for a look)"
    for each in setup.spot_check(certificate.audit, options.spot_check):
        yield Finding(
            "trained again",
            each.holds,
            f"{each.arm}, seed {each.seed}: {100 * each.accuracy:.2f} %; its students foretell"
            f" {100 * each.lower:.2f} to {100 * each.upper:.2f} %{elsewhere}",
        )


def _audit_flags(options: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """Return the flags of `hf-cmim audit` for this model: those given here, over those of the file."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    given = {name: value for name, value in vars(options).items() if value is not None}
    flags = vars(parser.parse_args([]))
    known = {name: given.get(name, value) for name, value in flags.items()}
    merged = with_config(argparse.Namespace(**known), add_arguments)
    merged.teacher, merged.twin, merged.control, merged.dry_run = str(folder), None, None, None
    merged.output_dir = options.output_dir or OUTPUT_DIR
    if merged.dataset is None:
        raise HfCmimError(
            "Expected --dataset or --config with the data that the model was measured on, got neither: nothing could"
            " be measured again."
        )
    return argparse.Namespace(**vars(merged))


def _as_sampled(flags: argparse.Namespace, audit: AuditReport) -> None:
    """Take as many samples as the audit did, where no flag says how many; the same number gives the same rows."""
    limits = {
        "max_transfer_samples": audit.scope.num_transfer,
        "max_validation_samples": audit.scope.num_validation,
        "max_test_samples": audit.scope.num_test,
    }
    if not audit.scope.test_set.startswith(f"{Path(flags.dataset).name}: "):
        return  # other data, perhaps those that the trainer measured on
    for name, limit in limits.items():
        if getattr(flags, name) is None:
            setattr(flags, name, limit)
    if flags.rest_as_test is None:
        flags.rest_as_test = REST in audit.scope.test_set


def _as_audited(flags: argparse.Namespace, audit: AuditReport) -> None:
    """Set plan and training to what the report says."""
    plan: dict[str, Any] = audit.reproduction.get("plan", {})
    if flags.families is None and flags.attack is None:  # else the suite is composed as the audit's was
        flags.suite, flags.families = _suite_of(audit)
    flags.criterion = audit.primary.criterion
    flags.margin_points, flags.looks = 100 * audit.margin, list(audit.design.looks)
    for name in ("screening_seeds", "final_seeds", "null_families", "diagnosed"):
        setattr(flags, name, plan.get(name))
    flags.training = [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in audit.scope.training.items()
        if value is not None
    ]


def _suite_of(audit: AuditReport) -> tuple[str, list[str] | None]:
    """Return the released suite that was tried, and its families where it was only a part of them.

    Raises:
        HfCmimError: a suite with attacks that no release has.
    """
    name = audit.scope.suite.partition(",")[0]
    if audit.scope.suite in SUITES:
        return audit.scope.suite, None
    if name in SUITES and not audit.scope.suite.endswith("+ own"):
        return name, [arm.family for arm in audit.arms if arm.role == "knockoff"]
    raise HfCmimError(
        f"The audit tried the suite {audit.scope.suite!r}, which holds attacks of its author's own: they are not in"
        " the report and cannot be trained again. Give the file of the audit with --config, with its attack: entries."
    )
