"""Exact centroids by a pass over the training data."""

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hf_cmim.trainers.shared.components import unchanged_random_states
from hf_cmim.trainers.shared.training_pass import training_outputs

if TYPE_CHECKING:
    from hf_cmim.trainers.hardening.cmim_trainer import CMIMTrainer


class CentroidRefresh(TrainerCallback):
    """A callback that fills the bank by a pass over the training data.

    The pass runs before each epoch with `centroids="epoch"`, before the first one with `centroid_prefill`, and at once
    when a resumed checkpoint holds no centroids. Data without a length may never end: then the pass takes as many
    samples as training reads.

    Args:
        trainer: trainer with the bank, the model and the data.
    """

    def __init__(self, trainer: "CMIMTrainer") -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fill the bank if a pass is due; resuming inside an epoch keeps centroids that the checkpoint holds."""
        # A resumed run calls this in the middle of an epoch, too.
        epoch_starts = float(state.epoch or 0).is_integer()
        is_prefill = args.centroid_prefill and state.global_step == 0
        is_scheduled = epoch_starts and (args.centroids == "epoch" or is_prefill)
        loaded = self.trainer._state
        if is_scheduled or (loaded is not None and loaded.lacks_centroids):
            self.fill_bank()

    @torch.no_grad()
    def fill_bank(self) -> None:
        """Replace the bank by the centroids of one pass in evaluation mode over all processes.

        Random states are restored: the pass does not change the training that follows.
        """
        model = self.trainer.model_wrapped
        model.eval()
        with unchanged_random_states(self.trainer.args.device):
            batches = training_outputs(self.trainer, model, "Centroids")
            first = next(batches, None)
            # The first batch tells the number of classes.
            if first is not None:
                state = self.trainer.hardening_state(first[0].shape[-1])
                state.bank.fill(chain([first], batches))
                state.lacks_centroids = False
        model.train()
