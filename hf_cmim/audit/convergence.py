"""Learning curve of a cross-entropy student, and the gain of training twice as long."""

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.audit.engine.student import PooledStudent
from hf_cmim.audit.progress import AuditProgress
from hf_cmim.plain_data import from_plain, read_json, to_plain
from hf_cmim.report import Interval, LearningCurve
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig
from hf_cmim.trainers.shared.components import unchanged_random_states
from hf_cmim.whole_files import write_whole

CURVE_NAME = "learning_curve.json"
"""File name of the curve in the folder of its audit."""
MOST_POINTS = 10
"""Largest number of points of a curve; each is one pass over the validation data."""
COUNTED = 10
"""Fewest validation samples of a class for which a recall of 0 is reported."""
TWICE = 2
"""Factor by which the second student is trained longer."""
STUDENTS = 1 + TWICE
"""Cost of both students, in students of the audit."""
SEED = 50_000
"""Seed of both students, used by no other student of an audit."""
QUANTILE = 1.96
"""97.5 % quantile of the normal distribution, for two-sided 95 % intervals."""


def kept_learning_curve(
    pool: StudentPool, validation: tuple[Any, NDArray[np.int64]], path: Path, progress: AuditProgress
) -> LearningCurve:
    """Return the learning curve from a file in an audit's folder; the main process computes it if it is missing.

    Args:
        pool: pool that trains the students.
        validation: validation set with its labels.
        path: file of the curve.
        progress: progress display.
    """
    state = PartialState()
    present = STUDENTS if path.is_file() else 0
    progress.begin_stage("learning curve", STUDENTS - present, present, is_expected=True)
    progress.begin_wave(["CE"], SEED)
    if state.is_main_process and not path.is_file():
        write_whole(path, json.dumps(to_plain(learning_curve(pool, *validation, progress.advance)), indent=1))
    state.wait_for_everyone()
    values = read_json(path, f"the audit's {path}")
    curve: LearningCurve = from_plain(LearningCurve, values, path.name)
    return curve


def learning_curve(
    pool: StudentPool, dataset: Any, labels: NDArray[np.int64], on_step: Callable[[int], Any]
) -> LearningCurve:
    """Train a cross-entropy student as long as the audit's students, and a second one twice as long.

    One curve cannot show convergence: it gets flat in any case as the learning rate decays to 0. The second student
    shows the gain that is left.

    Args:
        pool: pool that trains the students.
        dataset: validation set.
        labels: `(N,)` valid labels of the validation set.
        on_step: callback after each step, called with the number of students that took it.
    """
    points: list[tuple[int, float]] = []

    def note(epoch: int, epochs: int, students: Sequence[PooledStudent]) -> None:
        if epoch % math.ceil(epochs / MOST_POINTS) == 0 or epoch == epochs:
            points.append((epoch, float(np.mean(pool.predict(students, dataset)[0] == labels))))

    args, setting = _trained_longer(pool.args)
    longer_pool = pool.with_settings(args)
    arm = PooledArm("CE", Composition(CrossEntropy()), None)
    with unchanged_random_states(pool.args.device):
        predictions = pool.predict(pool.train([arm], SEED, on_step=on_step, on_epoch=note), dataset)[0]
        longer_predictions = pool.predict(longer_pool.train([arm], SEED, on_step=on_step), dataset)[0]
    classes, counts = np.unique(labels, return_counts=True)
    never_predicted = np.setdiff1d(classes[counts >= COUNTED], predictions)
    return LearningCurve(
        epochs=tuple(epoch for epoch, _ in points),
        validation=tuple(accuracy for _, accuracy in points),
        longer=float(np.mean(longer_predictions == labels)),
        gain=_paired(longer_predictions == labels, predictions == labels),
        longer_setting=setting,
        learning_rate=float(pool.args.learning_rate),
        most_frequent=float(counts.max() / len(labels)),
        unnamed=tuple(never_predicted.tolist()),
    )


def _trained_longer(args: DistillationConfig) -> tuple[DistillationConfig, str]:
    """Return settings for training twice as long, and the changed setting as NAME=VALUE."""
    longer = copy.copy(args)
    if args.max_steps > 0:
        longer.max_steps = TWICE * args.max_steps
        return longer, f"max_steps={longer.max_steps}"
    longer.num_train_epochs = TWICE * args.num_train_epochs
    return longer, f"num_train_epochs={longer.num_train_epochs:g}"


def _paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Interval:
    """Return the mean difference of two students on the same samples, with a 95 % interval."""
    differences = first.astype(float) - second
    half = QUANTILE * float(differences.std(ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else 1.0
    mean = float(differences.mean())
    return Interval(mean, mean - half, mean + half)
