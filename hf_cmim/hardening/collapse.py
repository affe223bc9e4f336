"""Class collapse: the failure in which too strong a concentration merges classes."""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hf_cmim.hardening.bank import CentroidBank

MERGED_DISTANCE = 0.05
"""Total variation below which two centroids count as one."""
LOST_RECALL = 0.05
"""Recall below which a class counts as lost."""
LEARNED_RECALL = 0.25
"""Recall that a class must have reached before it can be lost: one that was never learned is merely hard."""
TRUSTED_MASS = 0.5
"""Share of the bank's window that a class needs before its centroid is trusted."""
TRUSTED_SHARE = 0.25
"""Samples a class needs, relative to the average class: a rarer one may be lost for lack of data alone."""
NOTABLE_DISTANCE = 0.2
"""Largest distance a pair must have reached before its halving means anything."""
STALLED_CHECKS = 15
"""Checks in a row over which a merged pair must not have moved apart: slow training is not collapse."""
STALLED_GROWTH = 1.1
"""Growth of a merged pair's distance that counts as moving apart, beyond `STALLED_NOISE`."""
STALLED_NOISE = 0.001
"""Change of a distance, in total variation, that means nothing: almost equal centroids only jitter."""
NOTABLE_PULL = 0.1
"""Pull of the CMI on a class, relative to the cross-entropy's, below which it cannot be what keeps the class down.
With small text models on Debian's sections the classes that a weight took were pulled by 0.12 to 2, those that
cross-entropy itself never learned by 0.007 to 0.08."""
LARGEST_NUM_CLASSES = 4096
"""Above this the pairwise distances cost more than a training step, and nothing is checked."""


class CollapsedPair(NamedTuple):
    """Two classes whose outputs merge, `first < second`, and the figure that says so.

    Attributes:
        first: the smaller class.
        second: the other one.
        trigger: "recall" (one class is lost), "distance" (the centroids came closer) or "merged" (they never came
            apart).
        distance: total variation between the centroids now.
        largest_distance: the largest that it was.
        lost: class of the lower recall.
        recall: share of its samples that are classified correctly now.
        largest_recall: the largest that it was.
    """

    first: int
    second: int
    trigger: Literal["recall", "distance", "merged"]
    distance: float
    largest_distance: float
    lost: int
    recall: float
    largest_recall: float


class CollapseDetector(nn.Module):
    """Watcher of a bank's classes: their recalls, and the distances of their centroids at the temperature nearest 1.

    What cross-entropy does by itself is no collapse. So until the CMI first pulls notably on a class, the detector
    only remembers what cross-entropy has reached, and afterwards the largest value since. Then it reports, of classes
    with enough samples and a notable pull of the CMI:

    - "recall": a class that was learned (recall 0.25) has a recall below 0.05; the pair is that class and the nearest.
    - "distance": a pair's distance has halved. Not for a form that leaves the scale of the outputs free: similar
      classes that are told apart as well as before may then be closer.
    - "merged": over 15 checks a pair stays closer than 0.05 without moving apart, while the recall of one is below
      0.05. So ends too strong a weight from the first step: cross-entropy never separated them.

    Each pair is reported once until it recovers: its distance is no longer halved, and no recall below 0.05.

    Args:
        num_classes: `C`.

    Source: ours; thresholds are this module's constants.
    """

    has_pulled: Tensor
    largest_distances: Tensor
    largest_recalls: Tensor
    merged_distances: Tensor
    merged_checks: Tensor
    reported: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        size = num_classes if num_classes <= LARGEST_NUM_CLASSES else 0
        self.register_buffer("has_pulled", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("largest_distances", torch.zeros(size, size))
        self.register_buffer("largest_recalls", torch.zeros(size))
        self.register_buffer("merged_distances", torch.zeros(size, size))
        self.register_buffer("merged_checks", torch.zeros(size, size, dtype=torch.int16))
        self.register_buffer("reported", torch.zeros(size, size, dtype=torch.bool))

    @torch.no_grad()
    def check(self, bank: CentroidBank, pulls: Tensor | None = None) -> list[CollapsedPair]:
        """Return the pairs that began to collapse since the last check, the closest first.

        Args:
            bank: bank of centroids.
            pulls: `(C,)` gradient of the weighted CMI by the logits of each class, relative to the cross-entropy's;
                None counts every pull as notable.
        """
        if not self.largest_distances.numel():
            return []
        level = min(range(len(bank.temperatures)), key=lambda k: abs(math.log(bank.temperatures[k])))
        distances, recall = torch.cdist(bank.probs[level], bank.probs[level], p=1) / 2, bank.recall
        has_mass = bank.mass >= TRUSTED_MASS * bank.spec.window
        enough = has_mass & (bank.seen >= TRUSTED_SHARE * bank.seen.float().mean())
        trusted = enough.unsqueeze(0) & enough.unsqueeze(1)
        trusted.fill_diagonal_(False)
        pulled = torch.ones_like(enough) if pulls is None else pulls >= NOTABLE_PULL
        self.has_pulled |= pulled & enough
        if not self.has_pulled.any():
            self._remember(distances, recall, trusted, enough)
            return []
        self._remember(
            distances.maximum(self.largest_distances), recall.maximum(self.largest_recalls), trusted, enough
        )
        low = recall < LOST_RECALL
        merged = self._stalled(distances, trusted, low & pulled)
        nearest = torch.where(trusted, distances, torch.inf).argmin(dim=1, keepdim=True)
        # Not by the pull of now: of the correct samples alone the CMI no longer pulls on a class that has none.
        lost = low & self.has_pulled & (self.largest_recalls >= LEARNED_RECALL)
        gone = torch.zeros_like(trusted).scatter_(1, nearest, lost.unsqueeze(1))
        gone = trusted & (gone | gone.T)
        halved = trusted & (distances <= self.largest_distances / 2) & (self.largest_distances >= NOTABLE_DISTANCE)
        if bank.form.has_free_scale:
            halved.zero_()
        self.reported &= halved | _either(low)
        triggers = {"recall": gone, "distance": halved & _either(pulled), "merged": merged}
        return self._fresh(triggers, distances, recall)

    def _remember(self, distances: Tensor, recalls: Tensor, trusted: Tensor, enough: Tensor) -> None:
        self.largest_distances.copy_(torch.where(trusted, distances, 0.0))
        self.largest_recalls.copy_(torch.where(enough, recalls, 0.0))

    def _stalled(self, distances: Tensor, trusted: Tensor, low: Tensor) -> Tensor:
        """Count the checks since which merged pairs have not moved apart; return the pairs with enough of them."""
        merged = trusted & (distances < MERGED_DISTANCE) & _either(low)
        stalled = merged & (distances <= STALLED_GROWTH * self.merged_distances + STALLED_NOISE)
        self.merged_checks.copy_(torch.where(stalled, self.merged_checks + 1, merged))
        self.merged_distances.copy_(torch.where(stalled, self.merged_distances, torch.where(merged, distances, 0.0)))
        return self.merged_checks >= STALLED_CHECKS

    def _fresh(self, triggers: dict[Any, Tensor], distances: Tensor, recall: Tensor) -> list[CollapsedPair]:
        """Return the pairs not reported yet, each with the first trigger that applies."""
        collapsed = torch.stack(list(triggers.values())).any(dim=0)
        fresh = (collapsed & ~self.reported).triu()
        self.reported |= collapsed
        pairs = []
        for first, second in fresh.nonzero().tolist():
            lost = min((first, second), key=lambda number: recall[number].item())
            pairs.append(
                CollapsedPair(
                    first,
                    second,
                    trigger=next(name for name, applies in triggers.items() if applies[first, second]),
                    distance=distances[first, second].item(),
                    largest_distance=self.largest_distances[first, second].item(),
                    lost=lost,
                    recall=recall[lost].item(),
                    largest_recall=self.largest_recalls[lost].item(),
                )
            )
        return sorted(pairs, key=lambda pair: pair.distance)


def _either(flags: Tensor) -> Tensor:
    """Return for each pair of classes whether one of the two has the flag, `(C, C)` from `(C,)`."""
    return flags.unsqueeze(0) | flags.unsqueeze(1)
