"""All tempered divergences from class centroids in one operator, values and gradient together.

For each sample of class y and each temperature k, with u = (z - max z) / T_k, q = log Q_y at T_k, Z = sum exp(u) and
S = sum exp(u) (q - u) / Z: KL_k = -(S + log Z), and its gradient with respect to z is exp(u) (S - (q - u)) / (Z T_k).
For the share of `hf_cmim.functional.label_information` the gradient is that of divergences from references
r = q + ratio (q - m) in place of q, m being the log of the mean output: of the same form, with one more sum.
Both need the same exponentials once, so the gradient is made in the forward pass, and backward multiplies by a number.
Samples go through in blocks that stay in the processor's cache: no `(K, B, C)` tensor is made of more than a block.
Where each temperature is twice the one before (the default), exponentials are taken at few of them and squared to the
next colder one: their relative error doubles each time, to at most 2^(K - 1) roundings, K being at most 8.

On a GPU it runs as the kernels of `hf_cmim.functional._triton`.

Registered with `torch.library`, so that `torch.compile` sees one operator and no graph break. Source: ours.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hf_cmim.functional.blocks import BLOCK_ELEMENTS, sums_of_block
from hf_cmim.functional.label_information import Extrapolation
from hf_cmim.functional.masking import masked_classes
from hf_cmim.functional.scaling import Scaling, freed_of_scale


def weighted_divergences(
    logits: Tensor,
    labels: Tensor,
    log_centroids: Tensor,
    temperatures: Sequence[float],
    weights: Tensor,
    scaling: Scaling | None = None,
    extrapolation: Extrapolation | None = None,
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
        extrapolation: puts references in the place of the centroids in the weighted sum alone; they are no
            distributions, so that it may be negative.

    Returns:
        The weighted sum, 0-d, differentiable once with respect to the logits; the sums of the divergences from
        centroids, `(K,)`, detached; both in nats, fp32 (fp64 for fp64 logits). What `freed_of_scale` returns, `(3,)`,
        detached; without a scaling 0.

    Raises:
        RuntimeError: in the backward pass, with `create_graph=True`.
    """
    wants_gradient = logits.requires_grad and torch.is_grad_enabled()
    held = log_centroids.detach(), list(temperatures), weights.detach()
    arguments = logits, labels, *held, wants_gradient, *(scaling or (None, None)), *(extrapolation or (None, None))
    if torch.compiler.is_compiling() or type(logits) is not Tensor:  # fake tensors, for one
        total, sums, scale_sums, _ = torch.ops.hf_cmim.divergences(*arguments)
    else:
        total, sums, scale_sums, _ = _apply_divergences(*arguments)
    return total, sums, scale_sums


def _divergences(
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
    """Return what the public function does, and the gradient in the logits' type; of 0 samples if not wanted."""
    scaling = None if multiplier is None or outward is None else Scaling(multiplier, outward)
    extrapolation = None if log_marginals is None or ratios is None else Extrapolation(log_marginals, ratios)
    if has_kernels(logits):
        from hf_cmim.functional import _triton  # it needs this module

        samples = logits, labels, log_centroids
        return _triton.divergences(*samples, temperatures, weights, wants_gradient, scaling, extrapolation)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    weights = weights.to(dtype)
    rows = max(1, BLOCK_ELEMENTS // (len(temperatures) * logits.shape[1]))
    gradient = logits.new_empty(logits.shape[0] if wants_gradient else 0, logits.shape[1], dtype=dtype)
    known = log_centroids, tuple(temperatures), weights, multiplier, extrapolation
    sums, scale_sums = weights.new_zeros(1 if extrapolation is None else 2, len(weights)), weights.new_zeros(3)
    for start in range(0, len(logits), rows):
        block = slice(start, start + rows)
        raised, own, part = logits[block].to(dtype), labels[block], gradient[block] if wants_gradient else None
        masked = masked_classes(raised)
        sums += sums_of_block(raised, own, part, *known, masked)
        if scaling is not None:
            scale_sums += freed_of_scale(raised, own, part, *scaling, masked)
    return torch.dot(weights, sums[-1]), sums[0], scale_sums, gradient.to(logits.dtype)


def has_kernels(logits: Tensor) -> bool:
    """Whether the operator runs as Triton kernels for such logits: on a GPU, in single or half precision."""
    return logits.device.type == "cuda" and logits.dtype != torch.float64 and _has_triton()


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _fake(
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
    return gradient * total.to(gradient.dtype), *[None] * 9


class _Divergences(torch.autograd.Function):
    """What the operator does, without the cost of calling one: on a small batch that is a fifth of the whole.

    Nor with a `setup_context` beside `forward`: torch would then look at its signature at every call.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        output = _divergences(*arguments)
        _keep(ctx, arguments, output)
        return output

    backward = staticmethod(_backward)


_apply_divergences: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = _Divergences.apply

# Not `custom_op`: its wrapper looks for aliases at every call, which on small batches takes as long as the work.
torch.library.define(
    "hf_cmim::divergences",
    "(Tensor logits, Tensor labels, Tensor log_centroids, float[] temperatures, Tensor weights, bool wants_gradient,"
    " Tensor? multiplier, Tensor? outward, Tensor? log_marginals, Tensor? ratios) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hf_cmim::divergences", "default", _divergences)
torch.library.register_fake("hf_cmim::divergences", _fake)
torch.library.register_autograd("hf_cmim::divergences", _backward, setup_context=_keep)
