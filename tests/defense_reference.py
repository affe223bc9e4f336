"""The slow twin of the defences: float64 loops straight from the papers' equations, over plain lists.

It shares no code with the package and knows no torch. Each function takes logits and labels, all samples valid, and
returns the sum over the samples of all components together, in nats.
"""

import math

from reference import Row, Rows, kl, log_softmax, softmax


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


def angular_deviation(answer: Row, probs: Row, surrogate_probs: Row, features: Row) -> float:
    """||G'y' / |G'y'| - G'y / |G'y| ||^2, G the gradients of -log q_k by the surrogate's last weights (1906.10908)."""
    unit_gradients = []
    for target in (answer, probs):
        gradient = [
            math.fsum(weight * (q - (c == k)) for k, weight in enumerate(target)) * feature
            for c, q in enumerate(surrogate_probs)
            for feature in features
        ]
        norm = math.sqrt(math.fsum(value**2 for value in gradient))
        unit_gradients.append([value / norm for value in gradient])
    return math.fsum((a - b) ** 2 for a, b in zip(*unit_gradients, strict=True))


def towards(probs: Row, extreme: Row, epsilon: float) -> Row:
    """The answer on the straight line to an extreme one, as far as an L1 distance allows."""
    distance = math.fsum(abs(a - b) for a, b in zip(probs, extreme, strict=True))
    share = min(1.0, epsilon / distance)
    return [a + share * (b - a) for a, b in zip(probs, extreme, strict=True)]
