"""What an attacker expects of clean answers, and what a known perturbation makes of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import softened_log_probs

Perturbation = Callable[[Tensor], Tensor]
"""`(N, C)` log-probabilities to `(N, C)` log-probabilities, as an output channel does."""


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside, and leave it outside as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def plausible_answers(samples: int, num_classes: int) -> Tensor:
    """Draw clean answers: softmax of `spread` times normal logits, plus a peak at a class drawn evenly.

    `spread` is drawn for each answer between .3 and 3, evenly in its logarithm, and the peak evenly between 0 and 12:
    from answers that say almost nothing to answers sure to the sixth decimal. Draws from torch's global CPU generator.

    Returns:
        `(samples, C)` log-probabilities.

    Source: ours.
    """
    spreads = 0.3 * 10 ** torch.rand(samples, 1)
    logits = spreads * torch.randn(samples, num_classes)
    peaks = torch.randint(num_classes, (samples, 1))
    return softened_log_probs(logits.scatter_add_(1, peaks, 12 * torch.rand(samples, 1)), 1.0)


def perturbed_answers(perturbation: Perturbation, log_probs: Tensor) -> Tensor:
    """Return what the perturbation makes of `(N, C)` log-probabilities.

    Raises:
        HfCmimError: the perturbation changes the shape.
    """
    perturbed = perturbation(log_probs)
    if perturbed.shape != log_probs.shape:
        raise HfCmimError(
            f"Expected a perturbation that keeps the shape {tuple(log_probs.shape)}, got {tuple(perturbed.shape)}:"
            " clean and perturbed answers would not belong together. Return one log-probability for each class."
        )
    return perturbed.to(log_probs.dtype)
