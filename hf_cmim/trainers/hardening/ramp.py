"""Rise of the weight of the CMI in training."""


def ramped_weight(weight: float, progress: float, warmup: float, ramp: float) -> float:
    """Return the weight at a point of training: 0 up to `warmup`, then rising linearly over `ramp`, then `weight`.

    Args:
        weight: final weight.
        progress: fraction of the optimizer steps done, in [0, 1].
        warmup: fraction of training with weight 0.
        ramp: fraction of training over which the weight rises.

    >>> [ramped_weight(2.0, progress, warmup=0.2, ramp=0.4) for progress in (0.1, 0.4, 0.9)]
    [0.0, 1.0, 2.0]
    """
    if progress < warmup:
        return 0.0
    if ramp == 0:
        return weight
    return weight * min(1.0, (progress - warmup) / ramp)
