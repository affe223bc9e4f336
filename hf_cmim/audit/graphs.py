"""Forward and backward passes as CUDA graphs: one launch each, where small students would wait for every kernel's."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.utils import logging

from hf_cmim.attacks.composition import Composition
from hf_cmim.trainers.components import unchanged_random_states
from hf_cmim.trainers.distillation_config import DistillationConfig

logger = logging.get_logger(__name__)

GRAPHS_VARIABLE = "HF_CMIM_CUDA_GRAPHS"
"""Environment variable: 0 leaves passes as they are."""
TOLERANCE = 1e-2
"""How far a replayed pass may be from an eager one, relative to the largest number of a tensor: reduced precision and
sums in another order stay below, a pass that lacks a kernel or looks at another batch does not."""


def has_graphs(device: torch.device) -> bool:
    """Return whether passes may be recorded on a device."""
    return device.type == "cuda" and os.environ.get(GRAPHS_VARIABLE, "1") != "0"


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Raise where the processor would wait for the GPU: while a graph is recorded that would break more than it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def graph_obstacle(attack: Composition, args: DistillationConfig) -> str:
    """Return why the passes of a student cannot be replayed, or nothing."""
    if args.torch_compile:
        return "torch.compile makes its own"
    if args.gradient_accumulation_steps > 1:
        return "the gradients of one micro-batch would be overwritten by those of the next"
    if attack.has_protocols:
        return "the attack changes the passes themselves"
    return ""


@final
class ReplayedForward:
    """A forward pass that is recorded once, with its backward, and replayed for every batch of the same shapes.

    Args:
        forward: returns logits from named inputs, in training; besides them it reads parameters and buffers alone.
        parameters: leaves that learn, each of which stays where it is in memory.
        buffers: what it may change.

    Source: ours, on `torch.cuda.make_graphed_callables`.
    """

    def __init__(
        self,
        forward: Callable[[Mapping[str, Any]], Tensor],
        parameters: Sequence[Tensor],
        buffers: Sequence[Tensor],
    ) -> None:
        self.eager = forward
        self.parameters = [each for each in parameters if each.requires_grad]
        self.buffers = buffers
        self._shapes: dict[str, tuple[torch.Size, torch.dtype]] = {}
        self._replay: Callable[..., Tensor] | None = None

    def __call__(self, inputs: Mapping[str, Any]) -> Tensor:
        """Return the logits: valid until the next call, where they were replayed."""
        if self._replay is None or _shapes_of(inputs) != self._shapes:
            return self.eager(inputs)
        return self._replay(*(inputs[name] for name in self._shapes), *self.parameters)

    def record(self, inputs: Mapping[str, Any], memory: Any, obstacle: str = "") -> bool:
        """Record at a batch, and keep it if another batch's passes come out as they do without.

        Args:
            inputs: a batch of the shapes to come, on the device.
            memory: pool of those whose passes run in the same order as they are recorded.
            obstacle: why nothing can be recorded, or nothing.

        Returns:
            Whether batches of these shapes will be replayed.
        """
        obstacle = obstacle or self._try_to_record(inputs, memory)
        if obstacle:
            logger.info(f"A student's passes run kernel by kernel, not as graphs: {obstacle}.")
        return not obstacle

    def _try_to_record(self, inputs: Mapping[str, Any], memory: Any) -> str:
        """Record, or return why not."""
        if not all(isinstance(value, Tensor) for value in inputs.values()):
            return "their inputs are not all tensors"

        def forward(*tensors: Tensor) -> Tensor:  # the parameters, its last arguments, it finds by itself
            return self.eager(dict(zip(inputs, tensors, strict=False)))

        arguments = [value.clone() for value in inputs.values()]
        others = [value.flip(0) for value in inputs.values()]
        try:
            with waiting_refused():
                expected = self._outcome(forward, others)
            with self._undone(arguments[0].device):
                samples = *arguments, *self.parameters
                replay: Any = torch.cuda.make_graphed_callables(forward, samples, allow_unused_input=True, pool=memory)
            found = self._outcome(replay, others)
        except RuntimeError as error:  # torch's for all that a graph cannot do, waiting included
            _check_random_numbers(arguments[0].device, error)
            return f"they cannot be recorded ({error})"
        if not all(map(_is_close, expected, found)):
            return "replayed they would differ"
        self._shapes, self._replay = _shapes_of(inputs), replay
        return ""

    def _outcome(self, forward: Callable[..., Tensor], values: list[Tensor]) -> list[Tensor]:
        """Return copies of logits, gradients and buffers after a pass, which leaves no other trace."""
        with self._undone(values[0].device):
            logits = forward(*values, *self.parameters)
            slopes = torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits).to(logits.dtype)
            gradients = torch.autograd.grad(logits, self.parameters, slopes, allow_unused=True)
            found = [logits, *(each for each in gradients if each is not None), *self.buffers]
            return [each.detach().to(torch.float64, copy=True) for each in found if each.numel()]

    @contextmanager
    def _undone(self, device: torch.device) -> Iterator[None]:
        """Leave random states and buffers as they were."""
        before = [buffer.clone() for buffer in self.buffers]
        try:
            with unchanged_random_states(device):
                yield
        finally:
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)


def _check_random_numbers(device: torch.device, cause: Exception) -> None:
    """Raise if a recording that failed has left the device's generator as it is while one goes on."""
    try:
        torch.empty((), device=device).uniform_()
    except RuntimeError as error:
        raise RuntimeError(
            f"Expected passes that can be recorded as CUDA graphs, or that say so beforehand, got {cause}: after it"
            f" the GPU's random numbers fail ({error}), and with them every student with dropout. Start again with"
            f" {GRAPHS_VARIABLE}=0, which runs every kernel by itself."
        ) from cause


def _is_close(expected: Tensor, found: Tensor) -> bool:
    return bool((expected - found).abs().amax() <= TOLERANCE * expected.abs().amax())


def _shapes_of(inputs: Mapping[str, Any]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in inputs.items() if isinstance(value, Tensor)}


@final
class ReplayedModel:
    """What a trainer takes for its model in a training step.

    Args:
        model: in training mode.
        forward: its passes.
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
