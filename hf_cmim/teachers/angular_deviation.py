"""Maximising angular deviation (MAD): a teacher whose answers turn a student's gradient away from the true one."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from hf_cmim.channels.base import finite_answers, floored_log_probs, keeping_predictions, precise
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.fingerprints import digest

LEAD = 1e-5
"""Weight of the predicted class beyond that of the others in an answer that keeps the prediction; the source's."""
TINY = 1e-12
"""Smallest divisor; it decides only where an answer has no gradient or is already where it would be moved. Ours."""


def deviating_probs(probs: Tensor, surrogate_probs: Tensor, epsilon: float, keeps_predictions: bool) -> Tensor:
    """Move answers towards the extreme answer that turns the surrogate's gradient farthest from the true one.

    With p the answer and q the surrogate's, the gradient of the distillation loss by the surrogate's last weights is
    (q - p) times its features. After normalising, the features cancel: an answer p' is worth
    ||(q - p') / ||q - p'|| - (q - p) / ||q - p|| ||^2. The best extreme answer p* counts, and
    p' = p + min(1, epsilon / ||p* - p||_1) (p* - p).

    Args:
        probs: `(N, C)` probabilities of the model, fp64 where the device has it.
        surrogate_probs: `(N, C)` probabilities of the surrogate.
        epsilon: largest L1 distance of an answer from the model's own, in [0, 2].
        keeps_predictions: False if p* is certainty of any class; True if it is spread evenly over the predicted class
            and any others, found greedily, class by class.

    Returns:
        `(N, C)` probabilities.

    Source: see `AngularDeviationTeacher`.

    >>> probs, surrogate_probs = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.4, 0.5, 0.1]])
    >>> deviating_probs(probs, surrogate_probs, 0.4, False).mul(10).round().tolist()
    [[5.0, 4.0, 1.0]]
    """
    extreme = _around_prediction(probs, surrogate_probs) if keeps_predictions else _vertex(probs, surrogate_probs)
    distance = (extreme - probs).abs().sum(dim=-1, keepdim=True)
    return probs + (epsilon / distance.clamp_min(TINY)).clamp_max(1.0) * (extreme - probs)


def _alignment(probs: Tensor, surrogate_probs: Tensor, masks: Tensor, size: int) -> Tensor:
    """Return the cosine of the two gradients, times the true one's norm, if one class joins an even answer.

    Args:
        probs: `(N, C)` probabilities of the model.
        surrogate_probs: `(N, C)` probabilities of the surrogate.
        masks: `(N, C)` classes that are in the answer: 1 or 0.
        size: number of classes with the one that joins.

    Returns:
        `(N, C)`, one value for each class that joins.
    """
    gradient = surrogate_probs - probs
    along = (surrogate_probs * gradient).sum(dim=-1, keepdim=True)
    of_classes = (masks * gradient).sum(dim=-1, keepdim=True) + gradient
    overlap = (masks * surrogate_probs).sum(dim=-1, keepdim=True) + surrogate_probs
    squared = surrogate_probs.square().sum(dim=-1, keepdim=True) - (2 * overlap - 1) / size
    return (along - of_classes / size) / squared.clamp_min(TINY**2).sqrt()


def _vertex(probs: Tensor, surrogate_probs: Tensor) -> Tensor:
    """Return certainty of the class whose gradient is the least aligned with the true one, `(N, C)`."""
    best = _alignment(probs, surrogate_probs, torch.zeros_like(probs), 1).argmin(dim=-1, keepdim=True)
    return torch.zeros_like(probs).scatter(-1, best, 1.0)


def _around_prediction(probs: Tensor, surrogate_probs: Tensor) -> Tensor:
    """Return the least aligned of the even answers that hold the predicted class and grow by one class at a time."""
    predictions = probs.argmax(dim=-1, keepdim=True)
    masks, extreme = torch.zeros_like(probs), torch.zeros_like(probs)
    lowest = probs.new_full((len(probs), 1), torch.inf)
    joining = predictions
    for size in range(1, probs.shape[-1] + 1):
        alignments = _alignment(probs, surrogate_probs, masks, size).masked_fill(masks > 0, torch.inf)
        if size > 1:
            joining = alignments.argmin(dim=-1, keepdim=True)
        alignment = alignments.gather(-1, joining)
        masks = masks.scatter(-1, joining, 1.0)
        extreme = torch.where(alignment < lowest, masks, extreme)
        lowest = lowest.minimum(alignment)
    extreme = extreme.scatter_add(-1, predictions, torch.full_like(lowest, LEAD))
    return extreme / extreme.sum(dim=-1, keepdim=True)


@final
class AngularDeviationTeacher(AbstractTeacher):
    """A teacher that poisons its answers against one student: maximising angular deviation, MAD.

    It needs to see its own answer and that of a surrogate, a student such as an attacker might train, so it is made of
    two teachers and no channel. See `deviating_probs` for the formula. Both get the same view of a batch.

    Args:
        teacher: the owner's model.
        surrogate: stand-in for the attacker's student, with the same classes in any order. Its answers change nothing
            but the direction of the poison.
        epsilon: largest L1 distance of an answer from the model's own, in [0, 2]; 0 changes nothing.
        keeps_predictions: True if every answer must name the model's class (the source's MAD-argmax).

    Raises:
        HfCmimError: an epsilon outside [0, 2], a surrogate that is the teacher or has other classes.

    The solver is a heuristic: where epsilon is small, other allowed answers turn the gradient clearly farther.

    Source: Orekondy, Schiele, Fritz, ICLR 2020, arXiv 1906.10908, with the gradient of the last layer and the solver
    of its released code: extreme answers, then the straight line. Three things are ours. Extreme answers are compared
    by the paper's objective; the code's default leaves out its normalisation, and then picks the least likely class
    whatever the surrogate answers. With `keeps_predictions`, classes join greedily for every C, until all have joined;
    the code tries all sets up to 10 classes. The default epsilon is that of ModelGuard's comparison.
    """

    def __init__(
        self,
        teacher: AbstractTeacher,
        surrogate: AbstractTeacher,
        *,
        epsilon: float = 1.0,
        keeps_predictions: bool = True,
    ) -> None:
        super().__init__(teacher.num_classes, teacher.class_names, hides_classes=teacher.hides_classes)
        if not 0 <= epsilon <= 2:
            raise HfCmimError(
                f"Expected an epsilon in [0, 2], got {epsilon}: two distributions are at most 2 apart in L1. The"
                " default is 1.0."
            )
        if surrogate.fingerprint() == teacher.fingerprint():
            raise HfCmimError(
                "Expected a surrogate that differs from the teacher, got the same one: a student that equals the"
                " teacher has no gradient to turn. Give a student that was trained on the teacher's answers."
            )
        self.teacher = teacher
        self.surrogate = surrogate
        self.epsilon = epsilon
        self.keeps_predictions = keeps_predictions
        self._order = _surrogate_order(teacher, surrogate)
        self.wants_index = teacher.wants_index or surrogate.wants_index
        self.wants_labels = teacher.wants_labels or surrogate.wants_labels
        names = (teacher.input_names, surrogate.input_names)
        self.input_names = None if None in names else frozenset().union(*(name for name in names if name is not None))

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        log_probs = self.teacher(inputs, labels)
        if self.epsilon == 0:
            return log_probs
        surrogate_log_probs = self.surrogate(inputs, labels)
        if self._order is not None:
            surrogate_log_probs = surrogate_log_probs[..., self._order]
        original = finite_answers(log_probs.flatten(0, -2))
        probs, surrogate_probs = (
            precise(answers).softmax(dim=-1) for answers in (original, surrogate_log_probs.flatten(0, -2))
        )
        answers = floored_log_probs(deviating_probs(probs, surrogate_probs, self.epsilon, self.keeps_predictions))
        if self.keeps_predictions:
            answers = keeping_predictions(answers, original.argmax(dim=-1), otherwise=original)
        return answers.reshape(log_probs.shape)

    def _identity(self) -> str:
        return digest(
            self.teacher.fingerprint(), self.surrogate.fingerprint(), float(self.epsilon), self.keeps_predictions
        )


def _surrogate_order(teacher: AbstractTeacher, surrogate: AbstractTeacher) -> list[int] | None:
    """Return the columns of the surrogate's answers in the teacher's order, or None where the orders are equal.

    Raises:
        HfCmimError: the surrogate has other classes.
    """
    names, surrogate_names = teacher.class_names, surrogate.class_names
    if None in (names, surrogate_names) and teacher.num_classes == surrogate.num_classes:
        return None
    if names is None or surrogate_names is None or set(names) != set(surrogate_names):
        raise HfCmimError(
            f"Expected a surrogate with the teacher's {teacher.num_classes} classes, got one with"
            f" {surrogate.num_classes} classes, or with other names: their answers cannot be compared. Give both the"
            " same class names."
        )
    return None if names == surrogate_names else [surrogate_names.index(name) for name in names]
