"""Random clean answers, as an attacker expects them, and the same answers after a known perturbation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import softened_log_probs

Perturbation = Callable[[Tensor], Tensor]
"""A function from `(N, C)` log-probabilities to `(N, C)` log-probabilities, such as an output channel."""


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and restore its previous state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def plausible_answers(samples: int, num_classes: int) -> Tensor:
    """Draw random clean answers, from almost uniform ones to answers that are certain to the sixth decimal.

    An answer is the softmax of `spread` times normal logits plus a peak at one class. Each answer draws `spread`
    log-uniformly from [.3, 3], the peak uniformly from [0, 12] and its class uniformly. All draws use torch's global
    CPU generator.

    Returns:
        Log-probabilities `(samples, C)`.

    Source: ours.
    """
    # The order of the draws fixes the answers of a seed.
    spreads = 0.3 * 10 ** torch.rand(samples, 1)
    logits = spreads * torch.randn(samples, num_classes)
    peak_classes = torch.randint(num_classes, (samples, 1))
    peak_heights = 12 * torch.rand(samples, 1)
    return softened_log_probs(logits.scatter_add_(1, peak_classes, peak_heights), 1.0)


def perturbed_answers(perturbation: Perturbation, log_probs: Tensor) -> Tensor:
    """Apply the perturbation to `(N, C)` log-probabilities and check the shape of the result.

    Raises:
        HfCmimError: the perturbation changes the shape.
    """
    perturbed = perturbation(log_probs)
    if perturbed.shape != log_probs.shape:
        raise HfCmimError(
            f"Expected a perturbation that keeps the shape {tuple(log_probs.shape)}, got {tuple(perturbed.shape)}."
            " Clean and perturbed answers would not match. Return one log-probability per class."
        )
    return perturbed.to(log_probs.dtype)
