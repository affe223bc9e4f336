"""What every attack is made of, and the conventions all of them keep.

An attack trains a student from a black-box teacher's answers. It is composed of parts of three kinds: one *loss*
(`AbstractAttack`), any number of *answer transforms* (`AbstractTransform`, what the attacker does to an answer before
the loss) and *protocols* (`protocols.py`, what changes the queries, the student or the optimizer).

Conventions:
- `student_logits` `(B, C)`; `teacher_log_probs` `(B, C)`, finite and normalised; `labels` `(B,)`. Token classification
  `(B, L, C)` is flattened, samples labelled -100 take no part. A teacher's logits are known only up to a constant for
  each sample: no attack may depend on it.
- A loss is a mean over the valid samples, never over classes as well, so that a trainer can weigh micro-batches by
  their number of samples. A loss that compares the samples of a batch with each other says `batch_level`.
- A distillation term is multiplied by the squared temperature exactly where the method's source does; each docstring
  says which.
- All arithmetic is fp32 or better, whatever autocast does. Gradients reach the student and the part's own parameters,
  never the teacher.
- A part's constructor takes keyword arguments alone, and `repr` gives them back.
"""

import inspect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX, summed_cross_entropy
from hf_cmim.functional.inputs import flatten_samples


@dataclass(frozen=True)
class Relative:
    """A temperature relative to the teacher's own logit scale; ours.

    A concentrated teacher has small logits, and a fixed T = 4 then over-smooths them: a badly tuned attack looks like
    protection. The scale is the root mean square of the teacher's centred log-probabilities over the survey, which the
    trainer makes before training.

    Attributes:
        factor: temperature in units of the teacher's logit scale, > 0.
    """

    factor: float

    def __post_init__(self) -> None:
        """Check the range."""
        check_positive(self.factor, "factor")


Temperature = float | Relative


def check_temperature(temperature: Temperature, name: str = "temperature") -> None:
    """Raise an `HfCmimError` unless the temperature, which may be `Relative`, is finite and above 0."""
    check_positive(temperature.factor if isinstance(temperature, Relative) else temperature, name)


def check_positive(value: Temperature, name: str = "temperature") -> None:
    """Raise an `HfCmimError` unless the value is a number, finite and above 0."""
    if isinstance(value, Relative):
        raise HfCmimError(
            f"Expected {name} as a number, got {value!r}: it is used as it stands, and no survey would put the"
            " teacher's logit scale into it. Give a number."
        )
    if not 0 < value < math.inf:
        raise HfCmimError(
            f"Expected a {name} above 0 and finite, got {value}: softmax(logits / T) is no distribution otherwise."
        )


def check_fraction(name: str, value: float) -> None:
    """Raise an `HfCmimError` unless the value is in [0, 1]."""
    if not 0 <= value <= 1:
        raise HfCmimError(f"Expected {name} in [0, 1], a fraction of training or of the whole, got {value}.")


def linear_warmup(progress: float, warmup: float) -> float:
    """Return a factor that rises linearly from 0 to 1 over the first `warmup` of training."""
    return min(progress / warmup, 1.0) if warmup else 1.0


def check_weight(name: str, value: float) -> None:
    """Raise an `HfCmimError` unless the value is finite and at least 0."""
    if not 0 <= value < math.inf:
        raise HfCmimError(
            f"Expected {name} at least 0 and finite, got {value}: a negative weight would teach the student the"
            " opposite of the answer."
        )


class AttackPart(nn.Module):
    """Abstract part of an attack: settings that print, and a survey of the teacher's answers before training.

    Attributes:
        learning_rate_factor: factor of the student's learning rate for this part's own parameters.
        needs_every_class: whether it makes no sense on answers that hide classes (top-k, label only).
    """

    learning_rate_factor: float = 1.0
    needs_every_class: ClassVar[bool] = False
    teacher_scale: Tensor
    _squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("teacher_scale", torch.tensor(math.nan))
        self.register_buffer("_squares", torch.zeros(2, dtype=torch.float64), persistent=False)
        self._scale_was_checked = False

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments with their values."""
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    def prepare(self, num_classes: int) -> None:
        """Build what depends on the number of classes; called once, before training and before a state is loaded."""

    # Survey

    @property
    def needs_survey(self) -> bool:
        """Whether the trainer has to show it the teacher's answers once before training."""
        return any(isinstance(value, Relative) for value in self.settings().values())

    @torch.no_grad()
    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Look at a batch of the answers that training will use.

        Args:
            teacher_log_probs: `(N, C)` fp32 log-probabilities of valid samples.
            labels: `(N,)` integers in [0, C).
        """
        centred = teacher_log_probs - teacher_log_probs.mean(dim=-1, keepdim=True)
        self._squares += torch.stack([centred.double().square().sum(), centred.new_tensor(centred.numel()).double()])

    @torch.no_grad()
    def settle(self) -> None:
        """End the survey: what was counted becomes what is used, and stays in the checkpoint."""
        self.teacher_scale.copy_((self._squares[0] / self._squares[1].clamp_min(1)).sqrt())
        self._squares.zero_()
        self._scale_was_checked = False

    def resolved(self, temperature: Temperature) -> float | Tensor:
        """Return a temperature as a number, or as a 0-d tensor where it is relative to the surveyed teacher.

        Raises:
            HfCmimError: it is relative, and there was no survey, or one of answers that are all uniform. Only the
                first call waits for the device.
        """
        if not isinstance(temperature, Relative):
            return temperature
        if not (self._scale_was_checked or self.teacher_scale > 0):  # nan is not
            raise HfCmimError(
                f"Expected a survey of answers that differ from class to class before {temperature!r} is used, got a"
                f" logit scale of {self.teacher_scale.item()}: the loss would be nan. Call survey(log_probs, labels)"
                " for all answers, and settle(), as trainers do, or give the temperature as a number."
            )
        self._scale_was_checked = True
        return temperature.factor * self.teacher_scale


class AbstractAttack(AttackPart, ABC):
    """Abstract distillation loss.

    Args:
        ce_weight: weight of the cross-entropy on the true labels, at least 0.

    Attributes:
        batch_level: whether the loss compares samples of a batch, so that it depends on how a batch is split.
        smallest_batch: fewest samples it makes sense of.
        needs_teacher: whether it reads the answers at all; an arm without a teacher is no knockoff.
        nominal_temperature: see the property.
    """

    batch_level: bool = False
    smallest_batch: int = 1
    needs_teacher: ClassVar[bool] = True

    def __init__(self, ce_weight: float) -> None:
        super().__init__()
        check_weight("ce_weight", ce_weight)
        self.ce_weight = ce_weight

    @property
    def nominal_temperature(self) -> Temperature:
        """The temperature at which the loss reads an answer, where it has one; 1 otherwise.

        A label-only null is parametrised by its confidence at this temperature.
        """
        value: Temperature = self.settings().get("temperature", 1.0)
        return value

    def forward(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """Return the named parts of the loss; their sum is the loss.

        Args:
            student_logits: `(..., C)` raw logits of the student.
            teacher_log_probs: `(..., C)` answers of the teacher, finite and normalised.
            labels: `(...)` integers in [0, C), or -100 to ignore.
            progress: fraction of the optimizer steps done, in [0, 1].

        Returns:
            0-d differentiable components, fp32 (fp64 for fp64 inputs), each a mean over the valid samples and already
            weighted; `ce` is the cross-entropy on the labels where the method has one.

        Raises:
            HfCmimError: shapes that do not belong together, or fewer samples than the loss can compare.
        """
        samples = valid_answers(student_logits, teacher_log_probs, labels)
        if 0 < len(samples[2]) < self.smallest_batch:
            raise HfCmimError(
                f"Expected at least {self.smallest_batch} valid samples in a batch, got {len(samples[2])}:"
                f" {type(self).__name__} compares the samples of a batch with each other, and would teach nothing."
                " Use larger batches, and drop_last."
            )
        with torch.autocast(student_logits.device.type, enabled=False):
            return self.components(*samples, progress)

    def components(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return what `forward` does for `(N, C)` fp32 inputs of which all samples are valid, unchecked."""
        parts = {}
        if self.ce_weight:
            cross_entropy = summed_cross_entropy(student_logits, labels) / max(len(labels), 1)
            parts["ce"] = self.ce_weight * cross_entropy
        return parts | self.distillation(student_logits, teacher_log_probs, labels, progress)

    @abstractmethod
    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components other than `ce`, weighted, for `(N, C)` fp32 inputs; N may be 0."""


class AbstractTransform(AttackPart, ABC):
    """Abstract answer transform: log-probabilities (and labels) to log-probabilities, before any loss.

    Attributes:
        restores_classes: whether it gives back probabilities of classes that an answer hides.
    """

    restores_classes: ClassVar[bool] = False

    @abstractmethod
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the answers as the attacker uses them.

        Args:
            teacher_log_probs: `(N, C)` fp32 log-probabilities of valid samples.
            labels: `(N,)` integers in [0, C).

        Returns:
            `(N, C)` normalised log-probabilities; a gradient reaches the transform's own parameters alone.
        """

    def own_components(self, transformed_log_probs: Tensor, student_logits: Tensor) -> dict[str, Tensor]:
        """Return losses that train the transform itself, none by default.

        Args:
            transformed_log_probs: `(N, C)` what `forward` gave, with its gradient.
            student_logits: `(N, C)` logits of the student, detached.
        """
        return {}


def valid_answers(student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows that count, in fp32 or better: `(N, C)`, `(N, C)` detached, `(N,)`.

    Raises:
        HfCmimError: shapes that do not belong together.
    """
    if student_logits.shape != teacher_log_probs.shape:
        raise HfCmimError(
            f"Expected an answer of the teacher for every output of the student, got student_logits"
            f" {tuple(student_logits.shape)} and teacher_log_probs {tuple(teacher_log_probs.shape)}: other samples or"
            " other classes would be compared. Give both the same batch and the same number of classes."
        )
    student_logits, labels = flatten_samples(student_logits, labels)
    dtype = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_log_probs.dtype), torch.float32)
    teacher_log_probs = teacher_log_probs.detach().reshape(student_logits.shape).to(dtype)
    valid = labels != IGNORE_INDEX
    return student_logits.to(dtype)[valid], teacher_log_probs[valid], labels[valid]
