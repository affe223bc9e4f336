"""Compositions: one loss, answer transforms in order, and at most one protocol of each kind."""

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
    """A complete attack: one loss with its answer transforms and protocols.

    Args:
        parts_or_names: parts, or names of `hf_cmim.attacks.ATTACKS` for parts with their defaults. At most one loss
            (`KD()` without one), any number of answer transforms (applied in the given order), and at most one
            protocol each for the queries, the student and the optimizer.

    Attributes:
        loss: distillation loss.
        transforms: answer transforms, in the order in which they are applied.
        query_protocol: protocol that changes the queries, or None.
        student_protocol: protocol that changes the student, or None.
        optimizer_protocol: protocol that changes the optimizer, or None.

    Raises:
        HfCmimError: no part, two losses, two protocols of one kind, or parts that cannot be combined.

    Source: ours.

    >>> from hf_cmim.attacks.dkd import DKD
    >>> Composition(DKD(beta=2.0)).loss.beta
    2.0
    """

    def __init__(self, *parts_or_names: AttackPart | str) -> None:
        super().__init__()
        parts = tuple(part_named(part) if isinstance(part, str) else part for part in parts_or_names)
        protocol_kinds = (AbstractQueryProtocol, AbstractStudentProtocol, AbstractOptimizerProtocol)
        kinds = (AbstractAttack, AbstractTransform, *protocol_kinds)
        foreign_types = [type(part).__name__ for part in parts if not isinstance(part, kinds)]
        if foreign_types or not parts:
            raise HfCmimError(
                f"Expected losses, answer transforms or protocols, got {foreign_types or 'nothing'}. The student could"
                " not be trained. Compose parts of hf_cmim.attacks, for instance Composition(DKD(), Averager())."
            )
        # `repr` shows only the passed parts, without a default loss.
        self._passed_parts = parts
        self.loss: AbstractAttack = _single(parts, AbstractAttack) or KD()
        self.transforms = nn.ModuleList(part for part in parts if isinstance(part, AbstractTransform))
        self.query_protocol: AbstractQueryProtocol | None = _single(parts, AbstractQueryProtocol)
        self.student_protocol: AbstractStudentProtocol | None = _single(parts, AbstractStudentProtocol)
        self.optimizer_protocol: AbstractOptimizerProtocol | None = _single(parts, AbstractOptimizerProtocol)
        if self.optimizer_protocol is not None and not self.loss.ce_weight:
            raise HfCmimError(
                f"Expected a loss with a cross-entropy beside {self.optimizer_protocol!r}, got {self.loss!r} with"
                " ce_weight 0. There would be no two gradients to separate. Give the loss a ce_weight above 0."
            )

    @classmethod
    def of(cls, attack: "AttackPart | Composition | str") -> "Composition":
        """Return the attack unchanged if it is a composition; otherwise compose this one part or name."""
        return attack if isinstance(attack, Composition) else cls(attack)

    def __repr__(self) -> str:
        return f"Composition({', '.join(map(repr, self._passed_parts))})"

    # Facts for trainers

    @property
    def _protocols(self) -> list[AttackPart]:
        protocols = (self.query_protocol, self.student_protocol, self.optimizer_protocol)
        return [protocol for protocol in protocols if protocol is not None]

    @property
    def has_protocols(self) -> bool:
        """True if the attack changes queries, student or optimizer, and not only the loss."""
        return bool(self._protocols)

    @property
    def owns_training(self) -> bool:
        """True if the optimizer depends on the attack: the attack has parameters, heads or its own optimizer."""
        if self.student_protocol is not None or self.optimizer_protocol is not None:
            return True
        return any(True for _ in self.parameters())

    @property
    def active_parts(self) -> list[AttackPart]:
        """All parts including a default loss: transforms, loss, protocols."""
        return [*self._transforms, self.loss, *self._protocols]

    @property
    def _transforms(self) -> list[AbstractTransform]:
        # `ModuleList` yields plain modules; the check restores the type.
        return [part for part in self.transforms if isinstance(part, AbstractTransform)]

    @property
    def needs_teacher(self) -> bool:
        """True if the loss or a transform reads the answers."""
        return self.loss.needs_teacher or len(self.transforms) > 0

    @property
    def needs_every_class(self) -> bool:
        """True if answers that hide classes are useless: the loss needs them all, and no transform restores them."""
        is_restored = any(part.restores_classes for part in self._transforms)
        return self.loss.needs_every_class and not is_restored

    @property
    def needs_survey(self) -> bool:
        """True if a part needs a survey of the teacher's answers before training."""
        return any(part.needs_survey for part in self.active_parts)

    def prepare(self, num_classes: int) -> None:
        """Build the state of all parts that depends on the number of classes."""
        for part in self.active_parts:
            part.prepare(num_classes)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return optimizer groups for the parameters of the parts, without weight decay."""
        groups = [
            {"params": list(part.parameters()), "lr": learning_rate * part.learning_rate_factor, "weight_decay": 0.0}
            for part in self.active_parts
        ]
        return [group for group in groups if group["params"]]

    # Survey and loss

    @torch.no_grad()
    def survey(self, answers: Answers) -> None:
        """Pass all answers to each part that needs a survey, after the transforms that precede the part.

        Args:
            answers: batches of `(N, C)` fp32 log-probabilities and `(N,)` labels, only valid samples.
        """
        answers = [(log_probs, integer_labels(labels)) for log_probs, labels in answers]
        for position, part in enumerate([*self._transforms, self.loss]):
            if not part.needs_survey:
                continue
            # In training, this part gets the answers after the transforms before it.
            preceding = self._transforms[:position]
            for log_probs, labels in answers:
                part.survey(self._transformed(log_probs, labels, preceding), labels)
            part.settle()

    def forward(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float = 1.0
    ) -> Components:
        """Return the components of the loss and of the transforms on one batch; see `AbstractAttack.forward`."""
        if not len(self.transforms):
            return self._loss(student_logits, teacher_log_probs, labels, progress)
        student_logits, log_probs, labels = valid_answers(student_logits, teacher_log_probs, labels)
        transform_components: Components = {}
        with torch.autocast(student_logits.device.type, enabled=False):
            for transform in self._transforms:
                transformed = transform(log_probs, labels)
                transform_components |= transform.own_components(transformed, student_logits.detach())
                # The student's loss must not train a transform.
                log_probs = transformed.detach()
            return self._loss(student_logits, log_probs, labels, progress) | transform_components

    def _loss(self, *samples: Any) -> Components:
        components: Components = self.loss(*samples)
        return components

    @staticmethod
    def _transformed(log_probs: Tensor, labels: Tensor, transforms: Sequence[AbstractTransform]) -> Tensor:
        for transform in transforms:
            log_probs = transform(log_probs, labels)
        return log_probs


def part_named(name: str) -> AttackPart:
    """Return the part with this name, with its defaults.

    Args:
        name: key of `hf_cmim.attacks.ATTACKS`.

    Raises:
        HfCmimError: the name is unknown, or the part has a setting without a default.
    """
    # Imported here because `hf_cmim.attacks` imports this module.
    from hf_cmim.attacks import ATTACKS

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
        arguments = ", ".join(f"{parameter}=..." for parameter in required)
        raise HfCmimError(
            f"The attack {name!r} has no default for {', '.join(required)}. Give the object:"
            f" hf_cmim.attacks.{kind.__name__}({arguments})."
        )
    return kind()


def _single(parts: Sequence[AttackPart], kind: type[Any]) -> Any:
    """Return the only part of a kind, or None. The caller annotates its type."""
    matching_parts = [part for part in parts if isinstance(part, kind)]
    if len(matching_parts) > 1:
        raise HfCmimError(
            f"Expected at most one {kind.__name__.removeprefix('Abstract')}, got {matching_parts}. They cannot be"
            " combined. Keep one, or run them as separate attacks."
        )
    return matching_parts[0] if matching_parts else None
