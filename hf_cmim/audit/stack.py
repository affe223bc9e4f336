"""Students of one architecture whose forward and backward passes run as one."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from transformers.utils import logging

from hf_cmim.audit.graphs import ReplayedForward, graph_obstacle
from hf_cmim.audit.student import PooledStudent, student_inputs
from hf_cmim.trainers.validation import model_logits

logger = logging.get_logger(__name__)

ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop", "adagrad")
"""Optimizers that treat each number by itself, so that stacked weights are updated as separate ones are."""
TOLERANCE = 1e-4
"""How far a stacked student's first logits may be from its own, absolutely and relatively."""


@final
class StudentStack:
    """Students whose weights are stacked, `(S, ...)` each, so that one pass serves them all.

    Every student keeps its own attack, random state, clipping and result; the loss of each is its own trainer's. Sums
    are taken in another order than alone, so that weights agree to rounding and not to the bit.

    Args:
        students: at least two that `can_be_stacked`.
    """

    def __init__(self, students: Sequence[PooledStudent]) -> None:
        self.students = students
        models: list[Any] = [student.model for student in students]
        self._skeleton = _skeleton(models[0])
        parameters, self._buffers = stack_module_state(models)
        self._parameters: dict[str, Tensor] = dict(parameters)
        self._trained = {name: value for name, value in self._parameters.items() if value.requires_grad}
        self._passes = ReplayedForward(self.logits, list(self._parameters.values()), list(self._buffers.values()))
        self._optimizer: torch.optim.Optimizer
        self._schedule: Any

    def begin(self, max_steps: int) -> None:
        """Build optimizer and schedule as `Trainer` does for one student."""
        first = self.students[0]
        model: Any = first.model
        decayed = set(first.get_decay_parameter_names(model))
        groups = [
            {"params": [value for name, value in self._trained.items() if (name in decayed) == decays],
             "weight_decay": first.args.weight_decay if decays else 0.0}
            for decays in (True, False)
        ]  # fmt: skip
        kind, settings = first.get_optimizer_cls_and_kwargs(first.args, model)
        self._optimizer = kind(groups, **settings)
        self._schedule = first.create_scheduler(max_steps, optimizer=self._optimizer)
        for student in self.students:
            student.stand_by(max_steps)

    def begin_epoch(self) -> None:
        """Let each student draw what it draws when an epoch begins."""
        for student in self.students:
            student.begin_epoch()

    def take_step(self, batches: Sequence[dict[str, Any]], num_items: Tensor | int | None) -> None:
        """Take one optimizer step of all."""
        for batch in batches:
            logits = self._passes(student_inputs(batch))
            with self.students[0].compute_loss_context_manager():
                losses = [
                    student.loss_of(_Answer(each), batch, num_items)
                    for student, each in zip(self.students, logits.unbind(), strict=True)
                ]
            torch.stack(losses).sum().backward()
        if self.students[0].args.max_grad_norm > 0:
            self._clip(self.students[0].args.max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        for student in self.students:
            student.state.global_step += 1

    def record_passes(self, inputs: Mapping[str, Any], memory: Any) -> None:
        """Replay the passes of all as graphs from now on, where they can be.

        Args:
            inputs: a batch as `take_step` will get them.
            memory: of the graphs of all who step in turn.
        """
        first = self.students[0]
        self._passes.record(inputs, memory, graph_obstacle(first.attack, first.args))

    def logits(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits of every student, `(S, ..., C)`."""

        def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            return model_logits(functional_call(self._skeleton, (parameters, buffers), kwargs=dict(inputs)))

        with self.students[0].compute_loss_context_manager():
            logits: Tensor = vmap(forward)(self._parameters, self._buffers)
        return logits

    @torch.no_grad()
    def _clip(self, largest: float) -> None:
        """Clip the gradient of each student as `torch.nn.utils.clip_grad_norm_` does."""
        gradients = [value.grad for value in self._trained.values() if value.grad is not None]
        norms = torch.stack([each.flatten(1).norm(dim=1) for each in gradients]).norm(dim=0)
        factors = (largest / (norms + 1e-6)).clamp_max(1.0)
        for each in gradients:
            each.mul_(factors.reshape(-1, *[1] * (each.ndim - 1)))

    @torch.no_grad()
    def end(self) -> None:
        """Give every student its weights."""
        for position, student in enumerate(self.students):
            model: Any = student.model
            own = [*model.named_parameters(), *model.named_buffers()]
            for name, value in own:
                value.copy_((self._parameters | self._buffers)[name][position])


class _Answer:
    """What a trainer takes for its model: the logits are there already."""

    training = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, **_: Any) -> dict[str, Tensor]:
        return {"logits": self.logits}


def _skeleton(model: nn.Module) -> nn.Module:
    """Return the architecture without weights; attention in plain operations, because fused ones do not stack."""
    skeleton: Any = copy.deepcopy(model)
    if hasattr(skeleton, "set_attn_implementation"):
        skeleton.set_attn_implementation("eager")
    result: nn.Module = skeleton.train().to("meta")
    return result


def can_be_stacked(student: PooledStudent) -> bool:
    """Return whether a student's attack and settings leave the forward pass and the optimizer to the stack."""
    attack, args = student.attack, student.args
    return (
        not attack.has_protocols
        and not any(True for _ in attack.parameters())
        and getattr(args.optim, "value", args.optim) in ELEMENTWISE
        and not (args.fp16 or args.torch_compile)
    )


@torch.no_grad()
def stacks_faithfully(students: Sequence[PooledStudent], batch: Mapping[str, Any]) -> bool:
    """Try a stack on a batch: whether it runs, draws no random number, and gives the first student's own logits.

    Args:
        students: that would be stacked.
        batch: on their device.
    """
    model: Any = copy.deepcopy(students[0].model)
    model.train()
    try:
        with students[0].compute_loss_context_manager():
            stacked = StudentStack(students).logits(student_inputs(batch))[0]
            alone = model_logits(model(**student_inputs(batch)))
    except Exception as error:  # whatever an architecture does that torch.func cannot
        logger.info(f"Students are trained one after the other, not stacked: {error}")
        return False
    if not torch.allclose(stacked, alone, rtol=TOLERANCE, atol=TOLERANCE):
        logger.info("Students are trained one after the other, not stacked: their logits would differ.")
        return False
    return True
