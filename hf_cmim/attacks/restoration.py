"""Restoration: recover clean answers with a network that has learned to undo a known perturbation."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from hf_cmim.attacks.answer_prior import Perturbation, isolated_randomness, perturbed_answers, plausible_answers
from hf_cmim.attacks.base import AbstractTransform
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs

BATCH_SIZE = 128
LEARNING_RATE = 3e-3
LOWEST = -30.0
"""Lowest log-probability; lower ones are raised to it."""


def restored_log_probs(log_probs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return log softmax(l + network(l / 10)) for log-probabilities l and a perceptron with ReLU between its layers.

    Args:
        log_probs: `(N, C)` log-probabilities of the answers.
        weights: weights of the layers, the first `(H, C)`, the last `(C, H)`.
        biases: biases of the layers.

    >>> restored_log_probs(torch.tensor([[0.5, 0.5]]).log(), [torch.zeros(2, 2)], [torch.zeros(2)]).exp().tolist()
    [[0.5, 0.5]]
    """
    log_probs = log_probs.clamp_min(LOWEST)
    # The network's inputs are in [-3, 0].
    values = log_probs / 10
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        values = functional.linear(values, weight, bias).relu()
    correction = functional.linear(values, weights[-1], biases[-1])
    return softened_log_probs(log_probs + correction, 1.0)


class Restoration(AbstractTransform):
    """Restore each answer with a small network that has learned to undo the perturbation.

    Before the student's training, the network learns from plausible clean answers and their perturbed versions, by
    KL(clean || restored). It has two hidden layers of 2 C units (at least 64, at most 512) and starts as the identity.
    On one core its training takes 2 seconds for 10 classes and half a minute for 1,000. Afterwards it is fixed.

    Args:
        perturbation: function that the attacker knows or assumes was applied to the answers, such as a channel. It
            maps `(N, C)` log-probabilities to the same shape, on the CPU. Its `repr` should be valid code.
        steps: number of training batches of 128 pairs, at least 1.
        seed: seed of pairs and network; the same seed gives the same network on a CPU.

    Raises:
        HfCmimError: there is fewer than 1 step.

    Strength: not measured against a perturbed teacher here. It is made for a perturbation that the attacker knows,
    and undoes nothing that training put into the answers.

    Source: the idea of D-DAE (S&P 2023) and of D-DAE+ in ModelGuard (USENIX Security 2024), a network from perturbed
    to clean answers. The prior over clean answers (`plausible_answers`; there shadow models and a Dirichlet
    distribution), the residual form on log-probabilities and the training are ours.
    """

    restores_classes = True

    def __init__(self, *, perturbation: Perturbation, steps: int = 1000, seed: int = 0) -> None:
        super().__init__()
        if steps < 1:
            raise HfCmimError(f"Expected at least 1 step, got {steps}. The network would not learn anything.")
        self.perturbation = perturbation
        self.steps = steps
        self.seed = seed
        self._layers = 0

    def prepare(self, num_classes: int) -> None:
        """Train the network."""
        with isolated_randomness(self.seed), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            weights, biases = self._trained(num_classes)
        self._layers = len(weights)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            # Buffers, not parameters: the student's optimizer must not train them.
            self.register_buffer(f"weight_{layer}", weight.detach().to(self.teacher_scale.device))
            self.register_buffer(f"bias_{layer}", bias.detach().to(self.teacher_scale.device))

    def _trained(self, num_classes: int) -> tuple[list[Tensor], list[Tensor]]:
        hidden = min(max(64, 2 * num_classes), 512)
        widths = [num_classes, hidden, hidden, num_classes]
        weights = [torch.randn(after, before) * (2 / before) ** 0.5 for before, after in pairwise(widths)]
        # A last layer of 0 corrects nothing: training starts from the identity.
        weights[-1].zero_()
        biases = [torch.zeros(width) for width in widths[1:]]
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
            HfCmimError: the number of classes differs from that of `prepare`.
        """
        weights = [self.get_buffer(f"weight_{layer}") for layer in range(self._layers)]
        biases = [self.get_buffer(f"bias_{layer}") for layer in range(self._layers)]
        num_classes = len(biases[-1]) if biases else 0
        if teacher_log_probs.shape[-1] != num_classes:
            raise HfCmimError(
                f"Expected answers of {num_classes} classes, got {teacher_log_probs.shape[-1]}. The network was"
                f" trained for {num_classes} classes. Call prepare(num_classes) before training, as a trainer does."
            )
        log_probs = softened_log_probs(teacher_log_probs, 1.0).to(biases[-1].dtype)
        return restored_log_probs(log_probs, weights, biases).to(teacher_log_probs.dtype)
