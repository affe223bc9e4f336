"""Base of all defences that train: losses that take the place of the cross-entropy.

A defence changes the weights of a classifier; a channel (`hf_cmim.channels`) changes its answers on their way out.
Some losses are positive controls: they are meant to leak more than cross-entropy.

Conventions:
- `logits` `(..., C)` and `labels` `(...)`, -100 to ignore; token classification `(B, L, C)` is flattened.
- Components are sums over the valid samples divided by `num_items`, so splitting a batch changes nothing.
- A term has the factor T^2 exactly where the method's source has it.
- All arithmetic is fp32 or better, also under autocast. Gradients reach only the classifier in training.
- `repr` shows every setting, and a run resumes only with a defence of the same `repr`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import flatten_samples


class Samples(NamedTuple):
    """The valid samples of a batch, in fp32 or better.

    Attributes:
        logits: logits of the classifier in training, `(N, C)`.
        labels: classes in [0, C), `(N,)`.
        reference_log_probs: answers of the frozen reference, `(N, C)`, without gradient; None if not needed.
        class_means: mean answer of each class before training, `(C, C)`, without gradient; None if not needed.
    """

    logits: Tensor
    labels: Tensor
    reference_log_probs: Tensor | None
    class_means: Tensor | None


@dataclass(frozen=True)
class AbstractDefense(ABC):
    """Abstract loss of a classifier that is to be published.

    Attributes:
        source: publication of the method.
        needs_reference: True if the loss reads the answers of a frozen reference model to the same samples.
        needs_class_means: True if the loss reads the mean answer of each class before training.
        is_control: True for a loss that is meant to leak more than cross-entropy.
    """

    source: ClassVar[str]
    needs_reference: ClassVar[bool] = False
    needs_class_means: ClassVar[bool] = False
    is_control: ClassVar[bool] = False

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        reference_log_probs: Tensor | None = None,
        class_means: Tensor | None = None,
        num_items: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Return the components of the loss by name; their sum is the loss.

        Args:
            logits: `(..., C)` raw logits of the classifier in training.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            reference_log_probs: `(..., C)` log-probabilities, or logits, of the reference model for the same samples.
            class_means: `(C, C)` probabilities: row c is the mean answer to the samples of class c before training.
            num_items: number of valid labels by which sums are divided. If this batch is a part of an optimizer step,
                the number of the whole step, over all processes; None for the number of this batch.

        Returns:
            Components as 0-d differentiable tensors, fp32 (fp64 for fp64 logits), already weighted.

        Raises:
            HfCmimError: shapes that do not fit, or a missing input.
        """
        _check_given("reference_log_probs", self.needs_reference, reference_log_probs, self)
        _check_given("class_means", self.needs_class_means, class_means, self)
        num_classes = logits.shape[-1]
        _check_shape("reference_log_probs", reference_log_probs, tuple(logits.shape))
        _check_shape("class_means", class_means, (num_classes, num_classes))
        logits, labels = flatten_samples(logits, labels)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        valid = labels != IGNORE_INDEX
        if num_items is None:
            num_items = valid.sum().clamp_min(1)
        reference = None
        if reference_log_probs is not None:
            reference = reference_log_probs.detach().reshape(logits.shape).to(logits)[valid]
        means = None if class_means is None else class_means.detach().to(logits)
        # Autocast would compute products of matrices in half precision.
        with torch.autocast(logits.device.type, enabled=False):
            sums = self.summed_components(Samples(logits[valid], labels[valid], reference, means))
        return {name: total / num_items for name, total in sums.items()}

    @abstractmethod
    def summed_components(self, samples: Samples) -> dict[str, Tensor]:
        """Return the weighted components summed over the samples, 0-d; a differentiable 0 without samples."""


def _check_given(name: str, is_needed: bool, value: Tensor | None, defense: AbstractDefense) -> None:
    if is_needed and value is None:
        raise HfCmimError(
            f"Expected {name} for {defense!r}, got None: the loss compares every sample with them. Give the trainer a"
            " reference, or pass them in a loop of your own."
        )


def _check_shape(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    if value is not None and tuple(value.shape) != shape:
        raise HfCmimError(
            f"Expected {name} of the shape {shape}, got {tuple(value.shape)}: the loss would compare different samples"
            " or classes. Use a reference with the classes of the model, and the same batch for both."
        )


def check_weight(weight: float) -> None:
    """Raise an `HfCmimError` unless the weight of a defence is finite and at least 0."""
    if not 0 <= weight < math.inf:
        raise HfCmimError(
            f"Expected a weight of at least 0 and finite, got {weight}: the loss would do the opposite of what its"
            " name says. Use 0 for plain cross-entropy."
        )


def check_positive(name: str, value: float) -> None:
    """Raise an `HfCmimError` unless the value is finite and above 0."""
    if not 0 < value < math.inf:
        raise HfCmimError(
            f"Expected {name} above 0 and finite, got {value}: the softened answers would be no distributions. Use the"
            " default, or a value of the method's source."
        )
