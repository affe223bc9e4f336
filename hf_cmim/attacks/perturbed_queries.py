"""Ask the teacher about perturbed samples, several times each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_cmim.attacks.base import check_weight
from hf_cmim.attacks.protocols import AbstractQueryProtocol, Query
from hf_cmim.errors import HfCmimError


class PerturbedQueries(AbstractQueryProtocol):
    """Add Gaussian noise to the samples, the same for student and teacher, and ask about each several times.

    A concentrated teacher answers alike on all samples of a class; away from the data it may disperse again. The
    scale is relative to the standard deviation of the batch's inputs, so that it means the same for any normalisation.

    Args:
        scale: standard deviation of the noise over that of the inputs, at least 0.
        queries_per_sample: differently perturbed copies asked for each sample in each step, at least 1.
        keep_clean: whether the clean sample is one of them.

    Source: ours, the black-box analogue of perturbing the inputs of a frozen teacher along its gradient.
    """

    def __init__(self, *, scale: float = 0.25, queries_per_sample: int = 1, keep_clean: bool = False) -> None:
        super().__init__()
        check_weight("scale", scale)
        if queries_per_sample < 1:
            raise HfCmimError(
                f"Expected queries_per_sample of at least 1, got {queries_per_sample}: nothing is asked."
            )
        self.scale = scale
        self.queries_per_sample = queries_per_sample
        self.keep_clean = keep_clean

    def forward(self, query: Query) -> Sequence[Query]:
        """Return `queries_per_sample` queries."""
        if query.teacher_inputs is not query.student_inputs:
            raise HfCmimError(
                "Expected student and teacher to see the same inputs, got a view of the teacher's own: noise on one"
                " view has no counterpart on the other. Leave teacher_collator out, or perturb inside the data set."
            )
        queries = [query] if self.keep_clean else []
        while len(queries) < self.queries_per_sample:
            inputs = self._perturbed(query.student_inputs)
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
                f"Expected floating-point inputs to perturb (pixel_values, input_values), got {sorted(inputs)}: noise"
                " on numbers of tokens would be another text. Use another protocol for texts."
            )
        return {**inputs, **noisy}
