"""Mixup queries: ask the teacher about mixtures of samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_cmim.attacks.base import check_positive
from hf_cmim.attacks.protocols import AbstractQueryProtocol, Query
from hf_cmim.errors import HfCmimError


def mixable_names(inputs: Mapping[str, Any]) -> list[str]:
    """Return the names of the floating-point inputs.

    Raises:
        HfCmimError: no input is floating-point; token ids cannot be mixed.
    """
    names = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]
    if not names:
        raise HfCmimError(
            f"Expected floating-point inputs to mix (pixel_values, input_values), got {sorted(inputs)}. Token ids"
            " cannot be mixed. Use another protocol for texts."
        )
    return names


def mixed(inputs: Mapping[str, Any], partners: Tensor, share: float) -> dict[str, Any]:
    """Return the inputs with share * sample + (1 - share) * partner in place of each floating-point input."""
    mixtures = {name: share * inputs[name] + (1 - share) * inputs[name][partners] for name in mixable_names(inputs)}
    return {**inputs, **mixtures}


class MixupQueries(AbstractQueryProtocol):
    """Mixup, for student and teacher: share * sample + (1 - share) * another sample of the batch.

    Each batch draws one share from Beta(alpha, alpha). A term on true labels is computed for the labels of both
    samples and weighted by their shares. Samples are mixed within a micro-batch of one process, so results depend on
    how a batch is split.

    Args:
        alpha: parameter of the Beta distribution, above 0; 1 draws the share uniformly from [0, 1].

    Strength: not known as an attack. Without a teacher, mixup gained 3.1 points (known truth) and .17 points
    (digits) over cross-entropy.

    Source: Zhang et al., arXiv 1710.09412; as queries Beyer et al., CVPR 2022, arXiv 2106.05237.
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__()
        check_positive(alpha, "alpha")
        self.alpha = alpha

    def forward(self, query: Query) -> Sequence[Query]:
        """Return one query with the mixed batch."""
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        first_name = mixable_names(query.student_inputs)[0]
        partners = torch.randperm(len(query.student_inputs[first_name]))
        student_inputs = mixed(query.student_inputs, partners, share)
        # Identity tells the trainer that one view serves both; a copy would lose that.
        has_shared_view = query.teacher_inputs is query.student_inputs
        teacher_inputs = student_inputs if has_shared_view else mixed(query.teacher_inputs, partners, share)
        partner_labels = None if query.labels is None else query.labels[partners]
        return [Query(student_inputs, teacher_inputs, query.labels, partner_labels, share)]
