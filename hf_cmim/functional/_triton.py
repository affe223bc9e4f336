"""The fused operator as Triton kernels: a row's logits are read once, all temperatures stay on chip.

One program works on one sample. Up to 8192 classes its row is held in registers: logits, gradient and the centroid row
of each temperature move once. Larger rows go through in chunks, logits thrice and centroid rows twice, mostly from the
cache. Sums are kept for each row and added up afterwards, so that the result does not depend on the order of programs.

Without a GPU the same kernels run in Triton's interpreter, slowly: so that they can be tested on any machine. Source:
ours; formulas in `hf_cmim.functional.fused`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from hf_cmim.functional import fused
from hf_cmim.functional.divergence import IGNORE_INDEX

LARGEST_ROW = 8192
"""Classes of a row that is held in registers: 16 numbers a thread, five arrays of them, 16 warps."""
CHUNK = 4096
IGNORED = tl.constexpr(IGNORE_INDEX)
LOWEST = tl.constexpr(fused.LOWEST)
NEGLIGIBLE = tl.constexpr(fused.NEGLIGIBLE)


def _kernel(function: Any) -> Any:
    """Compile for the GPU, or interpret where there is none: decided here, whatever other libraries decided before."""
    with knobs.runtime.scope():
        knobs.runtime.interpret = not torch.cuda.is_available()
        return triton.jit(function)


# Own reductions: the library's were decorated when it was imported, and cannot be interpreted any more.
@_kernel
def _add(left, right):
    return left + right


@_kernel
def _larger(left, right):
    return tl.maximum(left, right)


@_kernel
def _at_least(numbers, least):
    """The larger of two, where nan stays nan."""
    return tl.maximum(numbers, least, propagate_nan=tl.PropagateNan.ALL)


@_kernel
def _level(own, level_stride, inverse, order, turn: tl.constexpr, centred, exponential, inside, SQUARED: tl.constexpr):
    """Number of the level in this turn, exp(u), log q, and log q - u; outside of the row exp(u) is negligible."""
    level = tl.load(order + turn).to(tl.int64)
    u = centred * tl.load(inverse + level)
    if SQUARED and turn > 0:
        exponential = exponential * exponential
    else:
        exponential = tl.exp(_at_least(u, NEGLIGIBLE))
    q = tl.load(own + level * level_stride, mask=inside, other=-float("inf")).to(tl.float32)
    return level, exponential, q, tl.maximum(q, LOWEST) - u


@_kernel
def _row_kernel(
    logits, labels, log_centroids, inverse, scales, order, values, gradient,
    classes, logit_stride, level_stride, row_stride, samples, lowest,
    LEVELS: tl.constexpr, BLOCK: tl.constexpr, SQUARED: tl.constexpr, WANTS_GRADIENT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    counted = label != IGNORED
    column = tl.arange(0, BLOCK)
    inside = column < classes
    z = tl.load(logits + row * logit_stride + column, mask=inside, other=-float("inf")).to(tl.float32)
    centred = _at_least(z - tl.reduce(z, 0, _larger), lowest)
    own = log_centroids + tl.maximum(label, 0).to(tl.int64) * row_stride + column
    exponential = centred
    total = tl.full([BLOCK], 0.0, tl.float32)
    for turn in tl.static_range(LEVELS):
        level, exponential, q, difference = _level(
            own, level_stride, inverse, order, turn, centred, exponential, inside, SQUARED
        )
        counted = counted & (tl.reduce(q, 0, _larger) > -float("inf"))
        partition = tl.reduce(exponential, 0, _add)
        mean = tl.reduce(exponential * difference, 0, _add) / partition
        tl.store(values + level * samples + row, -(mean + tl.log(partition)))
        if WANTS_GRADIENT:
            total += exponential * (mean - difference) * (tl.load(scales + level) / partition)
    for turn in tl.static_range(LEVELS):  # only now is it known whether any level lacks this class
        tl.store(values + turn * samples + row, 0.0, mask=counted == 0)
    if WANTS_GRADIENT:
        total = tl.where(counted, total, 0.0)
        tl.store(gradient + row * classes + column, total.to(gradient.dtype.element_ty), mask=inside)


@_kernel
def _chunk_kernel(
    logits, labels, log_centroids, inverse, scales, order, values, gradient,
    classes, logit_stride, level_stride, row_stride, samples, lowest,
    LEVELS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr, SQUARED: tl.constexpr,
    WANTS_GRADIENT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    column = tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)  # one for each level, in the order of turns
    own = log_centroids + tl.maximum(label, 0).to(tl.int64) * row_stride
    running = tl.full([BLOCK], -float("inf"), tl.float32)
    for start in range(0, classes, BLOCK):
        inside = start + column < classes
        z = tl.load(logits + row * logit_stride + start + column, mask=inside, other=-float("inf"))
        running = tl.maximum(running, z.to(tl.float32))
    largest = tl.reduce(running, 0, _larger)
    partitions = tl.full([LANES], 0.0, tl.float32)
    weighted = tl.full([LANES], 0.0, tl.float32)
    highest = tl.full([LANES], -float("inf"), tl.float32)
    for start in range(0, classes, BLOCK):
        inside = start + column < classes
        z = tl.load(logits + row * logit_stride + start + column, mask=inside, other=-float("inf")).to(tl.float32)
        centred = _at_least(z - largest, lowest)
        exponential = centred
        for turn in tl.static_range(LEVELS):
            _, exponential, q, difference = _level(
                own + start + column, level_stride, inverse, order, turn, centred, exponential, inside, SQUARED
            )
            here = lane == turn
            partitions += tl.where(here, tl.reduce(exponential, 0, _add), 0.0)
            weighted += tl.where(here, tl.reduce(exponential * difference, 0, _add), 0.0)
            highest = tl.maximum(highest, tl.where(here, tl.reduce(q, 0, _larger), -float("inf")))
    seen = (lane >= LEVELS) | (highest > -float("inf"))
    counted = (label != IGNORED) & (tl.reduce(seen.to(tl.int32), 0, _add) == LANES)
    partitions = tl.where(lane < LEVELS, partitions, 1.0)
    means = weighted / partitions
    levels = tl.load(order + lane, mask=lane < LEVELS, other=0).to(tl.int64)
    found = tl.where(counted, -(means + tl.log(partitions)), 0.0)
    tl.store(values + levels * samples + row, found, mask=lane < LEVELS)
    if WANTS_GRADIENT:
        factors = tl.load(scales + levels, mask=lane < LEVELS, other=0.0) / partitions
        for start in range(0, classes, BLOCK):
            inside = start + column < classes
            z = tl.load(logits + row * logit_stride + start + column, mask=inside, other=-float("inf")).to(tl.float32)
            centred = _at_least(z - largest, lowest)
            exponential = centred
            total = tl.full([BLOCK], 0.0, tl.float32)
            for turn in tl.static_range(LEVELS):
                _, exponential, _, difference = _level(
                    own + start + column, level_stride, inverse, order, turn, centred, exponential, inside, SQUARED
                )
                mean = tl.reduce(tl.where(lane == turn, means, 0.0), 0, _add)
                factor = tl.reduce(tl.where(lane == turn, factors, 0.0), 0, _add)
                total += exponential * (mean - difference) * factor
            total = tl.where(counted, total, 0.0)
            place = gradient + row * classes + start + column
            tl.store(place, total.to(gradient.dtype.element_ty), mask=inside)


@lru_cache(maxsize=16)
def _turns(temperatures: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, bool]:
    """Return 1 / T, `(K,)`; the levels in their turn; whether each turn's exponential is the square of the last."""
    inverse, _, halving = fused.level_constants(temperatures, torch.float32, device)
    order = torch.tensor(halving or range(len(temperatures)), dtype=torch.int32, device=device)
    return inverse.view(-1), order, bool(halving)


def divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: Sequence[float],
    weights: Tensor,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the operator returns, for fp32, fp16 or bf16 logits; arithmetic is fp32. Waits for nothing.

    Args:
        logits: `(B, C)`.
        labels: `(B,)` in [0, C), or -100.
        log_centroids: `(K, C, C)`, fp32, fp16 or bf16; an expanded first dimension is fine.
        temperatures: `K` numbers above 0.
        weights: `(K,)`.
        wants_gradient: whether to make the gradient.

    Returns:
        The weighted sum, 0-d, the sums `(K,)`, and the gradient `(B, C)` or `(0, C)`.
    """
    (samples, classes), levels = logits.shape, len(temperatures)
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    log_centroids = log_centroids if log_centroids.stride(2) == 1 else log_centroids.contiguous()
    inverse, order, squared = _turns(tuple(temperatures), logits.device)
    weights = weights.float()
    values = torch.empty(levels, samples, dtype=torch.float32, device=logits.device)
    gradient = logits.new_empty(samples if wants_gradient else 0, classes)
    tensors = logits, labels, log_centroids, inverse, weights * inverse, order, values, gradient
    strides = logits.stride(0), log_centroids.stride(0), log_centroids.stride(1), samples
    numbers = (classes, *strides, fused.NEGLIGIBLE * max(temperatures))
    flags = {"LEVELS": levels, "SQUARED": squared, "WANTS_GRADIENT": wants_gradient}
    if samples and classes <= LARGEST_ROW:
        block = triton.next_power_of_2(classes)
        warps = max(1, min(16, block // 512))
        _row_kernel[(samples,)](*tensors, *numbers, **flags, BLOCK=block, num_warps=warps)
    elif samples:
        lanes = triton.next_power_of_2(levels)
        _chunk_kernel[(samples,)](*tensors, *numbers, **flags, LANES=lanes, BLOCK=CHUNK, num_warps=8)
    sums = values.sum(dim=1)
    return torch.dot(weights, sums), sums, gradient
