"""Test if a classifier can be distilled, by which attacks, by how much and how certainly.

An audit trains several hundred students, with and without the classifier's answers. Finished
students are stored in --output-dir: run the same command again after a kill, or with more --looks,
and it continues where it stopped. It writes audit.json, audit.html and audit.md there.
"""

import argparse
from typing import TYPE_CHECKING

from hf_cmim.cli.printing import say, say_lines
from hf_cmim.cli.report import COMPARISON_NAME
from hf_cmim.cli.words import name_and_value, with_config

if TYPE_CHECKING:
    from hf_cmim.cli.audit_setup import AuditSetup

EXAMPLES = """\
examples:
  hf-cmim audit --teacher outputs/cmim --dataset DATA --student-config student.json --dry-run
      number of students, hours and reachable margin: under a minute for a small student, most of
      it for opening the data
  hf-cmim audit audit.yaml --budget 1h --dry-run
      the attacks and looks that fit into an hour, and the limits of the verdict then
  hf-cmim audit --teacher outputs/cmim --twin outputs/ce --dataset DATA --student-config small.json
      standard-v2: about 560 students to screen, 120 for the first look, 40 for each further seed,
      and most of them again for the twin
  hf-cmim audit audit.yaml --suite quick-v2 --looks 3 --screening-seeds 1 --final-seeds 0
      five attacks for a first impression, too few for a verdict: about 160 students
  hf-cmim audit --teacher TEACHER --dataset DATA --student-config student.json --rest-as-test \\
          --max-transfer-samples 20000 --max-validation-samples 5000 --set num_train_epochs=10
      the unused part of the train split joins the test set: a finer margin at no cost
  accelerate launch -m hf_cmim.cli.main audit audit.yaml
      the students distributed over GPUs

  hf-cmim audit audit.yaml --attacker training own own:0.1 --own-split extra
      a verdict for each of three attackers, in one report
  hf-cmim audit audit.yaml --students small=small.json same=outputs/cmim/config.json
      a verdict for a small student and for one of the teacher's own architecture

A YAML file gives defaults by the names of the flags. Flags override the file:
  teacher: outputs/cmim
  dataset: ../shared/data/fashion_mnist
  control: {sharpened: outputs/sharpened}
  looks: [3, 5, 8]
  training: {num_train_epochs: 10, learning_rate: 2.0e-3}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; a missing flag is None."""
    parser.add_argument("config", nargs="?", help="YAML file (.yaml) with the flags' names as keys, before all flags")
    models = parser.add_argument_group("models")
    _add_teachers(models)
    add_student(models)
    models.add_argument(
        "--students",
        metavar="NAME=PATH",
        nargs="+",
        action="extend",
        type=name_and_value,
        help="several students instead of one, each audited in OUTPUT_DIR/NAME, and a page that compares them:"
        " small=small.json same=TEACHER/config.json; a path that is no .json file is a --student",
    )
    data = parser.add_argument_group("data")
    add_data(data)
    _add_attackers(data)
    _add_plan(parser.add_argument_group("plan"))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--set",
        dest="training",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        type=name_and_value,
        help="settings of DistillationConfig for every student: learning_rate=1e-3 num_train_epochs=10 (in a file,"
        " training: {learning_rate: 1.0e-3})",
    )
    run.add_argument("--output-dir", metavar="DIR", help="folder of students and report (outputs/audit)")
    run.add_argument(
        "--quiet", action=argparse.BooleanOptionalAction, help="show no progress bar and no lines of progress"
    )
    run.add_argument(
        "--dry-run",
        action=argparse.BooleanOptionalAction,
        help="train two students for a few steps, print number of students, hours and reachable margin, and stop",
    )


def _add_teachers(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--teacher", metavar="PATH", help="classifier to audit: a folder or Hub id, with its processor")
    group.add_argument(
        "--twin",
        metavar="PATH",
        help="the same model trained with plain cross-entropy, the positive control: an audit that cannot distil it"
        " shows nothing",
    )
    group.add_argument(
        "--control",
        metavar="NAME=PATH",
        action="append",
        type=name_and_value,
        help="another classifier to compare with (repeatable)",
    )
    group.add_argument(
        "--channel",
        metavar="NAME",
        nargs="+",
        help="channel that changes the teacher's answers, with settings as JSON: rounded '{\"decimals\": 2}', top-k"
        " '{\"k\": 3}', argmax, sharpened, reverse-sigmoid, class-answers (fitted on the validation split), or"
        " PACKAGE.MODULE:CLASS. Not for twin and controls",
    )


def add_student(group: "argparse._ArgumentGroup") -> None:
    """Add the flags of the student."""
    group.add_argument(
        "--student-config",
        metavar="PATH",
        help="transformers configuration (folder, Hub id or .json file) for students with random weights",
    )
    group.add_argument(
        "--student",
        metavar="PATH",
        help="instead of --student-config: checkpoint from which every student starts, or PACKAGE.MODULE:FUNCTION that"
        " returns a new student",
    )


def add_data(group: "argparse._ArgumentGroup") -> None:
    """Add the flags of an audit's data."""
    add_splits_and_columns(group)
    group.add_argument("--max-transfer-samples", metavar="N", type=int, help="largest number of samples to ask about")
    group.add_argument(
        "--rest-as-test",
        action=argparse.BooleanOptionalAction,
        help="add the unused rows of the train split to the test set; no model may have been trained on them",
    )


def add_splits_and_columns(group: "argparse._ArgumentGroup") -> None:
    """Add the flags of a data set, its splits and columns."""
    group.add_argument(
        "--dataset",
        metavar="DATA",
        help="Hub id or folder for datasets.load_dataset, or one parquet, csv, json or jsonl file",
    )
    group.add_argument("--dataset-config", metavar="NAME", help="configuration of a data set that has several")
    group.add_argument("--train-split", metavar="NAME", help="split to train on, or to ask about (train)")
    group.add_argument("--validation-split", metavar="NAME", help="split on which settings are chosen")
    group.add_argument(
        "--validation-share",
        metavar="SHARE",
        type=float,
        help="instead of --validation-split: share of the train split to hold out, always the same rows (0.1)",
    )
    group.add_argument("--test-split", metavar="NAME", help="split to test on (test)")
    group.add_argument(
        "--test-share",
        metavar="SHARE",
        type=float,
        help="share of the remaining train rows to hold out for testing if the data have no test split",
    )
    group.add_argument(
        "--max-validation-samples", metavar="N", type=int, help="largest number of samples to choose settings on"
    )
    group.add_argument("--max-test-samples", metavar="N", type=int, help="largest number of test samples")
    group.add_argument("--image-column", metavar="NAME", help="column of images (the only one, or 'image')")
    group.add_argument("--text-column", metavar="NAME", help="column of texts (the only one, or 'text')")
    group.add_argument("--audio-column", metavar="NAME", help="column of sounds (the only one, or 'audio')")
    group.add_argument(
        "--label-column", metavar="NAME", help="column of labels (the only column of classes, or 'label')"
    )


def _add_attackers(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--attacker",
        metavar="NAME[:SHARE]",
        nargs="+",
        action="extend",
        help="attackers by the samples that they have, each with its own verdict. training: the train split, if the"
        " teacher was trained on it; own: the rows of --own-split; own-unlabelled: these without labels; own:0.25: a"
        " quarter of them (the train split, of which nothing is known)",
    )
    group.add_argument(
        "--own-data",
        metavar="DATA",
        help="data of an attacker with data of its own, with the columns of --dataset (--dataset)",
    )
    group.add_argument(
        "--own-split", metavar="NAME", help="split of these data; no teacher was trained on it (train of --own-data)"
    )


def _add_plan(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--suite", metavar="NAME", help="suite of attacks: standard-v2 or quick-v2 (standard-v2)")
    group.add_argument("--families", metavar="NAME", nargs="+", help="only these attacks of the suite and of --attack")
    group.add_argument(
        "--attack",
        metavar="REFERENCE",
        nargs="+",
        action="append",
        help="your own attack in addition to the suite: PACKAGE.MODULE:CLASS, then one JSON object for each setting to"
        " try (repeatable)",
    )
    group.add_argument(
        "--criterion",
        metavar="NAME",
        help="reference that a knockoff has to beat. teacher-free: every student trained without this teacher; paper:"
        " the student with label smoothing; no-leak: its own null; beyond-labels: every student trained without this"
        " teacher or only on its labels (teacher-free)",
    )
    group.add_argument(
        "--margin-points",
        metavar="POINTS",
        type=float,
        help="smallest gain that counts as distilling, in points of test accuracy (0.5)",
    )
    group.add_argument(
        "--looks",
        metavar="N",
        nargs="+",
        type=int,
        help="numbers of seeds per attack at which a verdict is tried (3 5 8 12 18 27 40); append more to continue an"
        " audit",
    )
    group.add_argument("--screening-seeds", metavar="N", type=int, help="seeds of each setting in the screen (2)")
    group.add_argument(
        "--final-seeds", metavar="N", type=int, help="further seeds of the strongest settings before one is chosen (4)"
    )
    group.add_argument(
        "--budget",
        metavar="TIME",
        help="time limit such as 1h, 2h30m or 45m: drops looks and attacks of a longer plan, and prints them",
    )
    group.add_argument(
        "--null-families",
        metavar="N",
        type=int,
        help="number of attacks whose label-only nulls are tuned, strongest first (6)",
    )
    group.add_argument(
        "--diagnosed", metavar="N", type=int, help="number of attacks whose gain is accounted for, strongest first (3)"
    )


def run(options: argparse.Namespace) -> None:
    """Run the audit of each student, or print a preview of its cost."""
    from hf_cmim.cli.audit_setup import AuditSetup
    from hf_cmim.cli.report import check_can_draw, write_comparison
    from hf_cmim.cli.several_students import options_of_students

    # Before the audit: a missing package must not be noticed days later.
    check_can_draw()
    students = options_of_students(with_config(options, add_arguments))
    # All are opened before the first is trained, so that a mistake in the last one comes at once.
    setups = {name: AuditSetup.of(each) for name, each in students.items()}
    for name, setup in setups.items():
        if name and setup.is_main:
            say(f"Student {name}")
        _run_one(setup, students[name])
    *_, setup = setups.values()
    if len(setups) > 1 and setup.is_main and not setup.is_dry_run:
        folders = [each.folder for each in setups.values()]
        say(f"All students side by side: {write_comparison(folders, setup.folder.parent / COMPARISON_NAME)}")
    # Reached by every process of a launch, printing or not.
    setup.leave()


def _run_one(setup: "AuditSetup", options: argparse.Namespace) -> None:
    """Run the audit of one student, or print a preview."""
    from hf_cmim.cli.audit_budget import suggestions, within_budget
    from hf_cmim.cli.audit_preview import preview_text
    from hf_cmim.cli.report import write_pages
    from hf_cmim.pages.terminal import audit_table
    from hf_cmim.report import REPORT_NAME, AuditReport

    if options.budget is not None:
        setup = within_budget(setup, options.budget)
    if setup.is_dry_run:
        preview = setup.audit.preview()
        if setup.is_main:
            say_lines("\n".join([preview_text(preview), *suggestions(preview)]))
        return
    setup.run()
    if setup.is_main:
        # From the file, so that pages show the same as those of `hf-cmim report` later.
        report = AuditReport.read(setup.folder)
        files = [setup.folder / REPORT_NAME, *write_pages(report, setup.folder), *setup.files]
        say_lines(f"\n{audit_table(report)}")
        say(f"Written: {', '.join(map(str, files))}")
        # An audit through a channel is about an interface, not about the weights.
        if setup.channel is None:
            say(f"To bind it to the weights: hf-cmim certify {options.teacher} --audit {setup.folder}")
