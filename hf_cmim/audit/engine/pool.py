"""The engine of an audit: all students of one seed are trained in lockstep.

Each batch is loaded, augmented and moved to the device once. Each teacher answers it once, then every student takes a
step of its own. A pooled student ends with the same bits as under `DistillationTrainer` on `Repeatable` data.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Any, cast, final

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader
from transformers import set_seed

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.data import varies
from hf_cmim.audit.engine.graphs import has_graphs
from hf_cmim.audit.engine.new_students import NewStudents
from hf_cmim.audit.engine.pooled import PooledArm, StudentResult, check_can_be_pooled, pooled_arguments
from hf_cmim.audit.engine.shared_answers import SharedAnswers
from hf_cmim.audit.engine.stack import StudentStack, can_be_stacked, stacks_faithfully
from hf_cmim.audit.engine.student import PooledStudent, student_inputs
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig
from hf_cmim.trainers.distillation.transfer_data import (
    TEACHER_VIEW,
    Collator,
    IndexedDataset,
    Repeatable,
    share_teacher_columns,
)
from hf_cmim.trainers.shared.components import unchanged_random_states
from hf_cmim.trainers.shared.valid_labels import check_has_valid_label

LARGEST_KEPT = 2**28
"""Largest size of a collated evaluation set that stays in memory, in bytes."""


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
        self._varies: dict[int, tuple[Any, bool]] = {}
        self._kept: dict[int, tuple[Any, list[dict[str, Any]]]] = {}

    def varies(self, dataset: Any) -> bool:
        """Return True if a data set's samples change from epoch to epoch."""
        if id(dataset) not in self._varies:
            # Keeping the data set alive reserves its id.
            self._varies[id(dataset)] = (dataset, varies(dataset))
        return self._varies[id(dataset)][1]

    def _repeatable(self, dataset: Any, seed: int) -> Any:
        return Repeatable(dataset, seed) if self.varies(dataset) else dataset

    @cached_property
    def num_steps(self) -> int:
        """Optimizer steps of one student."""
        student = self.student(PooledArm("probe", Composition(CrossEntropy()), None), 0)
        return int(student.set_initial_training_values(student.args, self._training_loader(student, 0))[-1])

    # Students

    def untrained(self, seed: int) -> nn.Module:
        """Return the untrained model of the student of a seed."""
        return cast(nn.Module, self.student(PooledArm("untrained", Composition(CrossEntropy()), None), seed).model)

    def student(self, arm: PooledArm, seed: int) -> PooledStudent:
        """Return the untrained student of an arm and a seed."""
        set_seed(seed)
        return PooledStudent(
            self.build_student(),
            shared=self.shared,
            args=pooled_arguments(self.args, seed),
            train_dataset=self._repeatable(self.transfer_set, seed),
            data_collator=self.data_collator,
            teacher_collator=self.teacher_collator,
            teacher=arm.teacher,
            attack=arm.attack,
        )

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
        share_teacher_columns(students)
        loader = self._training_loader(students[0], seed)
        epochs, steps_in_epoch, *_, max_steps = students[0].set_initial_training_values(students[0].args, loader)
        self._survey(students, seed)
        batch = self._first_batch(students[0], seed)
        units = self._units(students, batch)
        for unit in units:
            unit.begin(max_steps)
        # Graphs are recorded before a data loader starts threads that could use the GPU.
        if has_graphs(self.args.device):
            memory = torch.cuda.graph_pool_handle()
            for unit in units:
                unit.record_passes(student_inputs(batch), memory)
        for epoch in range(epochs):
            # DataLoader declares only base types for its data set and sampler.
            loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
            loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
            for unit in units:
                unit.begin_epoch()
            batches = iter(loader)
            for step in range(steps_in_epoch):
                if epoch * steps_in_epoch + step == max_steps:
                    break
                self._step(students[0], units, list(islice(batches, self.args.gradient_accumulation_steps)))
                if on_step is not None:
                    on_step(len(students))
            if on_epoch is not None:
                on_epoch(epoch + 1, epochs, students)
        # Stacks first: they give their students the weights.
        for unit_or_student in (*units, *students):
            unit_or_student.end()
        return students

    def _first_batch(self, student: PooledStudent, seed: int) -> dict[str, Any]:
        """Return a batch of the size of a training batch."""
        batch = next(self.ordered_batches(student, self.transfer_set, seed))
        size = self.args.per_device_train_batch_size
        return {name: value[:size] if isinstance(value, Tensor) else value for name, value in batch.items()}

    def _units(self, students: list[PooledStudent], batch: dict[str, Any]) -> list[PooledStudent | StudentStack]:
        """Return the units that take steps: a stack of the students that allow it, and all others one by one."""
        stackable = [
            student
            for student in students
            if self.stacked and can_be_stacked(student) and not student.draws_random_numbers(batch["labels"])
        ]
        if len(stackable) < 2 or not stacks_faithfully(stackable, batch):
            return list(students)
        return [StudentStack(stackable), *(student for student in students if student not in stackable)]

    def _step(
        self, first: PooledStudent, units: Sequence[PooledStudent | StudentStack], batches: Sequence[dict[str, Any]]
    ) -> None:
        moved = [dict(first._prepare_inputs(batch)) for batch in batches]
        num_items = first._get_num_items_in_batch(moved, self.args.device)
        self.shared.show(moved)
        for unit in units:
            unit.take_step(moved, num_items)
        self.shared.forget()

    def _training_loader(self, student: PooledStudent, seed: int) -> DataLoader[Any]:
        """Return a loader of the batches that `Trainer` loads under this seed, in the same order."""
        dataset: Any = student.train_dataset
        sampler = SeedableRandomSampler(dataset, generator=torch.Generator(), data_seed=seed)
        return DataLoader(
            dataset,
            batch_sampler=BatchSampler(sampler, self.args.per_device_train_batch_size, self.args.dataloader_drop_last),
            collate_fn=student.data_collator,
            generator=torch.Generator().manual_seed(seed),
            **_loading(self.args),
        )

    def ordered_batches(self, student: PooledStudent, dataset: Any, seed: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the collated batches of a data set in order, on the device, as in epoch 0 of a seed."""
        indexed: Any = IndexedDataset(self._repeatable(dataset, seed))
        loader = DataLoader(
            indexed,
            batch_size=self.args.per_device_eval_batch_size,
            collate_fn=student.data_collator,
            generator=torch.Generator().manual_seed(0),
            **_loading(self.args),
        )
        for batch in loader:
            yield dict(student._prepare_inputs(batch))

    def _unchanging_transfer_set(self) -> Iterator[dict[str, Any]] | None:
        """Return the batches of the transfer set in order, or None if samples or collation vary."""
        if self.varies(self.transfer_set):
            return None
        student = self.student(PooledArm("probe", Composition(CrossEntropy()), None), 0)
        first, second = (next(self.ordered_batches(student, self.transfer_set)) for _ in range(2))
        return self.ordered_batches(student, self.transfer_set) if _is_equal(first, second) else None

    @torch.no_grad()
    def _survey(self, students: Sequence[PooledStudent], seed: int) -> None:
        """Give attacks with a survey the answers to the whole transfer set, as `DistillationTrainer` does."""
        surveying = [student for student in students if student.attack.needs_survey]
        if not surveying:
            return
        answers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in surveying]
        for batch in self.ordered_batches(surveying[0], self.transfer_set, seed):
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
        for stored_batch in self._evaluation_batches(students[0], dataset):
            batch = dict(stored_batch)  # a copy, because stored batches are used again
            valid = batch.pop("labels").flatten() != IGNORE_INDEX
            for student, student_predictions in zip(students, predictions, strict=True):
                student_predictions.append(student.classify(student_inputs(batch)).flatten()[valid].cpu())
        return [torch.cat(batches).numpy().astype(np.int32) for batches in predictions]

    def _evaluation_batches(self, student: PooledStudent, dataset: Any) -> Iterable[dict[str, Any]]:
        """Return the batches of an evaluation set, stored for the next wave if they are small."""
        if id(dataset) in self._kept:
            return self._kept[id(dataset)][1]
        batches = self.ordered_batches(student, dataset)
        first = list(islice(batches, 1))
        values = (value for batch in first for value in batch.values() if isinstance(value, Tensor))
        batch_bytes = sum(value.numel() * value.element_size() for value in values)
        sample_bytes = batch_bytes / self.args.per_device_eval_batch_size
        if sample_bytes * len(dataset) > LARGEST_KEPT:
            return chain(first, batches)
        self._kept[id(dataset)] = (dataset, [*first, *batches])
        return self._kept[id(dataset)][1]

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
                steps=student.state.global_step,
                queries=student.queries.ledger.num_paid,
                has_diverged=student.has_diverged,
                seconds=seconds,
            )
            for arm, student, student_predictions in zip(arms, students, predictions, strict=True)
        ]


def _is_equal(first: Any, second: Any) -> bool:
    """Return True if two batches have the same values."""
    if isinstance(first, Mapping):
        return all(_is_equal(value, second[name]) for name, value in first.items())
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)


def _loading(args: DistillationConfig) -> dict[str, Any]:
    return {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and args.device.type == "cuda",
    }
