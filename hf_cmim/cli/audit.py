"""Find out whether a classifier can be distilled, by which attack, by how much, and how sure that is.

An audit trains several hundred students, on the classifier's answers and on no answers at all.
Finished students stay in --output-dir: run the same command again after a kill, or with longer
--looks, and it goes on where it was. It writes audit.json, audit.html and audit.md there.
"""

import argparse

from hf_cmim.cli.printing import say, say_lines
from hf_cmim.cli.words import name_and_value, with_config

EXAMPLES = """\
examples:
  hf-cmim audit --teacher outputs/cmim --dataset DATA --student-config student.json --dry-run
      what would be trained, how long it takes and which margin can be reached: under a minute
      for a small student, most of it for opening the data
  hf-cmim audit audit.yaml --budget 1h --dry-run
      the attacks and looks that fit into an hour, and what the verdict can then no longer say
  hf-cmim audit --teacher outputs/cmim --twin outputs/ce --dataset DATA --student-config small.json
      standard-v1: about 460 students to screen, 120 for the first look, 40 for each further seed;
      most of them once more for the twin
  hf-cmim audit audit.yaml --suite quick-v1 --looks 3 --screening-seeds 1 --final-seeds 0
      five attacks for a first look, on which no verdict should rest: about 110 students
  hf-cmim audit --teacher TEACHER --dataset DATA --student-config student.json --rest-as-test \\
          --max-transfer-samples 20000 --max-validation-samples 5000 --set num_train_epochs=10
      what is left of the train split joins the test set: a finer margin for nothing
  accelerate launch -m hf_cmim.cli.main audit audit.yaml
      the students divided among GPUs

A file gives defaults by the flags' names, and flags override it:
  teacher: outputs/cmim
  dataset: ../shared/data/fashion_mnist
  control: {sharpened: outputs/sharpened}
  looks: [3, 5, 8]
  training: {num_train_epochs: 10, learning_rate: 2.0e-3}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; what is not given is None."""
    parser.add_argument("config", nargs="?", help="YAML file (.yaml) whose keys are the flags' names, first of all")
    models = parser.add_argument_group("models")
    _add_teachers(models)
    add_student(models)
    add_data(parser.add_argument_group("data"))
    _add_plan(parser.add_argument_group("plan"))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--set",
        dest="training",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        type=name_and_value,
        help="settings of DistillationConfig, the same for every student: learning_rate=1e-3 num_train_epochs=10"
        " (a file says training: {learning_rate: 1.0e-3})",
    )
    run.add_argument("--output-dir", metavar="DIR", help="folder of students and report (outputs/audit)")
    run.add_argument(
        "--quiet", action=argparse.BooleanOptionalAction, help="no progress bar, and no lines of progress in a log"
    )
    run.add_argument(
        "--dry-run",
        action=argparse.BooleanOptionalAction,
        help="train two students for a few steps, say what the audit would train, cost and reach, and stop",
    )


def _add_teachers(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--teacher", metavar="PATH", help="the classifier: a folder or Hub id, with its processor")
    group.add_argument(
        "--twin",
        metavar="PATH",
        help="the same model trained with plain cross-entropy. An audit that cannot distil even that shows nothing",
    )
    group.add_argument(
        "--control",
        metavar="NAME=PATH",
        action="append",
        type=name_and_value,
        help="another classifier to compare with; may be repeated",
    )
    group.add_argument(
        "--channel",
        metavar="NAME",
        nargs="+",
        help="what the teacher's answers pass through, with its settings as JSON: rounded '{\"decimals\": 2}', top-k"
        " '{\"k\": 3}', argmax, sharpened, reverse-sigmoid, or PACKAGE.MODULE:CLASS. Twin and controls answer without",
    )


def add_student(group: "argparse._ArgumentGroup") -> None:
    """Add the flags that name the student."""
    group.add_argument(
        "--student-config",
        metavar="PATH",
        help="folder, Hub id or .json of a transformers configuration: new students with random weights",
    )
    group.add_argument(
        "--student",
        metavar="PATH",
        help="instead: a checkpoint that every student starts from, or PACKAGE.MODULE:FUNCTION, which returns a new"
        " student",
    )


def add_data(group: "argparse._ArgumentGroup") -> None:
    """Add the flags that name data, splits and columns."""
    group.add_argument(
        "--dataset",
        metavar="DATA",
        help="what datasets.load_dataset opens: a Hub id or a folder; or one parquet, csv, json or jsonl file",
    )
    group.add_argument("--train-split", metavar="NAME", help="what the attacker asks about (train)")
    group.add_argument("--validation-split", metavar="NAME", help="settings are chosen on it")
    group.add_argument(
        "--validation-share",
        metavar="SHARE",
        type=float,
        help="instead: share of the train split held out, always the same one (0.1)",
    )
    group.add_argument("--test-split", metavar="NAME", help="the verdict is about it (test)")
    group.add_argument("--max-transfer-samples", metavar="N", type=int, help="ask about at most so many")
    group.add_argument("--max-validation-samples", metavar="N", type=int, help="choose on at most so many")
    group.add_argument("--max-test-samples", metavar="N", type=int, help="test on at most so many")
    group.add_argument(
        "--rest-as-test",
        action=argparse.BooleanOptionalAction,
        help="add what is left of the train split to the test set; no model may have been trained on it",
    )
    group.add_argument("--image-column", metavar="NAME", help="unset: the only one, or 'image'")
    group.add_argument("--text-column", metavar="NAME", help="unset: the only one, or 'text'")
    group.add_argument("--label-column", metavar="NAME", help="unset: the only column of classes, or 'label'")


def _add_plan(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--suite", metavar="NAME", help="attacks: standard-v1 or quick-v1 (standard-v1)")
    group.add_argument("--families", metavar="NAME", nargs="+", help="only these attacks of the suite and of --attack")
    group.add_argument(
        "--attack",
        metavar="REFERENCE",
        nargs="+",
        action="append",
        help="an attack of your own beside the suite's: PACKAGE.MODULE:CLASS, then its settings as JSON, one object"
        " for each setting to try; may be repeated",
    )
    group.add_argument(
        "--criterion",
        metavar="NAME",
        help="teacher-free: a knockoff has to beat every student trained without this teacher; paper: the one with"
        " label smoothing; no-leak: its own null (teacher-free)",
    )
    group.add_argument(
        "--margin-points",
        metavar="POINTS",
        type=float,
        help="gain that counts as distilling, in points of test accuracy (0.5)",
    )
    group.add_argument(
        "--looks",
        metavar="N",
        nargs="+",
        type=int,
        help="seeds of each attack at which a verdict is tried (3 5 8 12 18 27 40); append more to continue",
    )
    group.add_argument("--screening-seeds", metavar="N", type=int, help="seeds of each setting in the screen (2)")
    group.add_argument(
        "--final-seeds", metavar="N", type=int, help="further seeds of the strongest settings before one is chosen (4)"
    )
    group.add_argument(
        "--budget",
        metavar="TIME",
        help="1h, 2h30m, 45m: fewer looks and attacks where the plan would take longer; what that leaves out is said",
    )
    group.add_argument(
        "--null-families", metavar="N", type=int, help="attacks whose label-only nulls are tuned, strongest first (6)"
    )
    group.add_argument(
        "--diagnosed", metavar="N", type=int, help="attacks whose gain is accounted for, strongest first (3)"
    )


def run(options: argparse.Namespace) -> None:
    """Audit, or say what an audit would cost."""
    from hf_cmim.cli.audit_budget import suggestions, within_budget
    from hf_cmim.cli.audit_preview import preview_text
    from hf_cmim.cli.audit_setup import AuditSetup
    from hf_cmim.cli.report import check_can_draw, write_pages
    from hf_cmim.pages.terminal import audit_table
    from hf_cmim.report import REPORT_NAME, AuditReport

    check_can_draw()  # days before the page is written
    options = with_config(options, add_arguments)
    setup = AuditSetup.of(options)
    if options.budget is not None:
        setup = within_budget(setup, options.budget)
    if setup.is_dry_run:
        preview = setup.preview()
        if setup.is_main:
            say_lines("\n".join([preview_text(preview), *suggestions(preview)]))
    else:
        setup.run()
        if setup.is_main:
            report = AuditReport.read(setup.folder)  # what `hf-cmim report` will show later
            written = write_pages(report, setup.folder)
            say_lines(f"\n{audit_table(report)}")
            say(f"Written: {', '.join(map(str, (setup.folder / REPORT_NAME, *written)))}")
            if setup.teacher.channel is None:  # else it is about an interface, not about the weights
                say(f"To bind it to the weights: hf-cmim certify {options.teacher} --audit {setup.folder}")
    setup.leave()
