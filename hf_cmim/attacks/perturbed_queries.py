"""Perturbed queries: ask the teacher about noisy copies of each sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_cmim.attacks.base import check_weight
from hf_cmim.attacks.protocols import AbstractQueryProtocol, Query
from hf_cmim.errors import HfCmimError


class PerturbedQueries(AbstractQueryProtocol):
    """Gaussian noise on the samples, the same for student and teacher, with several noisy copies of each sample.

    A concentrated teacher gives similar answers to all samples of a class, but away from the data its answers may
    differ again. The scale is relative to the batch's inputs, so it does not depend on their normalisation.

    Args:
        scale: standard deviation of the noise divided by that of the inputs, at least 0.
        queries_per_sample: number of copies per sample and step, at least 1.
        keep_clean: True to include the clean sample as one of the copies.

    Strength: not known: no table of ours singles it out. It is meant for teachers that are concentrated only near
    their training samples.

    Source: ours, the black-box analogue of perturbing the inputs of a frozen teacher along its gradient.
    """

    def __init__(self, *, scale: float = 0.25, queries_per_sample: int = 1, keep_clean: bool = False) -> None:
        super().__init__()
        check_weight("scale", scale)
        if queries_per_sample < 1:
            raise HfCmimError(
                f"Expected queries_per_sample of at least 1, got {queries_per_sample}. The teacher would get no query."
            )
        self.scale = scale
        self.queries_per_sample = queries_per_sample
        self.keep_clean = keep_clean

    def forward(self, query: Query) -> Sequence[Query]:
        """Return `queries_per_sample` queries."""
        if query.teacher_inputs is not query.student_inputs:
            raise HfCmimError(
                "Expected the same inputs for student and teacher, got a separate view for the teacher. Noise on one"
                " view would not match the other. Leave teacher_collator unset, or perturb inside the data set."
            )
        queries = [query] if self.keep_clean else []
        while len(queries) < self.queries_per_sample:
            inputs = self._perturbed(query.student_inputs)
            # The same object twice: student and teacher share the noise.
            queries.append(Query(inputs, inputs, query.labels))
        return queries

    def _perturbed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        noisy = {
            name: value + self.scale * value.std() * torch.randn_like(value)
            for name, value in inputs.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        if not noisy:
            raise HfCmimError(
                f"Expected floating-point inputs to perturb (pixel_values, input_values), got {sorted(inputs)}. Token"
                " ids with noise would be another text. Use another protocol for texts."
            )
        return {**inputs, **noisy}
