"""Protocols: parts of an attack that change the queries, the student or the optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hf_cmim.attacks.base import AttackPart

Components = dict[str, Tensor]
Loss = Callable[[Tensor], Components]
"""A function from student logits to the components of the composed loss on this batch's answers and labels."""


@dataclass(frozen=True)
class Query:
    """One batch of a query: inputs for student and teacher, and labels.

    Attributes:
        student_inputs: inputs of the student.
        teacher_inputs: inputs of the teacher; the same object as `student_inputs` if both share one view.
        labels: `(B, ...)` labels, -100 to ignore; None if the attacker has none.
        partner_labels: labels of the samples that were mixed in, or None.
        share: share of the sample itself in the mixture, in [0, 1]; 1 without a partner.
    """

    student_inputs: Mapping[str, Any]
    teacher_inputs: Mapping[str, Any]
    labels: Tensor | None
    partner_labels: Tensor | None = None
    share: float = 1.0


class AbstractQueryProtocol(AttackPart, ABC):
    """Abstract protocol that turns a batch into the queries of one step.

    The teacher must answer live: no cache has these queries. Random numbers come from torch's global generators, which
    checkpoints keep.

    Attributes:
        queries_per_sample: number of answers per sample and step.
    """

    queries_per_sample: int = 1

    @abstractmethod
    def forward(self, query: Query) -> Sequence[Query]:
        """Return the queries of this step; their losses are averaged."""


class AbstractStudentProtocol(AttackPart, ABC):
    """Abstract protocol that changes which layers of the student learn from the answers. The student is unchanged."""

    @abstractmethod
    def attach(self, student: nn.Module, hidden_states: Sequence[Tensor], num_classes: int) -> None:
        """Build the extra layers, sized by the hidden states of one batch."""

    @abstractmethod
    def forward(
        self, loss: Loss, student_logits: Tensor, hidden_states: Sequence[Tensor], labels: Tensor
    ) -> Components:
        """Return the components of the step; their sum is the loss."""


class AbstractOptimizerProtocol(AttackPart, ABC):
    """Abstract protocol with a separate gradient of the cross-entropy, and an optimizer that uses it.

    Attributes:
        task_gradients: gradient of the cross-entropy by parameter, summed over micro-batches; the optimizer clears
            the gradients in each step.
    """

    task_gradients: dict[Tensor, Tensor]

    @abstractmethod
    def collect(self, task_loss: Tensor, parameters: list[Tensor]) -> None:
        """Add the gradient of this micro-batch's cross-entropy; keep the graph for the total loss."""

    @abstractmethod
    def finish_gradients(self) -> None:
        """Record that all gradients of the step are complete; called before they are clipped."""

    @abstractmethod
    def build_optimizer(self, parameter_groups: list[dict[str, Any]], learning_rate: float) -> Optimizer:
        """Return the optimizer."""
