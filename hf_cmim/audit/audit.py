"""The audit: preview it, run it and write its report, check a finished one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from accelerate import PartialState

from hf_cmim.audit.audited_teacher import AuditedTeacher
from hf_cmim.audit.checks import convergence_warning
from hf_cmim.audit.convergence import CURVE_NAME, STUDENTS, kept_learning_curve
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.examined_inputs import ExaminedInputs
from hf_cmim.audit.inputs import TEACHER, AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.preview import Preview, measured_costs, preview_of
from hf_cmim.audit.progress import AuditProgress
from hf_cmim.audit.reporting import build_report, sitting
from hf_cmim.audit.spot_check import SpotCheck, spot_check
from hf_cmim.audit.state import AuditFolder
from hf_cmim.audit.student_counts import confirming_students, screen_students
from hf_cmim.audit.students import AuditStudents
from hf_cmim.audit.teacher_audit import TeacherAudit
from hf_cmim.report import REPORT_NAME, Attacker, AuditReport
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig
from hf_cmim.trainers.shared.launch import check_launch
from hf_cmim.whole_files import write_whole


@final
@dataclass(frozen=True)
class Audit:
    """A test if a classifier can be distilled, by which attacks, by how much and how certainly.

    Args:
        models: classifier to audit, student, and other teachers to compare with.
        data: labelled transfer, validation and test set.
        args: training settings of every student, and the folder.
        plan: attacks to try, margin, seeds and criterion.
        title: title of the report, or "" to make one from the teacher's name.
    """

    models: AuditModels
    data: AuditData
    args: DistillationConfig
    plan: AuditPlan = field(default_factory=AuditPlan)
    title: str = ""

    def preview(self) -> Preview:
        """Return the number of students and the costs of the audit, from a few timed steps.

        Times are measured on two students side by side, cross-entropy and KD. An audit trains more at once, shares the
        loading of data among them, and is therefore faster. Counts are upper bounds: an attack below the margin stops.

        Raises:
            HfCmimError: a teacher, student, data or settings that do not fit together.
        """
        sets = [self.data.of(attacker) for attacker in self.plan.attackers]
        # Samples without labels cannot train the two students that are timed.
        first = sets[0] if self.plan.attackers[0].is_labelled else replace(sets[0], transfer=sets[0].validation)
        shares = [len(data.transfer) / len(first.transfer) for data in sets]
        return preview_of(self.plan, measured_costs(self.models, first, self._pool(first, stacked=False), shares))

    def run(self) -> AuditReport:
        """Train the students that are not finished yet, write the report as audit.json, and return it.

        Finished students are stored in `args.output_dir`: a killed audit continues where it stopped, and a finished
        one can be continued with more looks.

        Raises:
            HfCmimError: a teacher, student, data or settings that do not fit together, before anything is trained.
        """
        check_launch(self.args.world_size)
        attackers = {attacker: self._examined_inputs(attacker) for attacker in self.plan.attackers}
        _infer_membership(attackers)
        manifest = {
            name: value
            for examined in attackers.values()
            # The audited teacher last: of unlabelled samples, the labels that it gives are the ones to compare.
            for inputs in reversed(examined.values())
            for name, value in inputs.manifest(self.plan).items()
        }
        is_main = PartialState().is_main_process
        with AuditFolder(self._folder, manifest, is_main=is_main) as folder:
            sittings = folder.begin_sitting(sitting()) if is_main else []
            reports = [
                self._audited(self.plan.of(attacker), examined, folder, len(sittings))
                for attacker, examined in attackers.items()
            ]
            report = replace(reports[0], other_attackers=tuple(reports[1:]))
            if is_main:
                write_whole(folder.path / REPORT_NAME, report.to_json())
        return report

    def _examined_inputs(self, attacker: Attacker) -> dict[str, ExaminedInputs]:
        """Return the inputs of each teacher's students; teachers share them unless they label the samples."""
        data, models = self.data.of(attacker), self.models
        if attacker.is_labelled:
            return dict.fromkeys(models.teachers, ExaminedInputs.examine(self._pool(data), data, models, attacker))
        # The teachers are asked about the samples before there are labels, hence with other data as transfer set.
        asking = self._pool(replace(data, transfer=data.validation))
        examined = {}
        for key, teacher in models.teachers.items():
            asked = AuditedTeacher(teacher, key, asking, replace(data, transfer=data.validation))
            labels = asked.labels_of(data.transfer)
            labelled = data.labelled(labels)
            examined[key] = ExaminedInputs.examine(self._pool(labelled), labelled, models, attacker, only=key)
        return examined

    def _audited(
        self, plan: AuditPlan, examined: Mapping[str, ExaminedInputs], folder: AuditFolder, sittings: int
    ) -> AuditReport:
        """Train the students of one attacker and return the report."""
        main = examined[TEACHER]
        progress = _progress(main, plan, len(examined))
        curve_path = folder.path / f"{main.prefix}{CURVE_NAME}"
        curve = kept_learning_curve(main.pool, main.evaluation_sets["validation"], curve_path, progress)
        if doubt := convergence_warning(curve, plan.margin, main.student.class_names):
            progress.say(doubt)  # before the many students are trained, so that the user can stop
        students = {
            inputs.pool: AuditStudents(
                inputs.pool, folder, inputs.evaluation_sets, plan.wave_size, progress, inputs.prefix
            )
            for inputs in {inputs.pool: inputs for inputs in examined.values()}.values()
        }
        audits = {
            key: TeacherAudit(inputs.teachers[key], plan, students[inputs.pool], is_control=key != TEACHER)
            for key, inputs in examined.items()
        }
        _train_together([*audits.values()])
        progress.close()
        return build_report(audits, main, curve, sittings, self.title)

    def spot_check(self, report: AuditReport, count: int) -> list[SpotCheck]:
        """Retrain one student of each of `count` random arms of a finished audit with a fresh seed, and compare.

        The accuracies of an arm's students give a t prediction interval for one further student, at an error rate of
        5 % over all drawn arms (Bonferroni). The interval covers variation over seeds, not between kinds of devices:
        on another kind of device, a failure is a reason to investigate and not a proof.

        Args:
            report: report of the audit.
            count: number of arms to draw, at least 1.

        Raises:
            HfCmimError: data, students, settings or weights that differ from the audit's, before anything is trained.
        """
        attacker = self.plan.attackers[0]
        alone = replace(self, models=replace(self.models, twin=None, controls={}, student_name=""))
        (inputs,) = alone._examined_inputs(attacker).values()
        return spot_check(report, inputs, self.plan.of(attacker), self._folder, count)

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def _pool(self, data: AuditData, *, stacked: bool | None = None) -> StudentPool:
        return StudentPool(
            self.models.student,
            self.args,
            data.transfer,
            data.collator,
            data.teacher_collator,
            stacked=self.plan.stacked if stacked is None else stacked,
        )


def _train_together(audits: Sequence[TeacherAudit]) -> None:
    """Train the students of all teachers, stage by stage: students with the same attack then share its loss."""
    stages = {audit: audit.stages() for audit in audits}
    while stages:
        wanted = {audit: next(stage, None) for audit, stage in stages.items()}
        stages = {audit: stage for audit, stage in stages.items() if wanted[audit] is not None}
        # Teachers share their students' data unless they label these themselves.
        for students in dict.fromkeys(audit.students for audit in stages):
            students.train([group for audit, group in wanted.items() if group and audit.students is students])


def _infer_membership(attackers: Mapping[Attacker, Mapping[str, ExaminedInputs]]) -> None:
    """Measure each teacher's membership-inference AUC, once for all attackers, if one has its training samples."""
    # The largest share tells most. The answers are asked for in any case, and kept.
    for attacker in sorted(attackers, key=lambda attacker: attacker.share):
        if attacker.origin == "training":
            for key, inputs in attackers[attacker].items():
                auc = inputs.teachers[key].membership_of_transfer_set()
                for examined in attackers.values():
                    examined[key].teachers[key].membership_auc = auc


def _progress(inputs: ExaminedInputs, plan: AuditPlan, teachers: int) -> AuditProgress:
    """Return the progress display, which expects the students up to the first look."""
    args = inputs.pool.args
    num_classes = inputs.teachers[TEACHER].black_box.num_classes
    students = screen_students(plan, num_classes, teachers) + confirming_students(plan, 1, teachers)
    quiet = args.disable_tqdm or not PartialState().is_main_process
    return AuditProgress(inputs.pool.num_steps, STUDENTS + students, quiet=quiet)
