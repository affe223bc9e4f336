"""All tempered divergences from class centroids in one operator, values and gradient together.

For each sample of class y and each temperature k, with u = (z - max z) / T_k, q = log Q_y at T_k, Z = sum exp(u) and
S = sum exp(u) (q - u) / Z: KL_k = -(S + log Z), and its gradient with respect to z is exp(u) (S - (q - u)) / (Z T_k).
Both need the same exponentials once, so the gradient is made in the forward pass, and backward multiplies by a number.
Samples go through in blocks that stay in the processor's cache: no `(K, B, C)` tensor is made of more than a block.
Where each temperature is half the one before (the default), exponentials are taken at the hottest alone and squared
from one to the next: their relative error doubles each time, to 2^(K - 1) roundings at the coldest, K being at most 8.

On a GPU it runs as the kernels of `hf_cmim.functional._triton`.

Registered with `torch.library`, so that `torch.compile` sees one operator and no graph break. Source: ours.
"""

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX, LOWEST
from hf_cmim.functional.scaling import Scaling, freed_of_scale

BLOCK_ELEMENTS = 2**19
"""Numbers of a block at all temperatures, in each of its two buffers; ours, by benchmarks/loss.py."""
FEW_ELEMENTS = 2**14
"""Numbers at all temperatures below which exponentials cost less than an operation; ours, by benchmarks/loss.py."""
MOST_SQUARED = 8
"""Levels that are made by squaring, whose last has 128 roundings, 8e-6; of more, each has its own exponentials."""
NEGLIGIBLE = -40.0
"""Least u of an exponential: exp(-40) changes no fp32 sum, and its square is no slow denormal number."""


def weighted_divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: Sequence[float],
    weights: Tensor,
    scaling: Scaling | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum_k weights_k sum_i KL(softmax(z_i / T_k) || Q_{y_i}^{T_k}), its inner sums, and those of the scale.

    Args:
        logits: `(B, C)` raw logits; arithmetic is fp32, or fp64 for fp64 logits.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)`, row y of level k being log Q_y at temperature k, constant in the gradient; a class
            with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        weights: `(K,)`, constant in the gradient.
        scaling: multiplies the logits, and takes `outward` times half of each sample's variance out of the gradient;
            None leaves both.

    Returns:
        The weighted sum, 0-d, differentiable once with respect to the logits; the sums at each temperature, `(K,)`,
        detached; both in nats, fp32 (fp64 for fp64 logits). What `freed_of_scale` returns, `(3,)`, detached; without
        a scaling 0.

    Raises:
        RuntimeError: in the backward pass, with `create_graph=True`.
    """
    wants_gradient = logits.requires_grad and torch.is_grad_enabled()
    held = log_centroids.detach(), list(temperatures), weights.detach()
    arguments = logits, labels, *held, wants_gradient, *(scaling or (None, None))
    if torch.compiler.is_compiling() or type(logits) is not Tensor:  # fake tensors, for one
        total, sums, scale_sums, _ = torch.ops.hf_cmim.divergences(*arguments)
    else:
        total, sums, scale_sums, _ = _apply_divergences(*arguments)
    return total, sums.detach(), scale_sums.detach()


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
    _exponentiate(_centred(raised, temperatures, multiplier), inverse, order, least, found)
    return found.div_(found.sum(dim=2, keepdim=True))


def _centred(logits: Tensor, temperatures: Sequence[float], multiplier: Tensor | None) -> Tensor:
    """Scaled logits below their largest, not so far that they would count at any temperature."""
    below = logits - logits.amax(dim=1, keepdim=True)
    if multiplier is not None:
        below.mul_(multiplier)
    return below.clamp_(min=NEGLIGIBLE * max(temperatures))


def _divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: list[float],
    weights: Tensor,
    wants_gradient: bool,
    multiplier: Tensor | None,
    outward: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what the public function does, and the gradient in the logits' type; of 0 samples if not wanted."""
    scaling = None if multiplier is None or outward is None else Scaling(multiplier, outward)
    if has_kernels(logits):
        from hf_cmim.functional import _triton  # it needs this module

        return _triton.divergences(logits, labels, log_centroids, temperatures, weights, wants_gradient, scaling)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    weights = weights.to(dtype)
    samples, classes = logits.shape
    rows = max(1, BLOCK_ELEMENTS // (len(temperatures) * classes))
    gradient = logits.new_empty(samples if wants_gradient else 0, classes, dtype=dtype)
    blocks = logits.split(rows)
    gradients = gradient.split(rows) if wants_gradient else [None] * len(blocks)
    sums, scale_sums = torch.zeros_like(weights), weights.new_zeros(3)
    for block, own, part in zip(blocks, labels.split(rows), gradients, strict=True):
        raised = block.to(dtype)
        sums += _sums_of_block(raised, own, part, log_centroids, tuple(temperatures), weights, multiplier)
        if scaling is not None:
            scale_sums += freed_of_scale(raised, own, part, *scaling)
    return torch.dot(weights, sums), sums, scale_sums, gradient.to(logits.dtype)


def has_kernels(logits: Tensor) -> bool:
    """Whether the operator runs as Triton kernels for such logits: on a GPU, in single or half precision."""
    return logits.device.type == "cuda" and logits.dtype != torch.float64 and _has_triton()


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _sums_of_block(
    logits: Tensor,
    labels: Tensor,
    gradient: Tensor | None,
    log_centroids: Tensor,
    temperatures: tuple[float, ...],
    weights: Tensor,
    multiplier: Tensor | None,
    bounded: bool = False,
) -> Tensor:
    """Return the sums `(K,)` of a block and fill its `gradient`; `bounded` where a row of centroids may hold -inf."""
    inverse, least, order = level_constants(temperatures, weights.dtype, weights.device)
    both = _buffers((2, len(temperatures), *logits.shape), weights.dtype, logits.device)
    products, exponentials = both.unbind()
    own, counted = labels.clamp_min(0), labels != IGNORE_INDEX
    _gather(log_centroids, own, products)
    if bounded:
        counted &= (products.amax(dim=2) > -torch.inf).all(dim=0)
        products.clamp_(min=LOWEST)
    centred = _centred(logits, temperatures, multiplier)
    products.addcmul_(centred, inverse, value=-1)  # q - u
    _exponentiate(centred, inverse, order, least, exponentials)
    products.mul_(exponentials)
    weighted, partition = both.sum(dim=3, keepdim=True).unbind()
    means = weighted / partition
    values = (means + partition.log()).squeeze(2)
    if not bounded and (logits.device.type != "cpu" or not math.isfinite(values.sum().item())):
        # A class is not seen yet: too rare to look at all rows each time, unless looking at the sum means waiting.
        arguments = logits, labels, gradient, log_centroids, temperatures, weights, multiplier
        return _sums_of_block(*arguments, bounded=True)
    if gradient is not None:
        # Not from the products in one bmm more: where one class has all the mass they cancel exactly only here.
        products.addcmul_(exponentials, means, value=-1)
        scales = (weights.view(-1, 1, 1) * inverse) * counted.unsqueeze(1) / partition
        torch.bmm(scales.permute(1, 2, 0), products.transpose(0, 1), out=gradient.unsqueeze(1)).neg_()
    return torch.where(counted, values, 0.0).sum(dim=1).neg_()


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


def _fake(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: list[float],
    weights: Tensor,
    wants_gradient: bool,
    multiplier: Tensor | None,
    outward: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    total, sums, scale_sums = (logits.new_empty(shape, dtype=dtype) for shape in ((), len(temperatures), 3))
    return total, sums, scale_sums, logits.new_empty(logits.shape[0] if wants_gradient else 0, logits.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    _, *others, gradient = output
    ctx.mark_non_differentiable(*others, gradient)
    ctx.set_materialize_grads(False)  # of the others none comes, and none need be made of zeros
    ctx.save_for_backward(gradient)


def _backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "Expected one derivative of the CMI, got create_graph=True: the gradient is a constant to autograd, so a"
            ' second derivative would silently lack it. Use CMIMLoss(backend="eager") or HF_CMIM_BACKEND=eager.'
        )
    (gradient,), total = ctx.saved_tensors, gradients[0]
    return gradient * total.to(gradient.dtype), *[None] * 7


class _Divergences(torch.autograd.Function):
    """What the operator does, without the cost of calling one: on a small batch that is a fifth of the whole."""

    forward = staticmethod(_divergences)
    setup_context = staticmethod(_keep)

    backward = staticmethod(_backward)


_apply_divergences: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = _Divergences.apply

# Not `custom_op`: its wrapper looks for aliases at every call, which on small batches takes as long as the work.
torch.library.define(
    "hf_cmim::divergences",
    "(Tensor logits, Tensor labels, Tensor log_centroids, float[] temperatures, Tensor weights, bool wants_gradient,"
    " Tensor? multiplier, Tensor? outward) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hf_cmim::divergences", "default", _divergences)
torch.library.register_fake("hf_cmim::divergences", _fake)
torch.library.register_autograd("hf_cmim::divergences", _backward, setup_context=_keep)
