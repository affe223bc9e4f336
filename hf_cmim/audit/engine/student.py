"""One student of a pool: a model with its step, which trains as `DistillationTrainer` would."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, final

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import GradientState
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hf_cmim.attacks.composition import Composition
from hf_cmim.audit.engine.graphs import ReplayedForward, ReplayedModel, graph_obstacle
from hf_cmim.audit.engine.random_states import RandomStates
from hf_cmim.audit.engine.shared_answers import SharedAnswers
from hf_cmim.audit.engine.template import StudentTemplate
from hf_cmim.functional.inputs import model_logits
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.trainers.distillation.attack_setup import attach_heads
from hf_cmim.trainers.distillation.student_step import read_batch
from hf_cmim.trainers.distillation.teacher_queries import TeacherQueries
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW
from hf_cmim.trainers.shared.components import unchanged_random_states


def student_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the student's inputs in a batch, without labels, positions and the teacher's view."""
    return {name: value for name, value in batch.items() if name not in ("labels", INDEX_NAME, TEACHER_VIEW)}


@final
class PooledStudent:
    """A student that takes single training steps on batches shared with other students.

    It belongs to one process and has its own random state, so its result does not depend on the other students or
    processes. Its step, gradients, clipping, optimizer, schedule and precision are those of `DistillationTrainer`, and
    so are its weights at the end, bit for bit.

    Args:
        model: student model, just initialised under its seed.
        attack: attack; the student gets a copy.
        teacher: teacher that answers, or None.
        template: template of the pool's students.
        shared: memory of the teachers' answers.

    Attributes:
        num_steps: optimizer steps taken.
        max_steps: optimizer steps of the whole training.
        has_diverged: True if a loss was not finite; the student then takes no further steps.

    Raises:
        HfCmimError: an attack that the settings, the teacher or the budget do not allow.
    """

    def __init__(
        self,
        model: nn.Module,
        attack: Composition,
        teacher: AbstractTeacher | None,
        template: StudentTemplate,
        shared: SharedAnswers,
    ) -> None:
        self.model = model
        self.template = template
        self.step = template.step(attack, teacher)
        if teacher is not None:
            self.step.queries.ask = partial(shared.ask, teacher)
        self.num_steps = 0
        self.max_steps = 1
        self.has_diverged = False
        self._learner: Any = model
        self._parameters: list[nn.Parameter] = []
        # The optimizer itself, and with fp16 the wrapper that skips a step whose gradients overflow.
        self._plain_optimizer: Optimizer
        self._optimizer: Optimizer
        self._schedule: LRScheduler
        self._scaler: Any = None
        self._is_finite: Tensor | None = None
        self._random_states = RandomStates.now(template.args.device)

    @property
    def attack(self) -> Composition:
        """Attack in training."""
        return self.step.attack

    @property
    def queries(self) -> TeacherQueries:
        """Teacher with this student's ledger."""
        return self.step.queries

    @property
    def progress(self) -> float:
        """Fraction of the optimizer steps done."""
        return self.num_steps / max(self.max_steps, 1)

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Use this student's random states inside; the pool restores the outer ones after training."""
        self._random_states.restore()
        yield
        self._random_states = RandomStates.now(self.template.args.device)

    # Training

    def begin(self, max_steps: int, first_inputs: Mapping[str, Any]) -> None:
        """Create heads, optimizer and schedule, as `Trainer.train` does before its first step.

        Args:
            max_steps: optimizer steps of the whole training.
            first_inputs: student's inputs of the first samples of the transfer set.
        """
        template = self.template
        with self.own_randomness():
            attach_heads(self.attack, self.model, lambda: first_inputs, template.args.device)
            self._optimizer = self._plain_optimizer = template.optimizer(self.attack, self.model)
            self._learner = template.learner(self.model)
            self._scaler = template.new_scaler()
            self._schedule = template.schedule(self._optimizer, max_steps)
            if self._scaler is not None:
                self._optimizer = AcceleratedOptimizer(self._optimizer, scaler=self._scaler)
            self._parameters = list(self._learner.parameters())
            self.max_steps = max_steps
            self._forget_gradients()

    def record_passes(self, inputs: Mapping[str, Any], memory: Any) -> None:
        """Record the passes as CUDA graphs and replay them from now on, if possible.

        Args:
            inputs: batch like those that `take_step` will get.
            memory: memory pool, shared by all units that take steps in turn.
        """
        model = self._learner.train()
        passes = ReplayedForward(lambda inputs: model_logits(model(**inputs)), self._parameters, list(model.buffers()))
        if passes.record(inputs, memory, graph_obstacle(self.attack, self.template.args)):
            self._learner = ReplayedModel(model, passes)

    def begin_epoch(self) -> None:
        """Draw the number that Trainer's data loader draws at the start of an epoch: random states stay equal."""
        with self.own_randomness():
            torch.empty((), dtype=torch.int64).random_()

    def take_step(self, batches: Sequence[Mapping[str, Any]], num_items: Tensor | int | None) -> None:
        """Take one optimizer step.

        Args:
            batches: micro-batches on the student's device.
            num_items: number of valid labels in all micro-batches.
        """
        with self.own_randomness():
            self.step.begin()
            for position, batch in enumerate(batches):
                # The optimizer of fp16 skips its step unless this says that the gradients are complete.
                GradientState()._set_sync_gradients(position == len(batches) - 1)
                if not self.has_diverged:
                    self._learn_from(batch, num_items)
            if not self.has_diverged:
                self.step.finish()
                self._update()

    def _learn_from(self, batch: Mapping[str, Any], num_items: Tensor | int | None) -> None:
        self._learner.train()
        query, index = read_batch(batch, self.template.num_classes)
        with self.template.autocast():
            loss = self.step.loss(self._learner, query, index, num_items, progress=self.progress)
            self.step.collect_gradients(loss, self.model)
        (loss.total if self._scaler is None else self._scaler.scale(loss.total)).backward()
        is_finite = torch.isfinite(loss.total.detach())
        self._is_finite = is_finite if self._is_finite is None else self._is_finite & is_finite
        # Reading the result waits for a GPU, so there it is read after the first step and at the end.
        if is_finite.device.type == "cpu" or self.num_steps == 0:
            self._note_divergence()

    def _note_divergence(self) -> None:
        is_finite, self._is_finite = self._is_finite, None
        self.has_diverged = self.has_diverged or (is_finite is not None and not bool(is_finite))

    def _update(self) -> None:
        args = self.template.args
        if args.max_grad_norm > 0:
            if self._scaler is not None:
                self._scaler.unscale_(self._plain_optimizer)
            nn.utils.clip_grad_norm_(self._parameters, args.max_grad_norm)
        self._optimizer.step()
        if not getattr(self._optimizer, "step_was_skipped", False):
            self._schedule.step()
        self._forget_gradients()
        self.num_steps += 1

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def end(self) -> None:
        """Check that every loss was finite, and drop recorded passes."""
        self._note_divergence()
        if isinstance(self._learner, ReplayedModel):
            self._learner = self._learner.model

    # In a stack

    def stand_by(self, max_steps: int) -> None:
        """Prepare for training in a stack, which has the weights and the optimizer; losses stay with the student."""
        self.max_steps = max_steps

    def draws_random_numbers(self, labels: Tensor) -> bool:
        """Return True if the attack's loss draws random numbers, by computing it once.

        Args:
            labels: `(B, ...)` labels of a batch.
        """
        attack, device = copy.deepcopy(self.attack), self.template.args.device
        logits = torch.zeros(*labels.shape, self.template.num_classes, device=labels.device, requires_grad=True)
        with unchanged_random_states(device):
            before = RandomStates.now(device)
            attack(logits, self.queries.uniform(logits), labels)
            return not before.equals(RandomStates.now(device))

    # Results

    @torch.no_grad()
    def classify(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return `(B, ...)` predicted classes."""
        self._learner.eval()
        with self.template.autocast():
            return model_logits(self._learner(**inputs)).argmax(dim=-1)
