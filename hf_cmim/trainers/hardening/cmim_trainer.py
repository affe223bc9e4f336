"""The hardening trainer: `transformers.Trainer` with the CMI of all tempered output clusters in its loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from hf_cmim.class_names import class_names_of
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.hardening.bank import CentroidBank
from hf_cmim.hardening.loss import CMIMLoss, ramped_weight
from hf_cmim.hardening.spec import BALANCED
from hf_cmim.hub.certificate import Training
from hf_cmim.trainers.hardening.calibrated_weight import CalibratedWeight
from hf_cmim.trainers.hardening.centroid_refresh import CentroidRefresh
from hf_cmim.trainers.hardening.class_weights import balanced_weights
from hf_cmim.trainers.hardening.cmim_config import CMIMConfig
from hf_cmim.trainers.hardening.collapse_guard import MEASURED_STEPS, CollapseGuard
from hf_cmim.trainers.hardening.hardening_state import HardeningState
from hf_cmim.trainers.hardening.hardening_summary import HardeningSummary, SummaryPrinter, summary_of
from hf_cmim.trainers.shared.components import number_of_items, unchanged_random_states
from hf_cmim.trainers.shared.launch import check_launch
from hf_cmim.trainers.shared.measuring import MeasuringTrainer
from hf_cmim.trainers.shared.records import hardening_record
from hf_cmim.trainers.shared.search import evaluation_loss
from hf_cmim.trainers.shared.validation import check_arguments, check_head

logger = logging.get_logger(__name__)

SETTINGS_IN_LOSS = {"cmi_weight", "cmi_form", "temperatures", "logit_scale", "cmi_correct_only"}
"""Settings that decide how large the CMI term of the loss is."""
SCHEDULE = ("cmi_weight", "cmi_warmup", "cmi_ramp", "cmi_follow_calibration")
"""Settings that decide when the CMI weighs how much."""


class CMIMTrainer(MeasuringTrainer):
    """A `Trainer` that concentrates the output clusters of a classifier at all temperatures.

    A drop-in for `transformers.Trainer` on any single-label head that returns `logits` (image, text, audio, token
    classification). `label_smoothing_factor`, `class_weights` and `compute_loss_func` shape the cross-entropy part.
    Logs gain `ce` and `cmi`, which add up to `loss`, the current `cmi_weight`, and the CMI of the scaled logits at
    each temperature. Evaluation gains accuracy, calibration and the CMI curve; `eval_loss` uses the final weight, and
    no model counts as best before the ramp has ended.

    Args:
        model: classifier, or None with `model_init`.
        args: settings of the training and of the hardening.
        trainer_arguments: further positional arguments of `transformers.Trainer`, in its order.
        keywords: further keyword arguments of `transformers.Trainer`.

    Attributes:
        cmim_loss: loss in training. It is not called `objective`, because a search keeps a trial's result there.
        measurement: measurement of the last evaluation, or None.

    Raises:
        HfCmimError: a head, a label, a setting or a launch that cannot be hardened, before anything is written.

    Source: arXiv 2507.00012 for the objective's idea; schedule, bank, guard and defaults are ours.
    """

    args: CMIMConfig
    cmim_loss: CMIMLoss
    _state: HardeningState | None

    def __init__(
        self, model: nn.Module | None = None, args: CMIMConfig | None = None, *trainer_arguments: Any, **keywords: Any
    ) -> None:
        args = CMIMConfig(output_dir="tmp_trainer") if args is None else args
        check_arguments(args, model)
        super().__init__(model, args, *trainer_arguments, **keywords)
        check_launch(self.args.world_size)
        check_head(self.accelerator.unwrap_model(self.model), self.label_names, args.class_weights)
        self.add_callback(CentroidRefresh(self))
        self.add_callback(CalibratedWeight(self))
        self._guard = CollapseGuard(self)
        self.add_callback(self._guard)
        self.add_callback(SummaryPrinter(self))
        self._start_hardening()

    def _start_hardening(self) -> None:
        """Forget all training state."""
        self.args.check_ranges()
        self.cmim_loss = CMIMLoss(self.args.spec, balanced_weights=self._balanced_weights()).to(self.args.device)
        self._state = None
        self._weight = 0.0

    def _balanced_weights(self) -> list[float] | None:
        """Return weights that balance the classes, or None without training data or `class_weights="balanced"`."""
        if self.args.class_weights != BALANCED or self.train_dataset is None:
            return None
        names = class_names_of(self.accelerator.unwrap_model(self.model))
        with unchanged_random_states(self.args.device):
            return balanced_weights(self.train_dataset, None if names is None else len(names))

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train from a new state, also for each trial of a search and each batch size; resuming loads its own."""
        self._start_hardening()
        result: TrainOutput = super()._inner_training_loop(batch_size, *args, **kwargs)
        return result

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        searched = sorted(SETTINGS_IN_LOSS & self._searched.keys())
        if trial is not None and searched and getattr(self, "compute_objective", None) is evaluation_loss:
            smallest = "the smallest weight" if searched == ["cmi_weight"] else "the form with the smallest term"
            logger.warning(
                f"{', '.join(searched)} is searched and eval_loss, which contains the CMI, is the objective:"
                f" {smallest} would win. Pass compute_objective, for instance the accuracy minus a penalty on"
                " eval_cmi_sup."
            )

    @property
    def bank(self) -> CentroidBank | None:
        """Centroids so far, None before the first batch."""
        return self._state.bank if self._state is not None else None

    @property
    def final_weight(self) -> float:
        """Weight of the CMI after the ramp, with the changes by the guard and the calibration."""
        return self.args.cmi_weight * (1.0 if self._state is None else self._state.weight_scale)

    @property
    def current_weight(self) -> float:
        """Weight of the CMI at the current step."""
        progress = self.state.global_step / max(self.state.max_steps, 1)
        return ramped_weight(self.final_weight, progress, self.args.cmi_warmup, self.args.cmi_ramp)

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return cross-entropy plus weighted CMI; in training also remember the outputs for the bank."""
        outputs, logits, labels = self.labelled_outputs(model, inputs)
        self.check_batch(logits, labels, is_first=self._state is None)
        state = self.hardening_state(logits.shape[-1])
        if model.training:
            loss = self._training_loss(outputs, logits, labels, num_items_in_batch, state)
        else:
            loss = self._evaluation_loss(outputs, logits, labels, state)
        return self.with_outputs(loss, outputs) if return_outputs else loss

    def hardening_state(self, num_classes: int) -> HardeningState:
        """Return the state of this training, creating it once the number of classes is known."""
        if self._state is None:
            self._state = HardeningState(num_classes, self.cmim_loss.spec, self.args.device)
        return self._state

    def _training_loss(
        self, outputs: Any, logits: Tensor, labels: Tensor, num_items: Tensor | int | None, state: HardeningState
    ) -> Tensor:
        num_items = number_of_items(num_items, labels)
        weight = self._weight = self.current_weight
        cross_entropy = self._users_cross_entropy(outputs, logits, labels, num_items)
        parts = self.cmim_loss(
            logits, labels, state.bank.snapshot(), weight, num_items=num_items, cross_entropy=cross_entropy
        )
        is_measured = self.state.global_step % max(1, self.state.max_steps // MEASURED_STEPS) == 0
        if is_measured and weight > 0 and self.args.collapse_guard != "off":
            state.pulls.accumulate(parts, logits, weight, num_items)
        state.bank.accumulate(logits, labels, parts)
        logged = torch.cat([torch.stack([parts.ce.detach(), parts.cmi.detach()]), parts.cmi_per_temperature])
        self.record_components({state.logged_names: logged * self.loss_scale})
        loss: Tensor = parts.ce + parts.cmi
        return loss * self.loss_scale

    def _users_cross_entropy(
        self, outputs: Any, logits: Tensor, labels: Tensor, num_items: Tensor | int
    ) -> Tensor | None:
        """Return the cross-entropy by the user's loss function or Trainer's label smoother; None without either."""
        loss: Tensor | None = None
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items)
        elif self.label_smoother is not None and self.args.class_weights is None:
            loss = self.label_smoother({"logits": logits}, labels, num_items_in_batch=num_items)
        return loss

    def _evaluation_loss(self, outputs: Any, logits: Tensor, labels: Tensor, state: HardeningState) -> Tensor:
        every_logits, every_labels = self.gather_samples(logits, labels)
        count = (every_labels != IGNORE_INDEX).sum().clamp_min(1)
        snapshot, weight = state.bank.snapshot(), self.final_weight
        cmi = self.cmim_loss.concentration(every_logits, every_labels, snapshot, weight, 1).cmi
        summed = {"cmi": cmi}
        if self.compute_loss_func is None:
            cross_entropy = self._users_cross_entropy(None, every_logits, every_labels, 1)
            if cross_entropy is None:
                cross_entropy = self.cmim_loss.cross_entropy(every_logits, every_labels, 1)
            summed["ce"] = cross_entropy
            loss = (cross_entropy + cmi) / count
        else:
            # The user's loss may read any output of the model, so it gets only the batch of this process.
            own_count = (labels != IGNORE_INDEX).sum().clamp_min(1)
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=own_count) + cmi / count
        if self._evaluation is not None:
            self._evaluation.update(every_logits, every_labels, summed)
        return loss

    # Steps

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Train on one micro-batch; after the last one of an optimizer step move the bank."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not self.accelerator.sync_gradients or self._state is None:
            return loss
        is_alone = self.num_processes == 1
        self._state.pulls.step(None if is_alone else self.accelerator.reduce)
        gather = None if is_alone else self.gather_rows
        self._state.bank.step(gather)
        self.record_components({"cmi_weight": self._weight})
        return loss

    # Evaluation and selection

    @property
    def measured_temperatures(self) -> tuple[float, ...]:
        """Temperatures at which evaluation reports the CMI: those of the objective."""
        return self.cmim_loss.spec.temperatures

    def loss_metrics(self, components: Mapping[str, float]) -> dict[str, float]:
        """Return loss and cross-entropy; nothing where the user's loss is not among the components."""
        return {"loss": sum(components.values()), "ce": components["ce"]} if "ce" in components else {}

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if self.state.global_step < self.args.ramp_end * self.state.max_steps:
            # Not hardened yet: the model must not be kept, and patience must not count this evaluation.
            return False
        return super()._determine_best_metric(metrics, trial)

    def training_record(self) -> Training:
        """Return the record of this training: the objective and every setting that determined it."""
        return hardening_record(self, self.cmim_loss.spec, self.args, self.final_weight)

    def hardening_summary(self) -> HardeningSummary:
        """Return a summary of the last training, which prints as five lines of words."""
        return summary_of(self)

    # Checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save and self._state is not None:
            self._state.save(Path(output_dir), self._schedule())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            spec, schedule = self.cmim_loss.spec, self._schedule()
            self._state = HardeningState.load(Path(checkpoint), spec, self.args.device, schedule)

    def _schedule(self) -> dict[str, Any]:
        return {name: getattr(self.args, name) for name in SCHEDULE}
