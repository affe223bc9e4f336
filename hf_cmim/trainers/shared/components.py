"""Base class of our trainers: named loss components, and checkpoints that resume exactly.

It fixes five faults of `transformers.Trainer` (5.17 to 5.23): weights saved under legacy names are not restored on
resume or at the end (transformers#43701); a loss computed by the trainer is scaled by accumulation steps or processes;
a checkpoint whose write was cut counts as the newest; resuming from the last step trains one more; labels of type
uint8 that equal 156 count as ignored.
"""

import math
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_utils import TrainOutput, rotate_checkpoints
from transformers.utils import logging

from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import check_label_range, flatten_samples, integer_labels, model_logits
from hf_cmim.trainers.shared.checkpoints import clear_marker, find_fault, last_complete_checkpoint, write_marker
from hf_cmim.trainers.shared.class_labels import check_has_valid_label, check_label_column
from hf_cmim.trainers.shared.component_config import ComponentConfig
from hf_cmim.trainers.shared.launch import check_no_deepspeed
from hf_cmim.trainers.shared.publishing import PublishingTrainer
from hf_cmim.trainers.shared.saved_weights import restore_renamed_weights
from hf_cmim.trainers.shared.search import default_objective
from hf_cmim.trainers.shared.validation import check_are_logits, check_width

logger = logging.get_logger(__name__)


class ComponentTrainer(PublishingTrainer):
    """Abstract `Trainer` whose loss is a sum of named components over all valid labels of an optimizer step.

    A subclass divides its loss by `num_items_in_batch`, the number of valid labels of the whole step over all
    processes. It multiplies the loss by `loss_scale` and passes the parts to `record_components`. The logs then show
    each part beside the loss; the parts add up to the loss.
    """

    args: ComponentConfig
    # Read by transformers >= 5.20; older versions read model_accepts_loss_kwargs.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_no_deepspeed(is_enabled=self.is_deepspeed_enabled)
        check_label_column(self.train_dataset, "train_dataset")
        evaluation = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        for name, dataset in evaluation.items():
            check_label_column(dataset, f"eval_dataset {name!r}" if name else "eval_dataset")
        # Makes Trainer count the labels of the whole step; the model itself never gets the count.
        self.model_accepts_loss_kwargs = True
        self._component_sums: dict[str | tuple[str, ...], Tensor | float] = {}
        self._component_steps = 0
        self._loss_is_finite: Tensor | None = None
        self._searched: dict[str, Any] = {}

    @property
    def num_processes(self) -> int:
        """Number of processes that train this one model together."""
        return int(self.accelerator.num_processes)

    @property
    def loss_scale(self) -> int:
        """Factor that undoes the averaging of gradients over processes when labels are counted over all of them."""
        return self.num_processes if self.args.average_tokens_across_devices else 1

    def gather_samples(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Gather logits and labels from all processes, without the samples Accelerate repeats to fill a batch."""
        # Processes pad their batches to different numbers of tokens.
        if logits.ndim > 2:
            logits = self.accelerator.pad_across_processes(logits, dim=1, pad_index=0)
            labels = self.accelerator.pad_across_processes(labels, dim=1, pad_index=IGNORE_INDEX)
        gathered: tuple[Tensor, Tensor] = self.accelerator.gather_for_metrics(
            (logits.detach().contiguous(), labels.contiguous())
        )
        return gathered

    def gather_rows(self, values: Tensor, filling: int) -> Tensor:
        """Join a tensor of all processes along its first dimension, after filling up shorter ones with `filling`."""
        padded = self.accelerator.pad_across_processes(values.contiguous(), dim=0, pad_index=filling)
        gathered: Tensor = self.accelerator.gather(padded)
        return gathered

    # Labels

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, with labels as int64: torch's losses take no int8, int16 or int32."""
        prepared: dict[str, Any] = _with_integer_labels(super()._prepare_inputs(inputs))
        return prepared

    def labelled_outputs(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
        """Return a model's outputs for a batch, their logits and the labels, after checking that shapes agree.

        Raises:
            HfCmimError: no labels, no logits, or shapes that do not fit.
        """
        inputs = dict(inputs)
        labels = inputs.pop("labels", None)
        if labels is None:
            raise HfCmimError(
                f"Expected 'labels' in every batch, got only {sorted(inputs)}: without labels there is no class to"
                " learn. Name the label column 'label' or 'labels', and check that remove_unused_columns keeps it."
            )
        # Without labels: a model would compute its own loss from them.
        outputs = model(**inputs)
        logits = model_logits(outputs)
        flatten_samples(logits, labels)
        return outputs, logits, labels

    def check_batch(self, logits: Tensor, labels: Tensor, *, is_first: bool) -> None:
        """Check what only a batch shows: the range of the labels, and of the first batch also the outputs.

        Raises:
            HfCmimError: labels out of range, probabilities in the place of logits, or a width that contradicts the
                model's configuration.
        """
        # The check waits for the device: on a GPU only the first batch pays for it.
        if labels.device.type == "cpu" or is_first:
            check_label_range(labels, logits.shape[-1])
        if is_first:
            check_are_logits(logits)
            names = class_names_of(self.model)
            check_width(logits, None if names is None else len(names))

    # Steps and logs

    @staticmethod
    def with_outputs(loss: Tensor, outputs: Any) -> tuple[Tensor, Any]:
        """Return the loss and a model's outputs as `compute_loss` returns both."""
        # Trainer takes the loss off the front of a tuple.
        return loss, outputs if isinstance(outputs, dict) else (loss, *outputs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count the valid labels of a step, at least 1."""
        # A step without a valid label then has the loss 0, not 0 / 0.
        count = super()._get_num_items_in_batch([_with_integer_labels(batch) for batch in batch_samples], device)
        return count.clamp_min(1) if isinstance(count, Tensor) else count

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Train on one micro-batch, and stop with an error if the loss is not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        is_on_cpu = loss.device.type == "cpu"
        if not is_on_cpu or not math.isfinite(loss.item()):
            finite = torch.isfinite(loss)
            self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite
            # The check waits for the device: on a GPU it runs only at the first step and when Trainer logs or saves.
            if is_on_cpu or self.state.global_step == 0:
                self.check_loss_is_finite()
        if self.accelerator.sync_gradients:
            self._component_steps += 1
        return loss

    def check_loss_is_finite(self) -> None:
        """Raise if any loss since the last check was not finite.

        Raises:
            HfCmimError: a loss was nan or inf; the message names the step.
        """
        finite, self._loss_is_finite = self._loss_is_finite, None
        if finite is not None and not bool(finite):
            raise HfCmimError(
                f"Expected a finite loss, got nan or inf by step {self.state.global_step + 1}: the weights would be"
                " lost at the next optimizer step, and no later checkpoint could be used. Lower the learning rate,"
                " use bf16 instead of fp16, or look for nan in the inputs."
            )

    def record_components(self, components: Mapping[Any, Tensor | float]) -> None:
        """Add this micro-batch's parts of the step's loss to the logs.

        Args:
            components: 0-d parts by name, or vectors by the tuple of their elements' names; divided and scaled like
                the loss, so that they sum over micro-batches.
        """
        for names, value in components.items():
            detached = value.detach() if isinstance(value, Tensor) else value
            total = self._component_sums.get(names)
            self._component_sums[names] = detached if total is None else total + detached

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean of each loss component over the steps since the last log."""
        if "loss" in logs and self._component_sums:
            self.check_loss_is_finite()
            names: list[str] = []
            for key in self._component_sums:
                names += [key] if isinstance(key, str) else key
            # One tensor, so that one call gathers all components.
            sums = torch.cat(
                [
                    torch.as_tensor(value, dtype=torch.float32, device=self.args.device).view(-1)
                    for value in self._component_sums.values()
                ]
            )
            means = sums / max(self._component_steps, 1)
            gathered = self.accelerator.gather(means.unsqueeze(0)).mean(dim=0).tolist()
            logs.update(zip(names, gathered, strict=True))
            self._component_sums, self._component_steps = {}, 0
        super().log(logs, start_time)

    # Search

    def hyperparameter_search(
        self,
        hp_space: Any = None,
        compute_objective: Any = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Search as `Trainer` does, judging by `eval_loss` (`eval_accuracy` when maximizing), not the metrics' sum.

        Each trial starts from the trainer's settings, without those of the previous trial.

        Raises:
            HfCmimError: no `compute_objective`, and several directions, no evaluation data, or several sets of them.
        """
        if compute_objective is None:
            compute_objective = default_objective(direction, self.eval_dataset)
        self._searched = {}
        return super().hyperparameter_search(
            hp_space, compute_objective, n_trials, direction, backend, hp_name, **kwargs
        )

    def _hp_search_setup(self, trial: Any) -> None:
        """Apply a trial's settings to those of the trainer, not to those of the previous trial."""
        if trial is None:
            super()._hp_search_setup(trial)
            return
        for name, value in self._searched.items():
            setattr(self.args, name, value)
        before = {setting.name: getattr(self.args, setting.name) for setting in fields(self.args) if setting.init}
        super()._hp_search_setup(trial)
        # The values that this trial changed, to restore before the next one.
        self._searched = {name: value for name, value in before.items() if getattr(self.args, name) is not value}
        self.args.check_ranges()

    # Checkpoints

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, resuming only from complete checkpoints.

        Args:
            resume_from_checkpoint: checkpoint folder, or True for the newest complete one in `output_dir`; newer
                incomplete ones are skipped with a warning and stay where they are.
            trial: trial of a hyper-parameter search.
            ignore_keys_for_eval: keys of the model's output to leave out of predictions.

        Raises:
            HfCmimError: the folder is not a complete checkpoint, there is none, or no sample has a label.
        """
        if resume_from_checkpoint:
            resume_from_checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
        self._component_sums, self._component_steps, self._loss_is_finite = {}, 0, None
        with unchanged_random_states(self.args.device):
            check_has_valid_label(self.train_dataset)
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch, unless the checkpoint already holds the last step: Trainer would take one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]  # upstream leaves it unannotated

    def _checkpoint_to_resume(self, checkpoint: str | bool) -> str:
        if checkpoint is not True:
            fault = find_fault(Path(str(checkpoint)))
            if fault is not None:
                raise HfCmimError(
                    f"Expected a complete checkpoint, got {checkpoint}: {fault}. Resuming would silently train another"
                    " model than the interrupted run. Choose an older checkpoint, or start from its weights with"
                    " from_pretrained and train without resume_from_checkpoint."
                )
            return str(checkpoint)
        output_dir = Path(str(self.args.output_dir))
        newest, skipped = last_complete_checkpoint(output_dir)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        if newest is None:
            raise HfCmimError(
                f"Expected a complete checkpoint in {output_dir}, got none ({reasons or 'no checkpoint folder'})."
                " Train without resume_from_checkpoint, or give the folder of another run."
            )
        if skipped:
            logger.warning(f"Resuming from {newest}. Skipped incomplete checkpoints: {reasons}.")
        return str(newest)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_loss_is_finite()
        run_dir = Path(self._get_output_dir(trial=trial))
        folder = run_dir / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            clear_marker(folder)
        # Trainer deletes older checkpoints and pushes before this one is marked as complete. A kill in between would
        # leave no checkpoint to resume from, here or on the Hub. So both are switched off here and done below.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        pushes, self.args.push_to_hub = self.args.push_to_hub, False
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit, self.args.push_to_hub = limit, pushes
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            # Trainer wrote the settings while limit and pushes were switched off.
            with self.without_token():
                is_uploaded = pushes and self.args.hub_whole_checkpoints
                torch.save(self.args_without_paths() if is_uploaded else self.args, folder / "training_args.bin")
            write_marker(folder, self.state.global_step, resumable=not self.args.save_only_model)
        if pushes:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self._reload_weights(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._reload_weights(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _reload_weights(self, folder: str | os.PathLike[str] | None) -> bool:
        """Load weights that were saved under other names, or return False to leave loading to Trainer."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if folder is None or self.is_fsdp_enabled or not isinstance(model, PreTrainedModel):
            return False
        return restore_renamed_weights(model, folder)


def _with_integer_labels(batch: Any) -> Any:
    """Return the batch with int64 labels; a matrix of floats passes here and fails at the check of shapes.

    Raises:
        HfCmimError: one floating-point or bool label per sample.
    """
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels, Tensor) or (labels.ndim > 1 and labels.is_floating_point()):
        return batch
    converted = integer_labels(labels)
    return batch if converted is labels else {**batch, "labels": converted}


@contextmanager
def unchanged_random_states(device: torch.device) -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def number_of_items(num_items: Tensor | int | None, labels: Tensor) -> Tensor | int:
    """Return the number of valid labels of an optimizer step, by which losses are divided; at least 1.

    Args:
        num_items: number that `Trainer` counted, or None for that of this batch.
        labels: `(...)` labels of this batch.
    """
    if num_items is None:
        return (labels != IGNORE_INDEX).sum().clamp_min(1)
    # Trainer repeats the count for each replica of nn.DataParallel.
    return num_items.flatten()[0] if isinstance(num_items, Tensor) and num_items.ndim else num_items
