"""Run an audit and write its report."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from torch import nn

from hf_cmim.audit.checks import convergence_warning
from hf_cmim.audit.convergence import STUDENTS, kept_learning_curve
from hf_cmim.audit.counting import confirming_students, screen_students
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.progress import AuditProgress
from hf_cmim.audit.reporting import TWIN, build_report, sitting
from hf_cmim.audit.state import AuditFolder
from hf_cmim.audit.subject import AuditData
from hf_cmim.audit.teacher_audit import TeacherAudit
from hf_cmim.audit.training import Trainees
from hf_cmim.audit.workplace import Teacher, Workplace
from hf_cmim.errors import HfCmimError
from hf_cmim.private_paths import public_path
from hf_cmim.report import REPORT_NAME, AuditReport
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig
from hf_cmim.trainers.distillation.transfer_data import Collator
from hf_cmim.trainers.shared.launch import check_launch
from hf_cmim.whole_files import write_whole


def run_audit(
    teacher: Teacher,
    build_student: Callable[[], nn.Module],
    args: DistillationConfig,
    data: AuditData,
    plan: AuditPlan | None = None,
    *,
    twin: Teacher | None = None,
    controls: Mapping[str, Teacher] | None = None,
    data_collator: Collator | None = None,
    teacher_collator: Collator | None = None,
    title: str = "",
    student_name: str = "",
) -> AuditReport:
    """Test if a classifier can be distilled, by which attacks, by how much and how certainly.

    Finished students are stored in `args.output_dir`: a killed audit continues where it stopped, and a finished one
    can be continued with more looks. The report is written there as audit.json.

    Args:
        teacher: classifier to audit; a model or a path is wrapped in `ModelTeacher`.
        build_student: function that returns a new student; called right after the student's seed is set.
        args: training settings of every student, and the folder.
        data: labelled transfer, validation and test set.
        plan: attacks to try, margin, seeds and criterion; None for the default plan.
        twin: the same model trained with plain cross-entropy, the positive control.
        controls: other teachers to compare with, by name.
        data_collator: collator of the student's batches; None for Trainer's default.
        teacher_collator: collator of the teachers' view of a batch; None if it is the student's.
        title: title of the report.
        student_name: name of the student for readers.

    Raises:
        HfCmimError: a teacher, student, data or settings that do not fit together, before anything is trained.
    """
    teachers = _teachers(teacher, twin, controls or {})
    plan = plan or AuditPlan()
    check_launch(args.world_size)
    pool = StudentPool(build_student, args, data.transfer, data_collator, teacher_collator, stacked=plan.stacked)
    workplace = Workplace.examine(pool, data, {"teacher": _name_of(teacher)}, teachers, student_name)
    manifest = workplace.manifest(plan)
    is_main = PartialState().is_main_process
    with AuditFolder(Path(str(args.output_dir)), manifest, is_main=is_main) as folder:
        sittings = folder.begin_sitting(sitting()) if is_main else []
        progress = _progress(workplace, plan)
        trainees = Trainees(pool, folder, workplace.evaluation_sets, plan.wave_size, progress)
        curve = kept_learning_curve(pool, workplace.evaluation_sets["validation"], folder.path, progress)
        if doubt := convergence_warning(curve, plan.margin, workplace.student.class_names):
            progress.say(doubt)  # before the many students are trained, so that the user can stop
        audits = {
            name: TeacherAudit(subject, plan if name == "teacher" else replace(plan, diagnosed=0), trainees)
            for name, subject in workplace.subjects.items()
        }
        for audit in audits.values():
            audit.run()
        report = build_report(audits, workplace, curve, data.names, len(sittings), title)
        if is_main:
            write_whole(folder.path / REPORT_NAME, report.to_json())
        progress.close()
    return report


def _teachers(teacher: Teacher, twin: Teacher | None, controls: Mapping[str, Teacher]) -> dict[str, Teacher]:
    """Return every teacher to audit by name, the main one first."""
    reserved_names = sorted({"teacher", TWIN} & {*controls})
    if reserved_names:
        raise HfCmimError(
            f"Controls are named {reserved_names}, which are the names of the teacher and its twin: they"
            " would replace these. Rename them, and give the twin as twin=..."
        )
    return {"teacher": teacher, **({} if twin is None else {TWIN: twin}), **controls}


def _name_of(teacher: Teacher) -> str:
    """Return the name of the teacher's folder or, without one, of its class."""
    model = getattr(teacher, "model", teacher)
    path = teacher if isinstance(teacher, str) else str(getattr(model, "name_or_path", ""))
    return Path(public_path(path)).name or type(model).__name__


def _progress(workplace: Workplace, plan: AuditPlan) -> AuditProgress:
    """Return the progress display, which expects the students up to the first look."""
    args, subjects = workplace.pool.args, workplace.subjects
    num_classes = subjects["teacher"].teacher.num_classes
    students = screen_students(plan, num_classes, len(subjects)) + confirming_students(plan, 1, len(subjects))
    quiet = args.disable_tqdm or not PartialState().is_main_process
    return AuditProgress(workplace.pool.num_steps, STUDENTS + students, quiet=quiet)
