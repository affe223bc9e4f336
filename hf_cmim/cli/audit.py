"""Test if a classifier can be distilled, by which attacks, by how much and how certainly.

An audit trains several hundred students, with and without the classifier's answers. Finished
students are stored in --output-dir: run the same command again after a kill, or with more --looks,
and it continues where it stopped. It writes audit.json, audit.html and audit.md there.
"""

import argparse
from typing import TYPE_CHECKING

from hf_cmim.cli.audit_flags import GROUPS, AuditFlags
from hf_cmim.cli.flags import add_config, add_groups, read_flags
from hf_cmim.cli.printing import say, say_lines
from hf_cmim.cli.report import COMPARISON_NAME

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
  hf-cmim audit audit.yaml --processes 8
      the students distributed over 8 threads of the CPU
  accelerate launch -m hf_cmim.cli.main audit audit.yaml
      the students distributed over GPUs

  hf-cmim audit audit.yaml --attacker training own own:0.1 --own-split extra
      a verdict for each of three attackers, in one report
  hf-cmim audit audit.yaml --students small=small.json same=outputs/cmim/config.json
      a verdict for a small student and for one of the teacher's own architecture
  hf-cmim audit audit.yaml --control smoothed=outputs/ls --defence argmax 'top-k:{"k": 3}'
      which defence is worth its price: one table and one picture

A YAML file gives defaults by the names of the flags. Flags override the file:
  teacher: outputs/cmim
  dataset: ../shared/data/fashion_mnist
  control: {sharpened: outputs/sharpened}
  looks: [3, 5, 8]
  training: {num_train_epochs: 10, learning_rate: 2.0e-3}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; a missing flag is None."""
    add_config(parser)
    add_groups(parser, GROUPS)


def run(options: argparse.Namespace) -> None:
    """Run the audit of each student, or print a preview of its cost."""
    from hf_cmim.cli.audit_setup import AuditSetup
    from hf_cmim.cli.processes import audit_in_processes, wants_processes
    from hf_cmim.cli.report import check_can_draw, write_comparison
    from hf_cmim.cli.several_students import flags_of_students

    # Before the audit: a missing package must not be noticed days later.
    check_can_draw()
    flags = read_flags(options, AuditFlags)
    if wants_processes(flags.processes):
        audit_in_processes(flags, prints=True)
        return
    students = flags_of_students(flags)
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


def _run_one(setup: "AuditSetup", flags: AuditFlags) -> None:
    """Run the audit of one student, or print a preview."""
    from hf_cmim.cli.audit_budget import suggestions, within_budget
    from hf_cmim.cli.audit_preview import preview_text
    from hf_cmim.cli.processes import suggested_processes
    from hf_cmim.cli.report import write_pages
    from hf_cmim.pages.terminal import audit_table
    from hf_cmim.report import REPORT_NAME, AuditReport

    if flags.budget is not None:
        setup = within_budget(setup, flags.budget)
    if setup.is_dry_run:
        preview = setup.audit.preview()
        if setup.is_main:
            more = suggested_processes(preview.costs.processes, setup.audit.args.device)
            say_lines("\n".join([preview_text(preview), *suggestions(preview), *more]))
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
            say(f"To bind it to the weights: hf-cmim certify {flags.teacher} --audit {setup.folder}")
