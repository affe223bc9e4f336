"""Problems for the fused operator and its kernels, and their float64 twin."""

import math

import torch

from hf_cmim.hardening.kernels.problem import Extrapolation

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


def masked_case(fill, temperatures, **settings):
    """A problem with masked classes: one in every sample, others in some, a label's, and all but one."""
    logits, *others = case(8, 20, temperatures, ignored=(3,), **settings)
    mask = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.2
    mask[:, 5], mask[6] = True, torch.arange(20) != 11
    mask[torch.arange(8), logits.argmax(dim=1)] &= torch.arange(8) == 6
    mask[0, others[0][0]] = True
    return logits.masked_fill(mask, fill), *others


def arranged(problem, temperatures):
    logits, labels, log_centroids, weights = problem
    return logits, labels, log_centroids, temperatures, weights


def allowed_places(logits):
    """The places of each row's classes that are not masked: those at most 5,000 below the row's largest logit."""
    largest = [max(row) for row in logits.detach().double().tolist()]
    rows = zip(logits.detach().double().tolist(), largest, strict=True)
    return [[place for place, value in enumerate(row) if value >= highest - 5000] for row, highest in rows]


def twin(logits, labels, log_centroids, temperatures, weights, extrapolation=None, allowed=None):
    """Total, sums `(K,)` and gradient in float64, one sample and temperature at a time, by automatic derivation.

    With an extrapolation total and gradient are of references that lie as much further from the mean output.
    """
    raised = logits.detach().double().requires_grad_()
    allowed = allowed_places(logits) if allowed is None else allowed
    sums, beyond = ([raised.new_zeros(()) for _ in temperatures] for _ in range(2))
    for whole_row, label, places in zip(raised, labels.tolist(), allowed, strict=True):
        row = whole_row[places]
        if label < 0 or bool((log_centroids[:, label] == -torch.inf).all(dim=-1).any()):
            continue
        for level, temperature in enumerate(temperatures):
            log_probs = (row / temperature).log_softmax(-1)
            centroid = (
                log_centroids[level, label][places].double().clamp_min(math.log(torch.finfo(torch.float32).tiny))
            )
            sums[level] = sums[level] + (log_probs.exp() * (log_probs - centroid)).sum()
            if extrapolation is not None:
                distance = extrapolation.ratios[level].double() * (
                    centroid - extrapolation.log_marginals[level][places].double()
                )
                beyond[level] = beyond[level] + (log_probs.exp() * (log_probs - centroid - distance)).sum()
    weighted = sums if extrapolation is None else beyond
    total = (
        sum(weight * value for weight, value in zip(weights.double(), weighted, strict=True))
        + raised.masked_fill(raised == -torch.inf, 0.0).sum() * 0
    )
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
    problem, allowed = (labels, log_centroids, temperatures, weights), allowed_places(logits)
    total, sums, gradient = twin(logits.double() * multiplier, *problem, allowed=allowed)
    gradient, scale_sums = gradient * multiplier, torch.zeros(3, dtype=torch.float64)
    for whole_row, label, own, places in zip(
        logits.detach().double(), labels.tolist(), gradient, allowed, strict=True
    ):
        row = whole_row[places]
        if label < 0 or len(row) < 2:
            continue
        from_mean, pull = row - row.mean(), own[places] @ row
        scale_sums += torch.stack([pull, from_mean.square().mean(), torch.tensor(1.0, dtype=torch.float64)])
        own[places] -= outward * from_mean / len(row)
    return total, sums, scale_sums, gradient
