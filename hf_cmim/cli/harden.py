"""Harden a classifier as far as an accuracy budget allows, and audit what a student learns from it.

Trains a twin with plain cross-entropy, then one to three hardened models, the strongest first, and
keeps the strongest whose validation accuracy is within the budget of the twin's. A quick audit then
tests twin and model on test data. Run the same command again after a kill, or with another budget:
no finished model is trained again.
"""

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cmim.cli.audit_flags import AuditFlags, SplitFlags
from hf_cmim.cli.flags import add_config, add_groups, read_flags
from hf_cmim.cli.harden_flags import GROUPS, TRANSFER_SAMPLES, HardenFlags
from hf_cmim.cli.printing import say, say_lines

if TYPE_CHECKING:
    from hf_cmim.cli.harden_setup import HardenSetup
    from hf_cmim.report import AuditReport
    from hf_cmim.trainers.hardening.budget_report import Hardened

EXAMPLES = """\
examples:
  hf-cmim harden --model google/vit-base-patch16-224-in21k --dataset DATA --accuracy-budget 0.5
      fine-tune a checkpoint on a folder of images (DATA/train/CLASS/*.png), two to four trainings
  hf-cmim harden --model bert.json --processor TOKENIZER --dataset a.csv --set num_train_epochs=10
      a new text classifier from a configuration; a tenth of the rows is held out for testing
  hf-cmim harden --model outputs/start --dataset DATA --no-quick-audit
      only train, and audit later with hf-cmim audit
  hf-cmim harden recipes/configs/demo.yaml
      small networks and Fashion-MNIST from a YAML file with the flags' names as keys
"""
QUICK_FAMILIES = ("dist", "norm-kd")
"""Attacks of the quick audit: the strongest on every task of docs/evidence."""
QUICK_PLAN: dict[str, Any] = {
    "looks": [3, 5, 8],
    "screening_seeds": 1,
    "final_seeds": 0,
    "null_families": 2,
    "diagnosed": 0,
}
MARGIN_POINTS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; a missing flag is None."""
    add_config(parser)
    add_groups(parser, GROUPS)


def run(options: argparse.Namespace) -> None:
    """Train the models, certify the chosen one, and audit it beside its twin."""
    harden_and_audit(read_flags(options, HardenFlags))


def harden_and_audit(flags: HardenFlags) -> "tuple[Hardened, AuditReport | None]":
    """Train the models, certify the chosen one, audit it beside its twin, and print the results.

    Returns:
        The models, and the report of the audit, or None if the flags ask for no audit.

    Raises:
        HfCmimError: flags, a model or data that cannot be used, or no hardened model within the budget.
    """
    from accelerate import PartialState

    from hf_cmim.cli.audit_setup import checked_students
    from hf_cmim.cli.harden_setup import HardenSetup
    from hf_cmim.cli.processes import wants_processes
    from hf_cmim.cli.report import check_can_draw

    wants_processes(flags.processes)  # refuses a wrong number now, and not after the training
    wants_audit = flags.quick_audit is not False
    if wants_audit:
        check_can_draw()  # a missing package must not be noticed after the training
    setup = HardenSetup.of(flags)
    if wants_audit:
        student, student_config = _student_of(flags)
        # Nor a student that cannot read the data.
        checked_students(AuditFlags(student=student, student_config=student_config), setup.builder.view, setup.rows)
    setup.args.disable_tqdm = setup.args.disable_tqdm or bool(flags.quiet)
    is_main = PartialState().is_main_process
    result = setup.run(say if is_main else lambda line: None)
    if is_main:
        say_lines(f"\n{result}\n")
    report = None
    if wants_audit:
        report = _audit(result.model, _audit_flags(flags, setup, result))
    if is_main:
        for line in _last_lines(result, report, Path(str(setup.args.output_dir))):
            say(line)
    return result, report


def _audit_flags(flags: HardenFlags, setup: "HardenSetup", result: "Hardened") -> AuditFlags:
    """Return the flags of the same audit by `hf-cmim audit`."""
    from hf_cmim.cli.harden_setup import TEST_SHARE

    data = {setting.name: getattr(flags, setting.name) for setting in fields(SplitFlags)}
    if flags.test_share is None:
        data["test_share"] = TEST_SHARE
    student, student_config = _student_of(flags)
    return AuditFlags(
        **data,
        teacher=result.model,
        twin=result.twin,
        student=student,
        student_config=student_config,
        # The attacker asks about samples that the model was trained on.
        attacker=["training"],
        max_transfer_samples=min(flags.max_transfer_samples or TRANSFER_SAMPLES, len(setup.rows.train)),
        families=list(QUICK_FAMILIES),
        # The finest margin that so many test samples can resolve, if half a point is finer.
        margin_points=max(MARGIN_POINTS, math.ceil(1 + 30_000 / len(setup.rows.test)) / 100),
        **QUICK_PLAN,
        training=flags.student_training,
        output_dir=str(Path(str(setup.args.output_dir)) / "audit"),
        processes=flags.processes,
        quiet=flags.quiet,
    )


def _student_of(flags: HardenFlags) -> tuple[str | None, str | None]:
    """Return `student` and `student_config` of the audit: those given, or those of the model's own kind."""
    if flags.student is not None or flags.student_config is not None:
        return flags.student, flags.student_config
    is_config = Path(str(flags.model)).suffix == ".json"
    return (None, flags.model) if is_config else (flags.model, None)


def _audit(model: str, flags: AuditFlags) -> "AuditReport":
    """Run the quick audit, write its pages, and bind it to the model."""
    from hf_cmim.cli.audit_setup import AuditSetup
    from hf_cmim.cli.processes import audit_in_processes, wants_processes
    from hf_cmim.report import AuditReport

    folder = Path(str(flags.output_dir))
    if wants_processes(flags.processes):
        audit_in_processes(flags, prints=False)
        report = AuditReport.read(folder)
        _bind(report, folder, model)
        return report
    setup = AuditSetup.of(flags)
    setup.run()
    report = AuditReport.read(folder)
    if setup.is_main:
        _bind(report, folder, model)
    setup.leave()
    return report


def _bind(report: "AuditReport", folder: Path, model: str) -> None:
    """Write the report's pages, and certificate and card of the model."""
    from hf_cmim.cli.report import write_pages
    from hf_cmim.hub.certify import certify
    from hf_cmim.hub.model_card import write_card

    write_pages(report, folder)
    write_card(Path(model), certify(model, audit=report))


def _last_lines(result: "Hardened", report: "AuditReport | None", folder: Path) -> list[str]:
    """Return the result in a few lines."""
    if report is None:
        return [
            f"Hardened model: {result.model}. Its twin: {result.twin}.",
            f"To test both: hf-cmim audit --teacher {result.model} --twin {result.twin} --dataset DATA"
            " --student-config student.json",
        ]
    from hf_cmim.pages import wording
    from hf_cmim.pages.quantities import points

    lines = []
    (twin,) = (control for control in report.controls if control.facts == report.twin)
    hardened = report.primary
    for name, facts, verdict, checks, smallest in (
        ("Cross-entropy twin", twin.facts, twin.verdict, twin.checks, twin.smallest_margin),
        ("Hardened model", report.teacher, hardened.verdict, report.checks, hardened.smallest_margin),
    ):
        accuracy = "" if facts is None else f"{facts.accuracy:.2%} accuracy, "
        result_text = wording.no_verdict(checks) or (
            f"{wording.verdict_name(verdict, report.margin)} (smallest margin that holds: {points(smallest)} points)"
        )
        lines.append(f"{name + ':':20}{accuracy}{result_text.lower()}")
    return [*lines, f"Model: {result.model}   Page: {folder / 'audit' / 'audit.html'}"]
