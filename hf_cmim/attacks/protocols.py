"""Protocols: what an attack changes besides the loss and the answers: its queries, the student, or the optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hf_cmim.attacks.base import AttackPart

Components = dict[str, Tensor]
Loss = Callable[[Tensor], Components]
"""Student logits to the components of the composed loss on this batch's answers and labels."""


@dataclass(frozen=True)
class Query:
    """One batch as it is asked and learned from.

    Attributes:
        student_inputs: what the student sees.
        teacher_inputs: what the teacher is asked.
        labels: `(B, ...)` labels, -100 to ignore; None where the attacker has none.
        partner_labels: labels of the samples mixed in, or None.
        share: share of the sample itself in the mixture, in [0, 1]; 1 without a partner.
    """

    student_inputs: Mapping[str, Any]
    teacher_inputs: Mapping[str, Any]
    labels: Tensor | None
    partner_labels: Tensor | None = None
    share: float = 1.0


class AbstractQueryProtocol(AttackPart, ABC):
    """Abstract: turns a batch into the queries of one step. Its teacher must answer live: no cache knows them.

    Random numbers come from torch's global generators, which a checkpoint keeps.

    Attributes:
        queries_per_sample: answers asked for each sample in each step.
    """

    queries_per_sample: int = 1

    @abstractmethod
    def forward(self, query: Query) -> Sequence[Query]:
        """Return the queries to ask and learn from; the losses of all are averaged."""


class AbstractStudentProtocol(AttackPart, ABC):
    """Abstract: changes what of the student learns from the answers. The student itself stays as it is."""

    @abstractmethod
    def attach(self, student: nn.Module, hidden_states: Sequence[Tensor], num_classes: int) -> None:
        """Build what it needs beside the student, seen the hidden states of one batch."""

    @abstractmethod
    def forward(
        self, loss: Loss, student_logits: Tensor, hidden_states: Sequence[Tensor], labels: Tensor
    ) -> Components:
        """Return the components of the step; their sum is the loss."""


class AbstractOptimizerProtocol(AttackPart, ABC):
    """Abstract: needs the gradient of the cross-entropy apart from the rest, and an optimizer that uses both.

    Attributes:
        task_gradients: gradient of the cross-entropy of each parameter, added up over micro-batches; the optimizer
            forgets them in each step.
    """

    task_gradients: dict[Tensor, Tensor]

    @abstractmethod
    def collect(self, task_loss: Tensor, parameters: list[Tensor]) -> None:
        """Add the gradient of this micro-batch's cross-entropy, leaving the graph for the whole loss's."""

    @abstractmethod
    def seal(self) -> None:
        """Note that every gradient of the step is there, before any is clipped."""

    @abstractmethod
    def build_optimizer(self, parameter_groups: list[dict[str, Any]], learning_rate: float) -> Optimizer:
        """Return the optimizer."""
