"""The operator on a large batch on CPU, block by block, so that a block stays in the processor's cache.

Formulas in `hf_cmim.hardening.kernels.operator`. Where each temperature is twice the one before (the default), few
temperatures need exponentials. The others are squares of the next hotter ones. The relative error doubles each time,
to at most 2^(K - 1) roundings with K <= 8. Source: ours.
"""

import math
import threading
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX, LOWEST
from hf_cmim.functional.inputs import masked_classes
from hf_cmim.functional.spread import freed_of_scale
from hf_cmim.hardening.kernels.problem import Extrapolation, Scaling

BLOCK_ELEMENTS = 2**19
"""Numbers in a block, all temperatures together, in each of its two buffers; ours, by benchmarks/loss.py."""
FEW_ELEMENTS = 2**14
"""Numbers at all temperatures below which exponentials cost less than an operation; ours, by benchmarks/loss.py."""
MOST_SQUARED = 8
"""Largest number of temperatures computed by squaring: the last of 8 has 128 roundings, a relative error of 8e-6.
With more temperatures, each has its own exponentials."""
MOST_CHAINS = 4
"""Largest number of chains of squares, one per thread: each thread squares its own values and never waits for another
core's cache. Ours, by benchmarks/loss.py with two threads."""
NEGLIGIBLE = -40.0
"""Smallest exponent u in exp(u): exp(-40) changes no fp32 sum, and its square is not a slow denormal number."""


def tempered_probs(
    logits: Tensor, temperatures: tuple[float, ...], multiplier: Tensor | None, masked: Tensor | None
) -> Tensor:
    """Return softmax(logits / T), `(K, B, C)`; arguments as of the operator's, logits fp32 or fp64 without a graph."""
    exponentials = logits.new_empty(len(temperatures), *logits.shape)
    levels = levels_of(temperatures, logits.dtype, logits.device, torch.get_num_threads())
    _exponentiate(centred_logits(logits, temperatures, multiplier), levels, exponentials, masked)
    return exponentials.div_(exponentials.sum(dim=2, keepdim=True))


def divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: tuple[float, ...],
    weights: Tensor,
    wants_gradient: bool,
    scaling: Scaling | None,
    extrapolation: Extrapolation | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return total, sums, sums of the scale and gradient; arguments as of `small_divergences`, logits of any type."""
    dtype = weights.dtype
    rows = max(1, BLOCK_ELEMENTS // (len(temperatures) * logits.shape[1]))
    gradient = logits.new_empty(logits.shape[0] if wants_gradient else 0, logits.shape[1], dtype=dtype)
    constants = log_centroids, temperatures, weights, None if scaling is None else scaling.multiplier, extrapolation
    sums = weights.new_zeros(1 if extrapolation is None else 2, len(weights))
    scale_sums = weights.new_zeros(3)
    for start in range(0, len(logits), rows):
        block = slice(start, start + rows)
        raised, block_labels = logits[block].to(dtype), labels[block]
        block_gradient = gradient[block] if wants_gradient else None
        masked = masked_classes(raised)
        sums += sums_of_block(raised, block_labels, block_gradient, *constants, masked)
        if scaling is not None:
            scale_sums += freed_of_scale(raised, block_labels, block_gradient, *scaling, masked)
    return torch.dot(weights, sums[-1]), sums[0], scale_sums, gradient.to(logits.dtype)


def centred_logits(
    logits: Tensor, temperatures: tuple[float, ...], multiplier: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """Return scaled logits minus the largest of their row, limited where they are negligible at every temperature."""
    centred = torch.sub(logits, logits.amax(dim=1, keepdim=True), out=out)
    if multiplier is not None:
        centred.mul_(multiplier)
    return centred.clamp_(min=NEGLIGIBLE * max(temperatures))


def sums_of_block(
    logits: Tensor,
    labels: Tensor,
    gradient: Tensor | None,
    log_centroids: Tensor,
    temperatures: tuple[float, ...],
    weights: Tensor,
    multiplier: Tensor | None,
    extrapolation: Extrapolation | None,
    masked: Tensor | None = None,
    bounded: bool = False,
) -> Tensor:
    """Return the sums of a block, `(1, K)`, and fill its `gradient`; `bounded` where a row of centroids may hold -inf.

    With an extrapolation the result is `(2, K)`. Its second row sums the divergences from references, and the gradient
    is that of these divergences.
    """
    levels = levels_of(temperatures, weights.dtype, weights.device, torch.get_num_threads())
    shape = 2 if extrapolation is None else 3, len(temperatures), *logits.shape
    numbers, centred = _buffers(shape, weights.dtype, logits.device)
    exponentials, products = numbers[0], numbers[1]
    classes, counted = labels.clamp_min(0), labels != IGNORE_INDEX
    _gather(log_centroids, classes, products)
    if bounded:
        counted &= (products.amax(dim=2) > -torch.inf).all(dim=0)
        products.clamp_(min=LOWEST)
    centred_logits(logits, temperatures, multiplier, centred)
    if extrapolation is not None:
        ratios = extrapolation.ratios.view(-1, 1, 1)
        # log Q - log marginal
        torch.sub(products, extrapolation.log_marginals.unsqueeze(1), out=numbers[2])
    # q - u
    products.addcmul_(centred, levels.inverse, value=-1)
    _exponentiate(centred, levels, exponentials, masked)
    partition = exponentials.sum(dim=2, keepdim=True)
    means = partition.new_empty(len(numbers) - 1, *partition.shape)
    # Not in one sum over both parts: this way each thread reads the levels that it wrote itself.
    for part, mean in zip(numbers[1:], means, strict=True):
        torch.sum(part.mul_(exponentials), dim=2, keepdim=True, out=mean)
    means.div_(partition)
    if extrapolation is not None:
        products.addcmul_(numbers[2], ratios)
        torch.addcmul(means[0], means[1], ratios, out=means[1])
    values = (means + partition.log()).squeeze(3)
    if not bounded and (logits.device.type != "cpu" or not math.isfinite(values.sum().item())):
        # A class has no centroid yet. This is too rare to check every row each time, so a sum that is not finite
        # shows it. On other devices reading that sum would mean waiting, so there the rows are always checked.
        arguments = logits, labels, gradient, log_centroids, temperatures, weights, multiplier, extrapolation
        return sums_of_block(*arguments, masked, bounded=True)
    if gradient is not None:
        # In this order, and not from the products in one more bmm: where one class has all the mass, only these
        # operations cancel exactly.
        products.addcmul_(exponentials, means[-1], value=-1)
        scales = (levels.inverse * -weights.view(-1, 1, 1)) * counted.unsqueeze(1) / partition
        torch.bmm(scales.permute(1, 2, 0), products.transpose(0, 1), out=gradient.unsqueeze(1))
    return torch.where(counted, values, 0.0).sum(dim=2).neg_()


def _gather(log_centroids: Tensor, classes: Tensor, rows: Tensor) -> None:
    """Fill `rows`, `(K, B, C)`, with the log-centroid of each sample's class."""
    if log_centroids.dtype != rows.dtype or not log_centroids.is_contiguous():
        # index_select would first copy all of an expanded bank.
        rows.copy_(log_centroids[:, classes])
    elif rows.numel() < FEW_ELEMENTS:
        torch.index_select(log_centroids, 1, classes, out=rows)
    else:
        # index_select shares work between threads only along the first dimension, so levels and samples become one.
        num_levels, num_classes, _ = log_centroids.shape
        positions = (classes + _first_rows(num_levels, num_classes, classes.device)).view(-1)
        flat_centroids = log_centroids.view(-1, num_classes)
        torch.index_select(flat_centroids, 0, positions, out=rows.view(-1, num_classes))


@lru_cache(maxsize=16)
def _first_rows(num_levels: int, num_classes: int, device: torch.device) -> Tensor:
    """Return the position of each level's first row in a flat bank, `(K, 1)`."""
    return num_classes * torch.arange(num_levels, device=device).unsqueeze(1)


_thread_memory = threading.local()


def _buffers(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return an empty tensor of a shape and one of its last two dimensions.

    On CPU each thread reuses its own memory: new pages cost more than filling them.
    """
    elements, row_elements = math.prod(shape), math.prod(shape[-2:])
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device), torch.empty(shape[-2:], dtype=dtype, device=device)
    buffer: Tensor | None = getattr(_thread_memory, "buffer", None)
    if buffer is None or buffer.dtype != dtype or buffer.numel() < elements + row_elements:
        # Training could not write to a tensor that was created in inference mode.
        with torch.inference_mode(False):
            buffer = _thread_memory.buffer = torch.empty(elements + row_elements, dtype=dtype)
    return buffer[:elements].view(shape), buffer[elements : elements + row_elements].view(shape[-2:])


class Levels(NamedTuple):
    """A plan for computing the exponentials of all temperatures.

    Attributes:
        inverse: 1 / T, `(K, 1, 1)`.
        least: number added to each square, 0-d. It is negligible beside the largest, 1, and keeps the squares of later
            levels normal numbers.
        first: slice of the levels whose exponentials are computed directly.
        squares: pairs `(target, source)` of level slices in the order to compute them; the target is the square of the
            source.
    """

    inverse: Tensor
    least: Tensor
    first: slice
    squares: tuple[tuple[slice, slice], ...]


@lru_cache(maxsize=16)
def levels_of(temperatures: tuple[float, ...], dtype: torch.dtype, device: torch.device, threads: int) -> Levels:
    """Return the plan for the exponentials; mostly squares where each temperature is twice the one before."""
    count = len(temperatures)
    inverse_values = [1 / temperature for temperature in temperatures]
    inverse = torch.tensor(inverse_values, dtype=dtype, device=device).view(-1, 1, 1)
    doubling = count <= MOST_SQUARED and all(hot == 2 * cold for cold, hot in pairwise(temperatures))
    # Neighbours in a slice are this many levels apart. Each thread computes the levels of one chain of squares.
    stride = math.ceil(count / min(threads, MOST_CHAINS)) if doubling and device.type == "cpu" else 1
    # The hottest levels come first; each next slice starts one level colder.
    starts = [(count - 1 - step) % stride for step in range(stride)]
    squares = tuple((slice(start, None, stride), slice(start + 1, None, stride)) for start in starts[1:])
    return Levels(inverse, inverse.new_tensor(math.exp(NEGLIGIBLE)), slice(starts[0], None, stride), squares)


def _exponentiate(centred: Tensor, levels: Levels, exponentials: Tensor, masked: Tensor | None) -> None:
    """Fill `exponentials`, `(K, B, C)`, with exp(u), and 0 for masked classes."""
    first, squares = levels.first, levels.squares
    if exponentials.numel() < FEW_ELEMENTS:
        first, squares = slice(None), ()
    torch.mul(centred, levels.inverse[first], out=exponentials[first]).clamp_(min=NEGLIGIBLE).exp_()
    for target, source in squares:
        torch.addcmul(levels.least, exponentials[source], exponentials[source], out=exponentials[target])
    if masked is not None:
        exponentials.masked_fill_(masked, 0.0)
