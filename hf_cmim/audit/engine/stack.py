"""Stacks of students: one forward and backward pass for all students of one architecture."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from transformers.utils import logging

from hf_cmim.audit.engine.graphs import ReplayedForward, graph_obstacle
from hf_cmim.audit.engine.stacked_losses import grouped_by_loss
from hf_cmim.audit.engine.student import PooledStudent, student_inputs
from hf_cmim.functional.inputs import model_logits
from hf_cmim.trainers.distillation.student_step import read_batch

logger = logging.get_logger(__name__)

ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop", "adagrad")
"""Optimizers that update each number separately, so that stacking does not change an update."""
TOLERANCE = 1e-4
"""Largest difference between stacked and separate logits, absolute and relative."""


@final
class StudentStack:
    """A stack of students whose weights are joined, so that one pass serves all of them.

    Weights are stacked along a new first dimension, `(S, ...)`; embedding tables along their second, `(V, S, H)`. A
    lookup then reads one row of S x H numbers and its gradient is one scatter. With tables of shape `(S, V, H)`, every
    pass would copy all of them.

    Every student keeps its own attack, clipping and result, and none draws random numbers. Students with the same
    attack get their losses in one call. Sums are computed in another order than for a student that trains alone, so
    weights agree to rounding and not bit for bit.

    Args:
        students: at least two students that `can_be_stacked`.
        labels: `(B, ...)` labels of a batch, to find out which losses one call can compute.
    """

    def __init__(self, students: Sequence[PooledStudent], labels: Tensor) -> None:
        self._groups = grouped_by_loss(students, labels)
        # In the order of the groups, so that the logits of a group lie side by side.
        self.students = [student for group in self._groups for student in group.students]
        self.template = students[0].template
        models: list[Any] = [student.model for student in self.students]
        self._skeleton = _skeleton(models[0])
        parameters, self._buffers = stack_module_state(models)
        tables = _embedding_tables(models[0])
        self._stacked_along = {name: int(name in tables) for name in parameters}
        self._parameters: dict[str, Tensor] = {
            name: _interleaved(value) if name in tables else value for name, value in parameters.items()
        }
        self._trained = {name: value for name, value in self._parameters.items() if value.requires_grad}
        self._passes = ReplayedForward(self.logits, list(self._parameters.values()), list(self._buffers.values()))
        self._is_finite = torch.ones(len(students), dtype=torch.bool, device=self.template.args.device)
        self._optimizer: torch.optim.Optimizer
        self._schedule: Any

    def begin(self, max_steps: int, first_inputs: Mapping[str, Any]) -> None:
        """Create optimizer and schedule, as `Trainer` does for one student."""
        template = self.template
        self._optimizer = template.stacked_optimizer(self.students[0].model, self._parameters.items())
        self._schedule = template.schedule(self._optimizer, max_steps)
        for student in self.students:
            student.stand_by(max_steps)

    def begin_epoch(self) -> None:
        """Do nothing: no student of a stack draws random numbers."""

    def take_step(self, batches: Sequence[Mapping[str, Any]], num_items: Tensor | int | None) -> None:
        """Take one optimizer step of all students."""
        for batch in batches:
            query, index = read_batch(batch, self.template.num_classes)
            logits = self._passes(query.student_inputs)
            self._note_divergence(logits)
            logits.register_hook(self._note_divergence)
            parts = logits.split([len(group.students) for group in self._groups])
            with self.template.autocast():
                losses = [
                    group.loss(part, query, index, num_items) for group, part in zip(self._groups, parts, strict=True)
                ]
            # The gradient of the sum gives each student the gradient of its own loss.
            torch.stack(losses).sum().backward()
        if self.template.args.max_grad_norm > 0:
            self._clip(self.template.args.max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        for student in self.students:
            student.num_steps += 1

    @torch.no_grad()
    def _note_divergence(self, values: Tensor) -> None:
        """Mark the students of whom a logit, or the loss's gradient by it, is not finite."""
        self._is_finite &= torch.isfinite(values).flatten(1).all(dim=1)

    def record_passes(self, inputs: Mapping[str, Any], memory: Any) -> None:
        """Record the passes as CUDA graphs and replay them from now on, if possible.

        Args:
            inputs: batch like those that `take_step` will get.
            memory: memory pool, shared by all units that take steps in turn.
        """
        self._passes.record(inputs, memory, graph_obstacle(self.students[0].attack, self.template.args))

    def logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return `(S, ..., C)` logits of all students."""

        def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return model_logits(functional_call(self._skeleton, (parameters, buffers), kwargs=dict(inputs)))

        with self.template.autocast():
            logits: Tensor = vmap(forward, in_dims=(self._stacked_along, 0))(self._parameters, self._buffers)
        return logits

    @torch.no_grad()
    def _clip(self, largest: float) -> None:
        """Clip each student's gradient, as `torch.nn.utils.clip_grad_norm_` does."""
        gradients = {name: value.grad for name, value in self._trained.items() if value.grad is not None}
        norms = torch.stack(
            [
                gradient.norm(dim=2).norm(dim=0) if self._stacked_along[name] else gradient.flatten(1).norm(dim=1)
                for name, gradient in gradients.items()
            ]
        ).norm(dim=0)
        factors = (largest / (norms + 1e-6)).clamp_max(1.0)
        # Reading the factors would wait for a GPU.
        if factors.device.type == "cpu" and bool((factors == 1).all()):
            return
        for name, gradient in gradients.items():
            shape = [1] * gradient.ndim
            shape[self._stacked_along[name]] = -1
            gradient.mul_(factors.reshape(shape))

    @torch.no_grad()
    def end(self) -> None:
        """Copy the weights to the students, and mark those whose loss was not finite."""
        for position, (student, was_finite) in enumerate(zip(self.students, self._is_finite.tolist(), strict=True)):
            student.has_diverged = not was_finite
            model: Any = student.model
            for name, value in model.named_parameters():
                value.copy_(self._parameters[name].select(self._stacked_along[name], position))
            for name, value in model.named_buffers():
                value.copy_(self._buffers[name][position])


def _embedding_tables(model: nn.Module) -> set[str]:
    """Return the names of the weights of a model's embedding layers."""
    # The root module has the prefix "".
    return {
        f"{prefix}.weight".lstrip(".") for prefix, module in model.named_modules() if isinstance(module, nn.Embedding)
    }


def _interleaved(tables: Tensor) -> Tensor:
    """Return `(S, V, H)` tables as a leaf of shape `(V, S, H)`."""
    return tables.detach().transpose(0, 1).contiguous().requires_grad_(tables.requires_grad)


def _skeleton(model: nn.Module) -> nn.Module:
    """Return the architecture without weights."""
    skeleton: Any = copy.deepcopy(model)
    # Fused attention kernels do not support vmap; the plain operations do.
    if hasattr(skeleton, "set_attn_implementation"):
        skeleton.set_attn_implementation("eager")
    result: nn.Module = skeleton.train().to("meta")
    return result


def can_be_stacked(student: PooledStudent) -> bool:
    """Return True if a student's attack and settings allow a shared forward pass and optimizer."""
    attack, args = student.attack, student.template.args
    return (
        not attack.has_protocols
        and next(iter(attack.parameters()), None) is None
        and getattr(args.optim, "value", args.optim) in ELEMENTWISE
        and not (args.fp16 or args.torch_compile)
    )


@torch.no_grad()
def stacks_faithfully(students: Sequence[PooledStudent], batch: Mapping[str, Any]) -> bool:
    """Return True if a stack runs on a batch and gives the first student's logits without random numbers.

    Args:
        students: students to stack.
        batch: batch on their device.
    """
    model: Any = copy.deepcopy(students[0].model)
    model.train()
    try:
        with students[0].template.autocast():
            stacked = StudentStack(students, batch["labels"]).logits(student_inputs(batch))[0]
            separate = model_logits(model(**student_inputs(batch)))
    except Exception as error:  # torch.func raises many kinds of errors for operations that it does not support
        logger.info(f"Students are trained one after the other, not stacked: {error}")
        return False
    if not torch.allclose(stacked, separate, rtol=TOLERANCE, atol=TOLERANCE):
        logger.info("Students are trained one after the other, not stacked: their logits would differ.")
        return False
    return True
