"""The template of a pool's students: how `DistillationTrainer` would train one of them."""

import contextlib
import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, final

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler, set_seed
from transformers.trainer_utils import enable_full_determinism

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.engine.pooled import pooled_arguments
from hf_cmim.class_names import class_names_of
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.trainers.distillation.attack_optimizer import attack_optimizer, weight_decay_groups
from hf_cmim.trainers.distillation.distillation_checks import check_attack, planned_epochs
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig
from hf_cmim.trainers.distillation.distillation_trainer import DistillationTrainer
from hf_cmim.trainers.distillation.student_step import StudentStep
from hf_cmim.trainers.distillation.teacher_queries import TeacherQueries
from hf_cmim.trainers.distillation.transfer_data import Collator, DistillationCollator


@final
class StudentTemplate:
    """The facts that all students of a pool share: device, precision, optimizer, schedule, columns and checks.

    They come from the one trainer of the pool, which checks settings, student and data, and never trains. A pooled
    student is its model and its `StudentStep`, and needs no trainer.

    Args:
        student: untrained student; all others have its architecture.
        args: settings of every student.
        transfer_set: labelled map-style data set.
        data_collator: collator of the student's batches; None for Trainer's default.
        teacher_collator: collator of the teacher's view; None if it is the student's.

    Raises:
        HfCmimError: a student, settings or data that `DistillationTrainer` refuses.
    """

    def __init__(
        self,
        student: nn.Module,
        args: DistillationConfig,
        transfer_set: Any,
        data_collator: Collator | None,
        teacher_collator: Collator | None,
    ) -> None:
        self.args = pooled_arguments(args, seed=0)
        self._trainer = DistillationTrainer(
            student,
            self.args,
            train_dataset=transfer_set,
            data_collator=data_collator,
            teacher_collator=teacher_collator,
            teacher=None,
            attack=CrossEntropy(),
        )
        self.num_samples = len(transfer_set)
        self.num_classes = self._trainer.queries.num_classes
        self._class_names = class_names_of(student)

    # Students

    def set_seed(self, seed: int) -> None:
        """Seed all generators, as Trainer does."""
        enable_full_determinism(seed) if self.args.full_determinism else set_seed(seed)

    def queries(self, teacher: AbstractTeacher | None) -> TeacherQueries:
        """Return new queries to a teacher, with an empty ledger."""
        return TeacherQueries(teacher, self._class_names, self.num_classes, self.args.query_budget)

    def step(self, attack: Composition, teacher: AbstractTeacher | None) -> StudentStep:
        """Return the step of a new student: a copy of the attack, with queries of its own.

        Raises:
            HfCmimError: an attack that these settings, this teacher or the budget do not allow.
        """
        step = StudentStep(copy.deepcopy(attack), self.queries(teacher))
        step.attack.prepare(self.num_classes)
        step.attack.to(self.args.device)
        check_attack(step.attack, self.args, self.num_samples, given_optimizer=False)
        step.queries.check(step.attack, self.num_samples, planned_epochs(self.args, self.num_samples))
        return step

    # Data

    def collator(self, teachers: Iterable[AbstractTeacher | None]) -> DistillationCollator:
        """Return the collator of batches for a student and for all these teachers."""
        collator = copy.copy(cast(DistillationCollator, self._trainer.data_collator))
        if collator.teacher_collator is None:
            columns = (teacher.input_names or () for teacher in teachers if teacher is not None)
            collator.teacher_columns = set().union(*columns)
        return collator

    def on_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch on the device, with int64 labels."""
        return dict(self._trainer._prepare_inputs(dict(batch)))

    def num_items(self, batches: Sequence[Mapping[str, Any]]) -> Any:
        """Return the number of valid labels of a step."""
        return self._trainer._get_num_items_in_batch(list(batches), self.args.device)

    def plan(self, loader: Any) -> tuple[int, int, int]:
        """Return the numbers of epochs, of optimizer steps in an epoch, and of all optimizer steps."""
        epochs, steps_in_epoch, *_, max_steps = self._trainer.set_initial_training_values(self.args, loader)
        return int(epochs), int(steps_in_epoch), int(max_steps)

    # Training

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which Trainer computes a loss."""
        context: contextlib.AbstractContextManager[Any] = self._trainer.compute_loss_context_manager()
        return context

    def learner(self, model: nn.Module) -> nn.Module:
        """Return a model with this precision, compiled if the settings ask for it."""
        # Not `prepare`: with several processes it would wrap the model for training on all of them together.
        prepared: nn.Module = self._trainer.accelerator.prepare_model(model, evaluation_mode=True)
        return prepared

    def new_scaler(self) -> Any:
        """Return a new scaler of fp16 gradients, or None for other precisions."""
        return copy.deepcopy(self._trainer.accelerator.scaler)

    def release(self) -> None:
        """Let go of the students' models, which Accelerate remembers."""
        self._trainer.accelerator._models.clear()

    def optimizer(self, attack: Composition, model: nn.Module) -> Optimizer:
        """Return the optimizer of a student and of its attack's own parameters."""
        return attack_optimizer(
            attack,
            model,
            learning_rate=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            decayed_names=self._trainer.get_decay_parameter_names(model),
            new_optimizer=self._new_optimizer,
        )

    def _new_optimizer(self, model: nn.Module) -> Optimizer:
        # Cross-entropy, the attack of this trainer, adds nothing of its own.
        optimizer = self._trainer.create_optimizer(model)
        self._trainer.optimizer = None
        return optimizer

    def stacked_optimizer(self, model: nn.Module, parameters: Iterable[tuple[str, Tensor]]) -> Optimizer:
        """Return an optimizer of stacked parameters.

        Args:
            model: one student, whose parameters have the same names.
            parameters: pairs of name and stacked parameter.
        """
        decayed_names = self._trainer.get_decay_parameter_names(model)
        groups = weight_decay_groups(parameters, decayed_names, self.args.weight_decay)
        kind, settings = self._trainer.get_optimizer_cls_and_kwargs(self.args, cast(Any, model))
        optimizer: Optimizer = kind(groups, **settings)
        return optimizer

    def schedule(self, optimizer: Optimizer, max_steps: int) -> LRScheduler:
        """Return the schedule of an optimizer's learning rate."""
        schedule: LRScheduler = get_scheduler(
            self.args.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=self.args.get_warmup_steps(max_steps),
            num_training_steps=max_steps,
            scheduler_specific_kwargs=cast(Any, self.args.lr_scheduler_kwargs),
        )
        return schedule
