"""The CMI as a share of all that outputs say.

By the chain rule what an output P says of its sample X is I(X; P) = I(Y; P) + I(X; P | Y): what it says of the
label and, the CMI, what it says beyond. The share of the latter is a number between 0 and 1 that needs no scale: where
all logits shrink, both fall alike at high temperatures, and pushing classes further apart that nobody confuses changes
neither. Source: ours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hf_cmim.functional.divergence import IGNORE_INDEX, LOWEST, own_centroids, tempered_log_probs

SMALLEST_INFORMATION = 1e-4
"""Nats below which what outputs say counts as this, so that those of an untrained model pull little: at T = 16 as much
is said by logits of a root mean square of about .2."""


class LabelInformation(NamedTuple):
    """What class-mean outputs say of the label; constant in a gradient.

    Attributes:
        log_marginals: `(K, C)` log of the mean output of all classes, by how often each occurs.
        information: `(K,)` I(Y; P) at each temperature, nats: the mean divergence of centroids from that output.
    """

    log_marginals: Tensor
    information: Tensor


class Extrapolation(NamedTuple):
    """What puts the references of divergences beyond the centroids: log Q + ratio (log Q - log marginal).

    Attributes:
        log_marginals: `(K, C)` log of the mean output of all classes.
        ratios: `(K,)` at least 0.
    """

    log_marginals: Tensor
    ratios: Tensor


class LabelFollower(nn.Module):
    """What a table of centroids says of the label, kept up to date from the rows that move alone.

    I(Y; P) is the mean certainty of the centroids less the certainty of their mean, certainty being log C less the
    entropy; so the mean and each row's certainty are kept, and the table is read as a whole only to begin with.

    Args:
        num_temperatures: `K`.
        num_classes: `C`.

    Attributes:
        counts: `(C,)` samples of each class that count.
        marginals: `(K, C)` mean of the centroids, weighted by them.
        certainties: `(K, C)` log C less the entropy of each centroid, nats.

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
        """What the table says of the label as it is now."""
        # In double precision, as single rounds a difference of entropies by as much as weak outputs say.
        dtype = torch.float32 if self.counts.device.type == "mps" else torch.float64
        marginals = self.marginals.to(dtype)
        log_marginals = marginals.log().clamp_min(LOWEST)
        shares = self._shares(dtype)
        information = (self.certainties.to(dtype) * shares).sum(dim=1) - _certainties(marginals, log_marginals)
        information = torch.where(self.counts.any(), information, 0.0)
        return LabelInformation(log_marginals.to(self.marginals.dtype), information.to(self.marginals.dtype))

    def read(self, table: Tensor, log_table: Tensor, counts: Tensor) -> None:
        """Begin with a whole table.

        Args:
            table: `(K, C, C)`, row c of a level being the mean output of class c; 0 for classes without a sample.
            log_table: `(K, C, C)` their logarithms; -inf for a class without a sample.
            counts: `(C,)` samples of each class.
        """
        self.counts.copy_(counts)
        for level, (rows, logs) in enumerate(zip(table, log_table, strict=True)):  # one by one: they are large
            self._read_levels(slice(level, level + 1), rows.unsqueeze(0), logs.unsqueeze(0))

    def begin_move(self, counts: Tensor, labels: Tensor) -> "MovedRows":
        """Take note of a step's samples before their classes' rows move.

        Args:
            counts: `(C,)` this step's samples of each class.
            labels: `(B,)` this step's, integers in [0, C), or -100 to ignore.
        """
        own, total = labels.clamp_min(0), (self.counts.sum() + counts.sum()).clamp_min(1)
        parts = torch.where(labels != IGNORE_INDEX, (1 / counts.clamp_min(1))[own], 0.0)  # a class's add up to 1
        before = parts * self.counts[own] / total
        self.marginals.mul_(self.counts.sum() / total)
        self.counts += counts.long()
        return MovedRows(own, before, parts * self.counts[own] / total)

    def leave(self, moved: "MovedRows", levels: slice, table: Tensor) -> None:
        """Take the rows about to move out of the mean; `table` `(k, C, C)` is that of these levels alone."""
        if len(moved.own) < table.shape[1]:
            self.marginals[levels] -= _mean(moved.before, table.index_select(1, moved.own))

    def enter(self, moved: "MovedRows", levels: slice, table: Tensor, log_table: Tensor) -> None:
        """Take them in as they are now."""
        if len(moved.own) < table.shape[1]:
            rows, logs = (each.index_select(1, moved.own) for each in (table, log_table))
            self.marginals[levels] += _mean(moved.after, rows)
            self.certainties[levels].index_copy_(1, moved.own, _certainties(rows, logs))
        else:
            self._read_levels(levels, table, log_table)

    def _read_levels(self, levels: slice, table: Tensor, log_table: Tensor) -> None:
        self.marginals[levels] = _mean(self._shares(table.dtype), table)
        self.certainties[levels] = _certainties(table, log_table)

    def _shares(self, dtype: torch.dtype) -> Tensor:
        return self.counts.to(dtype) / self.counts.sum().clamp_min(1)


class MovedRows(NamedTuple):
    """Rows of a table that move in one step, one for each sample.

    Attributes:
        own: `(B,)` class of each.
        before, after: `(B,)` its part of its class's share of all samples, before this step and with it.
    """

    own: Tensor
    before: Tensor
    after: Tensor


def _mean(weights: Tensor, rows: Tensor) -> Tensor:
    """Sum of `(k, B, C)` rows by weights `(B,)`."""
    with torch.autocast(rows.device.type, enabled=False):
        return torch.matmul(weights.to(rows.dtype), rows)


def _certainties(rows: Tensor, logs: Tensor) -> Tensor:
    """Return log C less the entropy of each row.

    Of terms q log(C q) - q + 1 / C: none is larger than what the row says, and a sum that is not quite 1 changes
    next to nothing.
    """
    classes = rows.shape[-1]
    terms = logs.clamp_min(LOWEST).add_(math.log(classes) - 1).mul_(rows)  # in place: fresh pages cost more
    return terms.add_(1 / classes).sum(dim=-1)


def label_information(centroids: Tensor, log_centroids: Tensor, counts: Tensor) -> LabelInformation:
    """Return what centroids say of the label; arguments as for `LabelFollower.read`.

    >>> certain = torch.eye(2).unsqueeze(0)
    >>> label_information(certain, certain.log(), torch.ones(2)).information  # log 2
    tensor([0.6931])
    """
    follower = LabelFollower(*centroids.shape[:2]).to(centroids)
    follower.read(centroids, log_centroids, counts)
    return follower.information


class Quotient(NamedTuple):
    """How the share CMI / (I + CMI) is derived, which is (I dCMI - CMI dI) / (I + CMI)^2.

    I changes with an output p of class y by its product with log Q_y - log Q: centroids and marginal may be held
    constant, as the other parts vanish where these are exact. So the derivative is `weights` times that of a
    divergence from a centroid that lies further from the marginal.

    Attributes:
        totals: `(K,)` I + CMI, all that outputs say, nats.
        weights: `(K,)` I / (I + CMI)^2.
        extrapolation: of the centroids, with the ratios CMI / I.
    """

    totals: Tensor
    weights: Tensor
    extrapolation: Extrapolation


def quotient(known: LabelInformation, terms: Tensor) -> Quotient:
    """Return how the share is derived where the CMI is `terms`, `(K,)`, nats."""
    totals = (known.information + terms).clamp_min(SMALLEST_INFORMATION)
    information = known.information.clamp_min(0.01 * SMALLEST_INFORMATION)  # nothing is divided by 0
    ratios = terms / information
    return Quotient(totals, information / totals.square(), Extrapolation(known.log_marginals, ratios))


def relative_divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: Sequence[float],
    known: LabelInformation,
    terms: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the divergences from each class's centroid, summed over the samples, over all that outputs say.

    Their gradient is that of the share (see `Quotient`), CMI and I being as they were before this step, so that it is
    a sum over samples.

    Args:
        logits: `(B, C)`, -inf for masked classes.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)`; a class with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        known: what the label's information is.
        terms: `(K,)` CMI at each temperature in the step before, nats; None takes this batch's own.

    Returns:
        The shares, `(K,)`, times the number of samples, differentiable; sums of divergences, `(K,)`, nats, detached.
    """
    log_probs = tempered_log_probs(logits, temperatures).clamp_min(LOWEST)  # of a masked class it is -inf
    own, counted = own_centroids(labels, log_centroids)

    def summed(numbers: Tensor) -> Tensor:
        return torch.where(counted, (log_probs.exp() * numbers).sum(dim=-1), 0.0).sum(dim=-1)

    beyond, said = summed(log_probs - own), summed(own - known.log_marginals.unsqueeze(1))
    sums = beyond.detach()
    derived = quotient(known, sums / counted.sum().clamp_min(1) if terms is None else terms)
    shares = derived.weights * (beyond - derived.extrapolation.ratios * said)
    return shares + (sums / derived.totals - shares.detach()), sums
