"""Recovery by a network that learns to undo a known perturbation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from hf_cmim.attacks.answer_prior import Perturbation, own_randomness, perturbed_answers, plausible_answers
from hf_cmim.attacks.base import AbstractTransform
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs

BATCH_SIZE = 128
LEARNING_RATE = 3e-3
LOWEST = -30.0
"""Log-probabilities below this are read as it."""


def restored_log_probs(log_probs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return log softmax(l + network(l / 10)), l = log-probabilities, a perceptron with ReLU between its layers.

    Args:
        log_probs: `(N, C)` log-probabilities as they arrived.
        weights: of the layers, the first `(H, C)`, the last `(C, H)`.
        biases: of the layers.

    >>> restored_log_probs(torch.tensor([[0.5, 0.5]]).log(), [torch.zeros(2, 2)], [torch.zeros(2)]).exp().tolist()
    [[0.5, 0.5]]
    """
    log_probs = log_probs.clamp_min(LOWEST)
    values = log_probs / 10
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        values = functional.linear(values, weight, bias).relu()
    return softened_log_probs(log_probs + functional.linear(values, weights[-1], biases[-1]), 1.0)


class Restoration(AbstractTransform):
    """Replace each answer by what a small network makes of it that has learned to undo the perturbation.

    Before training, the network (two hidden layers of 2 C units, at least 64 and at most 512) learns from plausible
    clean answers and what the perturbation makes of them, by KL(clean || restored). It starts as the identity. On
    one core this takes 2 seconds for 10 classes and half a minute for 1,000. It stays as it is while the student
    learns.

    Args:
        perturbation: what the attacker knows or assumes that answers went through: `(N, C)` log-probabilities to
            `(N, C)` log-probabilities on the CPU, such as a channel. Its `repr` should give it back.
        steps: batches of 128 pairs to learn from, at least 1.
        seed: of pairs and network; the same seed gives the same network on a CPU.

    Raises:
        HfCmimError: fewer than 1 step.

    Source: the idea of D-DAE (S&P 2023) and of D-DAE+ in ModelGuard (USENIX Security 2024), a network from perturbed
    to clean answers. The prior over clean answers (`plausible_answers`; there shadow models and a Dirichlet
    distribution), the residual form on log-probabilities and the training are ours.
    """

    restores_classes = True

    def __init__(self, *, perturbation: Perturbation, steps: int = 1000, seed: int = 0) -> None:
        super().__init__()
        if steps < 1:
            raise HfCmimError(f"Expected at least 1 step, got {steps}: the network would not learn anything.")
        self.perturbation = perturbation
        self.steps = steps
        self.seed = seed
        self._layers = 0

    def prepare(self, num_classes: int) -> None:
        """Train the network."""
        with own_randomness(self.seed), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            weights, biases = self._trained(num_classes)
        self._layers = len(weights)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            # Buffers, because no optimizer is to touch them.
            self.register_buffer(f"weight_{layer}", weight.detach().to(self.teacher_scale.device))
            self.register_buffer(f"bias_{layer}", bias.detach().to(self.teacher_scale.device))

    def _trained(self, num_classes: int) -> tuple[list[Tensor], list[Tensor]]:
        hidden = min(max(64, 2 * num_classes), 512)
        widths = [num_classes, hidden, hidden, num_classes]
        weights = [torch.randn(after, before) * (2 / before) ** 0.5 for before, after in pairwise(widths)]
        weights[-1].zero_()
        biases = [torch.zeros(after) for after in widths[1:]]
        parameters = [values.requires_grad_() for values in (*weights, *biases)]
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=self.steps)
        for _ in range(self.steps):
            clean = plausible_answers(BATCH_SIZE, num_classes)
            perturbed = perturbed_answers(self.perturbation, clean)
            loss = batch_mean(kl_divergence(clean, restored_log_probs(perturbed, weights, biases)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return weights, biases

    @torch.no_grad()
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the restored answers; see `AbstractTransform.forward`.

        Raises:
            HfCmimError: another number of classes than prepared for.
        """
        weights = [self.get_buffer(f"weight_{layer}") for layer in range(self._layers)]
        biases = [self.get_buffer(f"bias_{layer}") for layer in range(self._layers)]
        prepared = len(biases[-1]) if biases else 0
        if teacher_log_probs.shape[-1] != prepared:
            raise HfCmimError(
                f"Expected answers of {prepared} classes, got {teacher_log_probs.shape[-1]}: no network has learned to"
                " restore them. Call prepare(num_classes) before training, as a trainer does."
            )
        log_probs = softened_log_probs(teacher_log_probs, 1.0).to(biases[-1].dtype)
        return restored_log_probs(log_probs, weights, biases).to(teacher_log_probs.dtype)
