"""Shifted views: learn from each image and from a shifted, possibly mirrored copy."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_cmim.attacks.base import check_fraction
from hf_cmim.attacks.protocols import AbstractQueryProtocol, Query
from hf_cmim.errors import HfCmimError


def shifted(images: Tensor, share: float, flip: bool) -> Tensor:
    """Shift each image at random by up to `share` of its sides, repeating the edges, and mirror it at random.

    Args:
        images: `(B, channels, height, width)` images.
        share: largest shift as a fraction of a side, in [0, 1].
        flip: True to mirror each image with probability 1/2.
    """
    height, width = images.shape[-2:]
    rows, columns = int(share * height), int(share * width)
    padded = nn.functional.pad(images, (columns, columns, rows, rows), mode="replicate")
    # A crop at (rows, columns) is the original image.
    tops = torch.randint(0, 2 * rows + 1, (len(images),)).tolist()
    lefts = torch.randint(0, 2 * columns + 1, (len(images),)).tolist()
    offsets = zip(padded, tops, lefts, strict=True)
    views = torch.stack([image[:, top : top + height, left : left + width] for image, top, left in offsets])
    # Without `flip` the numbers are drawn all the same; no random number is below 0.
    is_mirrored = (torch.rand(len(images)) < 0.5 * flip).to(images.device).reshape(-1, 1, 1, 1)
    return torch.where(is_mirrored, views.flip(-1), views)


class ShiftedViews(AbstractQueryProtocol):
    """Two views of each image: the original (weak) and a shifted, possibly mirrored copy (strong).

    The paper of `MLKD` uses such a pair, with RandAugment as a stronger strong view. The paper adds the losses of both
    views; here they are averaged.

    Args:
        share: largest shift as a fraction of a side, in [0, 1].
        flip: True to mirror the strong view half of the time; use False if left and right matter.

    Strength: not known: no table of ours singles it out.

    Source: two views, Jin, Wang, Lin, CVPR 2023; the strong view is ours.
    """

    queries_per_sample = 2

    def __init__(self, *, share: float = 0.125, flip: bool = True) -> None:
        super().__init__()
        check_fraction("share", share)
        self.share = share
        self.flip = flip

    def forward(self, query: Query) -> Sequence[Query]:
        """Return the original batch and its strong view."""
        images = query.student_inputs.get("pixel_values")
        if not isinstance(images, Tensor) or query.teacher_inputs is not query.student_inputs:
            raise HfCmimError(
                f"Expected pixel_values (B, channels, height, width) that student and teacher share, got"
                f" {sorted(query.student_inputs)} and, for the teacher, {sorted(query.teacher_inputs)}. Other inputs"
                " cannot be shifted. Augment inside the data set instead."
            )
        strong = {**query.student_inputs, "pixel_values": shifted(images, self.share, self.flip)}
        return [query, Query(strong, strong, query.labels)]
