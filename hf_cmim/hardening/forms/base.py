"""Base of the forms, and the problem that each solves."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from hf_cmim.hardening.parts import Concentration
from hf_cmim.hardening.spec import ObjectiveSpec


class Problem(NamedTuple):
    """A batch whose CMI is computed.

    Attributes:
        logits: `(B, C)` raw logits.
        labels: `(B,)` labels of the samples that count, int64; -100 for the others.
        log_centroids: `(K, C, C)` log-centroids.
        temperatures: `K` numbers above 0.
        factors: result of `AbstractForm.factors`, `(K,)`.
        weight: weight of the CMI.
        num_items: number of valid labels by which sums are divided.
        terms: CMI at each temperature in the step before, `(K,)`, nats, or None.
        is_fused: True for the operator, False for the eager backend.
    """

    logits: Tensor
    labels: Tensor
    log_centroids: Tensor
    temperatures: tuple[float, ...]
    factors: Tensor
    weight: float
    num_items: Tensor | int
    terms: Tensor | None
    is_fused: bool


class Moved(NamedTuple):
    """Rows of a bank that move in one step, one entry per sample.

    Attributes:
        classes: class of each sample, `(B,)`.
        before: weight of each entry in the mean output before this step, `(B,)`: the sample's part of its class's
            share of all samples.
        after: the same including this step, `(B,)`.
    """

    classes: Tensor
    before: Tensor
    after: Tensor


class AbstractForm(nn.Module, ABC):
    """A way in which the CMI enters the loss. Its buffers are its memory from step to step.

    A form overrides those of `start`, `follow`, `begin_move`, `leave`, `enter` and `read` that change its state.

    Args:
        spec: specification of the objective.
        num_classes: number of classes `C`.

    Attributes:
        state_class: class of `state`.
        follows_rows: True if the state follows each row of the bank that moves. Only then the bank calls `begin_move`,
            `leave` and `enter`.
        has_free_scale: True if the objective leaves the scale of the outputs to the cross-entropy. Distances between
            centroids may then shrink without a collapse.
        multiplier: factor of the logits that enter the centroids, 0-d, or None for 1.
    """

    state_class: ClassVar[type]
    follows_rows: ClassVar[bool] = False
    has_free_scale: ClassVar[bool]
    multiplier: Tensor | None

    def __init__(self, spec: ObjectiveSpec, num_classes: int) -> None:
        super().__init__()

    @property
    def state(self) -> Any:
        """State of the steps before that the loss needs, constant in the gradient; None for a form without one."""
        return None

    @staticmethod
    @abstractmethod
    def factors(temperatures: Sequence[float]) -> list[float]:
        """Return the weight of each temperature, `K` numbers."""

    @staticmethod
    @abstractmethod
    def concentrate(problem: Problem, state: Any) -> Concentration:
        """Return the CMI part of a batch's loss.

        Args:
            problem: batch and constants.
            state: `state` of this form after the step before.
        """

    def start(self, logits: Tensor, labels: Tensor) -> None:
        """Prepare for a pass over the data by its first batch."""

    def follow(self, sums: Tensor) -> None:
        """Update the state from `Concentration.sums`, added up over a step."""

    def begin_move(self, counts: Tensor, labels: Tensor) -> Moved:
        """Count a step's samples before rows of the bank move.

        Args:
            counts: samples of each class in this step, `(C,)`.
            labels: labels of this step, `(B,)`, integers in [0, C), or -100 to ignore.
        """
        raise NotImplementedError(f"{type(self).__name__} has follows_rows = True and must override begin_move.")

    def leave(self, moved: Moved, levels: slice, table: Tensor) -> None:
        """Subtract the rows that will move; `table`, `(k, C, C)`, holds only these levels."""

    def enter(self, moved: Moved, levels: slice, table: Tensor, log_table: Tensor) -> None:
        """Add the rows that have moved; tables as in `read`, of these levels."""

    def read(self, table: Tensor, log_table: Tensor, counts: Tensor) -> None:
        """Start from a whole bank.

        Args:
            table: centroids, `(K, C, C)`: row c of a level is the mean output of class c; 0 for a class without a
                sample.
            log_table: logarithms of the centroids, `(K, C, C)`; -inf for a class without a sample.
            counts: samples of each class, `(C,)`.
        """


def squared_factors(temperatures: Sequence[float]) -> list[float]:
    """Return max(1, T^2) / K for each temperature: without it, high temperatures would weigh almost nothing."""
    return [max(1.0, temperature * temperature) / len(temperatures) for temperature in temperatures]
