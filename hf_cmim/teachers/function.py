"""Any function as a black-box teacher."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from torch import Tensor

from hf_cmim.functional.channels import AbstractChannel
from hf_cmim.teachers.answers import Representation
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.teachers.fingerprints import digest


@final
class FunctionTeacher(AbstractTeacher):
    """Whatever answers a batch: another framework, an ensemble, a service.

    Args:
        function: inputs to answers, `(B, ..., C)`, or `(B, ...)` labels.
        class_names: names in the order of the answers.
        returns: what the answers are.
        channel: what an answer passes through before it is seen.
        version: names what the function answers from, its weights for instance. No fingerprint can see that, so
            without it every object has a fingerprint of its own, and a cache of its answers is of use to none but it.
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
        named = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return digest(named, self.version)
