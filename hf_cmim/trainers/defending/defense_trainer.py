"""The trainer of defences: `transformers.Trainer` with the loss of a published defence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import TrainOutput

from hf_cmim.defenses.base import AbstractDefense
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.temperatures import DEFAULT_TEMPERATURES
from hf_cmim.hub.certificate import Training
from hf_cmim.teachers.model import ModelTeacher
from hf_cmim.trainers.defending.class_means import ClassMeansBeforeTraining, mean_answers
from hf_cmim.trainers.defending.defense_config import DefenseConfig
from hf_cmim.trainers.defending.defense_state import load_defense_state, save_defense_state
from hf_cmim.trainers.defending.reference_model import frozen_reference
from hf_cmim.trainers.shared.components import number_of_items
from hf_cmim.trainers.shared.heads import check_is_classifier
from hf_cmim.trainers.shared.launch import check_launch
from hf_cmim.trainers.shared.measuring import MeasuringTrainer
from hf_cmim.trainers.shared.records import defense_record
from hf_cmim.trainers.shared.validation import check_head


class DefenseTrainer(MeasuringTrainer):
    """A `Trainer` of a classifier with the loss of a published defence, to compare with a hardened one.

    Logs gain the components of the loss, which add up to it. Evaluation gains the same components, accuracy,
    calibration and the CMI curve. The saved model loads with plain `from_pretrained`; its certificate and card name
    the defence.

    Args:
        model: classifier, or None with `model_init`.
        args: settings of the training.
        trainer_arguments: further positional arguments of `transformers.Trainer`, in its order.
        defense: loss of `hf_cmim.defenses`, or your own subclass of `AbstractDefense`.
        reference: classifier trained with cross-entropy on the same classes, its folder or its Hub id. Only a defence
            that needs one reads it. It is put into evaluation mode and never changes; checkpoints leave it out.
        keywords: further keyword arguments of `transformers.Trainer`.

    Attributes:
        defense: loss in training.
        reference: frozen reference, or None for a defence that needs none.
        measurement: measurement of the last evaluation, or None.

    Raises:
        HfCmimError: a model, reference, label, setting or launch that do not fit together, before any training step.

    Source: ours; each defence names its own.
    """

    args: DefenseConfig

    def __init__(
        self,
        model: nn.Module | None = None,
        args: DefenseConfig | None = None,
        *trainer_arguments: Any,
        defense: AbstractDefense,
        reference: ModelTeacher | nn.Module | str | None = None,
        **keywords: Any,
    ) -> None:
        args = DefenseConfig(output_dir="tmp_trainer") if args is None else args
        _check_arguments(args, defense, keywords)
        if model is not None:
            check_is_classifier(model)
        super().__init__(model, args, *trainer_arguments, **keywords)
        check_launch(self.args.world_size)
        model = self.accelerator.unwrap_model(self.model)
        check_head(model, self.label_names, None)
        self.defense = defense
        self.reference = frozen_reference(defense, reference, model)
        self._fingerprint = "" if self.reference is None else self.reference.fingerprint()
        self._was_checked = False
        self._class_means: Tensor | None = None
        self.add_callback(ClassMeansBeforeTraining(self))

    def class_means(self) -> Tensor | None:
        """Return the mean answer of each class before training, `(C, C)`; None for a defence that needs none.

        The first call makes one pass over the training data. Checkpoints keep the result.
        """
        if self._class_means is None and self.defense.needs_class_means:
            self._class_means = mean_answers(self)
        return self._class_means

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of the defence."""
        outputs, logits, labels = self.labelled_outputs(model, inputs)
        self.check_batch(logits, labels, is_first=not self._was_checked)
        self._was_checked = True
        answers = None if self.reference is None else self.reference(inputs)
        if model.training:
            loss = self._training_loss(logits, labels, answers, num_items_in_batch)
        else:
            loss = self._evaluation_loss(logits, labels, answers)
        return self.with_outputs(loss, outputs) if return_outputs else loss

    def _training_loss(
        self, logits: Tensor, labels: Tensor, answers: Tensor | None, num_items: Tensor | int | None
    ) -> Tensor:
        components = self.defense(
            logits,
            labels,
            reference_log_probs=answers,
            class_means=self.class_means(),
            num_items=number_of_items(num_items, labels),
        )
        scaled = {name: value * self.loss_scale for name, value in components.items()}
        self.record_components(scaled)
        return torch.stack(list(scaled.values())).sum()

    def _evaluation_loss(self, logits: Tensor, labels: Tensor, answers: Tensor | None) -> Tensor:
        if answers is not None:
            answers, _ = self.gather_samples(answers, labels)
        logits, labels = self.gather_samples(logits, labels)
        sums = self.defense(logits, labels, reference_log_probs=answers, class_means=self.class_means(), num_items=1)
        if self._evaluation is not None:
            self._evaluation.update(logits, labels, sums)
        return torch.stack(list(sums.values())).sum() / (labels != IGNORE_INDEX).sum().clamp_min(1)

    # Evaluation

    @property
    def measured_temperatures(self) -> tuple[float, ...]:
        """Temperatures at which evaluation reports the CMI: those of the default objective of `CMIMTrainer`."""
        return DEFAULT_TEMPERATURES

    def loss_metrics(self, components: Mapping[str, float]) -> dict[str, float]:
        """Return the loss and its components."""
        return {"loss": sum(components.values()), **components}

    # Checkpoints

    def training_record(self) -> Training:
        """Return the record of this training: the defence and every setting that determined it."""
        return defense_record(self, self.defense, self.reference)

    def _inner_training_loop(self, *arguments: Any, **keywords: Any) -> TrainOutput:
        """Train from a new state, also for each trial of a search; resuming loads its own."""
        self._was_checked, self._class_means = False, None
        result: TrainOutput = super()._inner_training_loop(*arguments, **keywords)
        return result

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            save_defense_state(Path(output_dir), self.defense, self._fingerprint, self._class_means)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._class_means = load_defense_state(Path(checkpoint), self.defense, self._fingerprint, self.args.device)


def _check_arguments(args: object, defense: object, keywords: Mapping[str, Any]) -> None:
    """Check the arguments before a Trainer exists.

    Raises:
        HfCmimError: settings of another class, no defence, or a loss beside that of the defence.
    """
    if not isinstance(args, DefenseConfig):
        raise HfCmimError(
            f"Expected args of class DefenseConfig, got {type(args).__name__}: the settings of publishing would be"
            " missing. DefenseConfig takes every argument of TrainingArguments."
        )
    if not isinstance(defense, AbstractDefense):
        raise HfCmimError(
            f"Expected a defence of hf_cmim.defenses, such as NastyTeacher(), got {defense!r}: there would be no loss."
            " A class needs its parentheses."
        )
    if keywords.get("compute_loss_func") is not None:
        raise HfCmimError(
            f"Expected no compute_loss_func, got {keywords['compute_loss_func']!r}: it would be ignored, because the"
            " defence is the loss. Derive a loss from hf_cmim.defenses.AbstractDefense instead."
        )
