"""The CMI of logits that are brought to one spread, with a gradient that leaves their own scale alone."""

import math
from typing import final

import torch
from torch import Tensor

from hf_cmim.functional.inputs import masked_classes, without_masked
from hf_cmim.functional.spread import SMALLEST_SPREAD, spread_of
from hf_cmim.hardening.forms.base import AbstractForm, Problem, squared_factors
from hf_cmim.hardening.kernels.eager import centroid_divergences
from hf_cmim.hardening.kernels.operator import divergences, with_gradient
from hf_cmim.hardening.kernels.problem import Scaling
from hf_cmim.hardening.parts import Concentration
from hf_cmim.hardening.spec import ObjectiveSpec


@final
class ScaledForm(AbstractForm):
    """The CMI of scaled logits: shrinking all logits changes neither its value nor its gradient.

    One factor for all samples follows the running spread of their logits. The gradient of the CMI then loses its part
    along all logits together. The factor is constant, and the size of that part is from the step before, so the loss
    stays a sum over samples.

    Args:
        spec: specification of the objective.
        num_classes: number of classes `C`.

    Attributes:
        spread: running mean over samples of the variance of their logits over the classes, 0-d.
        spread_mass: effective number of samples behind `spread`, 0-d, at most the window.
        multiplier: factor of the logits, 0-d, at most 1: small logits are not stretched.
        outward: strength of the correction, 0-d (see `Scaling`); 0 before the first step.

    Source: ours.
    """

    state_class = Scaling
    has_free_scale = True
    factors = staticmethod(squared_factors)
    spread: Tensor
    spread_mass: Tensor
    multiplier: Tensor
    outward: Tensor

    def __init__(self, spec: ObjectiveSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        self.window, self.logit_scale = spec.window, float(spec.logit_scale or 0)
        for name, value in (("spread", 0.0), ("spread_mass", 0.0), ("multiplier", 1.0), ("outward", 0.0)):
            self.register_buffer(name, torch.tensor(value))

    @property
    def state(self) -> Scaling:
        """Scaling of the logits for the next loss."""
        return Scaling(self.multiplier, self.outward)

    @staticmethod
    def concentrate(problem: Problem, state: Scaling) -> Concentration:
        """Return the weighted sum over temperatures of max(1, T^2) / K times the CMI of scaled logits.

        The sums are the derivative of the CMI part at weight 1 with respect to the logarithm of a factor on all logits
        (0 where no gradient flows), and the two values of `spread_of`.
        """
        logits, labels, log_centroids, temperatures, factors, weight, num_items, _, is_fused = problem
        samples, outward = (labels, log_centroids, temperatures), state.outward / num_items
        if is_fused:
            computed = divergences(logits, *samples, factors / num_items, Scaling(state.multiplier, outward))
            cmi = with_gradient(computed.total, weight, logits, computed)
            # No outputs for the bank: its step first moves the multiplier, and centroids are those of the new one.
            return Concentration(cmi, computed.sums / num_items, computed.scale_sums, computed.gradient, None)
        raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
        masked = masked_classes(raised)
        raised = without_masked(raised, masked)
        sums, pulls = centroid_divergences(raised * state.multiplier, *samples, wants_pulls=True)
        weights, (spread, count) = factors.to(sums.dtype) / num_items, spread_of(raised, labels, masked)
        # The last term has the value 0. It only subtracts the pull on the scale from the gradient.
        cmi = weight * (torch.dot(weights, sums) - 0.5 * outward * (spread - spread.detach()))
        scale_sums = torch.stack([torch.dot(weights, pulls), spread.detach(), count.to(spread)])
        return Concentration(cmi, sums.detach() / num_items, scale_sums, None, None)

    def start(self, logits: Tensor, labels: Tensor) -> None:
        """Set the scale by the spread of a first batch, unless a step has set it."""
        if not bool(self.spread_mass):
            raised = logits.to(self.spread.dtype)
            self.follow(torch.stack([self.outward, *spread_of(raised, labels, masked_classes(raised))]))

    def follow(self, sums: Tensor) -> None:
        """Update the multiplier from the spread of a step's logits, and `outward` from the pull on them.

        Fast-growing logits would make both too large for the next step: the CMI would pull them harder, and the
        correction would drive them further out. So the multiplier uses the larger of the running spread and the
        step's spread. The correction shrinks by the running spread divided by this larger one.
        """
        pull, variances, count = sums
        spread = (variances / count.clamp_min(1)).clamp_min(SMALLEST_SPREAD)
        # Weight of `count` samples, as in the bank.
        fresh_mass = -torch.expm1(count * math.log1p(-1 / self.window)) * self.window
        self.spread_mass.addcmul_(self.spread_mass, fresh_mass, value=-1 / self.window).add_(fresh_mass)
        self.spread.lerp_(spread, fresh_mass / self.spread_mass.clamp_min(1e-12))
        largest = torch.maximum(self.spread, spread)
        multiplier = (self.logit_scale * largest.rsqrt()).clamp_max(1.0)
        outward = pull / spread * (self.spread / largest)
        # A step without valid samples does not change the scale.
        self.multiplier.copy_(torch.where(count > 0, multiplier, self.multiplier))
        self.outward.copy_(torch.where(count > 0, outward, self.outward))
