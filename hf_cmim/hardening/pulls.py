"""Strength of the CMI's pull on each class's outputs, relative to the cross-entropy."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.hardening.parts import Parts

PULL_WINDOW = 50.0
"""Number of samples of a class over which its pulls are averaged; ours."""


class ClassPulls(nn.Module):
    """A running ratio, for each class, of two gradients by the logits: the weighted CMI's to the cross-entropy's.

    With a ratio of 1, concentration moves the outputs of a class as hard as its labels do. With a ratio far below 0.1,
    the class becomes the same as in plain training. Gradients are root mean squares over the samples of a class.

    Args:
        num_classes: number of classes `C`.

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
        """Ratios, `(C,)`; 0 for a class without samples."""
        return (self.squares[0] / self.squares[1].clamp_min(1e-12)).sqrt()

    def accumulate(self, parts: Parts, logits: Tensor, weight: float, num_items: Tensor | int) -> None:
        """Add one micro-batch to the pending step; the graph stays usable.

        Args:
            parts: parts of the loss.
            logits: `(..., C)` outputs from which they were computed.
            weight: weight of the CMI in `parts`.
            num_items: divisor of the sum over samples in `parts`.
        """
        gradient, labels = parts.gradient, parts.labels
        if gradient is None:
            (weighted,) = torch.autograd.grad(parts.cmi, logits, retain_graph=True)
        else:
            weighted = gradient * weight
        with torch.no_grad():
            classes = logits.shape[-1]
            pulls = weighted.reshape(-1, classes).float() * num_items
            # Ignored labels are -100, which is no index; their rows become 0 below.
            label_indices = labels.clamp_min(0)
            # The gradient of the cross-entropy by the logits: probabilities minus the one-hot label.
            errors = logits.detach().reshape(-1, classes).float().softmax(dim=1)
            errors.scatter_add_(1, label_indices.unsqueeze(1), errors.new_full((len(labels), 1), -1.0))
            squared_pulls, squared_errors = pulls.square().sum(dim=1), errors.square().sum(dim=1)
            rows = torch.stack([squared_pulls, squared_errors, torch.ones_like(squared_pulls)])
            # Samples with a masked class have infinite logits and do not count.
            is_counted = (labels != IGNORE_INDEX) & rows.isfinite().all(dim=0)
            rows = torch.where(is_counted, rows, 0.0)
            sums = rows.new_zeros(3, classes).index_add_(1, label_indices, rows)
            self._pending = sums if self._pending is None else self._pending + sums

    @torch.no_grad()
    def step(self, reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        """Update the running sums with everything accumulated since the last step.

        Args:
            reduce: function that adds up a tensor over all processes; None on one process.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        *new_squares, counts = (pending if reduce is None else reduce(pending)).unbind()
        # A class with PULL_WINDOW or more samples in one step forgets everything before.
        decay = (1 - counts / PULL_WINDOW).clamp_min(0.0)
        self.squares.mul_(decay).add_(torch.stack(new_squares))
