"""Students that are far from converged are said to be so first, and students that are trained to the end are not."""

import io
from dataclasses import replace

import numpy as np
import planted
import pytest
import tiny
from audit.test_checks import HEALTHY

from hf_cmim import DistillationConfig
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.audit import Audit
from hf_cmim.audit.checks import convergence_warning, find_faults
from hf_cmim.audit.convergence import CURVE_NAME, SEED, STUDENTS, kept_learning_curve, learning_curve
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.inputs import AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.progress import AuditProgress
from hf_cmim.report import NOT_CONVERGED, AuditReport, Interval, LearningCurve
from hf_cmim.trainers.distillation.transfer_data import Repeatable

MARGIN = 0.005
VALIDATION = planted.Samples(4_000, 3)
LABELS = VALIDATION.labels.numpy()


def pool(folder, epochs: float, **changes) -> StudentPool:
    """Students of 250 samples of the planted task; about 30 epochs are enough at this learning rate."""
    settings = {"learning_rate": 0.02, "per_device_train_batch_size": 125, "per_device_eval_batch_size": 4_000,
                "optim": "adamw_torch", "lr_scheduler_type": "linear"}  # fmt: skip
    args = DistillationConfig(**tiny.settings(folder, num_train_epochs=epochs, **(settings | changes)))
    return StudentPool(planted.Student, args, planted.Samples(250, 1))


def curve_of(folder, epochs: float, **changes) -> LearningCurve:
    return learning_curve(pool(folder, epochs, **changes), VALIDATION, LABELS, lambda _: None)


@pytest.mark.parametrize(
    ("epochs", "learning_rate", "is_far"),
    [
        (2, 0.002, True), (5, 0.002, True), (20, 0.0003, True), (20, 1e-6, True),
        (30, 0.02, False), (60, 0.02, False), (120, 0.02, False),
    ],
)  # fmt: skip
def test_short_training_is_told_from_long_training(epochs, learning_rate, is_far, tmp_path):
    """Catches an audit of students that have learned little, and an alarm about students that have learned all.

    The learning rate decays to 0 each time, so that every curve gets flat. Labels are noisy: the best accuracy
    there is, that of the posterior, is far from 1, and no threshold on accuracy would do.
    """
    curve = curve_of(tmp_path, epochs, learning_rate=learning_rate)
    assert bool(convergence_warning(curve, MARGIN)) == is_far, curve


def test_an_audit_says_so_before_its_verdict_and_before_it_trains(tmp_path, monkeypatch):
    """Catches a doubt that is read after the verdict, or after days of training."""
    suite = Suite("kd", (SuiteEntry("kd", Composition(KD(temperature=1.0))),))
    plan = AuditPlan(suite=suite, screening_seeds=1, looks=(2,), reference_multiple=1, null_families=0, diagnosed=0)
    data = AuditData(planted.Samples(250, 1), VALIDATION, planted.Samples(1_000, 2))
    said = []
    monkeypatch.setattr(AuditProgress, "say", lambda self, sentence: said.append((sentence, self.done)))
    args = pool(tmp_path, 2, learning_rate=0.002).args
    audit = Audit(AuditModels(planted.PlantedTeacher(0.5), planted.Student), data, args, plan)
    report = audit.run()
    assert report.checks[0].name == NOT_CONVERGED
    ((sentence, done),) = said
    assert sentence == report.checks[0].sentence
    assert done == pytest.approx(STUDENTS), "only the two students of the curve are trained by then"
    assert "after 1, " in sentence
    assert "num_train_epochs=4 or more" in sentence
    assert AuditReport.read(tmp_path) == report
    again = audit.run()
    assert again.learning_curve == report.learning_curve


def test_curve_is_that_of_a_plain_student(tmp_path):
    """Catches a measurement that disturbs training, one of other data, and a second student of other settings.

    The oracle trains with `DistillationTrainer`, without a pool.
    """
    engine = pool(tmp_path, 3)
    curve = learning_curve(engine, VALIDATION, LABELS, lambda _: None)

    def plain(epochs: float) -> float:
        from transformers import set_seed

        set_seed(SEED)
        trainer = tiny.distillation_trainer(
            planted.Student(), Repeatable(engine.transfer_set, SEED), tmp_path / "plain", CrossEntropy(), seed=SEED,
            num_train_epochs=epochs, learning_rate=0.02, per_device_train_batch_size=125, optim="adamw_torch",
            lr_scheduler_type="linear",
        )  # fmt: skip
        trainer.train()
        logits = trainer.model(features=VALIDATION.features)["logits"]
        return float((logits.argmax(-1) == VALIDATION.labels).double().mean())

    assert curve.epochs == (1, 2, 3)
    assert curve.validation[-1] == pytest.approx(plain(3), abs=1e-9)
    assert curve.longer == pytest.approx(plain(6), abs=1e-9)
    assert curve.gain.estimate == pytest.approx(curve.longer - curve.validation[-1], abs=1e-9)


def test_long_curves_have_few_points_and_the_last_epoch(tmp_path):
    """Catches a pass over the validation data after each of hundreds of epochs."""
    curve = curve_of(tmp_path, 23)
    assert curve.epochs == (3, 6, 9, 12, 15, 18, 21, 23)
    assert len(curve.validation) == 8


def test_steps_are_doubled_where_steps_are_given(tmp_path):
    """Catches a second student that is no longer trained than the first."""
    curve = curve_of(tmp_path, 1, max_steps=3)
    assert curve.longer_setting == "max_steps=6"
    assert curve.epochs == (1, 2)


def test_a_kept_curve_is_not_trained_again(tmp_path):
    """Catches hours lost after a kill."""
    progress = AuditProgress(4, STUDENTS, quiet=True)
    engine = pool(tmp_path, 2)
    first = kept_learning_curve(engine, (VALIDATION, LABELS), tmp_path / CURVE_NAME, progress)
    before = (tmp_path / CURVE_NAME).stat().st_mtime_ns
    engine.train = None
    assert kept_learning_curve(engine, (VALIDATION, LABELS), tmp_path / CURVE_NAME, progress) == first
    assert (tmp_path / CURVE_NAME).stat().st_mtime_ns == before


CURVE = LearningCurve((1, 2), (0.5, 0.6), 0.71, Interval(0.11, 0.08, 0.14), "num_train_epochs=4", 1e-3, 0.25, ())


@pytest.mark.parametrize(
    ("changes", "is_far"),
    [
        ({}, True),
        ({"gain": Interval(0.11, 0.004, 0.2)}, False),  # as far as 300 validation samples can tell
        ({"gain": Interval(0.004, 0.003, 0.0049)}, False),  # less than counts as distilling
        ({"gain": Interval(-0.05, -0.08, -0.02)}, False),  # longer training overfits
        ({"gain": Interval(0.0, -0.01, 0.01), "most_frequent": 0.6}, True),  # nothing was learned, either time
    ],
)
def test_the_limit_is_the_margin(changes, is_far):
    """Catches noise taken for progress, and a class that is never named passed over."""
    checks = find_faults(replace(HEALTHY, curve=replace(CURVE, **changes), power=None))
    assert (checks[0].name == NOT_CONVERGED) == is_far
    assert len(checks) == 1 + is_far


def test_a_class_that_no_student_predicts_is_no_lack_of_training():
    """Catches advice to train longer where that was tried and gained nothing."""
    curve = replace(CURVE, gain=Interval(-0.01, -0.02, 0.0), unnamed=(7,))
    (check, power) = find_faults(replace(HEALTHY, curve=curve, power=None))
    assert (check.name, power.name) == ("classes never predicted", "no control teacher")
    assert "longer" not in check.sentence
    names = [each.name for each in find_faults(replace(HEALTHY, curve=replace(CURVE, unnamed=(7,)), power=None))]
    assert names[:2] == [NOT_CONVERGED, "classes never predicted"]


def test_a_class_that_is_never_named_is_found(tmp_path):
    """Catches students that were trained before they learned a rare class; fewer than ten samples say too little."""
    features = planted.Samples(300, 5)
    labels = np.array([0] * 280 + [4] * 11 + [5] * 9)
    features.labels[:] = planted.torch.from_numpy(labels)
    transfer = planted.Samples(250, 1)
    transfer.labels[:] = 0
    engine = pool(tmp_path, 2)
    engine.transfer_set = transfer
    curve = learning_curve(engine, features, labels, lambda _: None)
    assert curve.unnamed == (4,)
    assert "never predicts 1 of the classes in the validation data (numbers 4)" in convergence_warning(curve, MARGIN)
    names = [f"coat {number}" for number in range(6)]
    sentence = convergence_warning(curve, MARGIN, names)
    assert "never predicts 1 of the classes in the validation data (coat 4)" in sentence


def test_many_classes_are_listed_by_name_up_to_ten():
    """Catches a sentence as long as the list of classes, and a cut that looks like the whole list."""
    curve = replace(CURVE, unnamed=tuple(range(12)))
    (_, check, *_) = find_faults(replace(HEALTHY, curve=curve, power=None, class_names=list("abcdefghijkl")))
    assert "12 of the classes in the validation data (a, b, c, d, e, f, g, h, i, j, ...)" in check.sentence


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_bar_for_the_whole_audit():
    """Catches a bar for each of many stages, of which none says how long the audit takes."""
    terminal = Terminal()
    progress = AuditProgress(10, 8, quiet=False, stream=terminal)
    progress.begin_stage("teacher: screening settings", 4, 2, is_expected=True)
    progress.begin_wave(["kd", "dkd", "dist", "ctkd"], 100_000)
    for _ in range(20):
        progress.advance(2)
    progress._bar.refresh()
    progress.close()
    assert "teacher: screening settings:   75%" in terminal.getvalue()
    assert "6/8 students" in terminal.getvalue()
    assert "kd, dkd, dist and 1 more, seed 100000" in terminal.getvalue()


def test_a_log_gets_a_line_a_minute(monkeypatch):
    """Catches hours of silence, a line for every step, and a time left from students of an earlier sitting."""
    now = [0.0]
    monkeypatch.setattr("hf_cmim.audit.progress.time.monotonic", lambda: now[0])
    log = io.StringIO()
    progress = AuditProgress(10, 100, quiet=False, stream=log)
    progress.begin_stage("teacher: screening settings", 50, 40, is_expected=True)
    progress.begin_wave(["kd"], 7)
    for _ in range(200):
        now[0] += 1
        progress.advance(1)
    lines = log.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[-1] == (
        "teacher: screening settings: 58 of about 100 students, 3 min passed, about 7 min left. Now: kd, seed 7"
    )


def test_students_after_the_first_look_join_what_is_expected():
    """Catches a bar that is full while an undecided audit goes on."""
    progress = AuditProgress(1, 10, quiet=True)
    progress.begin_stage("first", 10, 0, is_expected=True)
    progress.advance(10)
    progress.begin_stage("second", 6, 0, is_expected=False)
    assert (progress.done, progress.total) == (10, 16)


def test_quiet_is_quiet():
    """Catches a bar that was forbidden."""
    terminal = Terminal()
    progress = AuditProgress(1, 1, quiet=True, stream=terminal)
    progress.begin_stage("first", 1, 0, is_expected=True)
    progress.advance(1)
    progress.say("a sentence")
    progress.close()
    assert terminal.getvalue() == ""
