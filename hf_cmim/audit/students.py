"""Students of an audit: trained in waves that processes share, stored as they finish, and read again."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import psutil
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.arms import Arm
from hf_cmim.audit.audited_teacher import AuditedTeacher
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm, StudentResult
from hf_cmim.audit.engine.probe import bytes_of_student, query_obstacle, shows_hidden_states
from hf_cmim.audit.progress import AuditProgress
from hf_cmim.audit.state import AuditFolder
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.model import ModelTeacher

LARGEST_WAVE = 32
"""Most students trained at once; more save little, and a kill would lose more."""
SELF_TEACHER_SEEDS = 1_000_000
"""Offset of the seed of the student from which self-distillation learns."""
MEMORY_SHARE = 0.5
"""Share of the free memory that students may use."""


@final
@dataclass(frozen=True)
class WantedStudents:
    """Students that one stage of a teacher's audit needs.

    Attributes:
        teacher: audited teacher.
        runs: pairs of arm and seed.
        data: name of the evaluation set.
        stage: name of the stage for the progress display.
        is_expected: True if these students were expected when the audit began.
    """

    teacher: AuditedTeacher
    runs: tuple[tuple[Arm, int], ...]
    data: str
    stage: str
    is_expected: bool = True


@dataclass(frozen=True)
class _Run:
    """One student that is to be trained."""

    teacher: AuditedTeacher
    arm: Arm
    data: str
    seed: int


@final
class AuditStudents:
    """The students of an audit: those not finished yet are trained, the finished ones are read from their folder.

    Every process of a launch makes the same calls. Processes share the waves and wait for each other.

    Args:
        pool: pool that trains the students.
        folder: folder of finished students.
        evaluation_sets: evaluation data with their labels, by name.
        wave_size: students trained at once; None for as many as memory allows, at most 32.
        progress: progress display; None for none.
        prefix: prefix of the students' keys, which tells the samples of attackers apart.
    """

    def __init__(
        self,
        pool: StudentPool,
        folder: AuditFolder,
        evaluation_sets: Mapping[str, tuple[Any, NDArray[np.int64]]],
        wave_size: int | None,
        progress: AuditProgress | None = None,
        prefix: str = "",
    ) -> None:
        self.pool = pool
        self.folder = folder
        self.evaluation_sets = evaluation_sets
        self.processes = PartialState()
        self.wave_size = wave_size or _affordable_wave(pool)
        self.progress = progress or AuditProgress(1, 0, quiet=True)
        self.prefix = prefix
        self._query_obstacles: dict[str, str] = {}
        self._counted: set[tuple[str, str, int]] = set()

    def key(self, teacher: AuditedTeacher, arm: Arm) -> str:
        """Return the key under which students of an arm are stored."""
        return self.prefix + arm.key(teacher.fingerprint)

    @cached_property
    def shows_hidden_states(self) -> bool:
        """True if a student returns its hidden states on request."""
        return shows_hidden_states(self.pool)

    def obstacle(self, arm: Arm) -> str:
        """Return the reason why students of an arm cannot be trained on these data, or ""."""
        if arm.attack.student_protocol is not None and not self.shows_hidden_states:
            return "the student shows no hidden states"
        if arm.answering == "self" and self.pool.teacher_collator is not None:
            return "teachers have their own view of a sample, which a student cannot read"
        protocol = repr(arm.attack.query_protocol)
        if protocol not in self._query_obstacles:
            self._query_obstacles[protocol] = query_obstacle(self.pool, arm.attack)
        return self._query_obstacles[protocol]

    def train(self, wanted: Sequence[WantedStudents]) -> None:
        """Train and store the students that are missing, those of all teachers together.

        Args:
            wanted: students of each teacher.
        """
        self.processes.wait_for_everyone()
        missing: dict[tuple[str, str, int], _Run] = {}
        # All processes must see the same missing students, so none may write before all have looked.
        for group in wanted:
            # Keys remove duplicates: two arms, also of two teachers, may describe the same student.
            keys = {
                (self.key(group.teacher, arm), group.data, seed): _Run(group.teacher, arm, group.data, seed)
                for arm, seed in group.runs
            }
            new = {key: run for key, run in keys.items() if key not in missing and not self.folder.has(*key)}
            present = len(keys.keys() - missing.keys() - self._counted) - len(new)
            self._counted |= keys.keys()
            missing |= new
            self.progress.begin_stage(_title(wanted), len(new), present, is_expected=group.is_expected)
        self.processes.wait_for_everyone()
        waves = _waves([*missing.values()], self.wave_size)
        waves_of_process = waves[self.processes.process_index :: self.processes.num_processes]
        # The display is that of one process; each of its steps also counts for the other processes.
        steps_counted = len(missing) / max(1, sum(map(len, waves_of_process)))
        for wave in waves_of_process:
            self.progress.begin_wave(list(dict.fromkeys(run.arm.name for run in wave)), wave[0].seed)
            self._train_wave(wave, lambda steps: self.progress.advance(steps_counted * steps))
        self.processes.wait_for_everyone()

    def _train_wave(self, wave: Sequence[_Run], advance: Callable[[int], Any]) -> None:
        seed, data = wave[0].seed, wave[0].data
        self_teacher = self._self_teacher(seed) if any(run.arm.answering == "self" for run in wave) else None
        pooled_arms = [
            PooledArm(
                run.arm.name,
                run.arm.attack,
                self_teacher if run.arm.answering == "self" else run.teacher.answering(run.arm),
            )
            for run in wave
        ]
        results = self.pool.run(pooled_arms, seed, self.evaluation_sets[data][0], on_step=advance)
        for run, result in zip(wave, results, strict=True):
            self.folder.write(self.key(run.teacher, run.arm), data, result)

    def _self_teacher(self, seed: int) -> AbstractTeacher:
        """Train and return a cross-entropy student of another seed, the teacher of self-distillation."""
        arm = PooledArm("self", Composition(CrossEntropy()), None)
        (student,) = self.pool.train([arm], seed + SELF_TEACHER_SEEDS)
        return ModelTeacher(student.model.eval(), device=self.pool.args.device)

    # Results

    def results(
        self, teacher: AuditedTeacher, arm: Arm, data: str, seeds: Sequence[int] | None = None
    ) -> list[StudentResult]:
        """Return the finished students of an arm; without `seeds`, those of 0, 1, 2, ... up to the first missing."""
        key = self.key(teacher, arm)
        if seeds is None:
            seeds = range(next(seed for seed in range(10**6) if not self.folder.has(key, data, seed)))
        return [self.folder.read(key, data, seed) for seed in seeds]

    def accuracies(
        self, teacher: AuditedTeacher, arm: Arm, data: str, seeds: Sequence[int] | None = None
    ) -> list[float]:
        """Return the accuracies of these students; a diverged one counts as guessing."""
        labels, num_classes = self.evaluation_sets[data][1], teacher.black_box.num_classes
        return [
            1 / num_classes if result.has_diverged else float((result.predictions == labels).mean())
            for result in self.results(teacher, arm, data, seeds)
        ]


def _title(wanted: Sequence[WantedStudents]) -> str:
    """Return the name of a stage for the progress display."""
    stages = ", ".join(dict.fromkeys(group.stage for group in wanted))
    return f"{wanted[0].teacher.name}: {stages}" if len(wanted) == 1 else f"{len(wanted)} teachers: {stages}"


def _waves(runs: Sequence[_Run], size: int) -> list[list[_Run]]:
    """Return waves of at most `size` students of one seed and one evaluation set, of nearly equal size.

    Students with the same attack come one after the other: those of one wave get their losses in one call.
    """
    waves = []
    for seed, data in dict.fromkeys((run.seed, run.data) for run in sorted(runs, key=lambda run: run.seed)):
        alike: dict[str, list[_Run]] = {}
        for run in runs:
            if (run.seed, run.data) == (seed, data):
                alike.setdefault(repr(run.arm.attack), []).append(run)
        ordered = [run for group in alike.values() for run in group]
        count = math.ceil(len(ordered) / size)
        ends = [len(ordered) * number // count for number in range(count + 1)]
        waves += [ordered[start:end] for start, end in itertools.pairwise(ends)]
    return waves


def _affordable_wave(pool: StudentPool) -> int:
    """Return the number of students that fit into memory, from a probe of one.

    Each has weights, gradients and two optimizer states, and in a stack also the activations of its forward pass.
    """
    weights, activations = bytes_of_student(pool)
    device = pool.args.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    bytes_per_student = 4 * weights + (activations if pool.stacked else 0)
    return max(1, min(LARGEST_WAVE, int((MEMORY_SHARE * free - activations) / bytes_per_student)))
