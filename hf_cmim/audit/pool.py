"""The engine: the students of one seed learn in lockstep.

Each batch is loaded, augmented and moved once, each teacher answers it once, then every student takes its own step.
A pooled student ends with the very weights that `DistillationTrainer` gives it on `Repeatable` data.
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
from hf_cmim.audit.graphs import has_graphs
from hf_cmim.audit.new_students import NewStudents
from hf_cmim.audit.pooled import PooledArm, StudentResult, check_can_be_pooled, pooled_arguments
from hf_cmim.audit.shared_answers import SharedAnswers
from hf_cmim.audit.stack import StudentStack, can_be_stacked, stacks_faithfully
from hf_cmim.audit.student import PooledStudent, student_inputs
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.trainers.components import unchanged_random_states
from hf_cmim.trainers.distillation_config import DistillationConfig
from hf_cmim.trainers.transfer_data import TEACHER_VIEW, Collator, IndexedDataset, Repeatable, share_teacher_columns
from hf_cmim.trainers.valid_labels import check_has_valid_label

LARGEST_KEPT = 2**28
"""Bytes of an evaluation set that may stay in memory, collated."""


@final
class StudentPool:
    """Trains students of one architecture on one transfer set, many at once.

    Args:
        build_student: returns a new student; called once for each, right after its seed was set.
        args: settings of every student; their seed, output and reports are the pool's.
        transfer_set: map-style, labelled; what may be random in it becomes a function of (seed, epoch, position).
        data_collator: makes the student's batches; None for Trainer's default.
        teacher_collator: makes the teacher's view, or None where it is the student's.
        stacked: run the passes of students that can be stacked as one: faster where students are small, equal to
            rounding instead of to the bit.

    Attributes:
        shared: the teachers' answers, with the count of what was asked.

    Raises:
        HfCmimError: settings that only a whole Trainer can follow, or a transfer set without a valid label.
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
        """Return whether a data set's samples change from epoch to epoch."""
        if id(dataset) not in self._varies:
            self._varies[id(dataset)] = (dataset, varies(dataset))  # kept alive, so that no other takes its id
        return self._varies[id(dataset)][1]

    def _repeatable(self, dataset: Any, seed: int) -> Any:
        return Repeatable(dataset, seed) if self.varies(dataset) else dataset

    @cached_property
    def num_steps(self) -> int:
        """Optimizer steps of one student."""
        student = self.student(PooledArm("counted", Composition(CrossEntropy()), None), 0)
        return int(student.set_initial_training_values(student.args, self._training_loader(student, 0))[-1])

    # Students

    def untrained(self, seed: int) -> nn.Module:
        """Return a student's model as its seed makes it."""
        return cast(nn.Module, self.student(PooledArm("untrained", Composition(CrossEntropy()), None), seed).model)

    def student(self, arm: PooledArm, seed: int) -> PooledStudent:
        """Return a student as its seed makes it."""
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
        """Train one student for each arm under one seed, in lockstep.

        Args:
            arms: what they learn by.
            seed: sets initialisation, order of the data and augmentation, and is the same for all.
            on_step: told after each step how many students took it.
            on_epoch: told after each epoch its number from 1, the number of epochs, and the students; those in a stack
                hold no weights before the end.
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
        if has_graphs(self.args.device):  # before a loader's own threads could disturb
            memory = torch.cuda.graph_pool_handle()
            for unit in units:
                unit.record_passes(student_inputs(batch), memory)
        for epoch in range(epochs):
            loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]  # DataLoader does not know its data set's type
            loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]  # nor its sampler's
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
        for each in (*units, *students):
            each.end()
        return students

    def _first_batch(self, student: PooledStudent, seed: int) -> dict[str, Any]:
        """Return a batch of the size of those in training."""
        batch = next(self.ordered_batches(student, self.transfer_set, seed))
        size = self.args.per_device_train_batch_size
        return {name: value[:size] if isinstance(value, Tensor) else value for name, value in batch.items()}

    def _units(self, students: list[PooledStudent], batch: dict[str, Any]) -> list[PooledStudent | StudentStack]:
        """Return what takes steps: a stack of those students that can be stacked, and the others one by one."""
        together = [
            student
            for student in students
            if self.stacked and can_be_stacked(student) and not student.draws_random_numbers(batch["labels"])
        ]
        if len(together) < 2 or not stacks_faithfully(together, batch):
            return list(students)
        return [StudentStack(together), *(student for student in students if student not in together)]

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
        """Load what `Trainer` loads under this seed, in its order."""
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
        """Yield the batches of a data set in order, collated, on the student's device, as a seed's epoch 0 sees it."""
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
        """Return the batches of the transfer set in order, or None where its samples or their collation change."""
        if self.varies(self.transfer_set):
            return None
        student = self.student(PooledArm("shown", Composition(CrossEntropy()), None), 0)
        first, second = (next(self.ordered_batches(student, self.transfer_set)) for _ in range(2))
        return self.ordered_batches(student, self.transfer_set) if _is_equal(first, second) else None

    @torch.no_grad()
    def _survey(self, students: Sequence[PooledStudent], seed: int) -> None:
        """Show the attacks that want it the answers to the whole transfer set, as `DistillationTrainer` does."""
        curious = [student for student in students if student.attack.needs_survey]
        answers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in curious]
        for batch in self.ordered_batches(curious[0], self.transfer_set, seed) if curious else ():
            self.shared.show([batch])
            labels, index = batch.pop("labels"), batch.pop(INDEX_NAME)
            view = batch.pop(TEACHER_VIEW, batch)
            valid = labels.flatten() != IGNORE_INDEX
            for student, seen in zip(curious, answers, strict=True):
                log_probs = student.queries.answers(view, labels, index).flatten(0, -2)
                seen.append((log_probs[valid], labels.flatten()[valid]))
            self.shared.forget()
        for student, seen in zip(curious, answers, strict=True):
            with student.own_randomness():
                student.attack.survey(seen)

    # Results

    def predict(self, students: Sequence[PooledStudent], dataset: Any) -> list[NDArray[np.int32]]:
        """Return for each student the classes it names for the valid labels of a data set, in its order."""
        found: list[list[Tensor]] = [[] for _ in students]
        for kept in self._evaluation_batches(students[0], dataset):
            batch = dict(kept)
            valid = batch.pop("labels").flatten() != IGNORE_INDEX
            for student, seen in zip(students, found, strict=True):
                seen.append(student.classify(student_inputs(batch)).flatten()[valid].cpu())
        return [torch.cat(seen).numpy().astype(np.int32) for seen in found]

    def _evaluation_batches(self, student: PooledStudent, dataset: Any) -> Iterable[dict[str, Any]]:
        """Return the batches of an evaluation set, kept for the next wave where they are small."""
        if id(dataset) in self._kept:
            return self._kept[id(dataset)][1]
        batches = self.ordered_batches(student, dataset)
        first = list(islice(batches, 1))
        values = (value for batch in first for value in batch.values() if isinstance(value, Tensor))
        size = sum(value.numel() * value.element_size() for value in values) / self.args.per_device_eval_batch_size
        if size * len(dataset) > LARGEST_KEPT:
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
        """Train and evaluate one student for each arm.

        Args:
            arms: what they learn by.
            seed: of them all.
            evaluation_set: what their last epoch is measured on.
            on_step: told after each step how many students took it.
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
                predictions=predicted,
                steps=student.state.global_step,
                queries=student.queries.ledger.num_paid,
                has_diverged=student.has_diverged,
                seconds=seconds,
            )
            for arm, student, predicted in zip(arms, students, predictions, strict=True)
        ]


def _is_equal(first: Any, second: Any) -> bool:
    """Return whether two batches hold the same values."""
    if isinstance(first, Mapping):
        return all(_is_equal(value, second[name]) for name, value in first.items())
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)


def _loading(args: DistillationConfig) -> dict[str, Any]:
    return {"num_workers": args.dataloader_num_workers, "pin_memory": args.dataloader_pin_memory
            and args.device.type == "cuda"}  # fmt: skip
