"""Images that a seed augments: shifted by up to one pixel, every shift known beforehand, so that one answer does."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

BLANK = -1.0
"""Value of a pixel without ink."""


class Shifted(Dataset[dict[str, Any]]):
    """Images shifted by up to one pixel, blank where nothing was; how far depends on seed, epoch and position alone.

    Args:
        views: `(9, N, channels, height, width)` each image in every shift.
        samples: the N samples.
        seed: seed of all shifts.
        epochs: how many epochs have shifts of their own.

    Attributes:
        epoch: the pass over the data; trainers set it.
    """

    def __init__(self, views: Tensor, samples: list[dict[str, Any]], seed: int, epochs: int) -> None:
        self.views = views
        self.samples = samples
        generator = torch.Generator().manual_seed(seed)
        self.shifts: Any = torch.randint(0, len(views), (epochs, len(samples)), generator=generator).tolist()
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Go to another pass over the data."""
        self.epoch = epoch

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        """Return a batch at once, which is faster."""
        shifts = [self.shifts[self.epoch][position] for position in positions]
        images = self.views[shifts, positions]
        return [
            {**self.samples[position], "pixel_values": image, "view": (shift, position)}
            for image, shift, position in zip(images, shifts, positions, strict=True)
        ]


def every_shift(samples: list[dict[str, Any]]) -> Tensor:
    """Return `(9, N, channels, height, width)`, the images shifted by up to one pixel."""
    images = torch.stack([sample["pixel_values"] for sample in samples])
    padded = nn.functional.pad(images, (1, 1, 1, 1), value=BLANK)
    height, width = images.shape[-2:]
    corners = [(top, left) for top in range(3) for left in range(3)]
    return torch.stack([padded[..., top : top + height, left : left + width] for top, left in corners])


def with_views(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate a batch for a teacher that may know its answers already."""
    batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}
    if "view" in samples[0]:  # test images are not shifted
        batch["view"] = torch.tensor([sample["view"] for sample in samples])
    return batch
