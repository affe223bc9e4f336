"""All tempered divergences from class centroids in one operator, values and gradient together.

For each sample of class y and each temperature k, let u = (z - max z) / T_k, q = log Q_y at T_k, Z = sum exp(u) and
S = sum exp(u) (q - u) / Z. Then KL_k = -(S + log Z), and its gradient with respect to z is
exp(u) (S - (q - u)) / (Z T_k).

For the share of `hf_cmim.functional.label_information`, the gradient is that of divergences from references
r = q + ratio (q - m) instead of q, where m is the log of the mean output. The form is the same, with one more sum.

- Values and gradient share their exponentials: the forward pass computes both, and backward multiplies by a number.
- Samples are processed in blocks that stay in the processor's cache; no `(K, B, C)` tensor is larger than a block.
- Where each temperature is twice the one before (the default), few temperatures need exponentials. The others are
  squares of the next hotter ones. The relative error doubles each time, to at most 2^(K - 1) roundings with K <= 8.

On a GPU it runs as the kernels of `hf_cmim.functional._triton`. It is registered with `torch.library`, so
`torch.compile` sees one operator and no graph break. Source: ours.
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
    """Return sum_k weights_k sum_i KL(softmax(z_i / T_k) || Q_{y_i}^{T_k}), its inner sums, and the sums of the scale.

    Args:
        logits: `(B, C)` raw logits; arithmetic is fp32, or fp64 for fp64 logits.
        labels: `(B,)` integers in [0, C), or -100 to ignore.
        log_centroids: `(K, C, C)` log-centroids, constant in the gradient: row y of level k is log Q_y at temperature
            k. A class with a row of -inf at any level adds nothing.
        temperatures: `K` numbers above 0.
        weights: weight of each temperature, `(K,)`, constant in the gradient.
        scaling: multiplier of the logits, and weight `outward` of the half variance of each sample whose gradient is
            subtracted; None for neither.
        extrapolation: references that replace the centroids in the weighted sum only. They are not distributions, so
            the weighted sum may be negative.

    Returns:
        Weighted sum, 0-d, differentiable once with respect to the logits; sums of the divergences from centroids,
        `(K,)`, detached; both in nats, fp32 (fp64 for fp64 logits). Last the `(3,)` sums of `freed_of_scale`,
        detached; 0 without a scaling.

    Raises:
        RuntimeError: in the backward pass, with `create_graph=True`.
    """
    wants_gradient = logits.requires_grad and torch.is_grad_enabled()
    constants = log_centroids.detach(), list(temperatures), weights.detach()
    options = *(scaling or (None, None)), *(extrapolation or (None, None))
    arguments = logits, labels, *constants, wants_gradient, *options
    # Subclasses, such as fake tensors, need the registered operator; plain tensors take the cheaper call.
    if torch.compiler.is_compiling() or type(logits) is not Tensor:
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
    """Return the results of `weighted_divergences`, and the gradient in the logits' type; of 0 samples if unwanted."""
    scaling = None if multiplier is None or outward is None else Scaling(multiplier, outward)
    extrapolation = None if log_marginals is None or ratios is None else Extrapolation(log_marginals, ratios)
    if has_kernels(logits):
        # Imported here, because only a machine with a GPU has triton.
        from hf_cmim.functional import _triton

        samples = logits, labels, log_centroids
        return _triton.divergences(*samples, temperatures, weights, wants_gradient, scaling, extrapolation)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    weights = weights.to(dtype)
    rows = max(1, BLOCK_ELEMENTS // (len(temperatures) * logits.shape[1]))
    gradient = logits.new_empty(logits.shape[0] if wants_gradient else 0, logits.shape[1], dtype=dtype)
    constants = log_centroids, tuple(temperatures), weights, multiplier, extrapolation
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


def has_kernels(logits: Tensor) -> bool:
    """Return True if Triton kernels compute the operator for such logits: on a GPU, in single or half precision."""
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
    """Return empty tensors of the operator's shapes and types, for `torch.compile`."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    total, sums, scale_sums = (logits.new_empty(shape, dtype=dtype) for shape in ((), len(temperatures), 3))
    gradient = logits.new_empty(logits.shape[0] if wants_gradient else 0, logits.shape[1])
    return total, sums, scale_sums, gradient


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Store the gradient for the backward pass."""
    _, *detached, gradient = output
    ctx.mark_non_differentiable(*detached, gradient)
    # No gradient reaches the detached outputs, so autograd need not create zeros for them.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gradient)


def _backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "Expected one derivative of the CMI, got create_graph=True: the fused gradient is a constant to autograd,"
            " so a second derivative would silently leave out the CMI. Use"
            ' CMIMLoss(backend="eager") or HF_CMIM_BACKEND=eager.'
        )
    (gradient,) = ctx.saved_tensors
    total_gradient = gradients[0]
    # The other nine arguments of the operator have no gradient.
    return gradient * total_gradient.to(gradient.dtype), *[None] * 9


class _Divergences(torch.autograd.Function):
    """The operator as a plain autograd function: calling a registered operator costs a fifth of a small batch's time.

    It has no separate `setup_context`, because torch would then inspect its signature at every call.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        output = _divergences(*arguments)
        _keep(ctx, arguments, output)
        return output

    backward = staticmethod(_backward)


_apply_divergences: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = _Divergences.apply

# Not `custom_op`: its wrapper searches for aliases at every call, which takes as long as the work of a small batch.
torch.library.define(
    "hf_cmim::divergences",
    "(Tensor logits, Tensor labels, Tensor log_centroids, float[] temperatures, Tensor weights, bool wants_gradient,"
    " Tensor? multiplier, Tensor? outward, Tensor? log_marginals, Tensor? ratios) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("hf_cmim::divergences", "default", _divergences)
torch.library.register_fake("hf_cmim::divergences", _fake)
torch.library.register_autograd("hf_cmim::divergences", _backward, setup_context=_keep)
