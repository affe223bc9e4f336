"""The fused operator on a GPU: launches the kernel of `triton_kernels` that fits the number of classes.

Source: ours.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import triton
from torch import Tensor

from hf_cmim.hardening.kernels.blocks import MOST_SQUARED
from hf_cmim.hardening.kernels.problem import Extrapolation, Scaling
from hf_cmim.hardening.kernels.triton_kernels import INTERPRETED, _chunk_kernel, _row_kernel

LARGEST_ROW = 8192
"""Most classes of a row that stays in registers: 8 numbers per thread in each array, 32 warps. Longer rows spill."""
TILE = 8192
"""Numbers in a chunk, all levels together: 32 per thread, 8 warps."""


def divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: Sequence[float],
    weights: Tensor,
    wants_gradient: bool,
    scaling: Scaling | None = None,
    extrapolation: Extrapolation | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the operator for fp32, fp16 or bf16 logits; arithmetic is fp32. Does not wait for the device.

    Args:
        logits: `(B, C)` logits.
        labels: `(B,)` int64 in [0, C), or -100 for a sample that is not read.
        log_centroids: `(K, C, C)` log-centroids, fp32, fp16 or bf16, expanded or not. A class with a row of -inf at
            any level has no divergence.
        temperatures: `K` numbers above 0, in any order.
        weights: weight of each temperature's divergences, `(K,)`.
        wants_gradient: switch to compute the gradient.
        scaling: scale of the logits, or None.
        extrapolation: references beyond the centroids, or None.

    Returns:
        Weighted sum, 0-d, and sums of divergences from centroids, `(K,)`, fp32, in nats; sums of `freed_of_scale`,
        `(3,)`, fp32; gradient in the logits' type, `(B, C)` or `(0, C)`.

    Raises:
        RuntimeError: the logits are on CPU and the kernels are compiled for a GPU.
    """
    if not (logits.is_cuda or INTERPRETED):
        raise RuntimeError(
            f"Expected logits on a GPU, got them on {logits.device}: the kernels are compiled for the GPU and cannot"
            " read them. Move the logits to the GPU, or hide it (CUDA_VISIBLE_DEVICES=) to interpret the kernels."
        )
    (samples, classes), levels = logits.shape, len(temperatures)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    log_centroids = log_centroids if log_centroids.stride(2) == 1 else log_centroids.contiguous()
    terms = torch.empty(samples, levels, dtype=torch.float32, device=logits.device)
    gradient = logits.new_empty(samples if wants_gradient else 0, classes)
    weights = weights.float().contiguous()
    scale_terms = terms.new_zeros(1 if scaling is None else samples, 3)
    scaled = (None, None, None) if scaling is None else (*scaling, scale_terms)
    gradient_or_none = gradient if wants_gradient else None
    references: Tensor = terms
    extrapolated: tuple[Tensor | None, ...] = (None, None, None)
    if extrapolation is not None:
        references = torch.empty_like(terms)
        extrapolated = (*(tensor.float().contiguous() for tensor in extrapolation), references)
    tensors = logits, labels.contiguous(), log_centroids, weights, terms, gradient_or_none, *scaled, *extrapolated
    if samples:
        # The last layer of a model split over GPUs may be on another GPU than the current one.
        with torch.cuda.device_of(logits):
            _launch(logits, log_centroids, tensors, tuple(temperatures))
    sums = terms.sum(dim=0)
    weighted = torch.dot(weights, sums if references is terms else references.sum(dim=0))
    return weighted, sums, scale_terms.sum(dim=0), gradient


def _launch(logits: Tensor, log_centroids: Tensor, tensors: Any, temperatures: tuple[float, ...]) -> None:
    (samples, classes), levels = logits.shape, len(temperatures)
    order, inverse, halving = _turns(temperatures)
    sizes = classes, logits.stride(0), log_centroids.stride(0), log_centroids.stride(1)
    # A common factor of all sizes tells the compiler how rows are aligned, so that it reads several numbers at once.
    unit = math.gcd(16, *sizes)
    arguments = *tensors, inverse, *(size // unit for size in sizes)
    lanes, block = triton.next_power_of_2(levels), triton.next_power_of_2(classes)
    settings: dict[str, Any] = {"ORDER": order, "LEVELS": levels, "LANES": lanes, "UNIT": unit}
    # This is the default. Without it Triton 3.9 warns that the default will change.
    settings["enable_fp_fusion"] = True
    if classes <= LARGEST_ROW:
        warps = max(1, block // 256)
        _row_kernel[(samples,)](*arguments, **settings, SQUARING=halving, BLOCK=block, num_warps=warps)
    else:
        _chunk_kernel[(samples,)](*arguments, **settings, BLOCK=min(4096, TILE // lanes), num_warps=8)


@lru_cache(maxsize=16)
def _turns(temperatures: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[float, ...], bool]:
    """Return the levels from hot to cold, 1 / T of each, and True if each T is half the one before."""
    order = sorted(range(len(temperatures)), key=lambda level: -temperatures[level])
    halving = all(temperatures[hot] == 2 * temperatures[cold] for hot, cold in pairwise(order))
    inverse = tuple(1 / temperatures[level] for level in order)
    return tuple(order), inverse, halving and len(order) <= MOST_SQUARED
