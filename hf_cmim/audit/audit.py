"""The audit: preview it, run it and write its report, check a finished one."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from accelerate import PartialState

from hf_cmim.audit.checks import convergence_warning
from hf_cmim.audit.convergence import STUDENTS, kept_learning_curve
from hf_cmim.audit.counting import confirming_students, screen_students
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.inputs import TEACHER, AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.preview import Preview, measured_costs, preview_of
from hf_cmim.audit.progress import AuditProgress
from hf_cmim.audit.reporting import build_report, sitting
from hf_cmim.audit.spot_check import SpotCheck, spot_check
from hf_cmim.audit.state import AuditFolder
from hf_cmim.audit.teacher_audit import TeacherAudit
from hf_cmim.audit.training import Trainees
from hf_cmim.audit.workplace import Workplace
from hf_cmim.report import REPORT_NAME, AuditReport
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
        return preview_of(self.plan, measured_costs(self.models, self.data, self._pool(stacked=False)))

    def run(self) -> AuditReport:
        """Train the students that are not finished yet, write the report as audit.json, and return it.

        Finished students are stored in `args.output_dir`: a killed audit continues where it stopped, and a finished
        one can be continued with more looks.

        Raises:
            HfCmimError: a teacher, student, data or settings that do not fit together, before anything is trained.
        """
        plan = self.plan
        check_launch(self.args.world_size)
        workplace = Workplace.examine(self._pool(stacked=plan.stacked), self.data, self.models)
        is_main = PartialState().is_main_process
        with AuditFolder(self._folder, workplace.manifest(plan), is_main=is_main) as folder:
            sittings = folder.begin_sitting(sitting()) if is_main else []
            progress = _progress(workplace, plan)
            trainees = Trainees(workplace.pool, folder, workplace.evaluation_sets, plan.wave_size, progress)
            validation = workplace.evaluation_sets["validation"]
            curve = kept_learning_curve(workplace.pool, validation, folder.path, progress)
            if doubt := convergence_warning(curve, plan.margin, workplace.student.class_names):
                progress.say(doubt)  # before the many students are trained, so that the user can stop
            audits = {
                name: TeacherAudit(subject, plan if name == TEACHER else replace(plan, diagnosed=0), trainees)
                for name, subject in workplace.subjects.items()
            }
            for audit in audits.values():
                audit.run()
            report = build_report(audits, workplace, curve, len(sittings), self.title)
            if is_main:
                write_whole(folder.path / REPORT_NAME, report.to_json())
            progress.close()
        return report

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
        models = replace(self.models, twin=None, controls={}, student_name="")
        workplace = Workplace.examine(self._pool(stacked=self.plan.stacked), self.data, models)
        return spot_check(report, workplace, self.plan, self._folder, count)

    @property
    def _folder(self) -> Path:
        return Path(str(self.args.output_dir))

    def _pool(self, *, stacked: bool) -> StudentPool:
        data = self.data
        return StudentPool(
            self.models.student, self.args, data.transfer, data.collator, data.teacher_collator, stacked=stacked
        )


def _progress(workplace: Workplace, plan: AuditPlan) -> AuditProgress:
    """Return the progress display, which expects the students up to the first look."""
    args, subjects = workplace.pool.args, workplace.subjects
    num_classes = subjects[TEACHER].teacher.num_classes
    students = screen_students(plan, num_classes, len(subjects)) + confirming_students(plan, 1, len(subjects))
    quiet = args.disable_tqdm or not PartialState().is_main_process
    return AuditProgress(workplace.pool.num_steps, STUDENTS + students, quiet=quiet)
