"""Ask the teacher about mixtures of samples."""

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
        HfCmimError: there is none: token numbers cannot be mixed.
    """
    names = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.is_floating_point()]
    if not names:
        raise HfCmimError(
            f"Expected floating-point inputs to mix (pixel_values, input_values), got {sorted(inputs)}: numbers of"
            " tokens have no mixture. Use another protocol for texts."
        )
    return names


def mixed(inputs: Mapping[str, Any], partners: Tensor, share: float) -> dict[str, Any]:
    """Return share * sample + (1 - share) * partner for every floating-point input of a batch."""
    mixable = mixable_names(inputs)
    return {
        name: share * value + (1 - share) * value[partners] if name in mixable else value
        for name, value in inputs.items()
    }


class MixupQueries(AbstractQueryProtocol):
    """Mixup: student and teacher see share * sample + (1 - share) * another sample of the batch.

    One share a batch, drawn from Beta(alpha, alpha). A term on true labels is that of both samples' labels, weighted
    by their shares. Samples are mixed within a micro-batch of one process, so results depend on how a batch is split.

    Args:
        alpha: parameter of the Beta distribution, > 0; 1 draws the share evenly from [0, 1].

    Source: Zhang et al., arXiv 1710.09412; as queries Beyer et al., CVPR 2022, arXiv 2106.05237.
    """

    def __init__(self, *, alpha: float = 1.0) -> None:
        super().__init__()
        check_positive(alpha, "alpha")
        self.alpha = alpha

    def forward(self, query: Query) -> Sequence[Query]:
        """Return one query, of mixtures."""
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        size = len(query.student_inputs[mixable_names(query.student_inputs)[0]])
        partners = torch.randperm(size)
        student_inputs = mixed(query.student_inputs, partners, share)
        shared = query.teacher_inputs is query.student_inputs
        teacher_inputs = student_inputs if shared else mixed(query.teacher_inputs, partners, share)
        partner_labels = None if query.labels is None else query.labels[partners]
        return [Query(student_inputs, teacher_inputs, query.labels, partner_labels, share)]
