"""Forward and backward passes as CUDA graphs: one launch per pass instead of one per kernel, for small students."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.utils import logging

from hf_cmim.attacks.composition import Composition
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig
from hf_cmim.trainers.shared.components import unchanged_random_states

logger = logging.get_logger(__name__)

GRAPHS_VARIABLE = "HF_CMIM_CUDA_GRAPHS"
"""Environment variable; 0 turns CUDA graphs off."""
TOLERANCE = 1e-2
"""Largest difference between a replayed and an eager pass, relative to a tensor's largest number.

Reduced precision and sums in another order stay below it. A pass that lacks a kernel or reads another batch does not.
"""


def has_graphs(device: torch.device) -> bool:
    """Return True if passes may be recorded on a device."""
    return device.type == "cuda" and os.environ.get(GRAPHS_VARIABLE, "1") != "0"


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Raise an error when the CPU would wait for the GPU, which must not happen while a graph is recorded."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def graph_obstacle(attack: Composition, args: DistillationConfig) -> str:
    """Return the reason why the passes of a student cannot be replayed, or ""."""
    if args.torch_compile:
        return "torch.compile makes its own graphs"
    if args.gradient_accumulation_steps > 1:
        return "the gradients of one micro-batch would be overwritten by those of the next"
    if attack.has_protocols:
        return "the attack changes the passes themselves"
    return ""


@final
class ReplayedForward:
    """A forward pass, recorded once with its backward pass and replayed for every batch of the same shapes.

    Args:
        forward: function from named inputs to logits in training mode; it reads only inputs, parameters and buffers.
        parameters: trained leaves, which must keep their place in memory.
        buffers: buffers that the pass may change.

    Source: ours, on `torch.cuda.make_graphed_callables`.
    """

    def __init__(
        self,
        forward: Callable[[Mapping[str, Any]], Tensor],
        parameters: Sequence[Tensor],
        buffers: Sequence[Tensor],
    ) -> None:
        self.eager = forward
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.buffers = buffers
        self._shapes: dict[str, tuple[torch.Size, torch.dtype]] = {}
        self._replay: Callable[..., Tensor] | None = None

    def __call__(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits; replayed ones are overwritten by the next call."""
        if self._replay is None or _shapes_of(inputs) != self._shapes:
            return self.eager(inputs)
        return self._replay(*(inputs[name] for name in self._shapes), *self.parameters)

    def record(self, inputs: Mapping[str, Any], memory: Any, obstacle: str = "") -> bool:
        """Record the passes on one batch; keep the recording if it agrees with eager passes on another batch.

        Args:
            inputs: batch with the shapes of training, on the device.
            memory: memory pool, shared by recordings that are replayed in the order in which they are recorded.
            obstacle: reason why nothing can be recorded, or "".

        Returns:
            True if batches of these shapes will be replayed.
        """
        obstacle = obstacle or self._try_to_record(inputs, memory)
        if obstacle:
            logger.info(f"A student's passes run kernel by kernel, not as graphs: {obstacle}.")
        return not obstacle

    def _try_to_record(self, inputs: Mapping[str, Any], memory: Any) -> str:
        """Record the passes, or return the reason why they cannot be recorded."""
        if not all(isinstance(value, Tensor) for value in inputs.values()):
            return "their inputs are not all tensors"

        def forward(*tensors: Tensor) -> Tensor:
            # The last arguments are the parameters, which the eager pass reads from the model itself.
            return self.eager(dict(zip(inputs, tensors, strict=False)))

        arguments = [value.clone() for value in inputs.values()]
        # The recording is tested on another batch: one that reads the recorded batch again would pass on the same.
        other_batch = [value.flip(0) for value in inputs.values()]
        try:
            with waiting_refused():
                expected = self._outcome(forward, other_batch)
            with self._undone(arguments[0].device):
                samples = *arguments, *self.parameters
                replay: Any = torch.cuda.make_graphed_callables(forward, samples, allow_unused_input=True, pool=memory)
            replayed = self._outcome(replay, other_batch)
        except RuntimeError as error:  # torch raises it for everything a graph cannot do, including waiting
            _check_random_numbers(arguments[0].device, error)
            return f"they cannot be recorded ({error})"
        if not all(map(_is_close, expected, replayed)):
            return "replayed they would differ"
        self._shapes, self._replay = _shapes_of(inputs), replay
        return ""

    def _outcome(self, forward: Callable[..., Tensor], values: list[Tensor]) -> list[Tensor]:
        """Run a pass, return copies of logits, gradients and buffers, and undo its changes."""
        with self._undone(values[0].device):
            logits = forward(*values, *self.parameters)
            # Any gradient of the logits would do, as long as its entries differ.
            slopes = torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits).to(logits.dtype)
            gradients = torch.autograd.grad(logits, self.parameters, slopes, allow_unused=True)
            tensors = [logits, *(gradient for gradient in gradients if gradient is not None), *self.buffers]
            return [tensor.detach().to(torch.float64, copy=True) for tensor in tensors if tensor.numel()]

    @contextmanager
    def _undone(self, device: torch.device) -> Iterator[None]:
        """Restore random states and buffers afterwards."""
        before = [buffer.clone() for buffer in self.buffers]
        try:
            with unchanged_random_states(device):
                yield
        finally:
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)


def _check_random_numbers(device: torch.device, cause: Exception) -> None:
    """Raise an error if a failed recording has left the device's random generator in recording mode."""
    try:
        torch.empty((), device=device).uniform_()
    except RuntimeError as error:
        raise RuntimeError(
            f"Recording a CUDA graph failed ({cause}), and since then the GPU's random numbers fail ({error}):"
            " students with dropout cannot be trained in this process. Start again with"
            f" {GRAPHS_VARIABLE}=0, which turns CUDA graphs off."
        ) from cause


def _is_close(expected: Tensor, replayed: Tensor) -> bool:
    return bool((expected - replayed).abs().amax() <= TOLERANCE * expected.abs().amax())


def _shapes_of(inputs: Mapping[str, Any]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in inputs.items() if isinstance(value, Tensor)}


@final
class ReplayedModel:
    """A stand-in for a trainer's model in a training step, with replayed passes.

    Args:
        model: model in training mode.
        forward: passes of the model.
    """

    def __init__(self, model: nn.Module, forward: ReplayedForward) -> None:
        self.model = model
        self.forward = forward
        self.training = True

    def train(self) -> None:
        """Put the model into training mode."""
        self.model.train()

    def __call__(self, **inputs: Any) -> dict[str, Tensor]:
        """Return the logits, by name."""
        return {"logits": self.forward(inputs)}
