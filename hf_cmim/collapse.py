"""Class collapse: the failure in which too strong a concentration merges classes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hf_cmim.centroids import CentroidBank

MERGED_DISTANCE = 0.05
"""Total variation below which two centroids count as one."""
LOST_RECALL = 0.05
"""Recall below which a class counts as lost."""
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
LARGEST_NUM_CLASSES = 4096
"""Above this the pairwise distances cost more than a training step, and nothing is checked."""


class CollapsedPair(NamedTuple):
    """Two classes whose outputs merge: `first < second`, with their distance now and at most, total variation."""

    first: int
    second: int
    distance: float
    largest_distance: float


class CollapseDetector(nn.Module):
    """Watch the pairwise distances of a bank's centroids at the temperature nearest 1.

    A pair of well-sampled classes is collapsing when, over 15 checks, its centroids stay closer than 0.05 in total
    variation without moving apart while the recall of one is below 0.05 (too strong a weight from the first step:
    cross-entropy never separated them), or when its distance falls to half of the largest it ever had. Of a bank that
    scales its logits, and where the caller says that distances alone mean nothing, half the distance counts only where
    the recall of one is that low: such an objective leaves the scale of the outputs free, and similar classes that are
    told apart as well as before may stand closer. Of a bank of the correct samples alone a class that had half a
    window of them collapses when its recall is that low, with the nearest one. Each pair is reported once until it
    recovers.

    Args:
        num_classes: `C`.

    Source: ours; thresholds are this module's constants.
    """

    largest_distances: Tensor
    merged_distances: Tensor
    merged_checks: Tensor
    reported: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        size = num_classes if num_classes <= LARGEST_NUM_CLASSES else 0
        self.register_buffer("largest_distances", torch.zeros(size, size))
        self.register_buffer("merged_distances", torch.zeros(size, size))
        self.register_buffer("merged_checks", torch.zeros(size, size, dtype=torch.int16))
        self.register_buffer("reported", torch.zeros(size, size, dtype=torch.bool))

    @torch.no_grad()
    def check(self, bank: CentroidBank, scale_is_free: bool = False) -> list[CollapsedPair]:
        """Return the pairs that began to collapse since the last check, the closest first.

        Args:
            bank: the centroids.
            scale_is_free: whether the objective leaves the outputs' scale free though the bank does not scale them.
        """
        if not self.largest_distances.numel():
            return []
        level = min(range(len(bank.temperatures)), key=lambda k: abs(torch.tensor(bank.temperatures[k]).log().item()))
        probs = bank.probs[level]
        distances = torch.cdist(probs, probs, p=1) / 2
        enough = (bank.mass >= TRUSTED_MASS * bank.window) & (bank.seen >= TRUSTED_SHARE * bank.seen.float().mean())
        trusted = enough.unsqueeze(0) & enough.unsqueeze(1)
        trusted.fill_diagonal_(False)
        self.largest_distances.copy_(torch.where(trusted, self.largest_distances.maximum(distances), 0.0))

        lost = bank.recall < LOST_RECALL
        one_lost = lost.unsqueeze(0) | lost.unsqueeze(1)
        merged = trusted & (distances < MERGED_DISTANCE) & one_lost
        stalled = merged & (distances <= STALLED_GROWTH * self.merged_distances + STALLED_NOISE)
        self.merged_checks.copy_(torch.where(stalled, self.merged_checks + 1, merged))
        self.merged_distances.copy_(torch.where(stalled, self.merged_distances, torch.where(merged, distances, 0.0)))
        halved = (distances <= self.largest_distances / 2) & (self.largest_distances >= NOTABLE_DISTANCE)
        if bank.logit_scale or scale_is_free:
            halved &= one_lost
        if bank.correct_only:  # the centroid of a class of which none is correct stays where it was
            nearest = torch.where(trusted, distances, torch.inf).argmin(dim=1, keepdim=True)
            gone = torch.zeros_like(trusted).scatter_(1, nearest, lost.unsqueeze(1))
            halved = halved | gone | gone.T
        collapsed = trusted & ((self.merged_checks >= STALLED_CHECKS) | halved)
        fresh = (collapsed & ~self.reported).triu()
        self.reported.copy_(collapsed)
        pairs = [
            CollapsedPair(i, j, distances[i, j].item(), self.largest_distances[i, j].item())
            for i, j in fresh.nonzero().tolist()
        ]
        return sorted(pairs, key=lambda pair: pair.distance)
