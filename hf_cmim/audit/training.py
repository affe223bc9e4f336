"""Training what an audit still lacks: students in waves, divided among processes, kept as they finish."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast, final

import numpy as np
import psutil
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import nn

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.arms import Arm
from hf_cmim.audit.pool import StudentPool
from hf_cmim.audit.pooled import PooledArm, StudentResult
from hf_cmim.audit.probe import bytes_of_student, query_obstacle, shows_hidden_states
from hf_cmim.audit.progress import AuditProgress
from hf_cmim.audit.state import AuditFolder
from hf_cmim.audit.subject import Subject
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.model import ModelTeacher

LARGEST_WAVE = 16
"""More students at once save little, and a kill would cost more."""
SELF_TEACHER_SEEDS = 1_000_000
"""What is added to a seed for the student from which self-distillation learns."""
MEMORY_SHARE = 0.5
"""Share of the free memory that students may take."""


@final
class Trainees:
    """Trains the students an audit asks for, unless they are there already.

    Every process of a launch makes the same calls; waves are dealt out among them, and each waits for the others.

    Args:
        pool: the engine.
        folder: where finished students are kept.
        evaluation_sets: data to evaluate on, by name, and their labels.
        wave_size: students trained at once; None: what memory allows, at most 16.
        progress: told what is trained; None for nobody.
    """

    def __init__(
        self,
        pool: StudentPool,
        folder: AuditFolder,
        evaluation_sets: Mapping[str, tuple[Any, NDArray[np.int64]]],
        wave_size: int | None,
        progress: AuditProgress | None = None,
    ) -> None:
        self.pool = pool
        self.folder = folder
        self.evaluation_sets = evaluation_sets
        self.processes = PartialState()
        self.wave_size = wave_size or _affordable_wave(pool)
        self.progress = progress or AuditProgress(1, 0, quiet=True)
        self._query_obstacles: dict[str, str] = {}
        self._counted: set[tuple[str, str, int]] = set()

    @cached_property
    def shows_hidden_states(self) -> bool:
        """Whether a student returns its hidden states when asked."""
        return shows_hidden_states(self.pool)

    def obstacle(self, arm: Arm) -> str:
        """Return why students of an arm cannot be trained on these data, or nothing."""
        if arm.attack.student_protocol is not None and not self.shows_hidden_states:
            return "the student shows no hidden states"
        if arm.answering == "self" and self.pool.teacher_collator is not None:
            return "teachers have a view of their own, which a student cannot take"
        protocol = repr(arm.attack.query_protocol)
        if protocol not in self._query_obstacles:
            self._query_obstacles[protocol] = query_obstacle(self.pool, arm.attack)
        return self._query_obstacles[protocol]

    def train(
        self, subject: Subject, runs: Sequence[tuple[Arm, int]], data: str, what: str, *, is_expected: bool = True
    ) -> None:
        """Train and keep what is missing.

        Args:
            subject: the audited teacher.
            runs: arms with their seeds.
            data: name of the evaluation set.
            what: stage in words, for whoever waits.
            is_expected: whether these students were expected when the audit began.
        """
        self.processes.wait_for_everyone()
        keys = {(run[0].key(subject.fingerprint), data, run[1]): run for run in runs}
        missing = [run for key, run in keys.items() if not self.folder.has(*key)]
        present = len(keys.keys() - self._counted) - len(missing)
        self._counted |= keys.keys()
        self.processes.wait_for_everyone()  # nobody writes before all have looked
        waves = _waves(missing, self.wave_size)
        mine = waves[self.processes.process_index :: self.processes.num_processes]
        self.progress.begin_stage(f"{subject.name}: {what}", len(missing), present, is_expected=is_expected)
        # The other processes train their waves meanwhile: a step here stands for theirs too.
        share = len(missing) / max(1, sum(len(arms) for arms, _ in mine))
        for arms, seed in mine:
            self.progress.begin_wave([arm.name for arm in arms], seed)
            self._train_wave(subject, arms, seed, data, lambda steps: self.progress.advance(share * steps))
        self.processes.wait_for_everyone()

    def _train_wave(
        self, subject: Subject, arms: Sequence[Arm], seed: int, data: str, advance: Callable[[int], Any]
    ) -> None:
        own = self._own_teacher(seed) if any(arm.answering == "self" for arm in arms) else None
        pooled = [PooledArm(arm.name, arm.attack, own if arm.answering == "self" else subject.answering(arm))
                  for arm in arms]  # fmt: skip
        for arm, result in zip(
            arms,
            self.pool.run(pooled, seed, self.evaluation_sets[data][0], on_step=advance),
            strict=True,
        ):
            self.folder.write(arm.key(subject.fingerprint), data, result)

    def _own_teacher(self, seed: int) -> AbstractTeacher:
        """Return a cross-entropy student of another seed."""
        arm = PooledArm("self", Composition(CrossEntropy()), None)
        (student,) = self.pool.train([arm], seed + SELF_TEACHER_SEEDS)
        return ModelTeacher(cast(nn.Module, student.model).eval(), device=self.pool.args.device)

    # What is there

    def results(
        self, subject: Subject, arm: Arm, data: str, seeds: Sequence[int] | None = None
    ) -> list[StudentResult]:
        """Return the finished students of an arm: of these seeds, or of 0, 1, 2, ... as far as there are any."""
        key = arm.key(subject.fingerprint)
        if seeds is None:
            seeds = range(next(seed for seed in range(10**6) if not self.folder.has(key, data, seed)))
        return [self.folder.read(key, data, seed) for seed in seeds]

    def accuracies(self, subject: Subject, arm: Arm, data: str, seeds: Sequence[int] | None = None) -> list[float]:
        """Return their accuracies, that of guessing where one diverged."""
        labels, num_classes = self.evaluation_sets[data][1], subject.teacher.num_classes
        return [
            1 / num_classes if result.has_diverged else float((result.predictions == labels).mean())
            for result in self.results(subject, arm, data, seeds)
        ]


def _waves(runs: Sequence[tuple[Arm, int]], size: int) -> list[tuple[list[Arm], int]]:
    """Return arms of one seed that train together, in order of seeds, as evenly as the size allows."""
    waves = []
    for seed in sorted({seed for _, seed in runs}):
        arms = [arm for arm, own in runs if own == seed]
        count = math.ceil(len(arms) / size)
        waves += [(arms[number::count], seed) for number in range(count)]
    return waves


def _affordable_wave(pool: StudentPool) -> int:
    """Return how many students fit beside each other, as one of them shows.

    Each has weights, gradients and two states of the optimizer, and in a stack what its forward pass keeps.
    """
    weights, activations = bytes_of_student(pool)
    device = pool.args.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    each = 4 * weights + (activations if pool.stacked else 0)
    return max(1, min(LARGEST_WAVE, int((MEMORY_SHARE * free - activations) / each)))
