"""The CMI as a share of all information that outputs carry.

An output P carries information about its sample X. By the chain rule, I(X; P) = I(Y; P) + I(X; P | Y): the information
about the label, plus the CMI. The share CMI / (I(Y; P) + CMI) lies between 0 and 1 and needs no scale. When all logits
shrink, both terms fall in the same way at high temperatures. Pushing apart classes that are never confused changes
neither term. Source: ours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX, LOWEST
from hf_cmim.functional.inputs import masked_classes, without_masked
from hf_cmim.hardening.forms.base import AbstractForm, Moved, Problem
from hf_cmim.hardening.kernels.eager import extrapolated_divergences
from hf_cmim.hardening.kernels.operator import divergences, with_gradient
from hf_cmim.hardening.kernels.problem import Extrapolation
from hf_cmim.hardening.parts import Concentration
from hf_cmim.hardening.spec import ObjectiveSpec

SMALLEST_INFORMATION = 1e-4
"""Lower bound of the information, in nats, so that the outputs of an untrained model have a small gradient. At T = 16,
logits with a root mean square of about .2 carry this much."""


class LabelInformation(NamedTuple):
    """Information that class-mean outputs carry about the label; constant in a gradient.

    Attributes:
        log_marginals: log of the mean output, `(K, C)`; each class weighs as often as it occurs.
        information: I(Y; P) at each temperature, `(K,)`, nats: the mean divergence of the centroids from that output.
    """

    log_marginals: Tensor
    information: Tensor


class Quotient(NamedTuple):
    """Derivative of the share CMI / (I + CMI), which is (I dCMI - CMI dI) / (I + CMI)^2.

    The derivative of I with respect to an output p of class y is log Q_y - log Q. Centroids and marginal may be
    constant here, because their own contributions vanish where they are exact. So the derivative of the share is
    `weights` times that of a divergence from a reference further from the marginal than the centroid.

    Attributes:
        totals: I + CMI, all information that outputs carry, `(K,)`, nats.
        weights: I / (I + CMI)^2, `(K,)`.
        extrapolation: references beyond the centroids, with the ratios CMI / I.
    """

    totals: Tensor
    weights: Tensor
    extrapolation: Extrapolation


def quotient(label: LabelInformation, terms: Tensor) -> Quotient:
    """Return the derivative of the share at a CMI of `terms`, `(K,)`, nats."""
    totals = (label.information + terms).clamp_min(SMALLEST_INFORMATION)
    # The bound prevents a division by 0.
    information = label.information.clamp_min(0.01 * SMALLEST_INFORMATION)
    ratios = terms / information
    return Quotient(totals, information / totals.square(), Extrapolation(label.log_marginals, ratios))


@final
class ShareForm(AbstractForm):
    """The CMI divided by all information in the outputs, with the gradient of the quotient.

    CMI and I in the quotient's gradient are those of the step before, so the gradient is a sum over samples.

    I(Y; P) is updated only from the rows of the bank that move. The certainty of a distribution is log C minus its
    entropy. I(Y; P) is the mean certainty of the centroids minus the certainty of their mean. So this form stores the
    mean and the certainty of each row, and reads the whole bank only once, at the beginning.

    Args:
        spec: specification of the objective.
        num_classes: number of classes `C`.

    Attributes:
        counts: samples of each class that entered the bank so far, `(C,)`.
        marginals: mean of the centroids, weighted by these counts, `(K, C)`.
        certainties: log C minus the entropy of each centroid, `(K, C)`, nats.

    Source: ours.
    """

    state_class = LabelInformation
    follows_rows = True
    has_free_scale = True
    multiplier = None
    counts: Tensor
    marginals: Tensor
    certainties: Tensor

    def __init__(self, spec: ObjectiveSpec, num_classes: int) -> None:
        super().__init__(spec, num_classes)
        levels = len(spec.temperatures)
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("marginals", torch.zeros(levels, num_classes))
        self.register_buffer("certainties", torch.zeros(levels, num_classes))

    @property
    def state(self) -> LabelInformation:
        """Information of the present bank about the label."""
        # In double precision: rounding a difference of entropies in single is as large as the information of weak
        # outputs.
        dtype = torch.float32 if self.counts.device.type == "mps" else torch.float64
        marginals = self.marginals.to(dtype)
        log_marginals = marginals.log().clamp_min(LOWEST)
        shares = self._shares(dtype)
        information = (self.certainties.to(dtype) * shares).sum(dim=1) - _certainties(marginals, log_marginals)
        information = torch.where(self.counts.any(), information, 0.0)
        return LabelInformation(log_marginals.to(self.marginals.dtype), information.to(self.marginals.dtype))

    @staticmethod
    def factors(temperatures: Sequence[float]) -> list[float]:
        """Return 1 / K for each temperature."""
        return [1 / len(temperatures)] * len(temperatures)

    @staticmethod
    def concentrate(problem: Problem, state: LabelInformation) -> Concentration:
        """Return the mean over temperatures of CMI / (I + CMI)."""
        logits, labels, log_centroids, temperatures, factors, weight, num_items, terms, is_fused = problem
        samples = labels, log_centroids, temperatures
        if is_fused and terms is not None:
            derived = quotient(state, terms)
            weights = derived.weights * (1 / (len(temperatures) * num_items))
            computed = divergences(logits, *samples, weights, extrapolation=derived.extrapolation)
            own_terms = computed.sums / num_items
            cmi = with_gradient((own_terms / derived.totals).mean(), weight, logits, computed)
            return Concentration(cmi, own_terms, computed.scale_sums, computed.gradient, computed.probs)
        unmasked = without_masked(logits, masked_classes(logits))
        divergence_sums, label_sums, count = extrapolated_divergences(unmasked, *samples, state.log_marginals)
        sums = divergence_sums.detach()
        derived = quotient(state, sums / count.clamp_min(1) if terms is None else terms)
        shares = derived.weights * (divergence_sums - derived.extrapolation.ratios * label_sums)
        # The value of the share, with the gradient of `shares`.
        shares = shares + (sums / derived.totals - shares.detach())
        cmi = weight * torch.dot(shares, factors.to(shares.dtype)) / num_items
        return Concentration(cmi, sums / num_items, sums.new_zeros(3), None, None)

    def read(self, table: Tensor, log_table: Tensor, counts: Tensor) -> None:
        """Start from a whole bank."""
        self.counts.copy_(counts)
        # Level by level, because temporaries of all levels together would be large.
        for level, (rows, logs) in enumerate(zip(table, log_table, strict=True)):
            self._read_levels(slice(level, level + 1), rows.unsqueeze(0), logs.unsqueeze(0))

    def begin_move(self, counts: Tensor, labels: Tensor) -> Moved:
        """Count a step's samples before the rows of their classes move."""
        classes = labels.clamp_min(0)
        total = (self.counts.sum() + counts.sum()).clamp_min(1)
        # Each sample stands for an equal part of its class's row; the parts of a class add up to 1.
        parts = torch.where(labels != IGNORE_INDEX, (1 / counts.clamp_min(1))[classes], 0.0)
        before = parts * self.counts[classes] / total
        self.marginals.mul_(self.counts.sum() / total)
        self.counts += counts.long()
        return Moved(classes, before, parts * self.counts[classes] / total)

    def leave(self, moved: Moved, levels: slice, table: Tensor) -> None:
        """Subtract the rows that will move from the mean."""
        # A batch of at least C samples moves most rows: then `enter` reads the whole level instead.
        if len(moved.classes) < table.shape[1]:
            self.marginals[levels] -= _mean(moved.before, table.index_select(1, moved.classes))

    def enter(self, moved: Moved, levels: slice, table: Tensor, log_table: Tensor) -> None:
        """Add the moved rows to the mean, and update their certainties."""
        if len(moved.classes) < table.shape[1]:
            rows, logs = table.index_select(1, moved.classes), log_table.index_select(1, moved.classes)
            self.marginals[levels] += _mean(moved.after, rows)
            self.certainties[levels].index_copy_(1, moved.classes, _certainties(rows, logs))
        else:
            self._read_levels(levels, table, log_table)

    def _read_levels(self, levels: slice, table: Tensor, log_table: Tensor) -> None:
        self.marginals[levels] = _mean(self._shares(table.dtype), table)
        self.certainties[levels] = _certainties(table, log_table)

    def _shares(self, dtype: torch.dtype) -> Tensor:
        return self.counts.to(dtype) / self.counts.sum().clamp_min(1)


def _mean(weights: Tensor, rows: Tensor) -> Tensor:
    """Return the sum of rows `(k, B, C)`, weighted by `(B,)`."""
    with torch.autocast(rows.device.type, enabled=False):
        return torch.matmul(weights.to(rows.dtype), rows)


def _certainties(rows: Tensor, logs: Tensor) -> Tensor:
    """Return the certainty of each row: log C minus its entropy.

    The sum has the terms q log(C q) - q + 1 / C. No term is larger than the certainty itself, and a row whose sum is
    not quite 1 changes the result very little.
    """
    num_classes = rows.shape[-1]
    # In place, because new memory pages would cost more than the arithmetic.
    terms = logs.clamp_min(LOWEST).add_(math.log(num_classes) - 1).mul_(rows)
    return terms.add_(1 / num_classes).sum(dim=-1)


def label_information(centroids: Tensor, log_centroids: Tensor, counts: Tensor) -> LabelInformation:
    """Return the information of centroids about the label; arguments as in `ShareForm.read`.

    >>> certain = torch.eye(2).unsqueeze(0)
    >>> label_information(certain, certain.log(), torch.ones(2)).information  # log 2
    tensor([0.6931])
    """
    num_temperatures, num_classes = centroids.shape[:2]
    temperatures = tuple(float(level + 1) for level in range(num_temperatures))
    form = ShareForm(ObjectiveSpec("share", temperatures), num_classes).to(centroids)
    form.read(centroids, log_centroids, counts)
    return form.state
