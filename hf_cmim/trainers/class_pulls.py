"""Measure of how hard the CMI pulls on each class's outputs, relative to the cross-entropy."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_cmim.functional.divergence import IGNORE_INDEX

PULL_WINDOW = 50.0
"""Samples of a class over which its pulls are averaged; ours."""


class ClassPulls(nn.Module):
    """Running ratio, class by class, of two gradients by the logits: that of the weighted CMI to the cross-entropy's.

    A ratio of 1 says that concentration moves the outputs of a class as hard as its labels do; far below 0.1 a class
    becomes what plain training makes of it. Root mean squares are taken over the samples of a class.

    Args:
        num_classes: `C`.

    Attributes:
        squares: `(2, C)` running sums of squared gradients, of the weighted CMI and of the cross-entropy.

    Source: ours.
    """

    squares: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("squares", torch.zeros(2, num_classes))
        self._pending: Tensor | None = None

    @property
    def ratios(self) -> Tensor:
        """Return the ratios, `(C,)`, 0 for a class not seen."""
        return (self.squares[0] / self.squares[1].clamp_min(1e-12)).sqrt()

    def accumulate(self, cmi: Tensor, logits: Tensor, labels: Tensor, num_items: Tensor | int) -> None:
        """Add one micro-batch to the pending step; the graph stays usable.

        Args:
            cmi: 0-d weighted CMI part of the loss, with its graph.
            logits: `(..., C)` the outputs it was computed from.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            num_items: number by which the sum over samples in `cmi` was divided.
        """
        (gradient,) = torch.autograd.grad(cmi, logits, retain_graph=True)
        with torch.no_grad():
            classes = logits.shape[-1]
            pulls = gradient.reshape(-1, classes).float() * num_items
            errors = logits.detach().reshape(-1, classes).float().softmax(dim=1)
            labels = labels.reshape(-1)
            own = labels.clamp_min(0)
            errors.scatter_add_(1, own.unsqueeze(1), errors.new_full((len(own), 1), -1.0))
            rows = torch.stack([pulls.square().sum(dim=1), errors.square().sum(dim=1), torch.ones_like(pulls[:, 0])])
            counts = (labels != IGNORE_INDEX) & rows.isfinite().all(dim=0)  # not those with a masked class
            rows = torch.where(counts, rows, 0.0)
            sums = rows.new_zeros(3, classes).index_add_(1, own, rows)
            self._pending = sums if self._pending is None else self._pending + sums

    @torch.no_grad()
    def step(self, reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        """Move the running sums by everything accumulated since the last step.

        Args:
            reduce: adds up a tensor of all processes; None on one process.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        *fresh, counts = (pending if reduce is None else reduce(pending)).unbind()
        kept = (1 - counts / PULL_WINDOW).clamp_min(0.0)
        self.squares.mul_(kept).add_(torch.stack(fresh))
