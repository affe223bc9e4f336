"""The fused operator in PyTorch's own operations, block by block, so that a block stays in the processor's cache.

Formulas in `hf_cmim.functional.fused`. Source: ours.
"""

import math
import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

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
NEGLIGIBLE = -40.0
"""Least u of an exponential: exp(-40) changes no fp32 sum, and its square is no slow denormal number."""


def tempered_probs(logits: Tensor, temperatures: Sequence[float], multiplier: Tensor | None = None) -> Tensor:
    """Return softmax(logits / T) for every temperature, those below about exp(-40) not told apart.

    Args:
        logits: `(B, C)` raw logits.
        temperatures: `K` numbers above 0.
        multiplier: 0-d factor of the logits, above 0; None is 1.

    Returns:
        `(K, B, C)`, fp32 (fp64 for fp64 logits), without a graph.
    """
    raised = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    inverse, least, order = level_constants(tuple(temperatures), raised.dtype, raised.device)
    found = raised.new_empty(len(temperatures), *raised.shape)
    _exponentiate(centred_logits(raised, temperatures, multiplier), inverse, order, least, found)
    return found.div_(found.sum(dim=2, keepdim=True))


def centred_logits(logits: Tensor, temperatures: Sequence[float], multiplier: Tensor | None) -> Tensor:
    """Scaled logits below their largest, not so far that they would count at any temperature."""
    below = logits - logits.amax(dim=1, keepdim=True)
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
    bounded: bool = False,
) -> Tensor:
    """Return the sums of a block, `(1, K)`, and fill its `gradient`; `bounded` where a row of centroids may hold -inf.

    With an extrapolation `(2, K)`: the second row is of the divergences from references, and the gradient is theirs.
    """
    inverse, least, order = level_constants(temperatures, weights.dtype, weights.device)
    shape = 2 if extrapolation is None else 3, len(temperatures), *logits.shape
    numbers = _buffers(shape, weights.dtype, logits.device)
    exponentials, products = numbers[0], numbers[1]
    own, counted = labels.clamp_min(0), labels != IGNORE_INDEX
    _gather(log_centroids, own, products)
    if bounded:
        counted &= (products.amax(dim=2) > -torch.inf).all(dim=0)
        products.clamp_(min=LOWEST)
    centred = centred_logits(logits, temperatures, multiplier)
    if extrapolation is not None:
        ratios = extrapolation.ratios.view(-1, 1, 1)
        torch.sub(products, extrapolation.log_marginals.unsqueeze(1), out=numbers[2])  # log Q - log marginal
    products.addcmul_(centred, inverse, value=-1)  # q - u
    _exponentiate(centred, inverse, order, least, exponentials)
    numbers[1:].mul_(exponentials)
    sums = numbers.sum(dim=3, keepdim=True)
    partition, means = sums[0], sums[1:] / sums[0]
    if extrapolation is not None:
        products.addcmul_(numbers[2], ratios)
        torch.addcmul(means[0], means[1], ratios, out=means[1])
    values = (means + partition.log()).squeeze(3)
    if not bounded and (logits.device.type != "cpu" or not math.isfinite(values.sum().item())):
        # A class is not seen yet: too rare to look at all rows each time, unless looking at the sum means waiting.
        arguments = logits, labels, gradient, log_centroids, temperatures, weights, multiplier, extrapolation
        return sums_of_block(*arguments, bounded=True)
    if gradient is not None:
        # Not from the products in one bmm more: where one class has all the mass they cancel exactly only here.
        products.addcmul_(exponentials, means[-1], value=-1)
        scales = (weights.view(-1, 1, 1) * inverse) * counted.unsqueeze(1) / partition
        torch.bmm(scales.permute(1, 2, 0), products.transpose(0, 1), out=gradient.unsqueeze(1)).neg_()
    return torch.where(counted, values, 0.0).sum(dim=2).neg_()


def _gather(log_centroids: Tensor, own: Tensor, rows: Tensor) -> None:
    """Fill `rows`, `(K, B, C)`, with each sample's row of log-centroids."""
    if log_centroids.dtype != rows.dtype or not log_centroids.is_contiguous():
        rows.copy_(log_centroids[:, own])  # index_select would copy the whole of an expanded table first
    elif rows.numel() < FEW_ELEMENTS:
        torch.index_select(log_centroids, 1, own, out=rows)
    else:
        levels, classes, _ = log_centroids.shape  # along the first dimension threads share the rows
        flat = (own + classes * torch.arange(levels, device=own.device).unsqueeze(1)).view(-1)
        torch.index_select(log_centroids.view(-1, classes), 0, flat, out=rows.view(-1, classes))


_kept = threading.local()


def _buffers(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an empty tensor; on CPU the thread's own is kept, as fresh pages cost more than filling them."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    elements = math.prod(shape)
    known: Tensor | None = getattr(_kept, "buffer", None)
    if known is None or known.dtype != dtype or known.numel() < elements:
        with torch.inference_mode(False):  # a tensor made there could not be written to in training
            known = _kept.buffer = torch.empty(elements, dtype=dtype)
    return known[:elements].view(shape)


@lru_cache(maxsize=16)
def level_constants(
    temperatures: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, list[int]]:
    """Return 1 / T, `(K, 1, 1)`; the least exponential; levels from hot to cold if each T is half the one before."""
    inverse = torch.tensor([1 / each for each in temperatures], dtype=dtype, device=device).view(-1, 1, 1)
    order = sorted(range(len(temperatures)), key=lambda level: -temperatures[level])
    halving = all(temperatures[hot] == 2 * temperatures[cold] for hot, cold in pairwise(order))
    squared = halving and len(order) <= MOST_SQUARED
    return inverse, inverse.new_tensor(math.exp(NEGLIGIBLE)), order if squared else []


def _exponentiate(centred: Tensor, inverse: Tensor, order: list[int], least: Tensor, found: Tensor) -> None:
    """Fill `found`, `(K, B, C)`, with exp(u): by squares along the levels in `order`, or each for itself.

    A square gains `least`, which is nothing beside the largest, 1, and keeps all the next ones normal numbers.
    """
    if not order or found.numel() < FEW_ELEMENTS:
        torch.mul(centred, inverse, out=found).clamp_(min=NEGLIGIBLE).exp_()
        return
    each = found.unbind()
    torch.mul(centred, inverse[order[0], 0], out=each[order[0]]).exp_()
    for hot, cold in pairwise(order):
        torch.addcmul(least, each[hot], each[hot], out=each[cold])
