"""A function as a black-box teacher."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from torch import Tensor

from hf_cmim.channels.base import AbstractChannel
from hf_cmim.teachers.answers import Representation
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.fingerprints import digest


@final
class FunctionTeacher(AbstractTeacher):
    """A teacher from any function that answers a batch: another framework, an ensemble, a service.

    Args:
        function: function from inputs to answers, `(B, ..., C)`, or to labels, `(B, ...)`.
        class_names: names of the classes in the order of the answers.
        returns: kind of the answers.
        channel: change of the answers before the attacker sees them; None for full probabilities.
        version: name of the state behind the answers, such as the version of the weights. No fingerprint can see this
            state. Without a version every object has a new fingerprint, and no other object can use its cache.
    """

    def __init__(
        self,
        function: Callable[[Mapping[str, Any]], Tensor],
        *,
        class_names: Sequence[str],
        returns: Representation = "log_probs",
        channel: AbstractChannel | None = None,
        version: str | None = None,
    ) -> None:
        super().__init__(len(class_names), class_names, returns=returns, channel=channel)
        self.function = function
        self.version = version if version is not None else f"unknown {uuid.uuid4()}"

    def _answer(self, inputs: Mapping[str, Any], labels: Tensor | None) -> Tensor:
        return self.function(inputs)

    def _identity(self) -> str:
        # A callable object has no name of its own: its class names it.
        function_name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return digest(function_name, self.version)
