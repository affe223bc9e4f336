"""Audit a hardened and a plain vision transformer on real digits, in minutes.

Both models are read from --models, where `python recipes/digits_demo.py` saves them; `make demo`
trains and audits them. The suite is quick-v1 (five attacks), the student a perceptron. The audit
ends without a verdict: 450 test digits are too few for the default margin. For a real audit, use
`hf-cmim audit`.
"""

import argparse
from pathlib import Path

from hf_cmim.cli.printing import say_lines
from hf_cmim.errors import HfCmimError
from hf_cmim.whole_files import write_whole

EXAMPLES = """\
examples:
  make demo       train both models, then audit them
  hf-cmim demo    audit them again, or continue after a kill: about 3 minutes on 2 cores
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("outputs/digits_demo"),
        help="folder with the checkpoints hardened/ and plain/ (%(default)s)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("outputs/digits_demo/audit"),
        help="folder of students and report; delete it to start again (%(default)s)",
    )
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each student (%(default)s)")
    parser.add_argument(
        "--looks", type=int, nargs="+", default=[3, 5], help="numbers of seeds at which verdicts are tried"
    )


def run(options: argparse.Namespace) -> None:
    """Audit the hardened model, with the plain one as its control.

    Raises:
        HfCmimError: a missing model.
    """
    missing = [name for name in ("hardened", "plain") if not (options.models / name / "config.json").is_file()]
    if missing:
        raise HfCmimError(
            f"Expected checkpoints hardened/ and plain/ in {options.models}, got no {' and no '.join(missing)}: there"
            " is no model to audit. Train both with `make demo` or `python recipes/digits_demo.py`."
        )
    import torch
    from accelerate import PartialState
    from transformers.utils import logging

    from hf_cmim.audit.plan import AuditPlan
    from hf_cmim.audit.runner import run_audit
    from hf_cmim.audit.subject import AuditData
    from hf_cmim.cli.digits import Perceptron, load_splits
    from hf_cmim.hub.certify import certify
    from hf_cmim.hub.model_card import write_card
    from hf_cmim.pages.html import audit_page
    from hf_cmim.pages.terminal import audit_table
    from hf_cmim.trainers.distillation.distillation_config import DistillationConfig

    # A student this small is no faster with more threads, and bars of loaded checkpoints would hide the table.
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    args = DistillationConfig(
        output_dir=str(options.output_dir),
        num_train_epochs=options.epochs,
        learning_rate=0.01,
        warmup_steps=0.1,
        per_device_train_batch_size=128,
        per_device_eval_batch_size=512,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    names = ("1,078 digits of scikit-learn", "269 other digits", "450 other digits")
    plan = AuditPlan(suite="quick-v1", looks=tuple(options.looks), null_families=2, diagnosed=1)
    report = run_audit(
        str(options.models / "hardened"),
        Perceptron,
        args,
        AuditData(*load_splits(), names=names),
        plan,
        twin=str(options.models / "plain"),
        title="Digits demo: a hardened vision transformer",
        student_name="perceptron with 32 hidden units",
    )
    if PartialState().is_main_process:
        page: Path = options.output_dir / "audit.html"
        write_whole(page, audit_page(report))
        hardened = options.models / "hardened"
        write_card(hardened, certify(hardened, audit=report))
        say_lines(
            f"\n{audit_table(report)}\nThe whole report, with pictures: {page}\nThe hardened model with its card and"
            f" its certificate: {hardened}. Verify it with: hf-cmim verify {hardened}"
        )
