"""The slow twin of the defences: float64 loops straight from the papers' equations, over plain lists.

It shares no code with the package and knows no torch. Each function takes logits and labels, all samples valid, and
returns the sum over the samples of all components together, in nats.
"""

import math

from reference import Rows, kl, log_softmax, softmax


def cross_entropy_on_labels(logits: Rows, labels: list[int]) -> float:
    return -math.fsum(log_softmax(row)[label] for row, label in zip(logits, labels, strict=True))


def nasty_teacher(logits: Rows, labels: list[int], reference: Rows, weight: float, temperature: float) -> float:
    """Equation 1 of arXiv 2105.07381, with omega and tau as they are called there."""
    divergences = [
        kl(softmax(own, temperature), softmax(other, temperature))
        for own, other in zip(logits, reference, strict=True)
    ]
    undermining = weight * temperature**2 * math.fsum(divergences)
    return cross_entropy_on_labels(logits, labels) - undermining


def maximized_cmi(logits: Rows, labels: list[int], class_means: Rows, weight: float) -> float:
    """Cross-entropy minus the weighted divergences from the mean answer of each sample's class."""
    divergences = [kl(softmax(row), class_means[label]) for row, label in zip(logits, labels, strict=True)]
    return cross_entropy_on_labels(logits, labels) - weight * math.fsum(divergences)


def squared_error(logits: Rows, labels: list[int]) -> float:
    return math.fsum(
        (probability - (number == label)) ** 2
        for row, label in zip(logits, labels, strict=True)
        for number, probability in enumerate(softmax(row))
    )
