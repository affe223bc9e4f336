"""Models, data and settings of an audit from the command line, opened and checked before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, final

import psutil
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor

from hf_cmim.audit.audit import Audit
from hf_cmim.audit.inputs import TWIN, AuditData, AuditModels, Teacher
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.channels import AbstractChannel, AbstractFittedChannel
from hf_cmim.cli.audit_channel import fitted_channel
from hf_cmim.cli.audit_defences import defences_of, defended, file_name_of
from hf_cmim.cli.audit_flags import AuditFlags
from hf_cmim.cli.audit_models import StudentBuilder, open_classifier
from hf_cmim.cli.extensions import channel_of, is_reference
from hf_cmim.cli.folders import check_model_folder
from hf_cmim.cli.own_students import OwnStudents
from hf_cmim.cli.training import audit_plan, check_margin, training_settings
from hf_cmim.data.prepared import PreparedSamples
from hf_cmim.data.rows import DataRows, DataSource, open_own_rows, open_rows
from hf_cmim.data.views import View, kind_of
from hf_cmim.errors import HfCmimError
from hf_cmim.positions import usable_positions
from hf_cmim.teachers import ModelTeacher, match_classes
from hf_cmim.trainers.shared.launch import check_launch

OUTPUT_DIR = "outputs/audit"
MEMORY_SHARE = 0.25
"""Share of the free memory for prepared samples, all processes of a machine together; ours."""


def audited_source(flags: AuditFlags) -> DataSource:
    """Return the data given by flags, whose train split an attacker asks about."""
    return DataSource.of(flags, max_train_samples=flags.max_transfer_samples, train_name="transfer")


def own_rows(flags: AuditFlags, plan: AuditPlan, rows: DataRows, kind: str) -> tuple[Dataset, str]:
    """Return the rows of an attacker with data of its own, given by flags, and their name.

    Raises:
        HfCmimError: missing flags, or data that cannot be opened.
    """
    split = flags.own_split or (None if flags.own_data is None else "train")
    if split is None:
        raise HfCmimError(
            "An attacker with data of its own has no data: no student can learn. Give --own-split, or --own-data."
        )
    is_labelled = any(attacker.origin == "own" for attacker in plan.attackers)
    return open_own_rows(audited_source(flags), rows, kind, flags.own_data, split, is_labelled=is_labelled)


def student_batch(samples: list[dict[str, Any]], view: View) -> dict[str, Tensor]:
    """Collate samples in the student's view, with labels."""
    inputs = view.batch([sample["student"] for sample in samples])
    return inputs | {"labels": torch.tensor([sample["labels"] for sample in samples])}


def teacher_batch(samples: list[dict[str, Any]], view: View) -> dict[str, Tensor]:
    """Collate samples in the teacher's view."""
    return view.batch([sample["teacher"] for sample in samples])


@final
@dataclass(frozen=True)
class AuditSetup:
    """An audit as its flags describe it.

    Attributes:
        audit: audit with opened models and prepared samples.
        is_dry_run: True if only a preview is requested.
    """

    audit: Audit
    is_dry_run: bool

    @classmethod
    def of(cls, flags: AuditFlags) -> Self:
        """Open and check models, data and settings given by flags, cheap checks first.

        Raises:
            HfCmimError: flags, models or data that cannot be audited.
        """
        _check_given(flags)
        assert flags.teacher is not None  # _check_given has refused its lack
        plan = audit_plan(flags)
        checkpoint = None if is_reference(flags.student) else flags.student
        args = training_settings(
            flags.training, flags.output_dir or OUTPUT_DIR, from_checkpoint=checkpoint is not None
        )
        args.disable_tqdm = args.disable_tqdm or bool(flags.quiet)
        # After the settings, because their progress bars follow the verbosity. Without it, transformers would report
        # on the loading of a checkpoint for every student.
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        check_launch(args.world_size)
        control_paths = _control_paths(flags)
        channel = None if flags.channel is None else channel_of(flags.channel)
        defences = defences_of(flags.defence or (), control_paths)
        check_model_folder(flags.teacher, "--teacher")
        for path, flag in control_paths.values():
            check_model_folder(path, flag)
        if checkpoint is not None:
            check_model_folder(checkpoint, "--student")
        with args.main_process_first(desc="opening models and data"):
            teacher = open_classifier(flags.teacher, "--teacher", args.device)
            if isinstance(channel, AbstractChannel):
                teacher = ModelTeacher(teacher.model, channel=channel)
            kind = kind_of(teacher.model)
            rows = open_rows(audited_source(flags), kind, teacher.class_names)
            needs_own = any(attacker.has_own_samples for attacker in plan.attackers)
            own = own_rows(flags, plan, rows, kind) if needs_own else None
            opened = {name: open_classifier(path, flag, args.device) for name, (path, flag) in control_paths.items()}
            view = View.of(flags.teacher, kind).limited_to(usable_positions(teacher.model))
            _check_same_views(view, opened, control_paths)
        check_margin(plan, len(rows.test))
        names = list(rows.classes.values())
        for classifier in (teacher, *opened.values()):
            match_classes(classifier.class_names, names)
        student = checked_students(flags, view, rows)
        data = _prepared(rows, own, student, view, quiet=args.disable_tqdm or not PartialState().is_main_process)
        side = "student" if student.view is view else "teacher"
        fitted = partial(
            fitted_channel, validation=data.validation, class_numbers=student.config.label2id, view=view, side=side
        )
        undefended = opened.get(TWIN, ModelTeacher(teacher.model))
        if channel is not None and not isinstance(channel, AbstractChannel):
            teacher = ModelTeacher(teacher.model, channel=fitted(channel, teacher))
        twin = opened.pop(TWIN).model if TWIN in opened else None
        controls: dict[str, Teacher] = {name: control.model for name, control in opened.items()}
        controls |= defended(defences, undefended, fitted)
        models = AuditModels(teacher, student, twin, controls)
        return cls(Audit(models, data, args, plan), bool(flags.dry_run))

    @property
    def is_main(self) -> bool:
        """True in the process that prints and writes."""
        return bool(PartialState().is_main_process)

    @property
    def folder(self) -> Path:
        """Folder of students and report."""
        return Path(str(self.audit.args.output_dir))

    @property
    def channel(self) -> AbstractChannel | None:
        """Channel that changes the teacher's answers, or None."""
        teacher = self.audit.models.teacher
        return teacher.channel if isinstance(teacher, ModelTeacher) else None

    @property
    def _fitted(self) -> dict[Path, AbstractFittedChannel]:
        """Fitted channels of the model and of defences, by the file from which a service loads them."""
        files = {}
        if isinstance(self.channel, AbstractFittedChannel):
            files[self.folder / self.channel.file_name] = self.channel
        for name, control in self.audit.models.controls.items():
            channel = getattr(control, "channel", None)
            if isinstance(channel, AbstractFittedChannel):
                files[self.folder / "defences" / file_name_of(name, channel)] = channel
        return files

    @property
    def files(self) -> list[Path]:
        """Files that the command writes into the folder beside report and pages."""
        return [*self._fitted]

    def run(self) -> None:
        """Run the audit, which writes its report into the folder, and fitted channels, which a service needs."""
        if self.is_main:
            for path, channel in self._fitted.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                channel.save(path)
        self.audit.run()

    def leave(self) -> None:
        """End all processes of a launch together: one that ends early can hang the others."""
        state = PartialState()
        state.wait_for_everyone()
        state.destroy_process_group()


def checked_students(flags: AuditFlags, view: View, rows: DataRows) -> StudentBuilder | OwnStudents:
    """Return the builder of students: from the user's function, a checkpoint or a configuration.

    Args:
        flags: flags that name the student.
        view: view of the teacher.
        rows: opened data.

    Raises:
        HfCmimError: a student that cannot be built, or cannot read the data.
    """
    names, samples = list(rows.classes.values()), rows.train[:1][rows.sample_column]
    student: StudentBuilder | OwnStudents
    if flags.student is not None and is_reference(flags.student):
        student = OwnStudents(flags.student, names, view)
    else:
        student = StudentBuilder(flags.student, flags.student_config, names, view, view.prepare(samples)[0])
    student.check(student.view.prepare(samples)[0])
    return student


def _check_given(flags: AuditFlags) -> None:
    missing = [flag for flag in ("teacher", "dataset") if getattr(flags, flag) is None]
    if missing:
        raise HfCmimError(
            f"Missing {' and '.join(f'--{flag}' for flag in missing)}: an audit needs a classifier and labelled data."
            " hf-cmim audit --help shows complete commands."
        )
    if (flags.student is None) == (flags.student_config is None):
        values = "neither" if flags.student is None else f"{flags.student!r} and {flags.student_config!r}"
        raise HfCmimError(
            "Expected either --student (a checkpoint to start from) or --student-config (random weights), got"
            f" {values}: a verdict is about one kind of student. A small student is a .json file such as"
            ' {"model_type": "vit", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4,'
            ' "num_attention_heads": 4, "patch_size": 4}.'
        )
    if flags.validation_split is not None and flags.validation_share is not None:
        raise HfCmimError(
            f"Expected either --validation-split or --validation-share, got {flags.validation_split!r} and"
            f" {flags.validation_share:g}: one would be ignored. Remove one."
        )
    reserved_names = [name for name, _ in flags.control or () if name in ("teacher", TWIN)]
    if reserved_names:
        raise HfCmimError(
            f"A control is named {reserved_names[0]!r}, which is the name of the teacher or its twin: it would replace"
            " that one. Rename it; the twin trained with plain cross-entropy is --twin."
        )


def _control_paths(flags: AuditFlags) -> dict[str, tuple[str, str]]:
    """Return path and flag of every other classifier by its name."""
    paths = {name: (path, f"--control {name}") for name, path in flags.control or ()}
    return paths if flags.twin is None else {**paths, TWIN: (flags.twin, "--twin")}


def _check_same_views(view: View, controls: Mapping[str, ModelTeacher], paths: Mapping[str, tuple[str, str]]) -> None:
    for name, control in controls.items():
        path, flag = paths[name]
        control_view = View.of(path, kind_of(control.model)).limited_to(usable_positions(control.model))
        if view.kind != control_view.kind or view.settings() != control_view.settings():
            raise HfCmimError(
                f"{flag} has another processor in {path} than --teacher: all classifiers of an audit answer the same"
                " view of a sample. Audit it separately, and compare with hf-cmim report A B."
            )


def _prepared(
    rows: DataRows,
    own: tuple[Dataset, str] | None,
    student: StudentBuilder | OwnStudents,
    view: View,
    *,
    quiet: bool,
) -> AuditData:
    """Return the samples prepared for student and teacher."""
    views = {"student": student.view}
    if student.view is not view:
        views["teacher"] = view
    numbers = {value: student.config.label2id[name] for value, name in rows.classes.items()}
    parts = {"transfer": rows.train, "validation": rows.validation, "test": rows.test}
    if own is not None:
        parts["attacker's own"] = own[0]
    total = sum(map(len, parts.values()))
    room = MEMORY_SHARE * psutil.virtual_memory().available / PartialState().num_processes
    prepared = {
        name: PreparedSamples(
            part,
            (rows.sample_column, rows.label_column),
            numbers,
            views,
            room=room * len(part) / total,
            name="" if quiet else f"{name} set",
        )
        for name, part in parts.items()
    }
    return AuditData(
        prepared["transfer"],
        prepared["validation"],
        prepared["test"],
        rows.names,
        own=None if own is None else prepared["attacker's own"],
        own_name="" if own is None else own[1],
        collator=partial(student_batch, view=student.view),
        teacher_collator=None if student.view is view else partial(teacher_batch, view=view),
    )
