"""A function as a black-box teacher."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel
from hf_cmim.errors import HfCmimError
from hf_cmim.teachers.answers import Representation
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.fingerprints import digest


@final
class FunctionTeacher(AbstractTeacher):
    """A teacher from any function that answers a batch: another framework, an ensemble, a service.

    Args:
        function: function from inputs to answers, `(B, ..., C)`, or to labels, `(B, ...)`, as a tensor or a NumPy
            array.
        class_names: names of the classes in the order of the answers, such as scikit-learn's `classes_`; an integer
            becomes its digits.
        returns: kind of the answers.
        input_name: name of the one input that the function takes: a tensor as a NumPy array on the CPU, a list of
            texts as it is. None for a function that takes the mapping of all inputs.
        channel: change of the answers before the attacker sees them; None for full probabilities.
        version: name of the state behind the answers, such as the version of the weights. No fingerprint can see this
            state. Without a version every object has a new fingerprint, and no other object can use its cache.

    >>> def predict_proba(rows):  # for instance that of a fitted scikit-learn pipeline
    ...     return np.stack([rows.mean(axis=1), 1 - rows.mean(axis=1)], axis=1)
    >>> teacher = FunctionTeacher(predict_proba, class_names=["cat", "dog"], returns="probs", input_name="pixels")
    >>> teacher({"pixels": torch.full((1, 8), 0.25)}).exp()
    tensor([[0.2500, 0.7500]])
    """

    def __init__(
        self,
        function: Callable[[Any], Tensor | NDArray[Any]],
        *,
        class_names: Sequence[str | int] | NDArray[Any],
        returns: Representation = "log_probs",
        input_name: str | None = None,
        channel: AbstractChannel | None = None,
        version: str | None = None,
    ) -> None:
        names: Any = class_names
        if not isinstance(class_names, str):
            names = [str(name) if isinstance(name, Integral | str) else name for name in class_names]
        super().__init__(len(names), names, returns=returns, channel=channel)
        self.function = function
        self.input_name = input_name
        # The student's collator then makes this input, even if the student does not take it.
        self.input_names = None if input_name is None else frozenset({input_name})
        self.version = version if version is not None else f"unknown {uuid.uuid4()}"

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        answers = self.function(inputs if self.input_name is None else self._array_of(inputs, self.input_name))
        return _tensor(answers) if isinstance(answers, np.ndarray) else answers

    def _array_of(self, inputs: Mapping[str, Any], name: str) -> Any:
        """Return the one input of the function."""
        if name not in inputs:
            raise HfCmimError(
                f"Expected {name!r} among the inputs, got {sorted(inputs)}: the teacher's function takes only this"
                " one. Correct input_name, or make the input with a teacher_collator."
            )
        value = inputs[name]
        return value.cpu().numpy() if isinstance(value, Tensor) else value

    def _identity(self) -> str:
        # A callable object has no name of its own: its class names it.
        function_name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return digest(function_name, self.version, *([] if self.input_name is None else [self.input_name]))


def _tensor(answers: NDArray[Any]) -> Tensor:
    """Return an array of numbers as a tensor."""
    if answers.dtype.kind not in "biuf":
        raise HfCmimError(
            f"Expected answers as numbers, got an array of {answers.dtype}: names of classes cannot be compared with"
            " a student's probabilities. Return probabilities (predict_proba), or class numbers counted from 0."
        )
    # Copied, because torch warns about memory that it may not write.
    return torch.from_numpy(np.array(answers))
