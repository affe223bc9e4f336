"""Repaired answers: replace the answers that contradict the label, and keep all others."""

from typing import Literal

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractTransform
from hf_cmim.channels.base import label_log_probs, normalized
from hf_cmim.errors import HfCmimError

Rule = Literal["wrong-class", "below-chance"]
Repair = Literal["label", "swap"]


def is_misleading(teacher_log_probs: Tensor, labels: Tensor, rule: Rule) -> Tensor:
    """Return a mask `(N,)` of the answers that a rule calls misleading.

    Args:
        teacher_log_probs: `(N, C)` normalised log-probabilities.
        labels: `(N,)` integers in [0, C).
        rule: "wrong-class" if another class is likelier than the label; "below-chance" if the label has a probability
            below 1 / C, less than somebody who knows nothing gives it. The second rule finds a part of the first's.

    Source: see `RepairedAnswers`.

    >>> answers, labels = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1]]).log(), torch.tensor([1, 2])
    >>> is_misleading(answers, labels, "wrong-class").tolist(), is_misleading(answers, labels, "below-chance").tolist()
    ([True, True], [False, True])
    """
    of_labels = teacher_log_probs.gather(-1, labels.unsqueeze(-1))
    if rule == "wrong-class":
        return (teacher_log_probs > of_labels).any(dim=-1)
    return (of_labels.exp() * teacher_log_probs.shape[-1] < 1).squeeze(-1)


def swapped_answers(teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
    """Exchange the label's probability with the largest one; an answer that names its label stays as it is.

    Args:
        teacher_log_probs: `(N, C)` log-probabilities.
        labels: `(N,)` integers in [0, C).

    Source: see `RepairedAnswers`.

    >>> swapped_answers(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([2])).exp().mul(10).round().tolist()
    [[2.0, 3.0, 5.0]]
    """
    labels = labels.unsqueeze(-1)
    largest, predicted = teacher_log_probs.max(dim=-1, keepdim=True)
    # The second scatter wins where both meet.
    return teacher_log_probs.scatter(-1, predicted, teacher_log_probs.gather(-1, labels)).scatter(-1, labels, largest)


class RepairedAnswers(AbstractTransform):
    """Keep the answers that agree with the label, and replace the misleading ones.

    A teacher that poisons its answers, or is wrong, then harms no student that knows the labels. An attacker without
    labels takes the answer's class for the label, and nothing changes.

    Args:
        rule: rule by which an answer misleads: "wrong-class" (another class is likelier than the label) or
            "below-chance" (the label has a probability below 1 / C).
        repair: answer in its place: "label" for certainty of the label, so that the loss learns labels on these
            samples; "swap" to exchange the label's probability with the largest one, which keeps how similar the
            other classes are.

    Raises:
        HfCmimError: an unknown rule or repair.

    Strength: not known: it is newer than our tables. It is made for perturbed answers, and does nothing to a
    teacher that is right about every sample of the transfer set.

    Source: ours for the rules and for "label". "swap" is the teacher's half of swapped logit distillation (Limantoro
    et al., Multimedia Systems 2025), as in its released code, which also distils from the student's own swapped
    logits late in training and uses temperatures 1 to 6 together.
    """

    def __init__(self, *, rule: Rule = "wrong-class", repair: Repair = "label") -> None:
        super().__init__()
        if rule not in ("wrong-class", "below-chance"):
            raise HfCmimError(
                f'Expected rule="wrong-class" or "below-chance", got {rule!r}. No answer would count as misleading.'
            )
        if repair not in ("label", "swap"):
            raise HfCmimError(
                f'Expected repair="label" or "swap", got {repair!r}. Misleading answers would have no replacement.'
            )
        self.rule = rule
        self.repair = repair

    @torch.no_grad()
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the repaired answers; see `AbstractTransform.forward`."""
        answers = normalized(teacher_log_probs)
        if self.repair == "swap":
            repaired = swapped_answers(answers, labels)
        else:
            repaired = label_log_probs(labels, answers.shape[-1]).to(answers.dtype)
        misleads = is_misleading(answers, labels, self.rule).unsqueeze(-1)
        return torch.where(misleads, repaired, answers)
