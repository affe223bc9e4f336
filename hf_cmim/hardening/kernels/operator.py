"""All tempered divergences from class centroids in one operator, values and gradient together.

For each sample of class y and each temperature k, let u = (z - max z) / T_k, q = log Q_y at T_k, Z = sum exp(u) and
S = sum exp(u) (q - u) / Z. Then KL_k = -(S + log Z), and its gradient with respect to z is
exp(u) (S - (q - u)) / (Z T_k).

For the form "share", the gradient is that of divergences from references r = q + ratio (q - m) instead of q, where m
is the log of the mean output. The formula is the same, with one more sum.

- Values and gradient share their exponentials: the forward pass computes both, and backward multiplies by a number.
- A small batch on CPU takes one tensor of all temperatures and few operations (`small_divergences`): starting an
  operation costs more there than its arithmetic.
- A large batch on CPU goes through `hf_cmim.hardening.kernels.blocks`, a batch on a GPU through
  `hf_cmim.hardening.kernels.triton`. No `(K, B, C)` tensor is larger than a block.

It is registered with `torch.library`, so `torch.compile` sees one operator and no graph break. Source: ours.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hf_cmim.functional.divergence import IGNORE_INDEX, LOWEST
from hf_cmim.functional.inputs import masked_classes
from hf_cmim.hardening.kernels import blocks
from hf_cmim.hardening.kernels.problem import Divergences, Extrapolation, Scaling


def divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: tuple[float, ...],
    weights: Tensor,
    scaling: Scaling | None = None,
    extrapolation: Extrapolation | None = None,
) -> Divergences:
    """Return sum_k weights_k sum_i KL(softmax(z_i / T_k) || Q_{y_i}^{T_k}), with the quantities computed on the way.

    Args:
        logits: `(B, C)` raw logits; arithmetic is fp32, or fp64 for fp64 logits.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)` log-centroids: row y of level k is log Q_y at temperature k. A class with a row of
            -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        weights: weight of each temperature, `(K,)`.
        scaling: multiplier of the logits, and weight `outward` of the half variance of each sample whose gradient is
            subtracted; None for neither.
        extrapolation: references that replace the centroids in the weighted sum only. They are not distributions, so
            the weighted sum may be negative.
    """
    wants_gradient = logits.requires_grad and torch.is_grad_enabled()
    # Subclasses, such as fake tensors, need the registered operator; plain tensors take the cheaper call.
    if torch.compiler.is_compiling() or type(logits) is not Tensor:
        options = *(scaling or (None, None)), *(extrapolation or (None, None))
        constants = log_centroids.detach(), list(temperatures), weights.detach(), wants_gradient
        total, sums, scale_sums, gradient = torch.ops.hf_cmim.divergences(logits, labels, *constants, *options)
        return Divergences(total, sums, scale_sums, gradient, _no_probs(logits, temperatures))
    if log_centroids.requires_grad:
        log_centroids = log_centroids.detach()
    return _compute(
        logits.detach(), labels, log_centroids, temperatures, weights, wants_gradient, scaling, extrapolation
    )


def with_gradient(value: Tensor, weight: float | Tensor, logits: Tensor, computed: Divergences) -> Tensor:
    """Return `weight * value`, differentiable once: its gradient is `weight` times that of `computed.total`.

    Raises:
        RuntimeError: in the backward pass, with `create_graph=True`.
    """
    if computed.total.requires_grad:
        return weight * (computed.total + (value - computed.total).detach())
    if not (logits.requires_grad and torch.is_grad_enabled()):
        return weight * value
    return _apply_gradient(logits, value, computed.gradient, weight)


def tempered_probs(
    logits: Tensor, temperatures: tuple[float, ...], multiplier: Tensor | None = None, masked: Tensor | None = None
) -> Tensor:
    """Return softmax(logits / T) for every temperature; probabilities below about exp(-40) may count as that number.

    Args:
        logits: `(B, C)` raw logits.
        temperatures: `K` numbers above 0.
        multiplier: 0-d factor of the logits, above 0; None is 1.
        masked: `(B, C)` masked classes, whose probability is 0; None where there is none.

    Returns:
        Probabilities, `(K, B, C)`, fp32 (fp64 for fp64 logits), without a graph.
    """
    raised = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    if masked is not None or not is_small(raised, temperatures):
        return blocks.tempered_probs(raised, temperatures, multiplier, masked)
    scaled = raised if multiplier is None else raised * multiplier
    return torch.softmax(scaled * _inverse(temperatures, scaled.dtype), dim=2)


def is_small(logits: Tensor, temperatures: tuple[float, ...]) -> bool:
    """Return True if starting operations costs more than their arithmetic: few logits, on a CPU."""
    return len(temperatures) * logits.numel() < blocks.FEW_ELEMENTS and logits.device.type == "cpu"


def has_kernels(logits: Tensor) -> bool:
    """Return True if Triton kernels compute the operator for such logits: on a GPU, in single or half precision."""
    return logits.device.type == "cuda" and logits.dtype != torch.float64 and _has_triton()


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _compute(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: tuple[float, ...],
    weights: Tensor,
    wants_gradient: bool,
    scaling: Scaling | None,
    extrapolation: Extrapolation | None,
) -> Divergences:
    """Return the results of `divergences` for logits without a graph."""
    options = wants_gradient, scaling, extrapolation
    if has_kernels(logits):
        # Imported here, because only a machine with a GPU has triton.
        from hf_cmim.hardening.kernels import triton

        results = triton.divergences(logits, labels, log_centroids, temperatures, weights, *options)
        return Divergences(*results, _no_probs(logits, temperatures))
    dtype = torch.promote_types(logits.dtype, torch.float32)
    arguments = log_centroids, temperatures, weights.to(dtype)
    if is_small(logits, temperatures):
        raised = logits.to(dtype).contiguous()
        if masked_classes(raised) is None:
            return small_divergences(raised, labels, *arguments, *options)
    results = blocks.divergences(logits, labels, *arguments, *options)
    return Divergences(*results, _no_probs(logits, temperatures))


def _no_probs(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    return logits.new_empty(len(temperatures), 0, logits.shape[1])


@lru_cache(maxsize=16)
def _zeros(count: int, dtype: torch.dtype) -> Tensor:
    """Return zeros on CPU, which nobody may write to."""
    with torch.inference_mode(False):
        return torch.zeros(count, dtype=dtype)


@lru_cache(maxsize=16)
def _inverse(temperatures: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Return 1 / T on CPU, `(K, 1, 1)`."""
    # Training could not use a tensor that was created in inference mode.
    with torch.inference_mode(False):
        return torch.tensor([1 / temperature for temperature in temperatures], dtype=dtype).view(-1, 1, 1)


def small_divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: tuple[float, ...],
    weights: Tensor,
    wants_gradient: bool,
    scaling: Scaling | None,
    extrapolation: Extrapolation | None,
    bounded: bool = False,
) -> Divergences:
    """Return the results for a small batch on CPU without a masked class.

    Args:
        logits: `(B, C)` logits, fp32 or fp64, without a graph.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)` log-centroids.
        temperatures: `K` numbers above 0.
        weights: weight of each temperature, `(K,)`, of the logits' type.
        wants_gradient: switch to compute the gradient.
        scaling: scale of the logits, or None.
        extrapolation: references beyond the centroids, or None.
        bounded: switch for centroids in which a row may hold -inf.
    """
    inverse, is_ignored = _inverse(temperatures, logits.dtype), labels == IGNORE_INDEX
    count = len(labels) - int(torch.count_nonzero(is_ignored).item())
    # Without a label to ignore, operations for ignored labels are skipped.
    left_out = ignored = is_ignored if count < len(labels) else None
    classes = labels if ignored is None else labels.clamp_min(0)
    if scaling is not None:
        inverse = inverse * scaling.multiplier
    log_probs = torch.log_softmax(logits * inverse, dim=2)
    probs, rows = log_probs.exp(), _own_rows(log_centroids, classes, logits.dtype)
    if bounded:
        left_out = is_ignored | (rows.amax(dim=2) == -torch.inf).any(dim=0)
        rows = rows.clamp_min(LOWEST)
    excess = log_probs.sub_(rows)
    products = excess * probs
    values = _row_sums(products, left_out)
    sums = weighted_sums = values.sum(dim=1)
    if extrapolation is not None:
        # Divergences from references that lie beyond the centroids.
        directions = rows.sub_(extrapolation.log_marginals.unsqueeze(1)).mul_(extrapolation.ratios.view(-1, 1, 1))
        products = excess.sub_(directions).mul_(probs)
        values = _row_sums(products, left_out)
        weighted_sums = values.sum(dim=1)
    total = torch.dot(weights, weighted_sums)
    if not bounded and not math.isfinite(total.item()):
        # A class has no centroid yet. This is too rare to check every row each time.
        options = wants_gradient, scaling, extrapolation
        return small_divergences(logits, labels, log_centroids, temperatures, weights, *options, bounded=True)
    gradient = logits.new_empty(0, logits.shape[1])
    if wants_gradient:
        products.addcmul_(probs, values.unsqueeze(2), value=-1)
        gradient = torch.mv(products.flatten(1).t(), inverse.view(-1) * weights).view(logits.shape)
        gradient = gradient if left_out is None else gradient.masked_fill_(left_out.unsqueeze(1), 0.0)
    if scaling is None:
        return Divergences(total, sums, _zeros(3, logits.dtype), gradient, probs)
    scale_sums = _free_of_scale(logits, ignored, count, gradient, scaling.outward)
    return Divergences(total, sums, scale_sums, gradient, probs)


def _row_sums(products: Tensor, left_out: Tensor | None) -> Tensor:
    """Return the sums over the classes, `(K, B)`, 0 for samples that are left out."""
    sums = products.sum(dim=2)
    return sums if left_out is None else sums.masked_fill_(left_out, 0.0)


def _own_rows(log_centroids: Tensor, classes: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of the log-centroid of each sample's class, `(K, B, C)`."""
    if log_centroids.is_contiguous():
        return log_centroids.index_select(1, classes).to(dtype)
    # index_select would first copy all of an expanded bank.
    return log_centroids[:, classes].to(dtype)


def _free_of_scale(logits: Tensor, ignored: Tensor | None, count: int, gradient: Tensor, outward: Tensor) -> Tensor:
    """Subtract the pull on the logits' scale from `gradient`, in place; results as of `freed_of_scale`."""
    num_classes = logits.shape[1]
    # A mean takes twice as long as a sum.
    centred = torch.sub(logits, logits.sum(dim=1, keepdim=True), alpha=1 / num_classes)
    if ignored is not None:
        centred.masked_fill_(ignored.unsqueeze(1), 0.0)
    flat, pull = centred.view(-1), 0.0
    if len(gradient):
        pull = torch.dot(gradient.view(-1), flat).item()
        gradient.addcmul_(centred, outward, value=-1 / num_classes)
    # As numbers: three operations on single numbers would take longer.
    return torch.tensor([pull, torch.dot(flat, flat).item() / num_classes, count], dtype=logits.dtype)


# What autograd and torch.compile see


class _Gradient(torch.autograd.Function):
    """A weighted number with a gradient that was computed with it.

    It has no separate `setup_context`, because torch would then inspect its signature at every call.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor, weight: float | Tensor) -> Tensor:
        # Not saved for backward, which would take longer: nobody writes to it.
        ctx.gradient, ctx.weight = gradient, weight
        return value * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return _times_gradient(ctx.gradient, gradients[0] * ctx.weight), None, None, None


_apply_gradient: Callable[[Tensor, Tensor, Tensor, float | Tensor], Tensor] = _Gradient.apply


def _times_gradient(gradient: Tensor, factor: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "Expected one derivative of the CMI, got create_graph=True: the fused gradient is a constant to autograd,"
            " so a second derivative would silently leave out the CMI. Use"
            ' CMIMLoss(backend="eager") or HF_CMIM_BACKEND=eager.'
        )
    return gradient * (factor if factor.dtype == gradient.dtype else factor.to(gradient.dtype))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Store the gradient for the backward pass."""
    _, *detached, gradient = output
    ctx.mark_non_differentiable(*detached, gradient)
    # No gradient reaches the detached outputs, so autograd need not create zeros for them.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gradient)


def _backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
    # The other nine arguments of the operator have no gradient.
    return _times_gradient(ctx.saved_tensors[0], gradients[0]), *[None] * 9


def _of_library(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: list[float],
    weights: Tensor,
    wants_gradient: bool,
    multiplier: Tensor | None,
    outward: Tensor | None,
    log_marginals: Tensor | None,
    ratios: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scaling = None if multiplier is None or outward is None else Scaling(multiplier, outward)
    extrapolation = None if log_marginals is None or ratios is None else Extrapolation(log_marginals, ratios)
    options = wants_gradient, scaling, extrapolation
    total, sums, scale_sums, gradient, _ = _compute(
        logits, labels, log_centroids, tuple(temperatures), weights, *options
    )
    # A copy, because a compiled step may write to its inputs, and zeros are shared.
    return total, sums, scale_sums.clone(), gradient.to(logits.dtype)


def _fake(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: list[float],
    weights: Tensor,
    wants_gradient: bool,
    *_: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return empty tensors of the operator's shapes and types, for `torch.compile`."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    total, sums, scale_sums = (logits.new_empty(shape, dtype=dtype) for shape in ((), len(temperatures), 3))
    gradient = logits.new_empty(logits.shape[0] if wants_gradient else 0, logits.shape[1])
    return total, sums, scale_sums, gradient


# Not `custom_op`: its wrapper searches for aliases at every call, which takes as long as the work of a small batch.
torch.library.define(
    "hf_cmim::divergences",
    "(Tensor logits, Tensor labels, Tensor log_centroids, float[] temperatures, Tensor weights, bool wants_gradient,"
    " Tensor? multiplier, Tensor? outward, Tensor? log_marginals, Tensor? ratios) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hf_cmim::divergences", "default", _of_library)
torch.library.register_fake("hf_cmim::divergences", _fake)
torch.library.register_autograd("hf_cmim::divergences", _backward, setup_context=_keep)
