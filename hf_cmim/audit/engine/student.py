"""One student of a pool: the training step of `DistillationTrainer` without its loop."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerState

from hf_cmim.attacks.protocols import Query
from hf_cmim.audit.engine.graphs import ReplayedForward, ReplayedModel, graph_obstacle
from hf_cmim.audit.engine.shared_answers import SharedAnswers
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.trainers.distillation.attack_step import attack_components
from hf_cmim.trainers.distillation.distillation_trainer import DistillationTrainer
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW
from hf_cmim.trainers.shared.components import unchanged_random_states
from hf_cmim.trainers.shared.validation import model_logits


def student_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the student's inputs in a batch, without labels, positions and the teacher's view."""
    return {name: value for name, value in batch.items() if name not in ("labels", INDEX_NAME, TEACHER_VIEW)}


@final
class PooledStudent(DistillationTrainer):
    """A student that takes single training steps on batches shared with other students.

    It belongs to one process and has its own random state, so its result does not depend on the other students or
    processes. Loss, gradients, clipping, optimizer, schedule and precision are those of Trainer.

    Args:
        model: student model, just initialised under its seed.
        shared: memory of the teachers' answers.
        keywords: keyword arguments of `DistillationTrainer`.

    Attributes:
        has_diverged: True if a loss was not finite; the student then takes no further steps.
    """

    def __init__(self, model: nn.Module, *, shared: SharedAnswers, **keywords: Any) -> None:
        super().__init__(model, **keywords)
        if self.queries.teacher is not None:
            self.queries.ask = partial(shared.ask, self.queries.teacher)
        self.has_diverged = False
        self._learner: Any = self.model
        self._parameters_in_order: list[nn.Parameter] = []
        self._random_states = _RandomStates.now(self.args.device)

    @property
    def num_processes(self) -> int:
        """One: the arms are divided among processes, not the batches."""
        return 1

    def check_loss_is_finite(self) -> None:
        """Set `has_diverged` instead of raising: one diverged student must not end an audit."""
        finite, self._loss_is_finite = self._loss_is_finite, None
        self.has_diverged = self.has_diverged or (finite is not None and not bool(finite))

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Use this student's random states inside; the pool restores the outer ones after training."""
        self._random_states.restore()
        yield
        self._random_states = _RandomStates.now(self.args.device)

    def begin(self, max_steps: int) -> None:
        """Create optimizer and schedule, as `Trainer.train` does before its first step."""
        with self.own_randomness():
            self.create_optimizer()
            # Not prepare(): with several processes it would wrap the model for training on all of them together.
            self.model_wrapped = self.accelerator.prepare_model(self.model, evaluation_mode=True)
            if self.accelerator.scaler is not None:  # without a scaler, the wrapper only costs time
                self.optimizer = self.accelerator.prepare(self.optimizer)
            self.create_scheduler(num_training_steps=max_steps)
            self.state = TrainerState(max_steps=max_steps)
            self._learner = self.model_wrapped
            self._parameters_in_order = list(self.model_wrapped.parameters())
            self._forget_gradients()

    def record_passes(self, inputs: Mapping[str, Any], memory: Any) -> None:
        """Record the passes as CUDA graphs and replay them from now on, if possible.

        Args:
            inputs: batch like those that `take_step` will get.
            memory: memory pool, shared by all units that take steps in turn.
        """
        model = self.model_wrapped.train()
        passes = ReplayedForward(
            lambda inputs: model_logits(model(**inputs)), self._parameters_in_order, list(model.buffers())
        )
        if passes.record(inputs, memory, graph_obstacle(self.attack, self.args)):
            self._learner = ReplayedModel(model, passes)

    def stand_by(self, max_steps: int) -> None:
        """Prepare for training in a stack, which has the weights and the optimizer; losses stay with the student."""
        self.model_wrapped = cast(nn.Module, self.model)
        self.state = TrainerState(max_steps=max_steps)

    def draws_random_numbers(self, labels: Tensor) -> bool:
        """Return True if the attack's loss draws random numbers, by computing it once.

        Args:
            labels: `(B, ...)` labels of a batch.
        """
        attack = copy.deepcopy(self.attack)
        logits = torch.zeros(*labels.shape, self.queries.num_classes, device=labels.device, requires_grad=True)
        with unchanged_random_states(self.args.device):
            before = _RandomStates.now(self.args.device)
            attack(logits, self.queries.uniform(logits), labels)
            return not before.equals(_RandomStates.now(self.args.device))

    def loss_of(self, logits: Tensor, query: Query, index: Tensor | None, num_items: Tensor | int | None) -> Tensor:
        """Return this student's loss on logits that a stack computed.

        Args:
            logits: `(B, ..., C)` logits of this student.
            query: micro-batch.
            index: `(B,)` positions in the transfer set.
            num_items: number of valid labels in the whole step, or None to average over this micro-batch.
        """
        progress = self.state.global_step / max(self.state.max_steps, 1)
        components, count, _ = attack_components(self.attack, self.queries, _Logits(logits), query, index, progress)
        loss = torch.stack(list(components.values())).sum()
        return loss if num_items is None else loss * (count / num_items)

    def end(self) -> None:
        """Check that every loss was finite, and drop recorded passes."""
        self.check_loss_is_finite()
        self._learner = self.model

    def _forget_gradients(self) -> None:
        for parameter in self._parameters_in_order:
            parameter.grad = None

    def begin_epoch(self) -> None:
        """Draw the number that Trainer's data loader draws at the start of an epoch: random states stay equal."""
        with self.own_randomness():
            torch.empty((), dtype=torch.int64).random_()

    def take_step(self, batches: Sequence[dict[str, Any]], num_items: Tensor | int | None) -> None:
        """Take one optimizer step.

        Args:
            batches: micro-batches on the student's device.
            num_items: number of valid labels in all micro-batches.
        """
        with self.own_randomness():
            for position, batch in enumerate(batches):
                if not self.has_diverged:
                    self.accelerator.gradient_state._set_sync_gradients(position == len(batches) - 1)
                    self.training_step(self._learner, batch, num_items)
            if not self.has_diverged:
                self._update()

    def _update(self) -> None:
        if self.args.max_grad_norm > 0:
            if self.accelerator.scaler is not None:
                self.accelerator.unscale_gradients(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters_in_order, self.args.max_grad_norm)
        self.optimizer.step()
        assert self.lr_scheduler is not None  # begin() made it
        if not self.accelerator.optimizer_step_was_skipped:
            self.lr_scheduler.step()
        self._forget_gradients()
        self.state.global_step += 1

    @torch.no_grad()
    def classify(self, inputs: dict[str, Any]) -> Tensor:
        """Return `(B, ...)` predicted classes."""
        self.model_wrapped.eval()
        with self.compute_loss_context_manager():
            outputs = self.model_wrapped(**inputs)
        logits: Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        return logits.argmax(dim=-1)


class _Logits(nn.Module):
    """A stand-in for a model whose logits are already computed."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, **_: Any) -> dict[str, Tensor]:
        return {"logits": self.logits}


class _RandomStates:
    """States of all random generators that a student may use."""

    def __init__(self, python: Any, numpy: Any, cpu: Tensor, device: tuple[torch.device, Tensor] | None) -> None:
        self.python = python
        self.numpy = numpy
        self.cpu = cpu
        self.device = device

    @classmethod
    def now(cls, device: torch.device) -> "_RandomStates":
        on_device = (device, torch.cuda.get_rng_state(device)) if device.type == "cuda" else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device)

    def equals(self, other: "_RandomStates") -> bool:
        on_device = [] if self.device is None or other.device is None else [(self.device[1], other.device[1])]
        return (
            self.python == other.python
            and np.array_equal(self.numpy[1], other.numpy[1])
            and self.numpy[2] == other.numpy[2]
            and all(torch.equal(first, second) for first, second in [(self.cpu, other.cpu), *on_device])
        )

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device[1], self.device[0])
