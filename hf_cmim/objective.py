"""The hardening objective: cross-entropy plus the CMI of all temperature-scaled output clusters."""

import math
import os
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.blocks import FEW_ELEMENTS
from hf_cmim.functional.divergence import IGNORE_INDEX, centroid_divergences, summed_cross_entropy
from hf_cmim.functional.fused import has_kernels, weighted_divergences
from hf_cmim.functional.inputs import correct_alone, flatten_samples
from hf_cmim.functional.label_information import LabelInformation, quotient, relative_divergences
from hf_cmim.functional.masking import masked_classes, without_masked
from hf_cmim.functional.scaling import Concentration, Scaling, spread_of
from hf_cmim.functional.temperatures import DEFAULT_TEMPERATURES, check_temperatures, reconstruction_temperatures

DEFAULT_LOGIT_SCALE = 4.0
"""Approximate root mean square of a classifier's centred logits after training with cross-entropy; ours."""

TemperatureWeighting = Literal["squared", "information", "none"]
Reduction = Literal["mean", "power_mean", "max"]
Backend = Literal["auto", "eager", "fused"]
BACKENDS = get_args(Backend)
BACKEND_VARIABLE = "HF_CMIM_BACKEND"


class CMIMLoss(nn.Module):
    """Hardening loss: it trains the classifier and concentrates the outputs of each class at all temperatures.

    The loss is cross-entropy plus w * reduce_T[f(T) * CMI_T], with CMI_T = mean KL(softmax(z / T) || Q_y^T). The
    centroids Q come from a `CentroidBank` or `class_centroids`, and are constant in the gradient. At the exact
    centroid their gradient vanishes anyway.

    The weighting f(T) is one of:

    - "squared" (ours): max(1, T^2). For large T, T^2 CMI_T tends to the within-class variance of the centred logits
      divided by 2 C. Without the factor, high temperatures would weigh almost nothing.
    - "information" (ours): 1 / I_T, where I_T is all information that outputs carry, about the label and beyond. The
      gradient is that of the quotient (`hf_cmim.functional.label_information`).
    - "none": 1.

    Splitting a batch never changes the loss. For this, reductions other than the mean are linear in the samples: the
    weight of each temperature is the derivative of the reduction at the terms of the previous step.

    With `scaling`, from a `CentroidBank` with a `logit_scale`, larger logits are scaled down to one spread before the
    CMI is computed. The gradient then loses its part along all logits together, which would only shrink them and hide
    nothing. The multiplier is constant, and the size of that part is from the step before, so the loss stays a sum
    over samples.

    Args:
        temperatures: `K` distinct numbers above 0.
        temperature_weighting: "squared", "information" (only with the reduction "mean") or "none".
        reduction: "mean", "power_mean" or "max" over the weighted terms.
        order: exponent of the power mean, at least 1.
        class_weights: factors of the cross-entropy, `(C,)`, or None.
        label_smoothing: label smoothing of the cross-entropy, in [0, 1).
        backend: "eager" (one tensor of all temperatures, any reduction), "fused" (one operator with little memory,
            used where the weights over temperatures do not depend on this batch), or "auto", the faster one for device
            and shape; the environment variable HF_CMIM_BACKEND replaces "auto".
        correct_only: switch to compute the CMI only over samples whose largest logit is at their label.

    Raises:
        HfCmimError: an argument outside its range.

    Source: idea, arXiv 2507.00012; every default is ours (the paper's are not public).

    >>> loss = CMIMLoss(temperatures=[1.0, 4.0])
    >>> logits, labels = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    >>> log_centroids = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log().expand(2, 2, 2)
    >>> components = loss(logits, labels, log_centroids, weight=0.5)
    >>> sorted(components)
    ['ce', 'cmi', 'cmi_per_temperature']
    """

    def __init__(
        self,
        temperatures: Sequence[float] = DEFAULT_TEMPERATURES,
        *,
        temperature_weighting: TemperatureWeighting = "squared",
        reduction: Reduction = "mean",
        order: float = 4.0,
        class_weights: Sequence[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        backend: Backend = "auto",
        correct_only: bool = False,
    ) -> None:
        super().__init__()
        self.temperatures = check_temperatures(temperatures)
        if temperature_weighting not in get_args(TemperatureWeighting):
            listed = '"squared", "information" or "none"'
            raise HfCmimError(f"Expected temperature_weighting {listed}, got {temperature_weighting!r}.")
        if temperature_weighting == "information" and reduction != "mean":
            raise HfCmimError(
                f'Expected reduction "mean" with temperature_weighting "information", got {reduction!r}: the gradient'
                ' is that of a mean, and another reduction would train something else. Use reduction="mean".'
            )
        if reduction not in ("mean", "power_mean", "max"):
            raise HfCmimError(f'Expected reduction "mean", "power_mean" or "max", got {reduction!r}.')
        if not 1 <= order < math.inf:
            raise HfCmimError(
                f"Expected an order of the power mean of at least 1 and finite, got {order}: an order below 1 gives"
                " less than the average and rewards leaving one temperature unprotected. For infinity use"
                ' reduction="max".'
            )
        if not 0 <= label_smoothing < 1:
            raise HfCmimError(
                f"Expected label_smoothing in [0, 1), got {label_smoothing}: at 1 the target has no label left."
                " The usual value is 0.1."
            )
        if backend not in BACKENDS:
            raise HfCmimError(f"Expected a backend of {BACKENDS}, got {backend!r}.")
        self.backend = backend
        self.correct_only = correct_only
        self.temperature_weighting = temperature_weighting
        self.is_relative = temperature_weighting == "information"
        self.reduction = reduction
        self.order = order
        self.label_smoothing = label_smoothing
        factors = [1.0] * len(self.temperatures)
        if temperature_weighting == "squared":
            factors = [max(1.0, temperature * temperature) for temperature in self.temperatures]
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    factors: Tensor
    class_weights: Tensor | None

    @classmethod
    def reconstruction(cls, largest_power: float = 4.0, num_powers: int = 8, order: float = 4.0) -> "CMIMLoss":
        """Return the loss in our interpretation of the paper's relaxation; it is not the paper's verified recipe.

        It takes powers alpha = 1/T on a uniform grid in (0, largest_power] and a power mean over them, without the T^2
        factor. The values of the grid and the order are ours: the paper's are not public.

        Args:
            largest_power: largest alpha, above 0 (beta in the paper).
            num_powers: number of grid points (N in the paper).
            order: exponent of the power mean (omega in the paper).
        """
        return cls(
            reconstruction_temperatures(largest_power, num_powers),
            temperature_weighting="none",
            reduction="power_mean",
            order=order,
        )

    def extra_repr(self) -> str:
        """Return the settings, for `repr`."""
        names = "temperatures", "temperature_weighting", "reduction", "order", "label_smoothing", "correct_only"
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        log_centroids: Tensor,
        weight: float = 1.0,
        *,
        num_items: Tensor | int | None = None,
        previous_terms: Tensor | None = None,
        scaling: Scaling | None = None,
        information: LabelInformation | None = None,
    ) -> dict[str, Tensor]:
        """Return the components of the loss; `ce + cmi` is the loss.

        Args:
            logits: `(..., C)` raw logits; arithmetic is fp32 or better, also under autocast.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            log_centroids: `(K, C, C)` log-centroids: row y of level k is log Q_y at temperature k. A row of -inf is a
                class without a centroid so far; its samples add nothing to the CMI.
            weight: weight of the CMI term (w in the formula).
            num_items: number of valid labels by which sums are divided. If this batch is a part of an optimizer step,
                the number of the whole step, over all processes; None for the number of this batch.
            previous_terms: CMI of the step before, `(K,)`, for "power_mean", "max" and "information"; None for that of
                this batch.
            scaling: scaling of the logits before the CMI, from `CentroidBank.scaling`; None for none.
            information: value of `CentroidBank.label_information`, for the weighting "information".

        Returns:
            Components `ce` and `cmi`, differentiable, 0-d, nats; `cmi_per_temperature`, `(K,)`, detached, unweighted,
            nats; with `scaling` also `scale_sums`, `(3,)`, detached, which the bank needs for the next step.
        """
        logits, labels = flatten_samples(logits, labels)
        if num_items is None:
            num_items = (labels != IGNORE_INDEX).sum().clamp_min(1)
        cmi, terms, scale_sums = self.concentration(
            logits, labels, log_centroids, weight, num_items, previous_terms, scaling, information
        )
        components = {"ce": self.cross_entropy(logits, labels, num_items), "cmi": cmi, "cmi_per_temperature": terms}
        return components if scaling is None else components | {"scale_sums": scale_sums}

    def cross_entropy(self, logits: Tensor, labels: Tensor, num_items: Tensor | int) -> Tensor:
        """Return the `ce` component of `forward`, 0-d."""
        logits, labels = flatten_samples(logits, labels)
        with torch.autocast(logits.device.type, enabled=False):
            return summed_cross_entropy(logits, labels, self.class_weights, self.label_smoothing) / num_items

    def counting(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the labels, with -100 for samples excluded from the CMI."""
        return correct_alone(logits, labels) if self.correct_only else labels

    def concentration(
        self,
        logits: Tensor,
        labels: Tensor,
        log_centroids: Tensor,
        weight: float,
        num_items: Tensor | int,
        previous_terms: Tensor | None = None,
        scaling: Scaling | None = None,
        information: LabelInformation | None = None,
    ) -> Concentration:
        """Return the CMI part of `forward`."""
        logits, labels = flatten_samples(logits, labels)
        self._check_centroids(logits, log_centroids)
        samples = logits, self.counting(logits, labels), log_centroids.detach()
        with torch.autocast(logits.device.type, enabled=False):
            if not self.is_relative:
                concentration = self._weighted_sum(*samples, num_items, previous_terms, scaling)
            elif information is None or scaling is not None:
                raise HfCmimError(
                    'Expected information=bank.label_information and no scaling with the weighting "information", got'
                    f" {'none' if information is None else 'a scaling'}: the CMI is divided by all information in the"
                    " outputs, and this quotient needs no scale. Build CentroidBank(follows_label=True)."
                )
            else:
                concentration = self._share(samples, num_items, previous_terms, information)
            return concentration._replace(cmi=weight * concentration.cmi)

    def _share(
        self, samples: tuple[Tensor, ...], num_items: Tensor | int, terms: Tensor | None, information: LabelInformation
    ) -> Concentration:
        """Return the mean share of the CMI over the temperatures, at weight 1."""
        logits, labels, log_centroids = samples
        arguments = logits, labels, log_centroids, self.temperatures
        if terms is not None and self._is_fused(logits, True):
            derived = quotient(information, terms)
            weights = derived.weights / len(self.temperatures)
            gradient, sums, _ = weighted_divergences(*arguments, weights, extrapolation=derived.extrapolation)
            # The value of the share, with the gradient of the operator.
            share = gradient + ((sums / derived.totals).mean() - gradient.detach())
        else:
            unmasked = without_masked(logits, masked_classes(logits))
            shares, sums = relative_divergences(unmasked, *arguments[1:], information, terms)
            share = shares.mean()
        return Concentration(share / num_items, sums / num_items, sums.new_zeros(3))

    def _weighted_sum(
        self,
        logits: Tensor,
        labels: Tensor,
        log_centroids: Tensor,
        num_items: Tensor | int,
        previous_terms: Tensor | None,
        scaling: Scaling | None,
    ) -> Concentration:
        """Return the CMI weighted over the temperatures, at weight 1."""
        if scaling is not None:
            scaling = scaling._replace(outward=scaling.outward / num_items)
        # The mean ignores the terms, so any tensor of the right shape gives its weights.
        basis = self.factors if previous_terms is None else previous_terms
        has_weights = self.reduction == "mean" or previous_terms is not None
        if has_weights and self._is_fused(logits, scaling is not None):
            weights = self.temperature_weights(basis) / num_items
            cmi, sums, scale_sums = weighted_divergences(
                logits, labels, log_centroids, self.temperatures, weights, scaling
            )
            return Concentration(cmi, sums / num_items, scale_sums)
        raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
        masked = masked_classes(raised)
        raised = without_masked(raised, masked)
        scaled = raised if scaling is None else raised * scaling.multiplier
        sums, pulls = centroid_divergences(scaled, labels, log_centroids, self.temperatures, scaling is not None)
        weights = self.temperature_weights(basis if has_weights else sums.detach()).to(sums.dtype) / num_items
        cmi, scale_sums = torch.dot(weights, sums), sums.new_zeros(3)
        if scaling is not None:
            spread, count = spread_of(raised, labels, masked)
            # This term has the value 0. It only subtracts the pull on the scale from the gradient.
            cmi = cmi - 0.5 * scaling.outward * (spread - spread.detach())
            scale_sums = torch.stack([torch.dot(weights, pulls), spread.detach(), count.to(spread)])
        return Concentration(cmi, sums.detach() / num_items, scale_sums)

    def _is_fused(self, logits: Tensor, does_more: bool) -> bool:
        """Return True for the fused operator; `does_more` means a scaling or a share besides the divergences."""
        backend: str = self.backend
        if backend == "auto":
            backend = os.environ.get(BACKEND_VARIABLE, backend)
        if backend not in BACKENDS:
            raise HfCmimError(
                f"Expected {BACKEND_VARIABLE} to be one of {BACKENDS}, got {backend!r}. Set it to one of these, or"
                " unset it."
            )
        if backend == "auto":
            # On CPU the operator pays off for large batches, or where it saves passes over the logits.
            is_large = len(self.temperatures) * logits.numel() >= FEW_ELEMENTS
            return has_kernels(logits) or (logits.device.type == "cpu" and (is_large or does_more))
        return backend == "fused"

    def _check_centroids(self, logits: Tensor, log_centroids: Tensor) -> None:
        expected = (len(self.temperatures), logits.shape[-1], logits.shape[-1])
        if log_centroids.shape != expected:
            raise HfCmimError(
                f"Expected log_centroids {expected} for {expected[0]} temperatures and {expected[1]} classes, got"
                f" {tuple(log_centroids.shape)}: samples would be compared with another class or temperature. Build"
                " the bank with the loss's temperatures and the model's number of classes."
            )

    @torch.no_grad()
    def temperature_weights(self, terms: Tensor) -> Tensor:
        """Return the factor of each temperature's CMI in the loss, `(K,)`: the reduction's derivative at `terms`."""
        if self.reduction == "mean":
            return self.factors.to(terms.device) / len(self.temperatures)
        # Rounding can make a CMI of 0 slightly negative, about -1e-9.
        weighted = self.factors.to(terms.device) * terms.clamp_min(0)
        uniform = torch.full_like(weighted, 1 / len(self.temperatures))
        if self.reduction == "max":
            shares = nn.functional.one_hot(weighted.argmax(), len(self.temperatures)).to(weighted.dtype)
        else:
            # The power mean is homogeneous, so dividing by the largest term changes nothing and prevents an overflow.
            relative = weighted / weighted.max().clamp_min(1e-30)
            mean = relative.pow(self.order).mean().pow(1 / self.order)
            # Derivative of the power mean with respect to each weighted term.
            shares = uniform * (relative / mean.clamp_min(1e-30)).pow(self.order - 1)
        return torch.where(weighted.max() > 0, shares, uniform) * self.factors.to(terms.device)
