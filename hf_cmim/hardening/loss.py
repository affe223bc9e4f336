"""The hardening objective: cross-entropy plus the CMI of all temperature-scaled output clusters."""

import os
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import correct_alone, flatten_samples
from hf_cmim.hardening.forms import FORMS
from hf_cmim.hardening.forms.base import Problem
from hf_cmim.hardening.kernels.operator import has_kernels
from hf_cmim.hardening.parts import Concentration, Parts, Snapshot
from hf_cmim.hardening.spec import BALANCED, ObjectiveSpec

Backend = Literal["auto", "eager", "fused"]
BACKENDS = get_args(Backend)
BACKEND_VARIABLE = "HF_CMIM_BACKEND"


class CMIMLoss(nn.Module):
    """Hardening loss: it trains the classifier and concentrates the outputs of each class at all temperatures.

    The loss is cross-entropy plus w * mean over T of f(T) * CMI_T, with CMI_T = mean KL(softmax(z / T) || Q_y^T).
    `ObjectiveSpec` explains f. The centroids Q come from a `CentroidBank` of the same specification, and are constant
    in the gradient. At the exact centroid their gradient vanishes anyway.

    Splitting a batch never changes the loss: everything but a sum over samples is from the step before.

    Args:
        spec: specification of the objective, None for the default.
        balanced_weights: one factor per class, for `class_weights="balanced"`.
        backend: "fused" (one operator, values and gradient together), "eager" (plain operations, which autograd can
            derive twice), or "auto", "fused" where the device has the operator; the environment variable
            HF_CMIM_BACKEND replaces "auto".

    Raises:
        HfCmimError: an argument outside its range.

    Source: idea, arXiv 2507.00012; every default is ours (the paper's are not public).

    >>> loss = CMIMLoss(ObjectiveSpec("plain", temperatures=(1.0, 4.0)))
    >>> logits, labels = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    >>> log_centroids = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log().expand(2, 2, 2)
    >>> parts = loss(logits, labels, Snapshot(log_centroids), weight=0.5)
    >>> round((parts.ce + parts.cmi).item(), 4)
    0.7528
    """

    factors: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        spec: ObjectiveSpec | None = None,
        *,
        balanced_weights: Sequence[float] | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if backend not in BACKENDS:
            raise HfCmimError(f"Expected a backend of {BACKENDS}, got {backend!r}.")
        self.spec = ObjectiveSpec() if spec is None else spec
        self.backend = backend
        self.form = FORMS[self.spec.form]
        self.register_buffer("factors", torch.tensor(self.form.factors(self.spec.temperatures)), persistent=False)
        weights = balanced_weights if self.spec.class_weights == BALANCED else self.spec.class_weights
        tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("class_weights", tensor, persistent=False)

    def extra_repr(self) -> str:
        """Return the specification, for `repr`."""
        return repr(self.spec)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        snapshot: Snapshot,
        weight: float = 1.0,
        *,
        num_items: Tensor | int | None = None,
        cross_entropy: Tensor | None = None,
    ) -> Parts:
        """Return the parts of the loss; `ce + cmi` is the loss.

        Args:
            logits: `(..., C)` raw logits; arithmetic is fp32 or better, also under autocast.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            snapshot: `CentroidBank.snapshot()`.
            weight: weight of the CMI term (w in the formula).
            num_items: number of valid labels by which sums are divided. If this batch is a part of an optimizer step,
                the number of the whole step, over all processes; None for the number of this batch.
            cross_entropy: `ce` part that the caller has computed, or None.

        Raises:
            HfCmimError: shapes that do not fit, or the snapshot of a bank of another form or shape.
        """
        logits, labels = flatten_samples(logits, labels)
        if num_items is None:
            num_items = (labels != IGNORE_INDEX).sum().clamp_min(1)
        if cross_entropy is None:
            cross_entropy = self._cross_entropy(logits, labels, num_items)
        counted = correct_alone(logits, labels) if self.spec.correct_only else labels
        return Parts(cross_entropy, *self._concentrate(logits, counted, snapshot, weight, num_items), labels, counted)

    def cross_entropy(self, logits: Tensor, labels: Tensor, num_items: Tensor | int) -> Tensor:
        """Return the `ce` part of `forward`, 0-d."""
        return self._cross_entropy(*flatten_samples(logits, labels), num_items)

    def concentration(
        self, logits: Tensor, labels: Tensor, snapshot: Snapshot, weight: float, num_items: Tensor | int
    ) -> Concentration:
        """Return the CMI part of `forward`."""
        logits, labels = flatten_samples(logits, labels)
        counted = correct_alone(logits, labels) if self.spec.correct_only else labels
        return self._concentrate(logits, counted, snapshot, weight, num_items)

    def _cross_entropy(self, logits: Tensor, labels: Tensor, num_items: Tensor | int) -> Tensor:
        raised = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # Class weights do not enter the divisor: otherwise splitting a batch would change the loss.
        total = functional.cross_entropy(
            raised,
            labels,
            weight=None if self.class_weights is None else self.class_weights.to(raised.dtype),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.spec.label_smoothing,
        )
        return total / num_items

    def _concentrate(
        self, logits: Tensor, counted: Tensor, snapshot: Snapshot, weight: float, num_items: Tensor | int
    ) -> Concentration:
        temperatures, (log_centroids, terms, state) = self.spec.temperatures, snapshot
        expected = (len(temperatures), logits.shape[1], logits.shape[1])
        if log_centroids.shape != expected:
            raise HfCmimError(
                f"Expected log_centroids {expected} for {expected[0]} temperatures and {expected[1]} classes, got"
                f" {tuple(log_centroids.shape)}: samples would be compared with another class or temperature. Build"
                " the bank with the loss's specification and the model's number of classes."
            )
        if type(state) is not self.form.state_class:
            raise HfCmimError(
                f'The loss has the form "{self.spec.form}", but the snapshot is from a bank of another form: its state'
                f" is {type(state).__name__}, not {self.form.state_class.__name__}. Build CMIMLoss and CentroidBank"
                " from one ObjectiveSpec and pass bank.snapshot()."
            )
        if isinstance(num_items, Tensor) and num_items.device.type == "cpu" and not torch.compiler.is_compiling():
            # Dividing by a number is quicker than dividing by a tensor; on another device reading it would wait.
            num_items = int(num_items)
        constants = log_centroids, temperatures, self.factors, weight, num_items, terms
        problem = Problem(logits, counted, *constants, self._is_fused(logits))
        if not torch.is_autocast_enabled(logits.device.type):
            return self.form.concentrate(problem, state)
        with torch.autocast(logits.device.type, enabled=False):
            return self.form.concentrate(problem, state)

    def _is_fused(self, logits: Tensor) -> bool:
        """Return True if the fused operator computes the CMI of such logits."""
        backend: str = self.backend
        if backend == "auto":
            backend = os.environ.get(BACKEND_VARIABLE, backend)
        if backend not in BACKENDS:
            raise HfCmimError(
                f"Expected {BACKEND_VARIABLE} to be one of {BACKENDS}, got {backend!r}. Set it to one of these, or"
                " unset it."
            )
        if backend == "auto":
            return logits.device.type == "cpu" or has_kernels(logits)
        return backend == "fused"


def ramped_weight(weight: float, progress: float, warmup: float, ramp: float) -> float:
    """Return the weight at a point of training: 0 up to `warmup`, then rising linearly over `ramp`, then `weight`.

    Args:
        weight: final weight.
        progress: fraction of the optimizer steps done, in [0, 1].
        warmup: fraction of training with weight 0.
        ramp: fraction of training over which the weight rises.

    >>> [ramped_weight(2.0, progress, warmup=0.2, ramp=0.4) for progress in (0.1, 0.4, 0.9)]
    [0.0, 1.0, 2.0]
    """
    if progress < warmup:
        return 0.0
    if ramp == 0:
        return weight
    return weight * min(1.0, (progress - warmup) / ramp)
