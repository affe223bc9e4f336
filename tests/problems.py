"""Problems for the fused operator and its kernels, and their float64 twin."""

import math

import torch

from hf_cmim.functional.label_information import Extrapolation

HALVING = [2.0**power for power in (1, -2, 0, 3, -1, 4, 2, 5)]  # in no order
DOUBLING = sorted(HALVING)
OTHERS = [0.5, 1.0, 3.0, 7.5]


def case(samples, classes, temperatures, *, scale=3.0, ignored=(), unseen=(), dtype=torch.float32, seed=0):
    """Logits, labels, log-centroids `(K, C, C)` and weights of one problem."""
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(samples, classes, generator=generator, dtype=torch.float64)).to(dtype)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    labels[list(ignored)] = -100
    levels = len(temperatures)
    rows = (1, 1) if classes > 5000 else (levels, classes)  # one row for all: the whole would be 10 GB a level
    tables = torch.randn(*rows, classes, generator=generator).log_softmax(-1)
    for row in unseen:
        tables[:, labels[row]] = -torch.inf
    weights = torch.rand(levels, generator=generator) + 0.1
    return logits, labels, tables.expand(levels, classes, classes), weights


def arranged(problem, temperatures):
    logits, labels, log_centroids, weights = problem
    return logits, labels, log_centroids, temperatures, weights


def twin(logits, labels, log_centroids, temperatures, weights, extrapolation=None):
    """Total, sums `(K,)` and gradient in float64, one sample and temperature at a time, by automatic derivation.

    With an extrapolation total and gradient are of references that lie as much further from the mean output.
    """
    raised = logits.detach().double().requires_grad_()
    sums, beyond = ([raised.new_zeros(()) for _ in temperatures] for _ in range(2))
    for row, label in zip(raised, labels.tolist(), strict=True):
        if label < 0 or bool((log_centroids[:, label] == -torch.inf).all(dim=-1).any()):
            continue
        for level, temperature in enumerate(temperatures):
            log_probs = (row / temperature).log_softmax(-1)
            centroid = log_centroids[level, label].double().clamp_min(math.log(torch.finfo(torch.float32).tiny))
            sums[level] = sums[level] + (log_probs.exp() * (log_probs - centroid)).sum()
            if extrapolation is not None:
                distance = extrapolation.ratios[level].double() * (
                    centroid - extrapolation.log_marginals[level].double()
                )
                beyond[level] = beyond[level] + (log_probs.exp() * (log_probs - centroid - distance)).sum()
    weighted = sums if extrapolation is None else beyond
    total = sum(weight * value for weight, value in zip(weights.double(), weighted, strict=True)) + 0 * raised.sum()
    total.backward()
    return total.detach(), torch.stack(sums).detach(), raised.grad


def extrapolation_of(log_centroids):
    """A mean output and ratios for them."""
    levels, classes, _ = log_centroids.shape
    generator = torch.Generator().manual_seed(classes)
    marginals = torch.randn(levels, classes, generator=generator).log_softmax(-1)
    return Extrapolation(marginals, 3 * torch.rand(levels, generator=generator))


def scaled_twin(logits, labels, log_centroids, temperatures, weights, scaling):
    """The same for scaled logits: total, sums, sums of the scale `(3,)` and gradient, row by row in float64."""
    multiplier, outward = (each.double().item() for each in scaling)
    total, sums, gradient = twin(logits.double() * multiplier, labels, log_centroids, temperatures, weights)
    gradient, scale_sums = gradient * multiplier, torch.zeros(3, dtype=torch.float64)
    for row, label, own in zip(logits.detach().double(), labels.tolist(), gradient, strict=True):
        if label < 0 or not bool(row.isfinite().all()):
            continue
        from_mean = row - row.mean()
        scale_sums += torch.stack([own @ row, from_mean.square().mean(), torch.tensor(1.0, dtype=torch.float64)])
        own -= outward * from_mean / len(row)
    return total, sums, scale_sums, gradient
