"""Several views of each image: as it came, and shifted and mirrored."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_cmim.attacks.base import check_fraction
from hf_cmim.attacks.protocols import AbstractQueryProtocol, Query
from hf_cmim.errors import HfCmimError


def shifted(images: Tensor, share: float, flip: bool) -> Tensor:
    """Return each image shifted at random by up to `share` of its sides, edges repeated, and mirrored at random.

    Args:
        images: `(B, channels, height, width)`.
        share: largest shift as a fraction of a side, in [0, 1].
        flip: whether half of the images are mirrored.
    """
    height, width = images.shape[-2:]
    rows, columns = int(share * height), int(share * width)
    padded = nn.functional.pad(images, (columns, columns, rows, rows), mode="replicate")
    tops = torch.randint(0, 2 * rows + 1, (len(images),)).tolist()
    lefts = torch.randint(0, 2 * columns + 1, (len(images),)).tolist()
    views = torch.stack([
        image[:, top : top + height, left : left + width]
        for image, top, left in zip(padded, tops, lefts, strict=True)
    ])  # fmt: skip
    mirrored = (torch.rand(len(images)) < 0.5 * flip).to(images.device).reshape(-1, 1, 1, 1)
    return torch.where(mirrored, views.flip(-1), views)


class ShiftedViews(AbstractQueryProtocol):
    """Learn from two views of each image, the one that came (weak) and one shifted and mirrored (strong).

    With `MLKD` this is its paper's pair of views, with a milder strong view than its RandAugment. The losses of both
    views are averaged, where the paper adds them.

    Args:
        share: largest shift as a fraction of a side, in [0, 1].
        flip: whether the strong view is mirrored half of the time; leave it off where left and right mean something.

    Source: two views, Jin, Wang, Lin, CVPR 2023; the strong view is ours.
    """

    queries_per_sample = 2

    def __init__(self, *, share: float = 0.125, flip: bool = True) -> None:
        super().__init__()
        check_fraction("share", share)
        self.share = share
        self.flip = flip

    def forward(self, query: Query) -> Sequence[Query]:
        """Return the batch as it came, and its strong view."""
        images = query.student_inputs.get("pixel_values")
        if not isinstance(images, Tensor) or query.teacher_inputs is not query.student_inputs:
            raise HfCmimError(
                f"Expected pixel_values (B, channels, height, width) that student and teacher share, got"
                f" {sorted(query.student_inputs)} and, for the teacher, {sorted(query.teacher_inputs)}: other inputs"
                " have no shifted view here. Augment inside the data set instead."
            )
        strong = {**query.student_inputs, "pixel_values": shifted(images, self.share, self.flip)}
        return [query, Query(strong, strong, query.labels)]
