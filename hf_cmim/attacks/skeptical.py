"""Skeptical student: the answers train only a shallow head beside the student."""

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
    """Average `(B, L, D)` over tokens or `(B, D, H, W)` over pixels; `per_token` keeps the tokens.

    Returns:
        One vector per sample `(B, D)`, or per token `(B, L, D)`.
    """
    if hidden_states.ndim == 4:
        return hidden_states.mean(dim=(-2, -1))
    if per_token or hidden_states.ndim == 2:
        return hidden_states
    return hidden_states.mean(dim=1)


class Skeptical(AbstractStudentProtocol):
    """Two auxiliary heads on hidden layers; only the shallower one learns from the teacher.

    A poisonous teacher then reaches the student only through the shallow layers. The first head (at `depth`) learns by
    the composed loss, usually .1 CE + .9 T^2 KL to the teacher. The second head, halfway to the end, learns by
    ce_weight CE + hint_weight KL(final at T || second at T). The final head learns by cross-entropy and by the same
    KL, which pulls both heads together. The auxiliary heads are discarded after training.

    Args:
        depth: position of the first head, as a fraction of the hidden layers, in [0, 1].
        temperature: temperature T of the term between final and second head, > 0.
        hint_weight: weight of this term, in [0, 1].
        ce_weight: weight of the second head's cross-entropy, in [0, 1].

    Strength: weak on an honest teacher. Known truth: it gained 1.5 points where other attacks gained 10.7 to 20.4
    (with the second head's term of an earlier version). Its authors report gains of up to 59.5 points from nasty
    teachers.

    Source: Kundu et al., NeurIPS 2021; the weights .3 and .7 are those of its released script, and so are the missing
    factor T^2 of the second head's KL and its gradient in the final head. Linear heads on pooled hidden states, head
    positions by fraction, and no delay before distillation starts are ours.
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
        """Return the indices of the hidden states under the first and the second head; 0 is the embedding."""
        last = len(hidden_states) - 1
        first_place = max(1, round(self.depth * last))
        # Halfway to the final head, rounded up.
        return first_place, (first_place + last + 1) // 2

    def attach(self, student: nn.Module, hidden_states: Sequence[Tensor], num_classes: int) -> None:
        """Build the heads, on the student's device."""
        head_inputs = [hidden_states[place] for place in self._places(hidden_states)]
        # Feature maps are (B, D, H, W), token states (B, L, D).
        widths = [states.shape[1 if states.ndim == 4 else -1] for states in head_inputs]
        device = hidden_states[0].device
        self.heads = nn.ModuleList(nn.Linear(width, num_classes, device=device) for width in widths)

    def forward(
        self, loss: Loss, student_logits: Tensor, hidden_states: Sequence[Tensor], labels: Tensor
    ) -> Components:
        """Return the first head's components, and `final_ce`, `second_ce`, `second_hint`."""
        per_token = labels.ndim == 2
        first_logits, second_logits = (
            head(pooled(hidden_states[place], per_token).float())
            for head, place in zip(self.heads, self._places(hidden_states), strict=True)
        )
        components = loss(first_logits)
        with torch.autocast(student_logits.device.type, enabled=False):
            is_valid = labels.flatten() != IGNORE_INDEX
            valid_labels = labels.flatten()[is_valid]
            num_valid = max(len(valid_labels), 1)
            final = student_logits.flatten(0, -2).float()[is_valid]
            second = second_logits.flatten(0, -2).float()[is_valid]
            hints = kl_divergence(
                softened_log_probs(final, self.temperature), softened_log_probs(second, self.temperature)
            )
            return components | {
                "final_ce": summed_cross_entropy(final, valid_labels) / num_valid,
                "second_ce": self.ce_weight * summed_cross_entropy(second, valid_labels) / num_valid,
                "second_hint": self.hint_weight * batch_mean(hints),
            }
