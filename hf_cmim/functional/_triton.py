"""The fused operator as Triton kernels: all divergences of a sample, and their gradient, in one program.

Up to 8,192 classes a row is held in registers: its logits, its gradient and the centroid row of each temperature move
once. Longer rows go through in chunks: logits are read three times (maximum, sums, gradient), centroid rows twice.
Each row has its own results, so that sums over them do not depend on the order of programs.

Without a GPU the same kernels run in Triton's interpreter, slowly: so that they can be tested on any machine. Source:
ours; formulas in `hf_cmim.functional.fused`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from hf_cmim.functional import fused
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.divergence import LOWEST as LEAST
from hf_cmim.functional.scaling import Scaling

LARGEST_ROW = 8192
"""Classes of a row that is held in registers: 8 numbers a thread in each array, 32 warps. More spill."""
TILE = 8192
"""Numbers of a chunk at all levels: 32 a thread, 8 warps."""
INTERPRETED = not torch.cuda.is_available()
IGNORED = tl.constexpr(IGNORE_INDEX)
LOWEST = tl.constexpr(LEAST)
FAR = tl.constexpr(-(2.0**80))
"""Stands for a logit of -inf: its exponential is 0 and, unlike -inf, so is any product with that."""

# The library's own, as the interpreter knows them by identity; any other function it calls for each number.
_add = tl.standard._sum_combine
_larger = tl.standard._elementwise_max


def _kernel(function: Any) -> Any:
    """Compile for the GPU, or interpret where there is none; nothing else sees the switch."""
    sizes = ["classes", "logit_stride", "level_stride", "row_stride"]  # UNIT says all that is to be known
    with knobs.runtime.scope():
        knobs.runtime.interpret = INTERPRETED
        return triton.jit(function, do_not_specialize=sizes)


@_kernel
def _read(place, inside):
    return tl.load(place, mask=inside, other=-float("inf")).to(tl.float32)


@_kernel
def _at_least(numbers, least: tl.constexpr):
    """The larger of two, where nan stays nan."""
    return tl.maximum(numbers, least, propagate_nan=tl.PropagateNan.ALL)


@_kernel
def _largest_and_sum(place, classes, column, BLOCK: tl.constexpr):
    highest = tl.full([BLOCK], -float("inf"), tl.float32)
    sums = tl.full([BLOCK], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        inside = start + column < classes
        numbers = _read(place + start, inside)
        highest = tl.maximum(highest, numbers)
        sums += tl.where(inside, numbers, 0.0)
    return tl.reduce(highest, 0, _larger), tl.reduce(sums, 0, _add)


@_kernel
def _seen(own, classes, level_stride, column, lane, LEVELS: tl.constexpr, BLOCK: tl.constexpr):
    """Whether the class has a centroid at all levels: the rows are read again only if one of them starts with -inf."""
    first = tl.load(own + lane * level_stride, mask=lane < LEVELS, other=0.0).to(tl.float32)
    absent = tl.reduce((first == -float("inf")).to(tl.int32), 0, _larger)
    if absent > 0:
        absent = absent * 0
        level = own + column
        for _ in range(LEVELS):
            absent += (_largest_and_sum(level, classes, column, BLOCK)[0] == -float("inf")).to(tl.int32)
            level += level_stride
    return absent == 0


@_kernel
def _sample(logits, labels, multiplier, classes, logit_stride, level_stride, UNIT: tl.constexpr):
    """This program's row, its label, where its logits begin, their factor, classes, the step of a level in numbers."""
    row = tl.program_id(0).to(tl.int64)
    place = logits + row * logit_stride * UNIT
    factor = 1.0 if multiplier is None else tl.load(multiplier).to(tl.float32)
    return row, tl.load(labels + row), place, factor, classes * UNIT, level_stride.to(tl.int64) * UNIT


@_kernel
def _mean(summed, classes):
    """A row's mean, and whether the row counts: not where a class is masked, or the sample ignored."""
    counts = tl.abs(summed) < float("inf")
    return tl.where(counts, summed, 0.0) / classes, counts


@_kernel
def _from_mean(z, mean, inside, counts):
    return tl.where(counts, tl.where(inside, z - mean, 0.0), 0.0)


@_kernel
def _store_scale(scale_terms, row, pull, variance, counts):
    """A row of what `freed_of_scale` adds up."""
    part = tl.arange(0, 4)
    numbers = tl.where(part == 0, pull, tl.where(part == 1, variance, 1.0))
    tl.store(scale_terms + row * 3 + part, tl.where(counts, numbers, 0.0), mask=part < 3)


@_kernel
def _row_kernel(
    logits, labels, log_centroids, weights, terms, gradient, multiplier, outward, scale_terms, inverse,
    classes, logit_stride, level_stride, row_stride,
    ORDER: tl.constexpr, LEVELS: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
    SQUARING: tl.constexpr,
):  # fmt: skip
    row, label, place, factor, classes, level_stride = _sample(
        logits, labels, multiplier, classes, logit_stride, level_stride, UNIT
    )
    column = tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    inside = column < classes
    found = tl.full([LANES], 0.0, tl.float32)
    total = tl.full([BLOCK], 0.0, tl.float32)
    z = _read(place + column, column < tl.where(label != IGNORED, classes, 0))  # -inf where it is not to be read
    if label != IGNORED:
        centred = _at_least((z - tl.reduce(z, 0, _larger)) * factor, FAR)
        own = log_centroids + label * row_stride * UNIT
        exponential = centred
        for turn in tl.static_range(LEVELS):
            u = centred * inverse[turn]
            exponential = exponential * exponential if SQUARING and turn > 0 else tl.exp(u)
            difference = _at_least(_read(own + ORDER[turn] * level_stride + column, inside), LOWEST) - u
            partition = tl.reduce(exponential, 0, _add)
            mean = tl.reduce(exponential * difference, 0, _add) / partition
            found = tl.where(lane == ORDER[turn], -(mean + tl.log(partition)), found)
            if gradient is not None:
                share = tl.load(weights + ORDER[turn]) * inverse[turn] / partition
                total += exponential * (mean - difference) * share
        # Last, so that no load above waits for what this finds.
        seen = _seen(own, classes, level_stride, column, lane, LEVELS, BLOCK)
        found = tl.where(seen, found, 0.0)
        total = tl.where(seen, total, 0.0)
    tl.store(terms + row * LEVELS + lane, found, mask=lane < LEVELS)
    if multiplier is not None:
        mean, counts = _mean(tl.reduce(tl.where(inside, z, 0.0), 0, _add), classes)
        from_mean = _from_mean(z, mean, inside, counts)
        variance = tl.reduce(from_mean * from_mean, 0, _add) / classes
        total *= factor
        _store_scale(scale_terms, row, tl.reduce(total * from_mean, 0, _add), variance, counts)
        total -= from_mean * (tl.load(outward).to(tl.float32) / classes)
    if gradient is not None:
        tl.store(gradient + row * classes + column, total, mask=inside)


@_kernel
def _tile(z, levels, inside, real, largest, factor, inverses):
    """Return exp(u) and log q - u of a chunk at all levels."""
    u = _at_least((z - largest) * factor, FAR)[None, :] * inverses[:, None]
    return tl.exp(u), _at_least(_read(levels, real & inside[None, :]), LOWEST) - u


@_kernel
def _chunk_kernel(
    logits, labels, log_centroids, weights, terms, gradient, multiplier, outward, scale_terms, inverse,
    classes, logit_stride, level_stride, row_stride,
    ORDER: tl.constexpr, LEVELS: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, label, place, factor, classes, level_stride = _sample(
        logits, labels, multiplier, classes, logit_stride, level_stride, UNIT
    )
    column = tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)
    valid = label != IGNORED
    reach = tl.where(valid, classes, 0)  # no column of an ignored sample is read
    place += column
    largest, summed = _largest_and_sum(place, reach, column, BLOCK)
    mean, counts = _mean(tl.where(valid, summed, float("inf")), classes)
    squares, pulls = 0.0, 0.0
    inverses = tl.full([LANES], 0.0, tl.float32)
    for turn in tl.static_range(LEVELS):
        inverses = tl.where(lane == ORDER[turn], inverse[turn], inverses)
    own = log_centroids + tl.where(valid, label, 0) * row_stride * UNIT
    real = (lane < LEVELS)[:, None]
    levels = (own + lane * level_stride)[:, None] + column[None, :]
    partitions, products = tl.full([LANES], 0.0, tl.float32), tl.full([LANES], 0.0, tl.float32)
    for start in range(0, reach, BLOCK):
        inside = start + column < classes
        z = _read(place + start, inside)
        if multiplier is not None:
            from_mean = _from_mean(z, mean, inside, counts)
            squares += tl.reduce(from_mean * from_mean, 0, _add)
        exponentials, differences = _tile(z, levels + start, inside, real, largest, factor, inverses)
        partitions += tl.reduce(exponentials, 1, _add)
        products += tl.reduce(exponentials * differences, 1, _add)
    partitions = tl.where(valid, partitions, 1.0)
    means = products / partitions
    counted = valid & _seen(own, reach, level_stride, column, lane, LEVELS, BLOCK)
    found = tl.where(counted, -(means + tl.log(partitions)), 0.0)
    tl.store(terms + row * LEVELS + lane, found, mask=lane < LEVELS)
    if gradient is not None:
        factors = tl.load(weights + lane, mask=lane < LEVELS, other=0.0) * inverses / partitions
        factors = tl.where(counted, factors, 0.0)
        for start in range(0, classes, BLOCK):
            inside = start + column < classes
            total = tl.full([BLOCK], 0.0, tl.float32)
            if valid:
                z = _read(place + start, inside)
                slopes, differences = _tile(z, levels + start, inside, real, largest, factor, inverses)
                total = tl.reduce(slopes * (means[:, None] - differences) * factors[:, None], 0, _add)
                if multiplier is not None:
                    from_mean = _from_mean(z, mean, inside, counts)
                    total *= factor
                    pulls += tl.reduce(total * from_mean, 0, _add)
                    total -= from_mean * (tl.load(outward).to(tl.float32) / classes)
            tl.store(gradient + row * classes + start + column, total, mask=inside)
    if multiplier is not None:
        _store_scale(scale_terms, row, pulls, squares / classes, counts)


def divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: Sequence[float],
    weights: Tensor,
    wants_gradient: bool,
    scaling: Scaling | None = None,
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

    Returns:
        The weighted sum, 0-d, and the sums, `(K,)`, fp32, in nats; what `freed_of_scale` adds up, `(3,)`, fp32; the
        gradient in the logits' type, `(B, C)` or `(0, C)`.

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
    tensors = logits, labels.contiguous(), log_centroids, weights, terms, kept, *scaled
    if samples:
        with torch.cuda.device_of(logits):  # a model in parts may end on another GPU than the current one
            _launch(logits, log_centroids, tensors, tuple(temperatures))
    sums = terms.sum(dim=0)
    return torch.dot(weights, sums), sums, scale_terms.sum(dim=0), gradient


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
    return tuple(order), inverse, halving and len(order) <= fused.MOST_SQUARED
