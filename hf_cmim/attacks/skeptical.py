"""The skeptical student: the answers teach a shallow head, which teaches the student."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_cmim.attacks.base import check_fraction, check_positive
from hf_cmim.attacks.protocols import AbstractStudentProtocol, Components, Loss
from hf_cmim.functional.divergence import (
    IGNORE_INDEX,
    batch_mean,
    kl_divergence,
    softened_log_probs,
    summed_cross_entropy,
)


def pooled(hidden_states: Tensor, per_token: bool) -> Tensor:
    """Return one vector a sample: the mean over tokens `(B, L, D)` or places `(B, D, H, W)`; tokens stay if asked."""
    if hidden_states.ndim == 4:
        return hidden_states.mean(dim=(-2, -1))
    return hidden_states if per_token or hidden_states.ndim == 2 else hidden_states.mean(dim=1)


class Skeptical(AbstractStudentProtocol):
    """Attach two early heads; only the shallower one listens to the teacher.

    head_1 (at `depth`) learns by the composed loss, usually .1 CE + .9 T^2 KL to the teacher; the final head learns by
    cross-entropy; and a second head (halfway between) by ce_weight CE + hint_weight T^2 KL(final || second), so that a
    poisonous teacher reaches the student's body through the shallow layers alone. The heads are thrown away.

    Args:
        depth: where the listening head stands, as a fraction of the hidden layers, in [0, 1].
        temperature: T of the term between final and second head, > 0.
        hint_weight: weight of that term.
        ce_weight: weight of the second head's cross-entropy.

    Source: Kundu et al., NeurIPS 2021; .3 and .7 as in its released script. Linear heads on pooled hidden states, the
    places of the heads by fraction, and no delay before distillation starts are ours.
    """

    def __init__(
        self, *, depth: float = 0.5, temperature: float = 4.0, hint_weight: float = 0.3, ce_weight: float = 0.7
    ) -> None:
        super().__init__()
        check_fraction("depth", depth)
        check_fraction("hint_weight", hint_weight)
        check_fraction("ce_weight", ce_weight)
        check_positive(temperature)
        self.depth = depth
        self.temperature = temperature
        self.hint_weight = hint_weight
        self.ce_weight = ce_weight
        self.heads = nn.ModuleList()

    def _places(self, hidden_states: Sequence[Tensor]) -> tuple[int, int]:
        """Number of the hidden state under the listening and under the second head; 0 is the embedding."""
        last = len(hidden_states) - 1
        listening = max(1, round(self.depth * last))
        return listening, (listening + last + 1) // 2

    def attach(self, student: nn.Module, hidden_states: Sequence[Tensor], num_classes: int) -> None:
        """Build the heads, on the student's device."""
        widths = [hidden_states[place].shape[1 if hidden_states[place].ndim == 4 else -1]
                  for place in self._places(hidden_states)]  # fmt: skip
        device = hidden_states[0].device
        self.heads = nn.ModuleList(nn.Linear(width, num_classes, device=device) for width in widths)

    def forward(
        self, loss: Loss, student_logits: Tensor, hidden_states: Sequence[Tensor], labels: Tensor
    ) -> Components:
        """Return the listening head's components, and `final_ce`, `second_ce`, `second_hint`."""
        per_token = labels.ndim == 2
        listening, second = (
            head(pooled(hidden_states[place], per_token).float())
            for head, place in zip(self.heads, self._places(hidden_states), strict=True)
        )
        components = loss(listening)
        with torch.autocast(student_logits.device.type, enabled=False):
            valid = labels.flatten() != IGNORE_INDEX
            rows = labels.flatten()[valid]
            final = student_logits.flatten(0, -2).float()[valid]
            second = second.flatten(0, -2).float()[valid]
            hints = kl_divergence(*(softened_log_probs(each, self.temperature) for each in (final.detach(), second)))
            return components | {
                "final_ce": summed_cross_entropy(final, rows) / max(len(rows), 1),
                "second_ce": self.ce_weight * summed_cross_entropy(second, rows) / max(len(rows), 1),
                "second_hint": self.hint_weight * self.temperature**2 * batch_mean(hints),
            }
