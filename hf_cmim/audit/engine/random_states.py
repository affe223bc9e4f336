"""Random states of one student, so that it draws the same numbers whoever trains beside it."""

import random
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class RandomStates:
    """States of all random generators that a student may use.

    Attributes:
        python: state of Python's generator.
        numpy: state of NumPy's.
        cpu: state of torch's on the CPU.
        device: GPU with the state of its generator, or None.
    """

    python: Any
    numpy: Any
    cpu: Tensor
    device: tuple[torch.device, Tensor] | None

    @classmethod
    def now(cls, device: torch.device) -> Self:
        """Return the present states."""
        on_device = (device, torch.cuda.get_rng_state(device)) if device.type == "cuda" else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device)

    def restore(self) -> None:
        """Set all generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device[1], self.device[0])

    def equals(self, later: Self) -> bool:
        """Return True if no generator has drawn between the two."""
        on_device = [] if self.device is None or later.device is None else [(self.device[1], later.device[1])]
        return (
            self.python == later.python
            and np.array_equal(self.numpy[1], later.numpy[1])
            and self.numpy[2] == later.numpy[2]
            and all(torch.equal(first, second) for first, second in [(self.cpu, later.cpu), *on_device])
        )
