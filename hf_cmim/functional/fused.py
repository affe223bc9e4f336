"""All tempered divergences from class centroids in one operator, values and gradient together.

For each sample of class y and each temperature k, with u = (z - max z) / T_k, q = log Q_y at T_k, Z = sum exp(u) and
S = sum exp(u) (q - u) / Z: KL_k = -(S + log Z), and its gradient with respect to z is exp(u) (S - (q - u)) / (Z T_k).
Both need the same exponentials once, so the gradient is made in the forward pass, and backward multiplies by a number.
Samples go through in blocks that stay in the processor's cache: no `(K, B, C)` tensor is made of more than a block.
Where each temperature is half the one before (the default), exponentials are taken at the hottest alone and squared
from one to the next: their relative error doubles each time, to 2^(K - 1) roundings at the coldest.

Registered with `torch.library`, so that `torch.compile` sees one operator and no graph break. Source: ours.
"""

import math
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX

BLOCK_ELEMENTS = 2**19
"""Numbers of a block at all temperatures, in each of its two buffers; ours, by benchmarks/loss.py."""
NEGLIGIBLE = -40.0
"""Least u of an exponential: exp(-40) changes no fp32 sum, and its square is no slow denormal number."""
LOWEST = math.log(torch.finfo(torch.float32).tiny)
"""A probability below the smallest normal fp32 number is taken as that number: 0 * inf is nan."""


def weighted_divergences(
    logits: Tensor, labels: Tensor, log_centroids: Tensor, temperatures: Sequence[float], weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return sum_k weights_k sum_i KL(softmax(z_i / T_k) || Q_{y_i}^{T_k}), and its inner sums.

    Args:
        logits: `(B, C)` raw logits; arithmetic is fp32, or fp64 for fp64 logits.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)`, row y of level k being log Q_y at temperature k, constant in the gradient; a class
            with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        weights: `(K,)`, constant in the gradient.

    Returns:
        The weighted sum, 0-d, differentiable once with respect to the logits; the sums at each temperature, `(K,)`,
        detached. Both in nats, fp32 (fp64 for fp64 logits).
    """
    wants_gradient = logits.requires_grad and torch.is_grad_enabled()
    total, sums, _ = torch.ops.hf_cmim.divergences(
        logits, labels, log_centroids.detach(), list(temperatures), weights.detach(), wants_gradient
    )
    return total, sums.detach()


def _in_blocks(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: list[float],
    weights: Tensor,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sum, the sums, and the gradient in the logits' type; of 0 samples where it is not wanted."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    (samples, classes), levels = logits.shape, len(temperatures)
    inverse = torch.tensor([1 / each for each in temperatures], dtype=dtype, device=logits.device).view(-1, 1, 1)
    factors = weights.to(dtype).view(-1, 1, 1) * inverse
    rows = max(1, min(samples, BLOCK_ELEMENTS // (levels * classes)))
    buffers = _buffers(2 * levels * rows * classes, dtype, logits.device).view(2, levels, rows, classes)
    gradient = logits.new_empty(samples if wants_gradient else 0, classes)
    sums = torch.zeros(levels, dtype=dtype, device=logits.device)
    squared = _hot_to_cold(temperatures)
    for start in range(0, samples, rows):
        block = slice(start, min(start + rows, samples))
        size = block.stop - start
        products, exponentials = (
            each[:, :size] if size == rows else torch.empty_like(each[:, :size]) for each in buffers
        )
        centred = logits[block].to(dtype)
        centred = (centred - centred.amax(dim=1, keepdim=True)).clamp_(min=NEGLIGIBLE * max(temperatures))
        own = labels[block].clamp_min(0)
        if log_centroids.dtype == dtype and log_centroids.is_contiguous():
            torch.index_select(log_centroids, 1, own, out=products)
        else:  # index_select would copy the whole of an expanded table first
            products.copy_(log_centroids[:, own])
        counted = (labels[block] != IGNORE_INDEX) & (products.amax(dim=2) > -torch.inf).all(dim=0)
        torch.mul(centred, inverse, out=exponentials)
        products.clamp_(min=LOWEST).sub_(exponentials)
        _exponentiate(exponentials, squared)
        products.mul_(exponentials)  # exp(u) (q - u)
        partition = exponentials.sum(dim=2, keepdim=True)
        means = products.sum(dim=2, keepdim=True) / partition
        sums -= torch.where(counted, (means + partition.log()).squeeze(2), 0.0).sum(dim=1)
        if wants_gradient:
            products.addcmul_(exponentials, means, value=-1)
            products.mul_(torch.where(counted.unsqueeze(1), -factors / partition, 0.0))
            gradient[block] = products.sum(dim=0)
    return (weights.to(dtype) * sums).sum(), sums, gradient


_kept = threading.local()


def _buffers(elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a flat buffer; on CPU the thread's own is kept, as fresh pages cost more than filling them."""
    if device.type != "cpu":
        return torch.empty(elements, dtype=dtype, device=device)
    known: Tensor | None = getattr(_kept, "buffer", None)
    if known is None or known.dtype != dtype or known.numel() < elements:
        known = _kept.buffer = torch.empty(elements, dtype=dtype)
    return known[:elements]


def _hot_to_cold(temperatures: Sequence[float]) -> list[int]:
    """Levels from the hottest to the coldest where each temperature is half the one before, else none."""
    order = sorted(range(len(temperatures)), key=lambda level: -temperatures[level])
    halving = all(temperatures[hot] == 2 * temperatures[cold] for hot, cold in pairwise(order))
    return order if halving else []


def _exponentiate(exponents: Tensor, squared: Sequence[int]) -> None:
    """Turn u into exp(u) in place, `(K, B, C)`: by squares along the levels `squared`, or each for itself."""
    if not squared:
        exponents.clamp_(min=NEGLIGIBLE).exp_()
        return
    exponents[squared[0]].clamp_(min=NEGLIGIBLE).exp_()
    for hot, cold in pairwise(squared):
        torch.mul(exponents[hot], exponents[hot], out=exponents[cold]).clamp_(min=math.exp(NEGLIGIBLE))


def _fake(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: list[float],
    weights: Tensor,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    sums = logits.new_empty(len(temperatures), dtype=dtype)
    gradient = logits.new_empty(logits.shape[0] if wants_gradient else 0, logits.shape[1])
    return logits.new_empty((), dtype=dtype), sums, gradient


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2])


def _backward(ctx: Any, total: Tensor | None, sums: Tensor | None, gradient: Tensor | None) -> tuple[Any, ...]:
    if gradient is not None:
        raise ValueError(
            "Expected one derivative of the hardening objective, got a second one (create_graph=True): it was made in"
            " closed form together with the value, and holds no graph. Use hf_cmim.objective's eager path on a copy"
            " of the logits in fp64, or finite differences."
        )
    (known,) = ctx.saved_tensors
    return (None if total is None else known * total.to(known.dtype), None, None, None, None, None)


# Not `custom_op`: its wrapper looks for aliases at every call, which on small batches takes as long as the work.
torch.library.define(
    "hf_cmim::divergences",
    "(Tensor logits, Tensor labels, Tensor log_centroids, float[] temperatures, Tensor weights, bool wants_gradient)"
    " -> (Tensor, Tensor, Tensor)",
)
torch.library.impl("hf_cmim::divergences", "default", _in_blocks)
torch.library.register_fake("hf_cmim::divergences", _fake)
torch.library.register_autograd("hf_cmim::divergences", _backward, setup_context=_keep)
