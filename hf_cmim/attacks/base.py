"""Base classes of the parts of an attack, and the conventions that all parts follow.

An attack trains a student on a black-box teacher's answers. It has one *loss* (`AbstractAttack`), any number of
*answer transforms* (`AbstractTransform`: applied to an answer before the loss) and optional *protocols*
(`protocols.py`: they change the queries, the student or the optimizer).

Conventions:
- `student_logits` `(B, C)`; `teacher_log_probs` `(B, C)`, finite and normalised; `labels` `(B,)`. Token classification
  `(B, L, C)` is flattened; samples labelled -100 are ignored. A black box reveals a teacher's logits only up to a
  constant per sample: no attack may depend on that constant.
- A loss is a mean over the valid samples, never over classes as well: a trainer weighs micro-batches by their number
  of samples. A loss that compares the samples of a batch with each other sets `batch_level`.
- A distillation term has the factor T^2 exactly where the method's source has it; each docstring says which.
- All arithmetic is fp32 or better, also under autocast. Gradients reach the student and the part's own parameters,
  never the teacher.
- A constructor takes only keyword arguments, and `repr` shows them all.
"""

import inspect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX, standardized, summed_cross_entropy
from hf_cmim.functional.inputs import flatten_samples


@dataclass(frozen=True)
class Relative:
    """A temperature in units of the teacher's logit scale; ours.

    A concentrated teacher has small logits. A fixed T = 4 over-smooths them, and a badly tuned attack then looks like
    protection. The scale is the root mean square of the teacher's centred log-probabilities. The trainer surveys it
    before training.

    Attributes:
        factor: temperature divided by the teacher's logit scale, above 0.
    """

    factor: float

    def __post_init__(self) -> None:
        """Check the range of the factor."""
        check_positive(self.factor, "factor")


Temperature = float | Relative


def check_temperature(temperature: Temperature, name: str = "temperature") -> None:
    """Raise an `HfCmimError` unless the temperature, or the factor of a `Relative` one, is finite and above 0."""
    check_positive(temperature.factor if isinstance(temperature, Relative) else temperature, name)


def check_positive(value: Temperature, name: str = "temperature") -> None:
    """Raise an `HfCmimError` unless the value is a number, finite and above 0."""
    if isinstance(value, Relative):
        raise HfCmimError(
            f"Expected {name} as a number, got {value!r}. This setting is not relative to the teacher's logit scale."
            " Give a number."
        )
    if not 0 < value < math.inf:
        raise HfCmimError(
            f"Expected a {name} above 0 and finite, got {value}. Otherwise the softened answers are not distributions."
        )


def check_fraction(name: str, value: float) -> None:
    """Raise an `HfCmimError` unless the value is in [0, 1]."""
    if not 0 <= value <= 1:
        raise HfCmimError(f"Expected {name} in [0, 1], got {value}. The setting is a fraction.")


def linear_warmup(progress: float, warmup: float) -> float:
    """Return a factor that rises linearly from 0 to 1 over the fraction `warmup` of training, then stays at 1."""
    return min(progress / warmup, 1.0) if warmup else 1.0


def check_weight(name: str, value: float) -> None:
    """Raise an `HfCmimError` unless the value is finite and at least 0."""
    if not 0 <= value < math.inf:
        raise HfCmimError(
            f"Expected {name} at least 0 and finite, got {value}. A negative weight would teach the student the"
            " opposite of the answer."
        )


class AttackPart(nn.Module):
    """Abstract part of an attack, with printable settings and a survey of the teacher's answers before training.

    Attributes:
        learning_rate_factor: learning rate of this part's parameters divided by the student's.
        needs_every_class: True if the part is meaningless on answers that hide classes (top-k, label only).
    """

    learning_rate_factor: float = 1.0
    needs_every_class: ClassVar[bool] = False
    teacher_scale: Tensor
    _squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        # nan marks a missing survey: it can never pass as a scale.
        self.register_buffer("teacher_scale", torch.tensor(math.nan))
        # Sum of squares and number of values, until `settle` turns them into the scale.
        self.register_buffer("_squares", torch.zeros(2, dtype=torch.float64), persistent=False)
        self._scale_was_checked = False

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments with their values."""
        # Every part keeps each argument under its own name.
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        arguments = [f"{name}={value!r}" for name, value in self.settings().items()]
        return f"{type(self).__name__}({', '.join(arguments)})"

    def prepare(self, num_classes: int) -> None:
        """Build the state that depends on the number of classes; called once, before training or loading a state."""

    # Survey

    @property
    def needs_survey(self) -> bool:
        """True if the trainer must pass all of the teacher's answers to `survey` once before training."""
        return any(isinstance(value, Relative) for value in self.settings().values())

    @torch.no_grad()
    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Add a batch of the answers that training will use to the survey.

        Args:
            teacher_log_probs: `(N, C)` fp32 log-probabilities of valid samples.
            labels: `(N,)` integers in [0, C).
        """
        centred = teacher_log_probs - teacher_log_probs.mean(dim=-1, keepdim=True)
        sum_of_squares = centred.double().square().sum()
        count = centred.new_tensor(centred.numel()).double()
        self._squares += torch.stack([sum_of_squares, count])

    @torch.no_grad()
    def settle(self) -> None:
        """End the survey: compute the teacher's logit scale, which checkpoints keep."""
        mean_square = self._squares[0] / self._squares[1].clamp_min(1)
        self.teacher_scale.copy_(mean_square.sqrt())
        self._squares.zero_()
        self._scale_was_checked = False

    def resolved(self, temperature: Temperature) -> float | Tensor:
        """Return the temperature as a number, or as a 0-d tensor if it is relative to the surveyed teacher.

        Raises:
            HfCmimError: the temperature is relative and the answers were not surveyed, or are all uniform. Only the
                first call waits for the device.
        """
        if not isinstance(temperature, Relative):
            return temperature
        # A scale of nan (no survey) is not above 0 either.
        if not (self._scale_was_checked or self.teacher_scale > 0):
            raise HfCmimError(
                f"Expected a survey of answers that differ between classes before {temperature!r} is used, got a"
                f" logit scale of {self.teacher_scale.item()}. The loss would be nan. Call survey(log_probs, labels)"
                " for all answers and then settle(), as trainers do, or give the temperature as a number."
            )
        # Reading the buffer waits for the GPU, so later calls skip the check.
        self._scale_was_checked = True
        return temperature.factor * self.teacher_scale


class AbstractAttack(AttackPart, ABC):
    """Abstract distillation loss.

    Args:
        ce_weight: weight of the cross-entropy on the true labels, at least 0.

    Attributes:
        batch_level: True if the loss compares the samples of a batch, and so depends on how a batch is split.
        smallest_batch: fewest valid samples for which the loss is meaningful.
        needs_teacher: False if the loss never reads the answers; such an arm is a reference, not a knockoff.
        is_slow_together: True if one call for several students takes longer than a call for each.
        nominal_temperature: see the property.
    """

    batch_level: bool = False
    smallest_batch: int = 1
    needs_teacher: ClassVar[bool] = True
    is_slow_together: ClassVar[bool] = False

    def __init__(self, ce_weight: float) -> None:
        super().__init__()
        check_weight("ce_weight", ce_weight)
        self.ce_weight = ce_weight

    @property
    def nominal_temperature(self) -> Temperature:
        """Temperature at which the loss reads an answer; 1 if the loss has none.

        A label-only null teacher is parametrised by its confidence at this temperature.
        """
        value: Temperature = self.settings().get("temperature", 1.0)
        return value

    def forward(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """Return the components of the loss by name; their sum is the loss.

        Args:
            student_logits: `(..., C)` raw logits of the student.
            teacher_log_probs: `(..., C)` answers of the teacher, finite and normalised.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            progress: fraction of the optimizer steps done, in [0, 1].

        Returns:
            Components as 0-d differentiable tensors, fp32 (fp64 for fp64 inputs). Each is a mean over the valid
            samples, already weighted; `ce` is the cross-entropy on the labels, if the method has one.

        Raises:
            HfCmimError: the shapes do not match, or the batch has fewer samples than the loss can compare.
        """
        samples = valid_answers(student_logits, teacher_log_probs, labels)
        if 0 < len(samples[2]) < self.smallest_batch:
            raise HfCmimError(
                f"Expected at least {self.smallest_batch} valid samples in a batch, got {len(samples[2])}."
                f" {type(self).__name__} compares the samples of a batch with each other and would teach nothing."
                " Use larger batches and drop_last."
            )
        # Autocast would compute the matrix products in half precision.
        with torch.autocast(student_logits.device.type, enabled=False):
            return self.components(*samples, progress)

    def components(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components of `forward`, without checks, for `(N, C)` fp32 inputs of only valid samples."""
        parts = {}
        if self.ce_weight:
            # The divisor max(N, 1) makes an empty batch 0 instead of nan.
            cross_entropy = summed_cross_entropy(student_logits, labels) / max(len(labels), 1)
            parts["ce"] = self.ce_weight * cross_entropy
        return parts | self.distillation(student_logits, teacher_log_probs, labels, progress)

    @abstractmethod
    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the weighted components other than `ce` for `(N, C)` fp32 inputs; N may be 0."""

    def standardized_distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components of `distillation` on standardised logits, as `LogitStandardization` needs them.

        A loss overrides this if its source standardises only a part of it.
        """
        return self.distillation(standardized(student_logits), standardized(teacher_log_probs), labels, progress)


class AbstractTransform(AttackPart, ABC):
    """Abstract answer transform: a function of the answers (and labels), applied before the loss.

    Attributes:
        restores_classes: True if the transform estimates the probabilities of classes that an answer hides.
    """

    restores_classes: ClassVar[bool] = False

    @abstractmethod
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the transformed answers.

        Args:
            teacher_log_probs: `(N, C)` fp32 log-probabilities of valid samples.
            labels: `(N,)` integers in [0, C).

        Returns:
            Normalised log-probabilities `(N, C)`; gradients reach only the transform's own parameters.
        """

    def own_components(self, transformed_log_probs: Tensor, student_logits: Tensor) -> dict[str, Tensor]:
        """Return the losses that train the transform itself, none by default.

        Args:
            transformed_log_probs: `(N, C)` result of `forward`, with its gradient.
            student_logits: `(N, C)` logits of the student, detached.
        """
        return {}


def valid_answers(student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, answers and labels of the valid samples, in fp32 or better: `(N, C)`, `(N, C)` detached, `(N,)`.

    Raises:
        HfCmimError: the shapes do not match.
    """
    if student_logits.shape != teacher_log_probs.shape:
        raise HfCmimError(
            f"Expected one answer of the teacher per output of the student, got student_logits"
            f" {tuple(student_logits.shape)} and teacher_log_probs {tuple(teacher_log_probs.shape)}. The loss would"
            " compare different samples or classes. Give both the same batch and the same number of classes."
        )
    student_logits, labels = flatten_samples(student_logits, labels)
    # Half precision becomes fp32, and fp64 on either side makes both fp64.
    dtype = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_log_probs.dtype), torch.float32)
    teacher_log_probs = teacher_log_probs.detach().reshape(student_logits.shape).to(dtype)
    student_logits, valid = student_logits.to(dtype), labels != IGNORE_INDEX
    # Selecting all samples would copy them, here and in the backward pass.
    if bool(valid.all()):
        return student_logits, teacher_log_probs, labels
    return student_logits[valid], teacher_log_probs[valid], labels[valid]
