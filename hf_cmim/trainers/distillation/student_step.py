"""One training batch of a student: the query, the answer, and the loss of an attack."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.protocols import Components, Query
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import check_label_range, integer_labels, model_logits
from hf_cmim.teachers.base import INDEX_NAME
from hf_cmim.trainers.distillation.teacher_queries import TeacherQueries
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW
from hf_cmim.trainers.shared.validation import check_are_logits, check_width

Forward = Callable[..., Any]
"""A student's forward pass: takes its inputs by name, returns its outputs."""


@dataclass(frozen=True)
class StepLoss:
    """The loss of a student on one micro-batch.

    Attributes:
        total: 0-d sum of the components.
        components: 0-d parts by name.
        outputs: student's outputs for the last query.
    """

    total: Tensor
    components: Components
    outputs: Any


def read_batch(batch: Mapping[str, Any], num_classes: int) -> tuple[Query, Tensor | None]:
    """Return a collated batch as a query, and the `(B,)` positions of its samples in the transfer set.

    Args:
        batch: student's inputs, with `labels`, positions and the teacher's view if there are any.
        num_classes: number of classes of the student.

    Raises:
        HfCmimError: labels outside of [0, num_classes), checked on CPU only because the check waits for the device.
    """
    inputs = dict(batch)
    labels, index = inputs.pop("labels", None), inputs.pop(INDEX_NAME, None)
    labels = None if labels is None else integer_labels(labels)
    if labels is not None and labels.device.type == "cpu":
        check_label_range(labels, num_classes)
    return Query(inputs, inputs.pop(TEACHER_VIEW, inputs), labels), index


@final
class StudentStep:
    """The work of an attack on one batch after another, for one student.

    `DistillationTrainer` owns one, and so does every student of an audit.

    Args:
        attack: attack that computes the loss.
        queries: teacher with its ledger.
    """

    def __init__(self, attack: Composition, queries: TeacherQueries) -> None:
        self.attack = attack
        self.queries = queries

    def begin(self) -> None:
        """Forget the gradients of the attack's own parameters, before the first micro-batch of a step."""
        self.attack.zero_grad()

    def loss(
        self,
        student: Forward,
        query: Query,
        index: Tensor | None,
        num_items: Tensor | int | None,
        *,
        progress: float,
        scale: int = 1,
    ) -> StepLoss:
        """Return the loss on a micro-batch.

        Args:
            student: student in training mode.
            query: micro-batch.
            index: `(B,)` positions in the transfer set.
            num_items: number of valid labels of the whole step, or None to average over this micro-batch.
            progress: fraction of the optimizer steps done.
            scale: factor of the loss.

        Raises:
            HfCmimError: neither labels nor answers to learn from, or a student that returns probabilities.
        """
        means, count, outputs = self.components(student, query, index, progress)
        # Components are means over this micro-batch: `count` turns them into sums, `num_items` into the step's mean.
        scale_of_means = scale * count / (count.clamp_min(1) if num_items is None else num_items)
        components = {name: mean * scale_of_means for name, mean in means.items()}
        return StepLoss(torch.stack(list(components.values())).sum(), components, outputs)

    def collect_gradients(self, loss: StepLoss, student: nn.Module) -> None:
        """Take the gradient of the cross-entropy apart, for an attack whose optimizer treats it differently."""
        if self.attack.optimizer_protocol is not None:
            trained: list[Tensor] = [parameter for parameter in student.parameters() if parameter.requires_grad]
            self.attack.optimizer_protocol.collect(loss.components["ce"], trained)

    def finish(self) -> None:
        """Finish the gradients of a step, after its last micro-batch and before the optimizer."""
        if self.attack.optimizer_protocol is not None:
            self.attack.optimizer_protocol.finish_gradients()

    def components(
        self, student: Forward, query: Query, index: Tensor | None, progress: float
    ) -> tuple[Components, Tensor, Any]:
        """Return 0-d means over the valid labels, the 0-d number of valid labels, and the student's outputs."""
        if query.labels is None and (self.queries.teacher is None or not self.attack.needs_teacher):
            raise HfCmimError(
                f"Expected labels for {self.attack!r}, which asks no teacher, got none in the transfer set: every"
                " sample would count as class 0. Give labelled data, or an attack that learns from a teacher's"
                " answers."
            )
        protocol = self.attack.query_protocol
        if protocol is None:
            return self._one_query(student, query, index, progress)
        # A query protocol turns one batch into several queries, such as views of the same samples.
        queries = protocol(query)
        components: Components = {}
        for protocol_query in queries:
            parts, count, outputs = self._one_query(student, protocol_query, index, progress)
            for name, value in parts.items():
                total = components.get(name, torch.zeros_like(value))
                components[name] = total + value / len(queries)
        return components, count, outputs

    def _one_query(
        self, student: Forward, query: Query, index: Tensor | None, progress: float
    ) -> tuple[Components, Tensor, Any]:
        attack = self.attack
        output_flags = {} if attack.student_protocol is None else {"output_hidden_states": True}
        outputs = student(**query.student_inputs, **output_flags)
        logits = model_logits(outputs)
        # The check waits for the device, so only the first step pays for it.
        if progress == 0:
            check_are_logits(logits)
        check_width(logits, self.queries.num_classes)
        if self.queries.teacher is None or not attack.needs_teacher:
            log_probs = self.queries.uniform(logits)
        else:
            log_probs = self.queries.answers(query.teacher_inputs, query.labels, index)
        labels = log_probs.argmax(dim=-1) if query.labels is None else query.labels

        def components_with(labels: Tensor) -> Components:
            loss = partial(attack, teacher_log_probs=log_probs, labels=labels, progress=progress)
            label_components: Components
            if attack.student_protocol is None:
                label_components = loss(logits)
            else:
                label_components = attack.student_protocol(loss, logits, outputs["hidden_states"], labels)
            return label_components

        components = components_with(labels)
        # A mixed sample has two labels: its loss mixes the losses of both in the same shares.
        if query.partner_labels is not None:
            share = query.share
            partner = components_with(query.partner_labels)
            components = {name: share * components[name] + (1 - share) * partner[name] for name in partner}
        return components, (labels != IGNORE_INDEX).sum(), outputs
