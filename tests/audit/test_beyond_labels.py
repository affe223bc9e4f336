"""The fourth criterion, beyond the teacher's labels: on accuracies and on teachers whose truth is known."""

import numpy as np
import planted
import pytest
import scipy.stats
import tiny
from audit.test_planted import SUITE

from hf_cmim import Audit, AuditData, AuditModels, AuditPlan, DistillationConfig
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.audit.arms import Arm, references
from hf_cmim.audit.findings import class_answers_control, criterion_results, label_floor
from hf_cmim.audit.plan import Confirmation
from hf_cmim.report import AuditReport, Check

KNOCKOFF = Arm("kd", "knockoff", Composition(KD()), "teacher")
NULL = KNOCKOFF.null(0.9)
LABELS, CLASS_ANSWERS = KNOCKOFF.without_samples(10)[2], KNOCKOFF.without_samples(10)[-1]
SMOOTHING = next(arm for arm in references() if arm.family == "LS")
ARMS = {"knockoff": KNOCKOFF, "null": NULL, "labels": LABELS, "answers": CLASS_ANSWERS, "smoothing": SMOOTHING}


def chosen(**means: float) -> Confirmation:
    """The choice that validation data of this truth would make."""
    best_first = sorted((LABELS, CLASS_ANSWERS, SMOOTHING), key=lambda arm: -means[_name(arm)])
    return Confirmation((KNOCKOFF,), (SMOOTHING,), {"kd": NULL}, (LABELS, CLASS_ANSWERS), tuple(best_first))


def _name(wanted: Arm) -> str:
    return next(name for name, arm in ARMS.items() if arm is wanted)


UNDISTILLABLE, DISTILLABLE = "undistillable within the margin", "distillable"
SMALL = "leaks less than the margin"


def simulated(seed: int = 0, spread: float = 0.001, **means: float) -> dict[str, list[float]]:
    """Accuracies of students whose true mean accuracies are known."""
    rng = np.random.default_rng(seed)
    return {arm.name: rng.normal(means[name], spread, 120).tolist() for name, arm in ARMS.items()}


def verdicts(means: dict[str, float], primary: str = "beyond-labels", checks=(), **drawn) -> dict[str, str]:
    accuracies, plan = simulated(**means, **drawn), AuditPlan(suite=SUITE, criterion=primary)
    results = criterion_results(plan, chosen(**means), accuracies, checks)
    assert [result.primary for result in results] == [True, False, False, False]
    return {result.criterion: result.verdict for result in results}


@pytest.mark.parametrize(
    ("means", "others", "beyond"),
    [
        # labels carry all that the teacher gives away
        ({"knockoff": 0.85, "labels": 0.85, "answers": 0.84}, DISTILLABLE, UNDISTILLABLE),
        # class answers carry it
        ({"knockoff": 0.85, "labels": 0.81, "answers": 0.85}, DISTILLABLE, UNDISTILLABLE),
        # confidences carry more
        ({"knockoff": 0.87, "labels": 0.85, "answers": 0.85}, DISTILLABLE, DISTILLABLE),
        # they carry a little more
        ({"knockoff": 0.852, "labels": 0.85, "answers": 0.85}, DISTILLABLE, SMALL),
        # labels of a bad teacher: better than they is worse than nothing
        ({"knockoff": 0.75, "labels": 0.7, "answers": 0.7}, UNDISTILLABLE, UNDISTILLABLE),
    ],
)
def test_planted_truth_has_its_verdicts(means, others, beyond):
    """Catches labels left out, taken for the only rival, or taken for a rival under another criterion."""
    found = verdicts({"smoothing": 0.8, "null": 0.8} | means, spread=0.0003)
    assert found == {"beyond-labels": beyond, "paper": others, "teacher-free": others, "no-leak": others}


def test_described_it_says_the_same():
    """Catches a fourth criterion that only its own audit can judge."""
    means = {"knockoff": 0.85, "labels": 0.85, "answers": 0.84, "smoothing": 0.8, "null": 0.8}
    assert verdicts(means, "teacher-free") == verdicts(means)
    fatal = Check("no power", "fatal", "It has none.")
    assert set(verdicts(means, checks=[fatal]).values()) == {"inconclusive"}


def test_a_leak_is_claimed_wrongly_at_most_as_often_as_the_error_rate_says():
    """Catches a bound against the weakest of the references, or against the luckiest on test data.

    All arms are truly equal, so each claim of a leak is wrong.
    """
    equal = {"knockoff": 0.85, "labels": 0.85, "answers": 0.85, "smoothing": 0.85, "null": 0.85}
    found = [verdicts(equal, seed=seed, spread=0.003)["beyond-labels"] for seed in range(200)]
    wrong = sum(verdict in (DISTILLABLE, SMALL) for verdict in found)
    assert wrong <= scipy.stats.binom.ppf(0.999, len(found), 0.05)
    assert found.count(UNDISTILLABLE) > 0.9 * len(found)


def test_the_floor_is_the_gain_from_labels_alone():
    """Catches a floor of class answers, against the null, or of other seeds."""
    accuracies = simulated(knockoff=0.87, labels=0.83, answers=0.84, smoothing=0.8, null=0.7)
    accuracies[LABELS.name] = accuracies[LABELS.name][:5]
    found = chosen(labels=0.83, answers=0.84, smoothing=0.8)
    floor, control = label_floor(found, accuracies), class_answers_control(found, "kd", accuracies)
    differences = np.subtract(accuracies[LABELS.name], accuracies["LS"][:5])
    lower, upper = scipy.stats.t.interval(0.95, 4, differences.mean(), scipy.stats.sem(differences))
    assert (floor.labels, floor.reference) == (LABELS.name, "LS")
    assert (floor.gain.estimate, floor.gain.lower, floor.gain.upper) == pytest.approx(
        (differences.mean(), lower, upper), abs=1e-12
    )
    assert (control.arm, control.reference, control.attack) == (CLASS_ANSWERS.name, "LS", "kd")
    assert control.gain.estimate == pytest.approx(0.04, abs=0.001)
    assert control.beyond.estimate == pytest.approx(0.03, abs=0.001)
    del accuracies[LABELS.name], accuracies[CLASS_ANSWERS.name]
    assert label_floor(found, accuracies) is class_answers_control(found, "kd", accuracies) is None


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit, with real students, of a teacher that names the most probable class and tells nothing else."""
    data = AuditData(planted.Samples(250, 1), planted.Samples(5_000, 3), planted.Samples(20_000, 2))
    folder = tmp_path_factory.mktemp("labels")
    args = DistillationConfig(
        **tiny.settings(folder, num_train_epochs=18, learning_rate=0.02, per_device_train_batch_size=125,
                        per_device_eval_batch_size=20_000, optim="adamw_torch", lr_scheduler_type="linear")
    )  # fmt: skip
    plan = AuditPlan(suite=SUITE.subset(["kd"]), criterion="beyond-labels", screening_seeds=2, final_seeds=0,
                     references=0, reference_multiple=2, null_families=1, diagnosed=0, looks=(3, 5, 8))  # fmt: skip
    return Audit(AuditModels(planted.LabelTeacher(), planted.Student), data, args, plan).run()


def test_a_teacher_of_labels_gives_away_nothing_beyond_them(audited):
    """Catches students of labels whose confidence was never tuned, or labels of the data taken for the teacher's."""
    assert audited.primary.criterion == "beyond-labels"
    assert audited.primary.verdict in (UNDISTILLABLE, SMALL)
    assert next(each for each in audited.criteria if each.criterion == "teacher-free").verdict == DISTILLABLE
    assert audited.label_floor.gain.lower > 0.02
    assert audited.reference == audited.primary.comparisons[0].baseline
    assert audited.class_answers.beyond.estimate < 0.005


def test_references_of_labels_have_as_many_seeds_as_the_others(audited):
    """Catches references of fewer students, whose bounds are too wide to decide anything."""
    seeds = {arm.name: len(arm.seeds) for arm in audited.arms}
    labels = [arm for arm in audited.arms if arm.role in ("labels", "class answers")]
    assert [arm.role for arm in labels] == ["labels", "class answers"]
    assert {seeds[arm.name] for arm in labels} == {2 * audited.looks[-1]} == {seeds["LS"]}
    assert len(labels[0].validation) == 5, "every confidence was tried"
    assert AuditReport.from_json(audited.to_json()) == audited
