"""The fused operator in PyTorch's own operations, block by block, so that a block stays in the processor's cache.

Formulas in `hf_cmim.functional.fused`. Source: ours.
"""

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX, LOWEST
from hf_cmim.functional.label_information import Extrapolation

BLOCK_ELEMENTS = 2**19
"""Numbers of a block at all temperatures, in each of its two buffers; ours, by benchmarks/loss.py."""
FEW_ELEMENTS = 2**14
"""Numbers at all temperatures below which exponentials cost less than an operation; ours, by benchmarks/loss.py."""
MOST_SQUARED = 8
"""Levels that are made by squaring, whose last has 128 roundings, 8e-6; of more, each has its own exponentials."""
MOST_CHAINS = 4
"""Chains of squares at most, one a thread, so that each thread squares what it made itself: what another processor
wrote can be slow to read. Ours, by benchmarks/loss.py with two threads."""
NEGLIGIBLE = -40.0
"""Least u of an exponential: exp(-40) changes no fp32 sum, and its square is no slow denormal number."""


def tempered_probs(
    logits: Tensor, temperatures: Sequence[float], multiplier: Tensor | None = None, masked: Tensor | None = None
) -> Tensor:
    """Return softmax(logits / T) for every temperature, those below about exp(-40) not told apart.

    Args:
        logits: `(B, C)` raw logits.
        temperatures: `K` numbers above 0.
        multiplier: 0-d factor of the logits, above 0; None is 1.
        masked: `(B, C)` masked classes, whose probability is 0; None where there is none.

    Returns:
        `(K, B, C)`, fp32 (fp64 for fp64 logits), without a graph.
    """
    raised = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    found = raised.new_empty(len(temperatures), *raised.shape)
    levels = levels_of(tuple(temperatures), raised.dtype, raised.device, torch.get_num_threads())
    _exponentiate(centred_logits(raised, temperatures, multiplier), levels, found, masked)
    return found.div_(found.sum(dim=2, keepdim=True))


def centred_logits(
    logits: Tensor, temperatures: Sequence[float], multiplier: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """Scaled logits below their largest, not so far that they would count at any temperature."""
    below = torch.sub(logits, logits.amax(dim=1, keepdim=True), out=out)
    if multiplier is not None:
        below.mul_(multiplier)
    return below.clamp_(min=NEGLIGIBLE * max(temperatures))


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

    With an extrapolation `(2, K)`: the second row is of the divergences from references, and the gradient is theirs.
    """
    levels = levels_of(temperatures, weights.dtype, weights.device, torch.get_num_threads())
    shape = 2 if extrapolation is None else 3, len(temperatures), *logits.shape
    numbers, centred = _buffers(shape, weights.dtype, logits.device)
    exponentials, products = numbers[0], numbers[1]
    own, counted = labels.clamp_min(0), labels != IGNORE_INDEX
    _gather(log_centroids, own, products)
    if bounded:
        counted &= (products.amax(dim=2) > -torch.inf).all(dim=0)
        products.clamp_(min=LOWEST)
    centred_logits(logits, temperatures, multiplier, centred)
    if extrapolation is not None:
        ratios = extrapolation.ratios.view(-1, 1, 1)
        torch.sub(products, extrapolation.log_marginals.unsqueeze(1), out=numbers[2])  # log Q - log marginal
    products.addcmul_(centred, levels.inverse, value=-1)  # q - u
    _exponentiate(centred, levels, exponentials, masked)
    partition = exponentials.sum(dim=2, keepdim=True)
    means = partition.new_empty(len(numbers) - 1, *partition.shape)
    for part, mean in zip(numbers[1:], means, strict=True):  # not in one sum: a thread has its own levels in each
        torch.sum(part.mul_(exponentials), dim=2, keepdim=True, out=mean)
    means.div_(partition)
    if extrapolation is not None:
        products.addcmul_(numbers[2], ratios)
        torch.addcmul(means[0], means[1], ratios, out=means[1])
    values = (means + partition.log()).squeeze(3)
    if not bounded and (logits.device.type != "cpu" or not math.isfinite(values.sum().item())):
        # A class is not seen yet: too rare to look at all rows each time, unless looking at the sum means waiting.
        arguments = logits, labels, gradient, log_centroids, temperatures, weights, multiplier, extrapolation
        return sums_of_block(*arguments, masked, bounded=True)
    if gradient is not None:
        # Not from the products in one bmm more: where one class has all the mass they cancel exactly only here.
        products.addcmul_(exponentials, means[-1], value=-1)
        scales = (levels.inverse * -weights.view(-1, 1, 1)) * counted.unsqueeze(1) / partition
        torch.bmm(scales.permute(1, 2, 0), products.transpose(0, 1), out=gradient.unsqueeze(1))
    return torch.where(counted, values, 0.0).sum(dim=2).neg_()


def _gather(log_centroids: Tensor, own: Tensor, rows: Tensor) -> None:
    """Fill `rows`, `(K, B, C)`, with each sample's row of log-centroids."""
    if log_centroids.dtype != rows.dtype or not log_centroids.is_contiguous():
        rows.copy_(log_centroids[:, own])  # index_select would copy the whole of an expanded table first
    elif rows.numel() < FEW_ELEMENTS:
        torch.index_select(log_centroids, 1, own, out=rows)
    else:
        levels, classes, _ = log_centroids.shape  # along the first dimension threads share the rows
        flat = (own + _first_rows(levels, classes, own.device)).view(-1)
        torch.index_select(log_centroids.view(-1, classes), 0, flat, out=rows.view(-1, classes))


@lru_cache(maxsize=16)
def _first_rows(levels: int, classes: int, device: torch.device) -> Tensor:
    """Position of each level's first row in a table of all, `(K, 1)`."""
    return classes * torch.arange(levels, device=device).unsqueeze(1)


_kept = threading.local()


def _buffers(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return an empty tensor and one of its last two dimensions.

    On CPU the thread's own are kept: fresh pages cost more than filling them.
    """
    elements, others = math.prod(shape), math.prod(shape[-2:])
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device), torch.empty(shape[-2:], dtype=dtype, device=device)
    known: Tensor | None = getattr(_kept, "buffer", None)
    if known is None or known.dtype != dtype or known.numel() < elements + others:
        with torch.inference_mode(False):  # a tensor made there could not be written to in training
            known = _kept.buffer = torch.empty(elements + others, dtype=dtype)
    return known[:elements].view(shape), known[elements : elements + others].view(shape[-2:])


class Levels(NamedTuple):
    """How the exponentials of all temperatures are made.

    Attributes:
        inverse: `(K, 1, 1)`, 1 / T.
        least: 0-d, what a square gains: nothing beside the largest, 1, it keeps all the next ones normal numbers.
        first: levels that have exponentials of their own.
        squares: levels that are squares, hot before cold, each with the levels of which.
    """

    inverse: Tensor
    least: Tensor
    first: slice
    squares: tuple[tuple[slice, slice], ...]


@lru_cache(maxsize=16)
def levels_of(temperatures: tuple[float, ...], dtype: torch.dtype, device: torch.device, threads: int) -> Levels:
    """Return how to make the exponentials: where each temperature is twice the one before, most of them by squares."""
    count = len(temperatures)
    inverse = torch.tensor([1 / each for each in temperatures], dtype=dtype, device=device).view(-1, 1, 1)
    doubling = count <= MOST_SQUARED and all(hot == 2 * cold for cold, hot in pairwise(temperatures))
    apart = math.ceil(count / min(threads, MOST_CHAINS)) if doubling and device.type == "cpu" else 1
    starts = [(count - 1 - step) % apart for step in range(apart)]
    squares = tuple((slice(start, None, apart), slice(start + 1, None, apart)) for start in starts[1:])
    return Levels(inverse, inverse.new_tensor(math.exp(NEGLIGIBLE)), slice(starts[0], None, apart), squares)


def _exponentiate(centred: Tensor, levels: Levels, found: Tensor, masked: Tensor | None) -> None:
    """Fill `found`, `(K, B, C)`, with exp(u), and 0 for masked classes."""
    first, squares = levels.first, levels.squares
    if found.numel() < FEW_ELEMENTS:
        first, squares = slice(None), ()
    torch.mul(centred, levels.inverse[first], out=found[first]).clamp_(min=NEGLIGIBLE).exp_()
    for target, source in squares:
        torch.addcmul(levels.least, found[source], found[source], out=found[target])
    if masked is not None:
        found.masked_fill_(masked, 0.0)
