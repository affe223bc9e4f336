"""Everything an audit from the command line works with, opened and checked before anything is trained."""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, final

import psutil
import torch
import transformers
from accelerate import PartialState
from torch import Tensor

from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.preview import Preview, preview_audit
from hf_cmim.audit.reporting import TWIN
from hf_cmim.audit.runner import run_audit
from hf_cmim.audit.spot_check import SpotCheck, spot_check
from hf_cmim.audit.subject import AuditData
from hf_cmim.cli.audit_data import AuditRows, open_rows
from hf_cmim.cli.audit_models import PreparedSamples, StudentBuilder, View, kind_of, open_classifier
from hf_cmim.cli.extensions import channel_of, is_reference
from hf_cmim.cli.folders import check_model_folder
from hf_cmim.cli.own_students import OwnStudents
from hf_cmim.cli.training import audit_plan, check_margin, training_settings
from hf_cmim.errors import HfCmimError
from hf_cmim.positions import usable_positions
from hf_cmim.report import AuditReport
from hf_cmim.teachers import ModelTeacher, match_classes
from hf_cmim.trainers.distillation_config import DistillationConfig
from hf_cmim.trainers.launch import check_launch

OUTPUT_DIR = "outputs/audit"
MEMORY_SHARE = 0.25
"""Share of the free memory in which prepared samples are kept, over all processes of a machine; ours."""


def student_batch(samples: list[dict[str, Any]], view: View) -> dict[str, Tensor]:
    """Collate samples as the student sees them, with labels."""
    return view.batch([each["student"] for each in samples]) | {
        "labels": torch.tensor([each["labels"] for each in samples])
    }


def teacher_batch(samples: list[dict[str, Any]], view: View) -> dict[str, Tensor]:
    """Collate samples as the teacher sees them."""
    return view.batch([each["teacher"] for each in samples])


@final
@dataclass(frozen=True)
class AuditSetup:
    """What `run_audit` is given.

    Attributes:
        is_dry_run: whether only a preview is asked for.
        plan: what to try.
        args: how students are trained.
        teacher: the audited classifier.
        twin: its cross-entropy twin, or None.
        controls: others, by name.
        student: builds students.
        data: prepared samples.
        view: how the teachers see a sample.
    """

    is_dry_run: bool
    plan: AuditPlan
    args: DistillationConfig
    teacher: ModelTeacher
    twin: ModelTeacher | None
    controls: dict[str, ModelTeacher]
    student: StudentBuilder | OwnStudents
    data: AuditData
    view: View

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """Open and check what the flags name, cheap things first.

        Raises:
            HfCmimError: anything that cannot be audited as asked.
        """
        _check_given(options)
        plan = audit_plan(options)
        is_checkpoint = options.student is not None and not is_reference(options.student)
        args = training_settings(options.training, options.output_dir or OUTPUT_DIR, from_checkpoint=is_checkpoint)
        args.disable_tqdm = args.disable_tqdm or bool(options.quiet)
        # After the settings, whose progress bars follow the verbosity.
        transformers.logging.set_verbosity_error()  # a student's checkpoint would be reported on for every student
        transformers.logging.disable_progress_bar()
        check_launch(args.world_size)
        others = {name: (path, f"--control {name}") for name, path in options.control or ()}
        if options.twin is not None:
            others[TWIN] = (options.twin, "--twin")
        channel = None if options.channel is None else channel_of(options.channel)
        check_model_folder(options.teacher, "--teacher")
        for path, flag in others.values():
            check_model_folder(path, flag)
        if is_checkpoint:
            check_model_folder(options.student, "--student")
        with args.main_process_first(desc="opening models and data"):
            teacher = open_classifier(options.teacher, "--teacher", args.device)
            if channel is not None:
                teacher = ModelTeacher(teacher.model, channel=channel)
            kind = kind_of(teacher)
            rows = open_rows(options, kind, teacher.class_names)
            opened = {name: open_classifier(path, flag, args.device) for name, (path, flag) in others.items()}
            view = View.of(options.teacher, kind).limited_to(usable_positions(teacher.model))
            for name, each in opened.items():
                _check_same_view(
                    view,
                    View.of(others[name][0], kind_of(each)).limited_to(usable_positions(each.model)),
                    others[name],
                )
        check_margin(plan, len(rows.test))
        names = list(rows.classes.values())
        for each in (teacher, *opened.values()):
            match_classes(each.class_names, names)
        sample = view.prepare(rows.transfer[:1][rows.sample_column])[0]
        student = _students(options, names, view, sample)
        student.check(student.view.prepare(rows.transfer[:1][rows.sample_column])[0])
        data = _prepared(rows, student, view, quiet=args.disable_tqdm or not PartialState().is_main_process)
        twin = opened.pop(TWIN, None)
        return cls(bool(options.dry_run), plan, args, teacher, twin, opened, student, data, view)

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return bool(PartialState().is_main_process)

    @property
    def folder(self) -> Path:
        """Where everything is kept."""
        return Path(str(self.args.output_dir))

    def run(self) -> None:
        """Audit; the report is in the folder."""
        run_audit(self.teacher, self.student, self.args, self.data, self.plan, **self._others())

    def spot_check(self, report: AuditReport, count: int) -> list[SpotCheck]:
        """Train some students of a finished audit of this teacher again."""
        others = self._others()
        collators = {name: others[name] for name in ("data_collator", "teacher_collator")}
        return spot_check(report, self.teacher, self.student, self.args, self.data, self.plan, count, **collators)

    def preview(self) -> Preview:
        """Say what an audit would train and cost."""
        return preview_audit(self.teacher, self.student, self.args, self.data, self.plan, **self._others())

    def _others(self) -> dict[str, Any]:
        has_own_view = self.student.view is not self.view
        return {
            "twin": None if self.twin is None else self.twin.model,
            "controls": {name: each.model for name, each in self.controls.items()},
            "data_collator": partial(student_batch, view=self.student.view),
            "teacher_collator": partial(teacher_batch, view=self.view) if has_own_view else None,
        }

    def leave(self) -> None:
        """Let every process of a launch end together: one that leaves early can hang the others."""
        state = PartialState()
        state.wait_for_everyone()
        state.destroy_process_group()


def _students(
    options: argparse.Namespace, names: list[str], view: View, sample: dict[str, Any]
) -> StudentBuilder | OwnStudents:
    """Return what builds students: a function of the user's, a checkpoint or a configuration."""
    if is_reference(options.student):
        return OwnStudents(options.student, names, view)
    return StudentBuilder(options, names, view, sample)


def _check_given(options: argparse.Namespace) -> None:
    missing = [flag for flag in ("teacher", "dataset") if getattr(options, flag) is None]
    if missing:
        raise HfCmimError(
            f"Expected {' and '.join(f'--{flag}' for flag in missing)}, got nothing: an audit needs a classifier and"
            " labelled data. hf-cmim audit --help shows whole commands."
        )
    if (options.student is None) == (options.student_config is None):
        got = "neither" if options.student is None else f"{options.student!r} and {options.student_config!r}"
        raise HfCmimError(
            f"Expected one of --student (a checkpoint to start from) and --student-config (new students), got {got}:"
            " a verdict is about one kind of student. A small student is a .json such as"
            ' {"model_type": "vit", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4,'
            ' "num_attention_heads": 4, "patch_size": 4}.'
        )
    if options.validation_split is not None and options.validation_share is not None:
        raise HfCmimError(
            f"Expected one of --validation-split and --validation-share, got {options.validation_split!r} and"
            f" {options.validation_share:g}: one of them would be ignored. Leave one out."
        )
    taken = [name for name, _ in options.control or () if name in ("teacher", TWIN)]
    if taken:
        raise HfCmimError(
            f"Expected another name for a control than {taken[0]!r}: it would stand in the place of the teacher or its"
            " twin. The twin trained with plain cross-entropy is --twin."
        )


def _check_same_view(view: View, other: View, given: tuple[str, str]) -> None:
    if view.kind != other.kind or view.settings() != other.settings():
        path, flag = given
        raise HfCmimError(
            f"Expected {flag} to see samples as --teacher does, got another processor in {path}: all classifiers of an"
            " audit are asked about the same view. Audit it by itself, and compare with hf-cmim report A B."
        )


def _prepared(rows: AuditRows, student: StudentBuilder | OwnStudents, view: View, *, quiet: bool) -> AuditData:
    """Return the samples as student and teacher see them."""
    views = {"student": student.view}
    if student.view is not view:
        views["teacher"] = view
    numbers = {value: student.config.label2id[name] for value, name in rows.classes.items()}
    parts = (rows.transfer, rows.validation, rows.test)
    total = sum(map(len, parts))
    room = MEMORY_SHARE * psutil.virtual_memory().available / PartialState().num_processes
    transfer, validation, test = (
        PreparedSamples(
            part,
            (rows.sample_column, rows.label_column),
            numbers,
            views,
            room=room * len(part) / total,
            name="" if quiet else f"{name} set",
        )
        for part, name in zip(parts, ("transfer", "validation", "test"), strict=True)
    )
    return AuditData(transfer, validation, test, rows.names)
