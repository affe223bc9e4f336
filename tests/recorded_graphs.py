"""What CUDA graphs do, done on a CPU: kernels in the order of a first pass, on the memory of that pass.

Like a graph, a recorded pass runs no Python, sees no other tensors than those it was recorded with, writes its results
where it wrote them first, and cannot wait for a number: what asks for one while recording is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2")


class Recorder(TorchDispatchMode):
    """Runs every kernel and notes it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        picks = name == "index" and any(each is not None and each.dtype == torch.bool for each in args[1])
        if name in WAITING or picks:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        found = func(*args, **(kwargs or {}))
        self.kernels.append((func, args, kwargs or {}, _tensors(found)))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        """Run the kernels again, each result where it was."""
        for func, args, kwargs, places in self.kernels:
            for place, value in zip(places, _tensors(func(*args, **kwargs)), strict=True):
                if place.data_ptr() != value.data_ptr():
                    place.copy_(value)


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Refuse what waits for a number, without recording."""
    with Recorder():
        yield


def _tensors(found: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(found) if isinstance(each, torch.Tensor)]


def make_graphed_callables(
    function: Any, samples: tuple[torch.Tensor, ...], allow_unused_input: bool = False, pool: Any = None
) -> Any:
    """Stand in for the function of torch.cuda of this name."""
    assert not (torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled()), "as torch.cuda says"
    learning = [each for each in samples if each.requires_grad]
    for _ in range(3):  # to warm up
        warm = function(*samples)
        torch.autograd.grad(warm, learning, torch.empty_like(warm), allow_unused=allow_unused_input)
    forward, backward = Recorder(), Recorder()
    with forward:
        outputs = function(*samples)
    slopes = torch.empty_like(outputs)
    with backward:
        gradients = torch.autograd.grad(outputs, learning, slopes, allow_unused=allow_unused_input)
    remaining = iter(gradients)
    places = [next(remaining) if each.requires_grad else None for each in samples]

    class Graphed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
            for place, value in zip(samples, inputs, strict=True):
                if place.data_ptr() != value.data_ptr():
                    place.copy_(value)
            forward.replay()
            return outputs.detach()

        @staticmethod
        def backward(ctx: Any, *given: torch.Tensor) -> Any:
            slopes.copy_(given[0])
            backward.replay()
            return tuple(None if place is None else place.detach() for place in places)

    return Graphed.apply
