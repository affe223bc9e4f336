"""Harden a classifier as far as an accuracy budget allows, and audit how much a student can learn from it.

Trains a twin with plain cross-entropy, then hardened models from its weights, the strongest first,
and keeps the strongest whose validation accuracy is within the budget of the twin's. A quick audit
then tests twin and model on test data. Run the same command again after a kill, or with another
budget: no finished model is trained again.
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cmim.cli.audit import add_arguments as add_audit_arguments
from hf_cmim.cli.audit import add_splits_and_columns, add_student
from hf_cmim.cli.printing import say, say_lines
from hf_cmim.cli.words import name_and_value, with_config

if TYPE_CHECKING:
    from hf_cmim.report import AuditReport
    from hf_cmim.trainers.hardening.budget_report import Hardened

EXAMPLES = """\
examples:
  hf-cmim harden --model google/vit-base-patch16-224-in21k --dataset DATA --accuracy-budget 0.5
      fine-tune a checkpoint on a folder of images (DATA/train/CLASS/*.png), two to five trainings
  hf-cmim harden --model bert.json --processor TOKENIZER --dataset a.csv --set num_train_epochs=10
      a new text classifier from a configuration; a tenth of the rows is held out for testing
  hf-cmim harden --model outputs/start --dataset DATA --no-quick-audit
      only train, and audit later with hf-cmim audit
  hf-cmim harden recipes/configs/demo.yaml
      small networks and Fashion-MNIST from a YAML file with the flags' names as keys
"""
QUICK_FAMILIES = ("dist", "norm-kd")
"""Attacks of the quick audit: the strongest on every task of docs/evidence."""
QUICK_PLAN = {"looks": [3, 5, 8], "screening_seeds": 1, "final_seeds": 0, "null_families": 2, "diagnosed": 0}
MARGIN_POINTS = 0.5
TRANSFER_SAMPLES = 2_000
"""Number of training samples that the attacker of the quick audit has; ours."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; a missing flag is None."""
    parser.add_argument("config", nargs="?", help="YAML file (.yaml) with the flags' names as keys, before all flags")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="PATH",
        help="checkpoint to start from (folder or Hub id), or a transformers configuration (.json) for random weights",
    )
    model.add_argument(
        "--processor", metavar="PATH", help="image processor, tokenizer or feature extractor (that of --model)"
    )
    model.add_argument(
        "--accuracy-budget",
        metavar="POINTS",
        type=float,
        help="largest loss of validation accuracy against the twin, in points (0)",
    )
    data = parser.add_argument_group("data")
    add_splits_and_columns(data)
    data.add_argument("--max-train-samples", metavar="N", type=int, help="largest number of samples to train on")
    audit = parser.add_argument_group("quick audit")
    audit.add_argument(
        "--quick-audit", action=argparse.BooleanOptionalAction, help="audit twin and hardened model (on)"
    )
    add_student(audit)
    audit.add_argument(
        "--max-transfer-samples",
        metavar="N",
        type=int,
        help=f"training samples that the attacker has ({TRANSFER_SAMPLES:,})",
    )
    audit.add_argument(
        "--student-training",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        type=name_and_value,
        help="settings of DistillationConfig for every student",
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--set",
        dest="training",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        type=name_and_value,
        help="settings of CMIMConfig for every training: learning_rate=1e-3 num_train_epochs=10",
    )
    run.add_argument("--output-dir", metavar="DIR", help="folder of models and audit (outputs/hardened)")
    run.add_argument("--quiet", action=argparse.BooleanOptionalAction, help="show no progress bar")


def run(options: argparse.Namespace) -> None:
    """Train the models, certify the chosen one, and audit it beside its twin."""
    from accelerate import PartialState

    from hf_cmim.cli.harden_setup import HardenSetup
    from hf_cmim.cli.report import check_can_draw

    options = with_config(options, add_arguments)
    wants_audit = options.quick_audit is not False
    if wants_audit:
        check_can_draw()  # a missing package must not be noticed after the training
    setup = HardenSetup.of(options)
    setup.args.disable_tqdm = setup.args.disable_tqdm or bool(options.quiet)
    is_main = PartialState().is_main_process
    result = setup.run(say if is_main else lambda line: None)
    if is_main:
        say_lines(f"\n{result}\n")
    report = None
    if wants_audit:
        report = _audit(_audit_flags(options, setup, result))
    if is_main:
        for line in _last_lines(result, report, Path(str(setup.args.output_dir))):
            say(line)


def _audit_flags(options: argparse.Namespace, setup: Any, result: "Hardened") -> argparse.Namespace:
    """Return the flags of the same audit by `hf-cmim audit`."""
    from hf_cmim.cli.harden_setup import TEST_SHARE

    parser = argparse.ArgumentParser()
    add_audit_arguments(parser)
    flags = parser.parse_args([])
    for name, value in vars(options).items():
        if hasattr(flags, name):
            setattr(flags, name, value)
    flags.config, flags.teacher, flags.twin = None, result.model, result.twin
    flags.training = options.student_training
    flags.output_dir = str(Path(str(setup.args.output_dir)) / "audit")
    flags.families = list(QUICK_FAMILIES)
    for name, value in QUICK_PLAN.items():
        setattr(flags, name, value)
    flags.test_share = TEST_SHARE if options.test_share is None else options.test_share
    # The attacker asks about samples that the model was trained on.
    flags.attacker = ["training"]
    flags.max_transfer_samples = min(options.max_transfer_samples or TRANSFER_SAMPLES, len(setup.rows.train))
    # The finest margin that so many test samples can resolve, if half a point is finer.
    flags.margin_points = max(MARGIN_POINTS, math.ceil(1 + 30_000 / len(setup.rows.test)) / 100)
    if options.student is None and options.student_config is None:
        is_config = Path(options.model).suffix == ".json"
        flags.student, flags.student_config = (None, options.model) if is_config else (options.model, None)
    return flags


def _audit(flags: argparse.Namespace) -> "AuditReport":
    """Run the quick audit, write its pages, and bind it to the model."""
    from hf_cmim.cli.audit_setup import AuditSetup
    from hf_cmim.cli.report import write_pages
    from hf_cmim.hub.certify import certify
    from hf_cmim.hub.model_card import write_card
    from hf_cmim.report import AuditReport

    setup = AuditSetup.of(flags)
    setup.run()
    report = AuditReport.read(setup.folder)
    if setup.is_main:
        write_pages(report, setup.folder)
        write_card(Path(flags.teacher), certify(flags.teacher, audit=report))
    setup.leave()
    return report


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
    for name, facts, verdict, smallest in (
        ("Cross-entropy twin", twin.facts, twin.verdict, twin.smallest_margin),
        ("Hardened model", report.teacher, hardened.verdict, hardened.smallest_margin),
    ):
        accuracy = "" if facts is None else f"{facts.accuracy:.2%} accuracy, "
        lines.append(
            f"{name + ':':20}{accuracy}{wording.verdict_name(verdict, report.margin).lower()}"
            f" (smallest margin that holds: {points(smallest)} points)"
        )
    return [*lines, f"Model: {result.model}   Page: {folder / 'audit' / 'audit.html'}"]
