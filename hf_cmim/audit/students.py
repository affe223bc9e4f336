"""Students of an audit: trained in waves that processes share, stored as they finish, and read again."""

import math
from collections.abc import Callable, Mapping, Sequence
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

LARGEST_WAVE = 16
"""Most students trained at once; more save little, and a kill would lose more."""
SELF_TEACHER_SEEDS = 1_000_000
"""Offset of the seed of the student from which self-distillation learns."""
MEMORY_SHARE = 0.5
"""Share of the free memory that students may use."""


@final
class AuditStudents:
    """The students of an audit: those not finished yet are trained, the finished ones are read from their folder.

    Every process of a launch makes the same calls. Processes share the waves and wait for each other.

    Args:
        pool: pool that trains the students.
        folder: folder of finished students.
        evaluation_sets: evaluation data with their labels, by name.
        wave_size: students trained at once; None for as many as memory allows, at most 16.
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

    def train(
        self,
        teacher: AuditedTeacher,
        runs: Sequence[tuple[Arm, int]],
        data: str,
        stage: str,
        *,
        is_expected: bool = True,
    ) -> None:
        """Train and store the students that are missing.

        Args:
            teacher: audited teacher.
            runs: pairs of arm and seed.
            data: name of the evaluation set.
            stage: name of the stage for the progress display.
            is_expected: True if these students were expected when the audit began.
        """
        self.processes.wait_for_everyone()
        # Keys remove duplicates: two arms may describe the same student.
        keys = {(self.key(teacher, arm), data, seed): (arm, seed) for arm, seed in runs}
        missing = [run for key, run in keys.items() if not self.folder.has(*key)]
        present = len(keys.keys() - self._counted) - len(missing)
        self._counted |= keys.keys()
        # All processes must see the same missing students, so none may write before all have looked.
        self.processes.wait_for_everyone()
        waves = _waves(missing, self.wave_size)
        waves_of_process = waves[self.processes.process_index :: self.processes.num_processes]
        self.progress.begin_stage(f"{teacher.name}: {stage}", len(missing), present, is_expected=is_expected)
        # The display is that of one process; each of its steps also counts for the other processes.
        steps_counted = len(missing) / max(1, sum(len(arms) for arms, _ in waves_of_process))
        for arms, seed in waves_of_process:
            self.progress.begin_wave([arm.name for arm in arms], seed)
            self._train_wave(teacher, arms, seed, data, lambda steps: self.progress.advance(steps_counted * steps))
        self.processes.wait_for_everyone()

    def _train_wave(
        self, teacher: AuditedTeacher, arms: Sequence[Arm], seed: int, data: str, advance: Callable[[int], Any]
    ) -> None:
        self_teacher = self._self_teacher(seed) if any(arm.answering == "self" for arm in arms) else None
        pooled_arms = [
            PooledArm(arm.name, arm.attack, self_teacher if arm.answering == "self" else teacher.answering(arm))
            for arm in arms
        ]
        results = self.pool.run(pooled_arms, seed, self.evaluation_sets[data][0], on_step=advance)
        for arm, result in zip(arms, results, strict=True):
            self.folder.write(self.key(teacher, arm), data, result)

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


def _waves(runs: Sequence[tuple[Arm, int]], size: int) -> list[tuple[list[Arm], int]]:
    """Return waves of at most `size` arms of one seed, of nearly equal size, in the order of seeds."""
    waves = []
    for seed in sorted({seed for _, seed in runs}):
        arms = [arm for arm, run_seed in runs if run_seed == seed]
        count = math.ceil(len(arms) / size)
        waves += [(arms[number::count], seed) for number in range(count)]
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
