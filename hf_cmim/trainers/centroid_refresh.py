"""Exact centroids by a pass over the training data."""

from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from hf_cmim.functional.clusters import ClusterStatistics
from hf_cmim.trainers.components import unchanged_random_states
from hf_cmim.trainers.validation import logits_and_labels

if TYPE_CHECKING:
    from hf_cmim.trainers.cmim_trainer import CMIMTrainer


class CentroidRefresh(TrainerCallback):
    """Fill the bank by a pass over the training data before each epoch, or before the first epoch alone.

    Args:
        trainer: the trainer whose bank, model and data these are.
    """

    def __init__(self, trainer: "CMIMTrainer") -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refresh where it is due; resuming inside an epoch keeps the checkpoint's centroids."""
        epoch_starts = float(state.epoch or 0).is_integer()
        if epoch_starts and (args.centroids == "epoch" or state.global_step == 0):
            self.fill_bank()

    @torch.no_grad()
    def fill_bank(self) -> None:
        """Replace the bank by the centroids of one pass in evaluation mode over all processes.

        Random states are left as they were, so that the training after it does not depend on the pass.
        """
        trainer = self.trainer
        model = trainer.model_wrapped
        data: Any = trainer.train_dataset
        dataloader = trainer.get_test_dataloader(data)  # not the eval loader: it may be cached for other data
        statistics: ClusterStatistics | None = None
        model.eval()
        with unchanged_random_states(trainer.args.device):
            for batch in tqdm(dataloader, desc="Centroids", leave=False, disable=trainer.args.disable_tqdm):
                inputs = dict(trainer._prepare_inputs(batch))
                labels = inputs.pop("labels", None)
                outputs = model(**inputs)
                logits, labels = trainer.gather_samples(*logits_and_labels(outputs, labels, inputs))
                if statistics is None:
                    statistics = ClusterStatistics(logits.shape[-1], trainer.objective.temperatures)
                statistics.update(logits, labels)
        model.train()
        if statistics is not None:
            trainer.hardening_state(statistics.num_classes).bank.fill(statistics)
