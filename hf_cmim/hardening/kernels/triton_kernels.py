"""The Triton kernels of the fused operator: one program computes all divergences of a sample and their gradient.

Up to 8,192 classes, a row stays in registers: its logits, its gradient and the centroid row of each temperature move
once. Longer rows are processed in chunks: logits are read three times (maximum, sums, gradient), centroid rows twice.
A row with masked classes is read once more, for the mean of its other classes. Each row has its own results, so sums
over rows do not depend on the order of programs.

Without a GPU the same kernels run slowly in Triton's interpreter, so that any machine can test them. Source: ours;
formulas in `hf_cmim.hardening.kernels.operator`.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs

from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.divergence import LOWEST as LEAST
from hf_cmim.functional.inputs import MASK_DISTANCE as DISTANCE

INTERPRETED = not torch.cuda.is_available()
IGNORED = tl.constexpr(IGNORE_INDEX)
LOWEST = tl.constexpr(LEAST)
MASK_DISTANCE = tl.constexpr(DISTANCE)
FAR = tl.constexpr(-(2.0**80))
"""Finite replacement for a logit of -inf: its exponential is 0, and products with it are 0 instead of nan."""

# Triton's internal functions: the interpreter recognises them by identity. It calls any other function per number.
_add = tl.standard._sum_combine
_larger = tl.standard._elementwise_max


def _kernel(function: Any) -> Any:
    """Compile a kernel for the GPU, or interpret it without one; the switch holds only for this kernel."""
    # UNIT already tells the compiler the alignment of these sizes.
    sizes = ["classes", "logit_stride", "level_stride", "row_stride"]
    with knobs.runtime.scope():
        knobs.runtime.interpret = INTERPRETED
        return triton.jit(function, do_not_specialize=sizes)


@_kernel
def _read(place, inside):
    return tl.load(place, mask=inside, other=-float("inf")).to(tl.float32)


@_kernel
def _at_least(numbers, least: tl.constexpr):
    """Return the larger of two numbers; nan stays nan."""
    return tl.maximum(numbers, least, propagate_nan=tl.PropagateNan.ALL)


@_kernel
def _largest_and_sum(place, classes, column, BLOCK: tl.constexpr):
    """Return a row's largest number, its sum, and its negated smallest number."""
    highest = tl.full([BLOCK], -float("inf"), tl.float32)
    lowest = tl.full([BLOCK], -float("inf"), tl.float32)
    sums = tl.full([BLOCK], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        inside = start + column < classes
        numbers = _read(place + start, inside)
        highest = tl.maximum(highest, numbers)
        lowest = tl.maximum(lowest, tl.where(inside, -numbers, -float("inf")))
        sums += tl.where(inside, numbers, 0.0)
    return tl.reduce(highest, 0, _larger), tl.reduce(sums, 0, _add), tl.reduce(lowest, 0, _larger)


@_kernel
def _without_masked(z, largest):
    return tl.where(z < largest - MASK_DISTANCE, -float("inf"), z)


@_kernel
def _sum_and_number(place, classes, column, largest, BLOCK: tl.constexpr):
    """Return the sum of a row's logits over the classes that are not masked, and the number of these classes."""
    sums, numbers = tl.full([BLOCK], 0.0, tl.float32), tl.full([BLOCK], 0.0, tl.float32)
    for start in range(0, classes, BLOCK):
        z = _without_masked(_read(place + start, start + column < classes), largest)
        sums += tl.where(z != -float("inf"), z, 0.0)
        numbers += (z != -float("inf")).to(tl.float32)
    return tl.reduce(sums, 0, _add), tl.reduce(numbers, 0, _add)


@_kernel
def _without_masked_sums(place, classes, column, BLOCK: tl.constexpr):
    """Return a row's largest logit, and the sum and number of the logits that are not masked."""
    largest, summed, negated = _largest_and_sum(place, classes, column, BLOCK)
    number = classes.to(tl.float32)
    if largest + negated > MASK_DISTANCE:
        summed, number = _sum_and_number(place, classes, column, largest, BLOCK)
    return largest, summed, number


@_kernel
def _seen(centroid_row, classes, level_stride, column, lane, LEVELS: tl.constexpr, BLOCK: tl.constexpr):
    """Return True if the class has a centroid at all levels; rows are read again only if one starts with -inf."""
    first = tl.load(centroid_row + lane * level_stride, mask=lane < LEVELS, other=0.0).to(tl.float32)
    absent = tl.reduce((first == -float("inf")).to(tl.int32), 0, _larger)
    if absent > 0:
        # Only a whole row of -inf means that the class has no centroid: count such rows.
        absent = absent * 0
        level = centroid_row + column
        for _ in range(LEVELS):
            absent += (_largest_and_sum(level, classes, column, BLOCK)[0] == -float("inf")).to(tl.int32)
            level += level_stride
    return absent == 0


@_kernel
def _sample(logits, labels, multiplier, classes, logit_stride, level_stride, column, UNIT: tl.constexpr):
    """Return this program's row, label, pointer to the logits, factor of the logits, classes and stride of a level."""
    row = tl.program_id(0).to(tl.int64)
    place = logits + row * logit_stride * UNIT + column
    factor = 1.0 if multiplier is None else tl.load(multiplier).to(tl.float32)
    return row, tl.load(labels + row), place, factor, classes * UNIT, level_stride.to(tl.int64) * UNIT


@_kernel
def _mean(summed, number):
    """Return a row's mean and if the row counts: it needs two or more classes; an ignored sample has none."""
    counts = tl.where(number > 1, tl.abs(summed), float("inf")) < float("inf")
    return tl.where(counts, summed, 0.0) / tl.maximum(number, 1.0), counts


@_kernel
def _from_mean(z, mean, counts):
    return tl.where(counts, tl.where(z != -float("inf"), z - mean, 0.0), 0.0)


@_kernel
def _freed(slopes, from_mean, outward, number):
    """Return a gradient without the pull on the scale of the logits, and that pull."""
    pull = tl.reduce(slopes * from_mean, 0, _add)
    return slopes - from_mean * (tl.load(outward).to(tl.float32) / tl.maximum(number, 1.0)), pull


@_kernel
def _store_scale(scale_terms, row, pull, variance, counts):
    """Store a row's terms of the sums in `freed_of_scale`."""
    part = tl.arange(0, 4)
    numbers = tl.where(part == 0, pull, tl.where(part == 1, variance, 1.0))
    tl.store(scale_terms + row * 3 + part, tl.where(counts, numbers, 0.0), mask=part < 3)


@_kernel
def _store_terms(place, row, means, partitions, counted, lane, LEVELS: tl.constexpr):
    """Store a row's divergences at all levels."""
    tl.store(place + row * LEVELS + lane, tl.where(counted, -(means + tl.log(partitions)), 0.0), mask=lane < LEVELS)


@_kernel
def _inverses(inverse, lane, ORDER: tl.constexpr, LEVELS: tl.constexpr, LANES: tl.constexpr):
    values = tl.full([LANES], 0.0, tl.float32)
    for turn in tl.static_range(LEVELS):
        values = tl.where(lane == ORDER[turn], inverse[turn], values)
    return values


@_kernel
def _row_kernel(
    logits, labels, log_centroids, weights, terms, gradient, multiplier, outward, scale_terms,
    log_marginals, ratios, references, inverse,
    classes, logit_stride, level_stride, row_stride,
    ORDER: tl.constexpr, LEVELS: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
    SQUARING: tl.constexpr,
):  # fmt: skip
    column, lane = tl.arange(0, BLOCK), tl.arange(0, LANES)
    row, label, place, factor, classes, level_stride = _sample(
        logits, labels, multiplier, classes, logit_stride, level_stride, column, UNIT
    )
    inside = column < classes
    divergences = tl.full([LANES], 0.0, tl.float32)
    extrapolated = tl.full([LANES], 0.0, tl.float32)
    total = tl.full([BLOCK], 0.0, tl.float32)
    # An ignored sample is not read: all its logits are -inf here.
    z = _read(place, column < tl.where(label != IGNORED, classes, 0))
    if label != IGNORED:
        largest = tl.reduce(z, 0, _larger)
        z = _without_masked(z, largest)
        centred = _at_least((z - largest) * factor, FAR)
        centroid_row = log_centroids + label * row_stride * UNIT
        exponential = centred
        for turn in tl.static_range(LEVELS):
            u = centred * inverse[turn]
            # With SQUARING each temperature is half the one before, so its exponential is the square.
            exponential = exponential * exponential if SQUARING and turn > 0 else tl.exp(u)
            log_centroid = _at_least(_read(centroid_row + ORDER[turn] * level_stride + column, inside), LOWEST)
            difference = log_centroid - u
            partition = tl.reduce(exponential, 0, _add)
            mean = tl.reduce(exponential * difference, 0, _add) / partition
            divergences = tl.where(lane == ORDER[turn], -(mean + tl.log(partition)), divergences)
            if log_marginals is not None:
                ratio = tl.load(ratios + ORDER[turn])
                marginal = tl.load(log_marginals + ORDER[turn] * classes + column, mask=inside, other=0.0)
                distance = ratio * (log_centroid - marginal)
                mean += tl.reduce(exponential * distance, 0, _add) / partition
                difference += distance
                extrapolated = tl.where(lane == ORDER[turn], -(mean + tl.log(partition)), extrapolated)
            if gradient is not None:
                level_weight = tl.load(weights + ORDER[turn]) * inverse[turn] / partition
                total += exponential * (mean - difference) * level_weight
        # Last, so that no load above waits for this check.
        seen = _seen(centroid_row, classes, level_stride, column, lane, LEVELS, BLOCK)
        divergences = tl.where(seen, divergences, 0.0)
        extrapolated = tl.where(seen, extrapolated, 0.0)
        total = tl.where(seen, total, 0.0)
    tl.store(terms + row * LEVELS + lane, divergences, mask=lane < LEVELS)
    if log_marginals is not None:
        tl.store(references + row * LEVELS + lane, extrapolated, mask=lane < LEVELS)
    if multiplier is not None:
        number = tl.reduce((z != -float("inf")).to(tl.float32), 0, _add)
        mean, counts = _mean(tl.reduce(tl.where(z != -float("inf"), z, 0.0), 0, _add), number)
        from_mean = _from_mean(z, mean, counts)
        variance = tl.reduce(from_mean * from_mean, 0, _add) / tl.maximum(number, 1.0)
        total, pull = _freed(total * factor, from_mean, outward, number)
        _store_scale(scale_terms, row, pull, variance, counts)
    if gradient is not None:
        tl.store(gradient + row * classes + column, total, mask=inside)


@_kernel
def _tile(z, levels, inside, level_exists, largest, factor, inverses):
    """Return exp(u) and log q - u for a chunk at all levels."""
    u = _at_least((z - largest) * factor, FAR)[None, :] * inverses[:, None]
    return tl.exp(u), _at_least(_read(levels, level_exists & inside[None, :]), LOWEST) - u


@_kernel
def _distances(levels, marginals, inside, level_exists, ratios):
    """Return the log-distances of references from the centroids, for a chunk at all levels."""
    mask = level_exists & inside[None, :]
    return (_at_least(_read(levels, mask), LOWEST) - tl.load(marginals, mask=mask, other=0.0)) * ratios[:, None]


@_kernel
def _chunk_kernel(
    logits, labels, log_centroids, weights, terms, gradient, multiplier, outward, scale_terms,
    log_marginals, ratios, references, inverse,
    classes, logit_stride, level_stride, row_stride,
    ORDER: tl.constexpr, LEVELS: tl.constexpr, LANES: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column, lane = tl.arange(0, BLOCK), tl.arange(0, LANES)
    row, label, place, factor, classes, level_stride = _sample(
        logits, labels, multiplier, classes, logit_stride, level_stride, column, UNIT
    )
    valid = label != IGNORED
    reach = tl.where(valid, classes, 0)  # no column of an ignored sample is read
    largest, summed, number = _without_masked_sums(place, reach, column, BLOCK)
    mean, counts = _mean(summed, number)
    inverses = _inverses(inverse, lane, ORDER, LEVELS, LANES)
    centroid_row = log_centroids + tl.where(valid, label, 0) * row_stride * UNIT
    level_exists = (lane < LEVELS)[:, None]
    levels = (centroid_row + lane * level_stride)[:, None] + column[None, :]
    partitions, products = tl.full([LANES], 0.0, tl.float32), tl.full([LANES], 0.0, tl.float32)
    distance_sums, squares, pulls = tl.full([LANES], 0.0, tl.float32), 0.0, 0.0
    if log_marginals is not None:
        ratio = tl.load(ratios + lane, mask=lane < LEVELS, other=0.0)
        marginals = (log_marginals + lane * classes)[:, None] + column[None, :]
    for start in range(0, reach, BLOCK):  # first pass: sums that divergences and gradient need
        inside = start + column < classes
        z = _without_masked(_read(place + start, inside), largest)
        if multiplier is not None:
            from_mean = _from_mean(z, mean, counts)
            squares += tl.reduce(from_mean * from_mean, 0, _add)
        exponentials, differences = _tile(z, levels + start, inside, level_exists, largest, factor, inverses)
        partitions += tl.reduce(exponentials, 1, _add)
        products += tl.reduce(exponentials * differences, 1, _add)
        if log_marginals is not None:
            distances = _distances(levels + start, marginals + start, inside, level_exists, ratio)
            distance_sums += tl.reduce(exponentials * distances, 1, _add)
    partitions = tl.where(valid, partitions, 1.0)
    means = products / partitions
    counted = valid & _seen(centroid_row, reach, level_stride, column, lane, LEVELS, BLOCK)
    _store_terms(terms, row, means, partitions, counted, lane, LEVELS)
    if log_marginals is not None:
        means += distance_sums / partitions
        _store_terms(references, row, means, partitions, counted, lane, LEVELS)
    if gradient is not None:  # second pass: the gradient, column by column
        factors = tl.where(counted, tl.load(weights + lane, mask=lane < LEVELS, other=0) * inverses / partitions, 0.0)
        for start in range(0, classes, BLOCK):
            inside = start + column < classes
            total = tl.full([BLOCK], 0.0, tl.float32)
            if valid:
                z = _without_masked(_read(place + start, inside), largest)
                slopes, differences = _tile(z, levels + start, inside, level_exists, largest, factor, inverses)
                if log_marginals is not None:
                    differences += _distances(levels + start, marginals + start, inside, level_exists, ratio)
                total = tl.reduce(slopes * (means[:, None] - differences) * factors[:, None], 0, _add)
                if multiplier is not None:
                    from_mean = _from_mean(z, mean, counts)
                    total, pull = _freed(total * factor, from_mean, outward, number)
                    pulls += pull
            tl.store(gradient + row * classes + start + column, total, mask=inside)
    if multiplier is not None:
        _store_scale(scale_terms, row, pulls, squares / tl.maximum(number, 1.0), counts)
