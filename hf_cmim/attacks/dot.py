"""Distillation-oriented training: cross-entropy and distillation each with a momentum of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_cmim.attacks.base import check_fraction
from hf_cmim.attacks.protocols import AbstractOptimizerProtocol
from hf_cmim.errors import HfCmimError


class TwoMomentumSGD(torch.optim.Optimizer):
    """SGD with one momentum buffer for the gradient of the cross-entropy and one for the rest of the gradient.

    v_task = (momentum - delta) v_task + g_task, v_kd = (momentum + delta) v_kd + g_kd, weight -= lr (v_task + v_kd).
    With delta = 0 it is SGD with momentum. Weight decay belongs to the cross-entropy's gradient.

    Args:
        params: parameters or groups.
        task_gradients: gradient of the cross-entropy alone of each parameter, read and forgotten in each step; a
            parameter without one counts as having none.
        lr: learning rate, >= 0.
        momentum: momentum both start from, in [0, 1).
        delta: by how much they part.
        weight_decay: L2 penalty.
    """

    def __init__(
        self,
        params: Any,
        task_gradients: dict[Tensor, Tensor],
        *,
        lr: float,
        momentum: float,
        delta: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        self.task_gradients = task_gradients
        self.unclipped_norm: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step from each parameter's whole gradient and its part of the cross-entropy.

        Whatever clipped the whole gradient since `unclipped_norm` was taken clips the part alike.
        """
        if self.unclipped_norm is not None:
            clipping = gradient_norm(list(self.task_gradients)) / self.unclipped_norm.clamp_min(1e-12)
            for gradient in self.task_gradients.values():
                gradient.mul_(clipping)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        self.task_gradients.clear()
        self.unclipped_norm = None
        return None

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        task = self.task_gradients.get(parameter)
        task = torch.zeros_like(parameter) if task is None else task
        gradients = {
            "task_momentum": (task + group["weight_decay"] * parameter, group["momentum"] - group["delta"]),
            "distillation_momentum": (parameter.grad - task, group["momentum"] + group["delta"]),
        }
        state = self.state[parameter]
        for name, (gradient, momentum) in gradients.items():
            buffer = state.setdefault(name, torch.zeros_like(parameter))
            buffer.mul_(momentum).add_(gradient)
            parameter.add_(buffer, alpha=-group["lr"])


def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together, 0-d."""
    norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())


class DOT(AbstractOptimizerProtocol):
    """Train with SGD whose momentum is smaller for the cross-entropy and larger for distillation.

    It replaces the optimizer; `learning_rate` replaces the trainer's, which is usually one for AdamW.

    Args:
        delta: by how much the momenta part, in [0, 1].
        momentum: momentum both start from, in [0, 1).
        learning_rate: SGD's learning rate, > 0; None takes the trainer's.

    Raises:
        HfCmimError: momentum + delta of 1 or more, which never forgets.

    Source: Zhao et al., ICCV 2023, arXiv 2307.08436; delta .075 for CIFAR-100 and .09 for ImageNet in its code.
    """

    def __init__(self, *, delta: float = 0.075, momentum: float = 0.9, learning_rate: float | None = None) -> None:
        super().__init__()
        check_fraction("delta", delta)
        if not (momentum - delta >= 0 and momentum + delta < 1):
            raise HfCmimError(
                f"Expected momentum - delta >= 0 and momentum + delta < 1, got {momentum} and {delta}: a momentum of 1"
                " never forgets, and the weights would run away. Lower delta."
            )
        if learning_rate is not None and not learning_rate > 0:
            raise HfCmimError(f"Expected learning_rate > 0 or None, got {learning_rate}: nothing would be learned.")
        self.delta = delta
        self.momentum = momentum
        self.learning_rate = learning_rate
        self.task_gradients: dict[Tensor, Tensor] = {}
        self._optimizer: TwoMomentumSGD | None = None

    def collect(self, task_loss: Tensor, parameters: list[Tensor]) -> None:
        """Add the gradient of this micro-batch's cross-entropy, leaving the graph for the whole loss's."""
        gradients = torch.autograd.grad(task_loss, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                known = self.task_gradients.get(parameter)
                self.task_gradients[parameter] = gradient if known is None else known + gradient

    def seal(self) -> None:
        """Remember the norm of the whole gradient, so that clipping it clips both parts alike."""
        if self._optimizer is not None:
            self._optimizer.unclipped_norm = gradient_norm(list(self.task_gradients))

    def build_optimizer(self, parameter_groups: list[dict[str, Any]], learning_rate: float) -> TwoMomentumSGD:
        """Return the optimizer, which reads the gradients that `collect` adds up."""
        learning_rate = self.learning_rate or learning_rate
        self._optimizer = TwoMomentumSGD(
            parameter_groups, self.task_gradients, lr=learning_rate, momentum=self.momentum, delta=self.delta
        )
        return self._optimizer
