"""The share of the CMI in all information that outputs carry.

An output P carries information about its sample X. By the chain rule, I(X; P) = I(Y; P) + I(X; P | Y): the information
about the label, plus the CMI. The share CMI / (I(Y; P) + CMI) lies between 0 and 1 and needs no scale. When all logits
shrink, both terms fall in the same way at high temperatures. Pushing apart classes that are never confused changes
neither term. Source: ours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hf_cmim.functional.divergence import IGNORE_INDEX, LOWEST, own_centroids, tempered_log_probs

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


class Extrapolation(NamedTuple):
    """References further from the marginal than the centroids: log Q + ratio (log Q - log marginal).

    Attributes:
        log_marginals: log of the mean output of all classes, `(K, C)`.
        ratios: distances beyond the centroid in units of its own distance, `(K,)`, at least 0.
    """

    log_marginals: Tensor
    ratios: Tensor


class LabelFollower(nn.Module):
    """Information of a bank of centroids about the label, updated only from the rows that move.

    The certainty of a distribution is log C minus its entropy. I(Y; P) is the mean certainty of the centroids minus
    the certainty of their mean. So this module stores the mean and the certainty of each row, and reads the whole bank
    only once, at the beginning.

    Args:
        num_temperatures: number of temperatures `K`.
        num_classes: number of classes `C`.

    Attributes:
        counts: valid samples of each class so far, `(C,)`.
        marginals: mean of the centroids, weighted by these counts, `(K, C)`.
        certainties: log C minus the entropy of each centroid, `(K, C)`, nats.

    Source: ours.
    """

    counts: Tensor
    marginals: Tensor
    certainties: Tensor

    def __init__(self, num_temperatures: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("marginals", torch.zeros(num_temperatures, num_classes))
        self.register_buffer("certainties", torch.zeros(num_temperatures, num_classes))

    @property
    def information(self) -> LabelInformation:
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

    def read(self, table: Tensor, log_table: Tensor, counts: Tensor) -> None:
        """Start from a whole bank.

        Args:
            table: centroids, `(K, C, C)`: row c of a level is the mean output of class c; 0 for classes without a
                sample.
            log_table: logarithms of the centroids, `(K, C, C)`; -inf for a class without a sample.
            counts: samples of each class, `(C,)`.
        """
        self.counts.copy_(counts)
        # Level by level, because temporaries of all levels together would be large.
        for level, (rows, logs) in enumerate(zip(table, log_table, strict=True)):
            self._read_levels(slice(level, level + 1), rows.unsqueeze(0), logs.unsqueeze(0))

    def begin_move(self, counts: Tensor, labels: Tensor) -> "MovedRows":
        """Count a step's samples before the rows of their classes move.

        Args:
            counts: samples of each class in this step, `(C,)`.
            labels: labels of this step, `(B,)`, integers in [0, C), or -100 to ignore.
        """
        classes = labels.clamp_min(0)
        total = (self.counts.sum() + counts.sum()).clamp_min(1)
        # Each sample stands for an equal part of its class's row; the parts of a class add up to 1.
        parts = torch.where(labels != IGNORE_INDEX, (1 / counts.clamp_min(1))[classes], 0.0)
        before = parts * self.counts[classes] / total
        self.marginals.mul_(self.counts.sum() / total)
        self.counts += counts.long()
        return MovedRows(classes, before, parts * self.counts[classes] / total)

    def leave(self, moved: "MovedRows", levels: slice, table: Tensor) -> None:
        """Subtract the rows that will move from the mean; `table` `(k, C, C)` holds only these levels."""
        # A batch of at least C samples moves most rows: then `enter` reads the whole level instead.
        if len(moved.classes) < table.shape[1]:
            self.marginals[levels] -= _mean(moved.before, table.index_select(1, moved.classes))

    def enter(self, moved: "MovedRows", levels: slice, table: Tensor, log_table: Tensor) -> None:
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


class MovedRows(NamedTuple):
    """Rows of a bank that move in one step, one entry per sample.

    Attributes:
        classes: class of each sample, `(B,)`.
        before, after: weight of each entry in the mean, `(B,)`, before this step and including it: the sample's part
            of its class's share of all samples.
    """

    classes: Tensor
    before: Tensor
    after: Tensor


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
    """Return the information of centroids about the label; arguments as in `LabelFollower.read`.

    >>> certain = torch.eye(2).unsqueeze(0)
    >>> label_information(certain, certain.log(), torch.ones(2)).information  # log 2
    tensor([0.6931])
    """
    follower = LabelFollower(*centroids.shape[:2]).to(centroids)
    follower.read(centroids, log_centroids, counts)
    return follower.information


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


def relative_divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: Sequence[float],
    label: LabelInformation,
    terms: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the divergences from each class's centroid, summed over samples and divided by all information, I + CMI.

    Their gradient is that of the share (see `Quotient`), with the CMI and I of the step before. So the gradient is a
    sum over samples.

    Args:
        logits: `(B, C)` logits, -inf for masked classes.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)` log-centroids; a class with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        label: information about the label.
        terms: CMI at each temperature in the step before, `(K,)`, nats; None for that of this batch.

    Returns:
        Shares, `(K,)`, times the number of samples, differentiable; sums of divergences, `(K,)`, nats, detached.
    """
    # The bound matters only for masked classes, whose log-probability is -inf.
    log_probs = tempered_log_probs(logits, temperatures).clamp_min(LOWEST)
    class_log_centroids, counted = own_centroids(labels, log_centroids)

    def summed(log_ratios: Tensor) -> Tensor:
        expectations = (log_probs.exp() * log_ratios).sum(dim=-1)
        return torch.where(counted, expectations, 0.0).sum(dim=-1)

    divergences = summed(log_probs - class_log_centroids)
    label_terms = summed(class_log_centroids - label.log_marginals.unsqueeze(1))
    sums = divergences.detach()
    derived = quotient(label, sums / counted.sum().clamp_min(1) if terms is None else terms)
    shares = derived.weights * (divergences - derived.extrapolation.ratios * label_terms)
    # The value of the share, with the gradient of `shares`.
    return shares + (sums / derived.totals - shares.detach()), sums
