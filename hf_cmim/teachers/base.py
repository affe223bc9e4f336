"""What every black-box teacher is: a batch in, log-probabilities out, and nothing else.

An attacker sees answers, never weights, gradients or logits. A teacher answers its own view of a batch, which may
differ from the student's in size, normalisation or tokens, in its own order of classes (`match_classes`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from hf_cmim.class_names import check_names_differ
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.channels import AbstractChannel
from hf_cmim.teachers.answers import (
    Representation,
    answer_log_probs,
    check_answers,
    check_representation,
    check_shape,
)
from hf_cmim.teachers.fingerprints import digest

INDEX_NAME = "sample_index"
"""Name among the inputs of the samples' positions in the data set, `(B,)`, where a teacher `wants_index`."""


class AbstractTeacher(ABC):
    """Abstract black-box teacher.

    Args:
        num_classes: `C`.
        class_names: name of each class in the order of the answers, all different; None only for a teacher that
            speaks in the numbers of the labels.
        returns: what `_answer` gives.
        channel: what an answer passes through before it is seen; None for full probabilities.
        hides_classes: whether the answers hide classes by themselves; labels alone always do.

    Attributes:
        wants_index: whether the inputs must hold `sample_index`.
        wants_labels: whether it answers from the true labels.
        input_names: names of the inputs that it can use; None where that is unknown.
        hides_classes: whether some classes have no probability of their own in what comes out. Attacks that need every
            class make no sense of such a teacher.
    """

    wants_index: bool = False
    wants_labels: bool = False
    input_names: frozenset[str] | None = None

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str] | None,
        *,
        returns: Representation = "log_probs",
        channel: AbstractChannel | None = None,
        hides_classes: bool = False,
    ) -> None:
        if num_classes < 2:
            raise HfCmimError(f"Expected at least 2 classes, got {num_classes}: one class has nothing to teach.")
        check_representation(returns)
        if class_names is not None:
            _check_names(class_names, num_classes)
        if channel is not None:
            channel(torch.full((1, num_classes), 1 / num_classes).log())  # says now if it does not fit the classes
        self.num_classes = num_classes
        self.class_names = None if class_names is None else tuple(class_names)
        self.returns = returns
        self.channel = channel
        self.hides_classes = hides_classes or returns == "labels" or (channel is not None and channel.hides_classes)
        self._was_checked = False

    @final
    def __call__(self, inputs: Mapping[str, Any], labels: Tensor | None = None) -> Tensor:
        """Return the answers to a batch.

        Numbers are checked at each call on CPU; on other devices, where looking means waiting, at the first call.

        Args:
            inputs: the teacher's view of the batch, with `sample_index` `(B,)` where it `wants_index`.
            labels: `(B, ...)` true labels, -100 to ignore; read only by a teacher that `wants_labels`.

        Returns:
            `(B, ..., C)` fp32 log-probabilities without gradient, after the channel, finite and normalised, where the
            inputs are. Autocast is off: an answer does not depend on how the student is trained.

        Raises:
            HfCmimError: inputs that lack something, or answers that are not what was promised.
        """
        if self.wants_labels and labels is None:
            raise HfCmimError(f"Expected labels, got None: {type(self).__name__} answers from the true labels.")
        if self.wants_index and INDEX_NAME not in inputs:
            raise HfCmimError(
                f"Expected {INDEX_NAME!r} among the inputs, got {sorted(inputs)}: {type(self).__name__} looks answers"
                " up by the position of a sample in the data set. Add it where the batch is collated."
            )
        device = _device(inputs, labels)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            values = self._answer(inputs, labels)
            check_shape(values, self.returns, self.num_classes, labels)
            if values.device.type == "cpu" or not self._was_checked:
                check_answers(values, self.returns, self.num_classes)
                self._was_checked = True
            log_probs = answer_log_probs(values, self.returns, self.num_classes)
            if self.channel is not None:
                log_probs = self.channel(log_probs.reshape(-1, self.num_classes)).reshape(log_probs.shape)
        return log_probs.to(device)

    @abstractmethod
    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        """Return the answers before the channel, as `returns` promises."""

    @abstractmethod
    def _identity(self) -> str:
        """Return what determines the answers besides classes and channel."""

    @final
    def fingerprint(self) -> str:
        """Return the sha256 hex of what determines the answers, channel included."""
        return digest(
            type(self).__name__,
            self._identity(),
            self.num_classes,
            self.class_names,
            self.returns,
            repr(self.channel),
            self.hides_classes,
        )

    def record(self) -> dict[str, Any]:
        """Return what to store beside results, ready for JSON."""
        return {
            "teacher": type(self).__name__,
            "fingerprint": self.fingerprint(),
            "class_names": None if self.class_names is None else list(self.class_names),
            "channel": None if self.channel is None else repr(self.channel),
            "hides_classes": self.hides_classes,
        }


def _check_names(class_names: Sequence[str], num_classes: int) -> None:
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise HfCmimError(f"Expected class_names as a sequence of strings, got {class_names!r}.")
    if len(class_names) != num_classes:
        raise HfCmimError(f"Expected a name for each of {num_classes} classes, got {len(class_names)}.")
    check_names_differ(class_names)


def _device(inputs: Mapping[str, Any], labels: Tensor | None) -> torch.device:
    """Return where the batch is: that of its first tensor, or the CPU where it has none."""
    tensors = (value for value in (*inputs.values(), labels) if isinstance(value, Tensor))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
