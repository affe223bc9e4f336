"""The fused operator on a GPU: it launches the kernel of `_triton_kernels` that suits the number of classes.

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

from hf_cmim.functional._triton_kernels import INTERPRETED, _chunk_kernel, _row_kernel
from hf_cmim.functional.blocks import MOST_SQUARED
from hf_cmim.functional.label_information import Extrapolation
from hf_cmim.functional.scaling import Scaling

LARGEST_ROW = 8192
"""Classes of a row that is held in registers: 8 numbers a thread in each array, 32 warps. More spill."""
TILE = 8192
"""Numbers of a chunk at all levels: 32 a thread, 8 warps."""


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
    """Return what the operator does, for fp32, fp16 or bf16 logits; arithmetic is fp32. Waits for nothing.

    Args:
        logits: `(B, C)`.
        labels: `(B,)` int64 in [0, C), or -100: such a sample is not read.
        log_centroids: `(K, C, C)`, fp32, fp16 or bf16, expanded or not. A class with a row of -inf at any level has no
            divergence.
        temperatures: `K` numbers above 0, in any order.
        weights: `(K,)` of the divergences.
        wants_gradient: whether to make the gradient.
        scaling: of the logits, or None.
        extrapolation: of the centroids, or None.

    Returns:
        The weighted sum, 0-d, and the sums of divergences from centroids, `(K,)`, fp32, in nats; what
        `freed_of_scale` adds up, `(3,)`, fp32; the gradient in the logits' type, `(B, C)` or `(0, C)`.

    Raises:
        RuntimeError: the logits are on CPU and the kernels are compiled for a GPU.
    """
    if not (logits.is_cuda or INTERPRETED):
        raise RuntimeError(
            f"Expected logits on a GPU, which the kernels are compiled for; got them on {logits.device}, which they "
            "cannot read. Move the logits to the GPU, or hide it (CUDA_VISIBLE_DEVICES=) to have kernels interpreted."
        )
    (samples, classes), levels = logits.shape, len(temperatures)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    log_centroids = log_centroids if log_centroids.stride(2) == 1 else log_centroids.contiguous()
    terms = torch.empty(samples, levels, dtype=torch.float32, device=logits.device)
    gradient = logits.new_empty(samples if wants_gradient else 0, classes)
    weights = weights.float().contiguous()
    scale_terms = terms.new_zeros(1 if scaling is None else samples, 3)
    scaled = (None, None, None) if scaling is None else (*scaling, scale_terms)
    kept = gradient if wants_gradient else None
    references: Tensor = terms
    beyond: tuple[Tensor | None, ...] = (None, None, None)
    if extrapolation is not None:
        references = torch.empty_like(terms)
        beyond = (*(each.float().contiguous() for each in extrapolation), references)
    tensors = logits, labels.contiguous(), log_centroids, weights, terms, kept, *scaled, *beyond
    if samples:
        with torch.cuda.device_of(logits):  # a model in parts may end on another GPU than the current one
            _launch(logits, log_centroids, tensors, tuple(temperatures))
    sums = terms.sum(dim=0)
    weighted = torch.dot(weights, sums if references is terms else references.sum(dim=0))
    return weighted, sums, scale_terms.sum(dim=0), gradient


def _launch(logits: Tensor, log_centroids: Tensor, tensors: Any, temperatures: tuple[float, ...]) -> None:
    (samples, classes), levels = logits.shape, len(temperatures)
    order, inverse, halving = _turns(temperatures)
    sizes = classes, logits.stride(0), log_centroids.stride(0), log_centroids.stride(1)
    unit = math.gcd(16, *sizes)  # so that the compiler knows how rows are aligned, and reads several numbers at once
    arguments = *tensors, inverse, *(size // unit for size in sizes)
    lanes, block = triton.next_power_of_2(levels), triton.next_power_of_2(classes)
    settings: dict[str, Any] = {"ORDER": order, "LEVELS": levels, "LANES": lanes, "UNIT": unit}
    settings["enable_fp_fusion"] = True  # the default, said because Triton 3.9 warns that it will change
    if classes <= LARGEST_ROW:
        warps = max(1, block // 256)
        _row_kernel[(samples,)](*arguments, **settings, SQUARING=halving, BLOCK=block, num_warps=warps)
    else:
        _chunk_kernel[(samples,)](*arguments, **settings, BLOCK=min(4096, TILE // lanes), num_warps=8)


@lru_cache(maxsize=16)
def _turns(temperatures: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[float, ...], bool]:
    """Return the levels from hot to cold, 1 / T of each, and whether each T is half the one before."""
    order = sorted(range(len(temperatures)), key=lambda level: -temperatures[level])
    halving = all(temperatures[hot] == 2 * temperatures[cold] for hot, cold in pairwise(order))
    inverse = tuple(1 / temperatures[level] for level in order)
    return tuple(order), inverse, halving and len(order) <= MOST_SQUARED
