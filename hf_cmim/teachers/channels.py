"""Any teacher behind an output channel, and class answers fitted to a teacher."""

from collections.abc import Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel
from hf_cmim.channels.class_answers import ClassAnswers
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.fingerprints import digest


@final
class ChannelTeacher(AbstractTeacher):
    """A teacher whose answers pass a channel, after the teacher's own channel if it has one.

    Args:
        teacher: teacher that answers; live, stored, or of any other kind.
        channel: change of its answers before the attacker sees them.
    """

    def __init__(self, teacher: AbstractTeacher, channel: AbstractChannel) -> None:
        super().__init__(
            teacher.num_classes, teacher.class_names, channel=channel, hides_classes=teacher.hides_classes
        )
        self.teacher = teacher
        self.wants_index = teacher.wants_index
        self.wants_labels = teacher.wants_labels
        self.input_names = teacher.input_names

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        return self.teacher(inputs, labels)

    def _identity(self) -> str:
        return digest(self.teacher.fingerprint())


def fit_class_answers(
    teacher: AbstractTeacher, batches: Iterable[tuple[Mapping[str, Any], Tensor]], *, sharpness: float = 0.0
) -> ClassAnswers:
    """Ask a teacher about held-out samples, and return the class answers that fit it.

    Args:
        teacher: teacher that answers. Give its model the result as `channel`, or wrap it in a `ChannelTeacher`.
        batches: pairs of the teacher's view of a batch and its labels, `(B, ...)` in the order of the teacher's
            classes, or -100 to ignore. Samples that the teacher was trained on would make it over-confident.
        sharpness: share of the teacher's own answer, in [0, 1]; see `ClassAnswers`.

    Raises:
        HfCmimError: no batch, or answers and labels that `ClassAnswers.fit` refuses.
    """
    answers, targets = [], []
    for inputs, labels in batches:
        answers.append(teacher(inputs, labels).cpu().flatten(0, -2))
        targets.append(labels.cpu().flatten())
    if not answers:
        raise HfCmimError(
            "Expected at least one batch of held-out samples, got none: no answer could be fitted. An iterator can be"
            " read only once."
        )
    return ClassAnswers.fit(torch.cat(answers), torch.cat(targets), sharpness=sharpness)
