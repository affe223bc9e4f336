"""Top k: answers that show only the most probable classes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_cmim.channels.base import AbstractChannel, floored_log_probs, precise
from hf_cmim.errors import HfCmimError


@dataclass(frozen=True)
class TopK(AbstractChannel):
    """Only the k most probable classes.

    The attacker knows the missing mass and spreads it evenly over the hidden classes. An interface that renormalises
    the visible probabilities also hides that mass; then the hidden classes count as FLOOR.

    Args:
        k: number of visible classes, at least 1 and below the number of classes.
        renormalized: switch to scale the visible probabilities to sum to 1.

    Source: ours; renormalised it is the stingy teacher (Ma et al., "Sparse Logits Suffice to Fail Knowledge
    Distillation", OpenReview 2021, known to us by its description).

    >>> import torch
    >>> TopK(1)(torch.tensor([[0.6, 0.3, 0.1]]).log()).exp().mul(100).round().tolist()
    [[60.0, 20.0, 20.0]]
    """

    k: int
    renormalized: bool = False
    hides_classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the range."""
        if self.k < 1:
            raise HfCmimError(
                f"Expected at least 1 class shown, got k={self.k}: there would be no answer. Use k=1 or more."
            )

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the k largest log-probabilities; the other classes share the remaining mass.

        Raises:
            HfCmimError: k is not below the number of classes, so no class would be hidden.
        """
        num_classes = log_probs.shape[-1]
        if self.k >= num_classes:
            raise HfCmimError(
                f"Expected k below the number of classes, {num_classes}, got k={self.k}: nothing would be hidden, but"
                " attacks that need every class would still be refused. Use channel=None."
            )
        logs = precise(log_probs)
        top_classes = logs.topk(self.k, dim=-1).indices
        visible = torch.zeros_like(logs, dtype=torch.bool).scatter_(-1, top_classes, True)
        if self.renormalized:
            hidden = torch.zeros_like(logs)
        else:
            mass = logs.exp().masked_fill(visible, 0).sum(dim=-1, keepdim=True)
            hidden = (mass / (num_classes - self.k)).expand_as(logs)
        return floored_log_probs(torch.where(visible, logs.exp(), hidden))
