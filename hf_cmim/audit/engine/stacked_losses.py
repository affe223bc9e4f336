"""Losses of stacked students: students with the same attack get theirs in one call."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.func import vmap

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.protocols import Query
from hf_cmim.audit.engine.student import PooledStudent
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.trainers.shared.validation import check_are_logits, check_width

LANES = 16
"""Most fp32 numbers that an instruction of today's processors computes at once."""

TRIALS = 3
"""Times that a loss is tried with each size of a batch. Some losses differ in one trial of ten sizes only; ours."""

_EXACT: dict[tuple[Any, torch.Size], bool] = {}
"""Results of `_is_exact` by loss and shape of a batch: a wave of students asks about the losses of the one before."""


def grouped_by_loss(students: Sequence[PooledStudent], labels: Tensor) -> "list[LossGroup]":
    """Return the students in groups whose losses one call can compute, in the order of their first members.

    A student's gradient has the same bits in a group of any size, so its result does not depend on who trains beside
    it. That is why the size of a group is a power of two, by which multiplication and division are exact, and why
    each loss is tried first.

    Args:
        students: students of a stack.
        labels: `(B, ...)` labels of a batch to try losses on.
    """
    alike: dict[Any, list[PooledStudent]] = {}
    for student in students:
        key = _loss_key(student.attack)
        # A loss without a key shares with nobody: the student itself is then the key.
        alike.setdefault(id(student) if key is None else key, []).append(student)
    groups = []
    for key, members in alike.items():
        if len(members) > 1 and (key, labels.shape) not in _EXACT:
            _EXACT[key, labels.shape] = _is_exact(members[0], labels)
        largest = len(members) if _EXACT.get((key, labels.shape)) else 1
        while members:
            # The largest power of two that is left: 13 students make groups of 8, 4 and 1.
            size = min(2 ** (len(members).bit_length() - 1), largest)
            groups.append(LossGroup(members[:size]))
            members = members[size:]
    return groups


@torch.enable_grad()
def _is_exact(student: PooledStudent, labels: Tensor) -> bool:
    """Return True if random logits have the same gradients in one call for two students and in two calls.

    A processor computes many numbers at once, and some functions round the last few differently. So batches of every
    size modulo the number of lanes are tried.
    """
    attack, num_classes = copy.deepcopy(student.attack), student.template.num_classes
    generator = torch.Generator().manual_seed(0)

    def gradient(logits: Tensor, answers: Tensor, targets: Tensor) -> Tensor:
        leaf = logits.clone().requires_grad_()
        _sum_of_losses(attack, leaf, answers, targets, progress=1.0).backward()
        assert leaf.grad is not None
        return leaf.grad

    for size in TRIALS * [*range(max(1, len(labels) - LANES + 1), len(labels) + 1)]:
        targets = labels[:size]
        shape = 2, *targets.shape, num_classes
        logits, answers = (4 * torch.randn(shape, generator=generator).to(labels.device) for _ in range(2))
        answers = answers.log_softmax(dim=-1)
        alone = [gradient(logits[one : one + 1], answers[one : one + 1], targets) for one in range(2)]
        if not torch.equal(gradient(logits, answers, targets), torch.cat(alone)):
            return False
    return True


def _loss_key(attack: Composition) -> tuple[str, ...] | None:
    """Return a text that two attacks share only if they have the same loss; None for a loss that needs its own call.

    A transform would mix the samples of several students.
    """
    if len(attack.transforms) or attack.loss.is_slow_together:
        return None
    # The buffers hold the attack's survey of its teacher.
    buffers = [f"{name} {value.tolist()}" for name, value in attack.named_buffers()]
    return repr(attack), *buffers


def _sum_of_losses(attack: Composition, logits: Tensor, answers: Tensor, labels: Tensor, progress: float) -> Tensor:
    """Return the 0-d sum of the losses of students with the same attack.

    Args:
        attack: their attack.
        logits: `(K, B, ..., C)` logits of the students.
        answers: `(K, B, ..., C)` answers of their teachers.
        labels: `(B, ...)` labels.
        progress: fraction of the optimizer steps done.
    """

    def loss(logits: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
        return torch.stack(list(attack(logits, answers, labels, progress).values())).sum()

    # A loss that compares the samples of a batch must not compare those of two students.
    if attack.loss.batch_level or attack.loss.smallest_batch > 1:
        losses: Tensor = vmap(loss, in_dims=(0, 0, None))(logits, answers, labels)
        return losses.sum()
    # A mean over samples: that over the samples of K students, times K, is the sum of theirs.
    return len(logits) * loss(logits, answers, labels.expand(logits.shape[:-1]))


@final
class LossGroup:
    """Students of a stack with the same attack; their teachers may differ.

    Args:
        students: students, at least one.
    """

    def __init__(self, students: Sequence[PooledStudent]) -> None:
        self.students = students

    def loss(self, logits: Tensor, query: Query, index: Tensor | None, num_items: Tensor | int | None) -> Tensor:
        """Return the 0-d sum of the students' losses on a micro-batch.

        Args:
            logits: `(K, B, ..., C)` logits of the students.
            query: micro-batch with labels.
            index: `(B,)` positions in the transfer set.
            num_items: number of valid labels of the whole step, or None to average over this micro-batch.
        """
        first, size = self.students[0], len(self.students)
        # The same way as for a student that trains by itself.
        if size == 1:
            step = first.step.loss(_returning(logits[0]), query, index, num_items, progress=first.progress)
            return step.total
        assert query.labels is not None  # an audit's transfer set has labels
        check_width(logits, first.template.num_classes)
        # Only in the first step, because the check waits for the device.
        if first.num_steps == 0:
            check_are_logits(logits[0])
        answers = self._answers(logits, query, index)
        count = (query.labels != IGNORE_INDEX).sum()
        scale = count / (count.clamp_min(1) if num_items is None else num_items)
        return scale * _sum_of_losses(first.attack, logits, answers, query.labels, first.progress)

    def _answers(self, logits: Tensor, query: Query, index: Tensor | None) -> Tensor:
        """Return `(K, B, ..., C)` answers of the students' teachers; each student pays for its own."""
        first = self.students[0]
        if not first.attack.needs_teacher:
            return first.queries.uniform(logits)
        answers = [student.queries.answers(query.teacher_inputs, query.labels, index) for student in self.students]
        # Students of one teacher share its stored answers; expanding them copies nothing.
        if all(answer is answers[0] for answer in answers):
            return answers[0].expand(logits.shape)
        return torch.stack(answers)


def _returning(logits: Tensor) -> Callable[..., dict[str, Tensor]]:
    """Return a forward pass whose logits are already computed."""
    return lambda **_: {"logits": logits}
