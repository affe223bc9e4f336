"""The CMI of the logits as they are, weighted by max(1, T^2)."""

from types import NoneType
from typing import final

import torch

from hf_cmim.functional.inputs import masked_classes, without_masked
from hf_cmim.hardening.forms.base import AbstractForm, Problem, squared_factors
from hf_cmim.hardening.kernels.eager import centroid_divergences
from hf_cmim.hardening.kernels.operator import divergences, with_gradient
from hf_cmim.hardening.parts import Concentration


@final
class PlainForm(AbstractForm):
    """The CMI as it is. It is also reduced by shrinking all logits, which hides nothing. Source: ours."""

    state_class = NoneType
    has_free_scale = False
    multiplier = None
    factors = staticmethod(squared_factors)

    @staticmethod
    def concentrate(problem: Problem, state: None) -> Concentration:
        """Return the weighted sum over temperatures of max(1, T^2) / K times the CMI."""
        logits, labels, log_centroids, temperatures, factors, weight, num_items, _, is_fused = problem
        samples = labels, log_centroids, temperatures
        if is_fused:
            computed = divergences(logits, *samples, factors / num_items)
            cmi = with_gradient(computed.total, weight, logits, computed)
            return Concentration(
                cmi, computed.sums / num_items, computed.scale_sums, computed.gradient, computed.probs
            )
        raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
        sums, _ = centroid_divergences(without_masked(raised, masked_classes(raised)), *samples)
        cmi = weight * torch.dot(factors.to(sums.dtype) / num_items, sums)
        return Concentration(cmi, sums.detach() / num_items, sums.new_zeros(3), None, None)
