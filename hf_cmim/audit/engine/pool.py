"""The engine of an audit: all students of one seed are trained in lockstep.

Each batch is loaded, augmented and moved to the device once. Each teacher answers it once, then every student takes a
step of its own. A pooled student ends with the same bits as under `DistillationTrainer` on `Repeatable` data.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import set_seed

from hf_cmim.audit.engine.batches import PoolBatches
from hf_cmim.audit.engine.graphs import has_graphs
from hf_cmim.audit.engine.new_students import NewStudents
from hf_cmim.audit.engine.pooled import PooledArm, StudentResult, check_can_be_pooled
from hf_cmim.audit.engine.shared_answers import SharedAnswers
from hf_cmim.audit.engine.stack import StudentStack, can_be_stacked, stacks_faithfully
from hf_cmim.audit.engine.student import PooledStudent, student_inputs
from hf_cmim.audit.engine.template import StudentTemplate
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW, Collator
from hf_cmim.trainers.shared.class_labels import check_has_valid_label
from hf_cmim.trainers.shared.components import unchanged_random_states


@final
class StudentPool:
    """A trainer of many students of one architecture at once, on one transfer set.

    Args:
        build_student: function that returns a new student; called once per student, right after its seed is set.
        args: settings of every student, except seed, output and reports, which the pool sets.
        transfer_set: labelled map-style data set; its randomness becomes a function of (seed, epoch, position).
        data_collator: collator of the student's batches; None for Trainer's default.
        teacher_collator: collator of the teacher's view; None if it is the student's.
        stacked: True to stack the passes of students that allow it: faster for small students, with results equal to
            rounding instead of bit for bit.

    Attributes:
        shared: memory of the teachers' answers, which counts the answered samples.

    Raises:
        HfCmimError: settings that need a whole Trainer, or a transfer set without a valid label.
    """

    def __init__(
        self,
        build_student: Callable[[], nn.Module],
        args: DistillationConfig,
        transfer_set: Any,
        data_collator: Collator | None = None,
        teacher_collator: Collator | None = None,
        *,
        stacked: bool = False,
    ) -> None:
        check_can_be_pooled(args)
        with unchanged_random_states(args.device):
            check_has_valid_label(transfer_set)
        self.build_student = NewStudents(build_student)
        self.args = args
        self.transfer_set = transfer_set
        self.data_collator = data_collator
        self.teacher_collator = teacher_collator
        self.stacked = stacked
        self.shared = SharedAnswers(self._unchanging_transfer_set if stacked else None)

    @cached_property
    def template(self) -> StudentTemplate:
        """Facts that all students share; the first use builds one student."""
        with unchanged_random_states(self.args.device):
            set_seed(0)
            student = self.build_student()
            return StudentTemplate(student, self.args, self.transfer_set, self.data_collator, self.teacher_collator)

    @cached_property
    def batches(self) -> PoolBatches:
        """Batches for training and evaluation."""
        return PoolBatches(self.template, self.transfer_set)

    def with_settings(self, args: DistillationConfig) -> "StudentPool":
        """Return a pool of the same students, trained for another number of steps one by one, on the same batches."""
        pool = StudentPool(self.build_student, args, self.transfer_set, self.data_collator, self.teacher_collator)
        pool.batches = self.batches
        return pool

    @cached_property
    def num_steps(self) -> int:
        """Optimizer steps of one student."""
        return self.template.plan(self.batches.of_seed(0).loader)[-1]

    def _unchanging_transfer_set(self, teacher: AbstractTeacher) -> Iterator[dict[str, Any]] | None:
        # A null answers so quickly that its answers are worth storing only if no sample must be read for them.
        is_null = teacher.wants_labels or teacher.wants_index
        return self.batches.unchanging_transfer_set([teacher], only_if_kept=is_null)

    # Students

    def untrained(self, seed: int) -> nn.Module:
        """Return the untrained model of the student of a seed, on the device."""
        device = self.template.args.device
        self.template.set_seed(seed)
        return self.build_student().to(device)

    def student(self, arm: PooledArm, seed: int) -> PooledStudent:
        """Return the untrained student of an arm and a seed."""
        model = self.untrained(seed)
        # Trainer seeds the generators once more when it gets its model.
        self.template.set_seed(seed)
        return PooledStudent(model, arm.attack, arm.teacher, self.template, self.shared)

    def train(
        self,
        arms: Sequence[PooledArm],
        seed: int,
        *,
        on_step: Callable[[int], None] | None = None,
        on_epoch: Callable[[int, int, list[PooledStudent]], None] | None = None,
    ) -> list[PooledStudent]:
        """Train one student per arm under one seed, in lockstep.

        Args:
            arms: arms of the students.
            seed: seed of initialisation, order of the data and augmentation, the same for all students.
            on_step: callback after each step, called with the number of students that took it.
            on_epoch: callback after each epoch, called with its number from 1, the number of epochs and the students.
                Students in a stack have their weights only after the last epoch.
        """
        students = [self.student(arm, seed) for arm in arms]
        teachers = [arm.teacher for arm in arms]
        of_seed = self.batches.of_seed(seed, teachers)
        epochs, steps_in_epoch, max_steps = self.template.plan(of_seed.loader)
        self._survey(students, seed)
        first_batch = next(self.batches.ordered(self.transfer_set, seed, teachers))
        batch = _cut(first_batch, self.args.per_device_train_batch_size)
        units = self._units(students, batch)
        for unit in units:
            unit.begin(max_steps, student_inputs(first_batch))
        # Graphs are recorded before a data loader starts threads that could use the GPU.
        if has_graphs(self.args.device):
            memory = torch.cuda.graph_pool_handle()
            for unit in units:
                unit.record_passes(student_inputs(batch), memory)
        for epoch in range(epochs):
            for unit in units:
                unit.begin_epoch()
            batches = self.batches.epoch(of_seed, epoch)
            for step in range(steps_in_epoch):
                if epoch * steps_in_epoch + step == max_steps:
                    break
                self._step(units, list(islice(batches, self.args.gradient_accumulation_steps)))
                if on_step is not None:
                    on_step(len(students))
            if on_epoch is not None:
                on_epoch(epoch + 1, epochs, students)
        # Stacks first: they give their students the weights.
        for unit_or_student in (*units, *students):
            unit_or_student.end()
        self.template.release()
        return students

    def _units(self, students: list[PooledStudent], batch: dict[str, Any]) -> list[PooledStudent | StudentStack]:
        """Return the units that take steps: a stack of the students that allow it, and all others one by one."""
        stackable = [
            student
            for student in students
            if self.stacked and can_be_stacked(student) and not student.draws_random_numbers(batch["labels"])
        ]
        if len(stackable) < 2 or not stacks_faithfully(stackable, batch):
            return list(students)
        return [
            StudentStack(stackable, batch["labels"]),
            *(student for student in students if student not in stackable),
        ]

    def _step(self, units: Sequence[PooledStudent | StudentStack], batches: Sequence[dict[str, Any]]) -> None:
        num_items = self.template.num_items(batches)
        self.shared.show(batches)
        for unit in units:
            unit.take_step(batches, num_items)
        self.shared.forget()

    @torch.no_grad()
    def _survey(self, students: Sequence[PooledStudent], seed: int) -> None:
        """Give attacks with a survey the answers to the whole transfer set, as `DistillationTrainer` does."""
        surveying = [student for student in students if student.attack.needs_survey]
        if not surveying:
            return
        answers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in surveying]
        teachers = [student.queries.teacher for student in surveying]
        for batch in self.batches.ordered(self.transfer_set, seed, teachers):
            self.shared.show([batch])
            labels, index = batch.pop("labels"), batch.pop(INDEX_NAME)
            view = batch.pop(TEACHER_VIEW, batch)
            valid = labels.flatten() != IGNORE_INDEX
            for student, student_answers in zip(surveying, answers, strict=True):
                log_probs = student.queries.answers(view, labels, index).flatten(0, -2)
                student_answers.append((log_probs[valid], labels.flatten()[valid]))
            self.shared.forget()
        for student, student_answers in zip(surveying, answers, strict=True):
            with student.own_randomness():
                student.attack.survey(student_answers)

    # Results

    def predict(self, students: Sequence[PooledStudent], dataset: Any) -> list[NDArray[np.int32]]:
        """Return each student's predicted classes for the valid labels of a data set, in its order."""
        predictions: list[list[Tensor]] = [[] for _ in students]
        for batch in self.batches.ordered(dataset):
            valid = batch.pop("labels").flatten() != IGNORE_INDEX
            for student, student_predictions in zip(students, predictions, strict=True):
                student_predictions.append(student.classify(student_inputs(batch)).flatten()[valid].cpu())
        return [torch.cat(batches).numpy().astype(np.int32) for batches in predictions]

    def run(
        self,
        arms: Sequence[PooledArm],
        seed: int,
        evaluation_set: Any,
        *,
        on_step: Callable[[int], None] | None = None,
    ) -> list[StudentResult]:
        """Train and evaluate one student per arm.

        Args:
            arms: arms of the students.
            seed: seed of all students.
            evaluation_set: data on which students are evaluated after the last epoch.
            on_step: callback after each step, called with the number of students that took it.
        """
        started = time.perf_counter()
        with unchanged_random_states(self.args.device):
            students = self.train(arms, seed, on_step=on_step)
        predictions = self.predict(students, evaluation_set)
        seconds = (time.perf_counter() - started) / len(students)
        return [
            StudentResult(
                name=arm.name,
                seed=seed,
                predictions=student_predictions,
                steps=student.num_steps,
                queries=student.queries.ledger.num_paid,
                has_diverged=student.has_diverged,
                seconds=seconds,
            )
            for arm, student, student_predictions in zip(arms, students, predictions, strict=True)
        ]


def _cut(batch: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the first samples of a batch, with the values of a batch that are no tensors."""
    return {name: value[:size] if isinstance(value, Tensor) else value for name, value in batch.items()}
