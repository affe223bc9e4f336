"""The interface of every black-box teacher: a batch in, log-probabilities out.

An attacker sees answers, never weights, gradients or logits. A teacher answers its own view of a batch, which may
differ from the student's in size, normalisation or tokens. Its classes have their own order (`match_classes`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel
from hf_cmim.class_names import check_names_differ
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.answers import (
    Representation,
    answer_log_probs,
    check_answers,
    check_representation,
    check_shape,
)
from hf_cmim.teachers.fingerprints import digest

INDEX_NAME = "sample_index"
"""Name of the input with the samples' positions in the data set, `(B,)`, for a teacher that `wants_index`."""


class AbstractTeacher(ABC):
    """Abstract black-box teacher.

    Args:
        num_classes: number of classes `C`.
        class_names: name of each class in the order of the answers, all different; None only for a teacher whose
            answers are in the order of the labels' numbers.
        returns: kind of answers that `_answer` returns.
        channel: change of the answers before the attacker sees them; None for full probabilities.
        hides_classes: flag for answers that already hide classes before the channel; labels always do.

    Attributes:
        wants_index: flag for a teacher whose inputs must contain `sample_index`.
        wants_labels: flag for a teacher that answers from the true labels.
        input_names: names of the inputs that the teacher can use; None if unknown.
        hides_classes: flag for a teacher in whose answers some classes have no probability of their own. Attacks that
            need every class cannot use it.
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
            # A channel that does not fit the number of classes raises here instead of at the first batch.
            channel(torch.full((1, num_classes), 1 / num_classes).log())
        self.num_classes = num_classes
        self.class_names = None if class_names is None else tuple(class_names)
        self.returns = returns
        self.channel = channel
        self.hides_classes = hides_classes or returns == "labels" or (channel is not None and channel.hides_classes)
        self._was_checked = False

    @final
    def __call__(self, inputs: Mapping[str, Any], labels: Tensor | None = None) -> Tensor:
        """Return the answers to a batch.

        On CPU, numbers are checked at each call. On other devices a check waits for the device, so only the first call
        checks them. Autocast is off, so an answer does not depend on the student's training.

        Args:
            inputs: teacher's view of the batch, with `sample_index` `(B,)` if it `wants_index`.
            labels: true labels, `(B, ...)`, -100 to ignore; read only by a teacher that `wants_labels`.

        Returns:
            Log-probabilities after the channel, `(B, ..., C)` fp32, finite and normalised, without gradient, on the
            device of the inputs.

        Raises:
            HfCmimError: missing inputs, or answers that differ from the promised kind.
        """
        if self.wants_labels and labels is None:
            raise HfCmimError(
                f"Expected labels, got None: {type(self).__name__} answers from the true labels. Pass the labels."
            )
        if self.wants_index and INDEX_NAME not in inputs:
            raise HfCmimError(
                f"Expected {INDEX_NAME!r} among the inputs, got {sorted(inputs)}: {type(self).__name__} looks answers"
                " up by the position of a sample in the data set. Add it where the batch is collated."
            )
        device = _device(inputs, labels)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            values = self._answer(inputs, labels)
            check_shape(values, self.returns, self.num_classes, labels)
            # Looking at a number on a GPU waits until all work before it is done.
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
        """Return a text for everything that determines the answers besides classes and channel."""

    @final
    def fingerprint(self) -> str:
        """Return the sha256 hex of everything that determines the answers, channel included."""
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
        """Return the description of the teacher that is stored with results, ready for JSON."""
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
    """Return the device of the batch's first tensor, or the CPU without a tensor."""
    tensors = (value for value in (*inputs.values(), labels) if isinstance(value, Tensor))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
