"""A whole attack: one loss, answer transforms in order, and at most one protocol of each kind."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_cmim.attacks.base import AbstractAttack, AbstractTransform, AttackPart, valid_answers
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.protocols import (
    AbstractOptimizerProtocol,
    AbstractQueryProtocol,
    AbstractStudentProtocol,
    Components,
)
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.inputs import integer_labels

Answers = Sequence[tuple[Tensor, Tensor]]


class Composition(nn.Module):
    """One loss with the transforms and protocols around it.

    Args:
        parts_or_names: parts, or names of `hf_cmim.attacks.ATTACKS` for their defaults, in any order: at most one loss
            (`KD()` without one), any number of answer transforms (applied in the order given), at most one protocol
            each for the queries, the student and the optimizer.

    Attributes:
        loss: the distillation loss.
        transforms: what happens to an answer before the loss sees it.
        query_protocol: what changes the queries, or None.
        student_protocol: what changes the student, or None.
        optimizer_protocol: what changes the optimizer, or None.

    Raises:
        HfCmimError: no part, two of a kind that stands alone, or parts that cannot work together.

    Source: ours.

    >>> from hf_cmim.attacks.dkd import DKD
    >>> Composition(DKD(beta=2.0)).loss.beta
    2.0
    """

    def __init__(self, *parts_or_names: AttackPart | str) -> None:
        super().__init__()
        parts = tuple(part_named(part) if isinstance(part, str) else part for part in parts_or_names)
        kinds = (AbstractAttack, AbstractTransform, AbstractQueryProtocol, AbstractStudentProtocol,
                 AbstractOptimizerProtocol)  # fmt: skip
        strange = [type(part).__name__ for part in parts if not isinstance(part, kinds)]
        if strange or not parts:
            raise HfCmimError(
                f"Expected losses, answer transforms or protocols, got {strange or 'nothing'}: there would be nothing"
                " to train with. Compose parts of hf_cmim.attacks, for instance Composition(DKD(), Averager())."
            )
        self._given = parts
        self.loss: AbstractAttack = _single(parts, AbstractAttack) or KD()
        self.transforms = nn.ModuleList(part for part in parts if isinstance(part, AbstractTransform))
        self.query_protocol: AbstractQueryProtocol | None = _single(parts, AbstractQueryProtocol)
        self.student_protocol: AbstractStudentProtocol | None = _single(parts, AbstractStudentProtocol)
        self.optimizer_protocol: AbstractOptimizerProtocol | None = _single(parts, AbstractOptimizerProtocol)
        if self.optimizer_protocol is not None and not self.loss.ce_weight:
            raise HfCmimError(
                f"Expected a loss with a cross-entropy beside {self.optimizer_protocol!r}, got {self.loss!r} with"
                " ce_weight 0: there are no two gradients to keep apart. Give the loss a ce_weight."
            )

    @classmethod
    def of(cls, attack: "AttackPart | Composition | str") -> "Composition":
        """Return the attack itself where it is composed already, else the composition of this one part or name."""
        return attack if isinstance(attack, Composition) else cls(attack)

    def __repr__(self) -> str:
        return f"Composition({', '.join(map(repr, self._given))})"

    # What a trainer has to know

    @property
    def has_protocols(self) -> bool:
        """Whether queries, student or optimizer are changed, and not the loss alone."""
        return any(each is not None for each in (self.query_protocol, self.student_protocol, self.optimizer_protocol))

    @property
    def owns_training(self) -> bool:
        """Whether the optimizer must know the attack: it has parameters, heads or an optimizer of its own."""
        protocols = (self.student_protocol, self.optimizer_protocol)
        return any(each is not None for each in protocols) or any(True for _ in self.parameters())

    @property
    def active_parts(self) -> list[AttackPart]:
        """Every part, the default loss included, transforms before the loss."""
        protocols = (self.query_protocol, self.student_protocol, self.optimizer_protocol)
        return [*self._transforms, self.loss, *(part for part in protocols if part is not None)]

    @property
    def _transforms(self) -> list[AbstractTransform]:
        return [part for part in self.transforms if isinstance(part, AbstractTransform)]

    @property
    def needs_teacher(self) -> bool:
        """Whether anything reads the answers."""
        return self.loss.needs_teacher or len(self.transforms) > 0

    @property
    def needs_every_class(self) -> bool:
        """Whether an answer that hides classes is of no use, and no transform gives the hidden ones back."""
        restored = any(part.restores_classes for part in self._transforms)
        return self.loss.needs_every_class and not restored

    @property
    def needs_survey(self) -> bool:
        """Whether the teacher's answers must be looked at once before training."""
        return any(part.needs_survey for part in self.active_parts)

    def prepare(self, num_classes: int) -> None:
        """Build what depends on the number of classes."""
        for part in self.active_parts:
            part.prepare(num_classes)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return optimizer groups of the parts' own parameters, without weight decay."""
        groups = [
            {"params": list(part.parameters()), "lr": learning_rate * part.learning_rate_factor, "weight_decay": 0.0}
            for part in self.active_parts
        ]
        return [group for group in groups if group["params"]]

    # Work

    @torch.no_grad()
    def survey(self, answers: Answers) -> None:
        """Show every part that asks for it all answers, each as the transforms before it leave them.

        Args:
            answers: batches of `(N, C)` fp32 log-probabilities and `(N,)` labels, valid samples alone.
        """
        answers = [(log_probs, integer_labels(labels)) for log_probs, labels in answers]
        for position, part in enumerate([*self._transforms, self.loss]):
            if part.needs_survey:
                for log_probs, labels in answers:
                    part.survey(self._transformed(log_probs, labels, self._transforms[:position]), labels)
                part.settle()

    def forward(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float = 1.0
    ) -> Components:
        """Return the components of loss and transforms on one batch, as `AbstractAttack.forward` does."""
        if not len(self.transforms):
            return self._loss(student_logits, teacher_log_probs, labels, progress)
        student_logits, log_probs, labels = valid_answers(student_logits, teacher_log_probs, labels)
        own: Components = {}
        with torch.autocast(student_logits.device.type, enabled=False):
            for transform in self._transforms:
                transformed = transform(log_probs, labels)
                own |= transform.own_components(transformed, student_logits.detach())
                log_probs = transformed.detach()
            return self._loss(student_logits, log_probs, labels, progress) | own

    def _loss(self, *samples: Any) -> Components:
        components: Components = self.loss(*samples)
        return components

    @staticmethod
    def _transformed(log_probs: Tensor, labels: Tensor, transforms: Sequence[AbstractTransform]) -> Tensor:
        for transform in transforms:
            log_probs = transform(log_probs, labels)
        return log_probs


def part_named(name: str) -> AttackPart:
    """Return the part of that name with its defaults.

    Args:
        name: key of `hf_cmim.attacks.ATTACKS`.

    Raises:
        HfCmimError: an unknown name, or a part that needs an argument.
    """
    from hf_cmim.attacks import ATTACKS  # it imports this module

    if name not in ATTACKS:
        nearest = difflib.get_close_matches(name.lower().replace("_", "-"), ATTACKS, n=1)
        advice = f"Did you mean {nearest[0]!r}? " if nearest else ""
        raise HfCmimError(f"Unknown attack {name!r}. {advice}List attacks with: hf-cmim attacks")
    kind = ATTACKS[name]
    required = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty
    ]
    if required:
        raise HfCmimError(
            f"The attack {name!r} has no default for {', '.join(required)}. Give the object:"
            f" hf_cmim.attacks.{kind.__name__}({', '.join(f'{parameter}=...' for parameter in required)})."
        )
    return kind()


def _single(parts: Sequence[AttackPart], kind: type[Any]) -> Any:
    """Return the one part of a kind, or None; the caller's annotation says what it is."""
    found = [part for part in parts if isinstance(part, kind)]
    if len(found) > 1:
        raise HfCmimError(
            f"Expected at most one {kind.__name__.removeprefix('Abstract')}, got {found}: which one the student learns"
            " by would be arbitrary. Leave one, or run them as separate attacks."
        )
    return found[0] if found else None
