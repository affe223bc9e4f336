"""Exact centroids by a pass over the training data."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import has_length
from transformers.utils import logging

from hf_cmim.trainers.shared.components import unchanged_random_states

if TYPE_CHECKING:
    from hf_cmim.trainers.hardening.cmim_trainer import CMIMTrainer

logger = logging.get_logger(__name__)


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
            batches = self._outputs(model)
            first = next(batches, None)
            # The first batch tells the number of classes.
            if first is not None:
                state = self.trainer.hardening_state(first[0].shape[-1])
                state.bank.fill(chain([first], batches))
                state.lacks_centroids = False
        model.train()

    def _outputs(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield logits and labels of the training data by batch, gathered from all processes."""
        trainer = self.trainer
        data: Any = _bounded(trainer)
        # Not the evaluation loader: Trainer may have cached one for other data.
        dataloader = trainer.get_test_dataloader(data)
        for batch in tqdm(dataloader, desc="Centroids", leave=False, disable=trainer.args.disable_tqdm):
            _, logits, labels = trainer.labelled_outputs(model, trainer._prepare_inputs(batch))
            yield trainer.gather_samples(logits, labels)


def _bounded(trainer: "CMIMTrainer") -> Any:
    """Return the training data; of a stream without a length only as many samples as training reads."""
    data: Any = trainer.train_dataset
    if has_length(data):
        return data
    args = trainer.args
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    count = trainer.state.max_steps * batch
    logger.warning_once(
        f"The training data have no length: exact centroids use at most their first {count} samples, as many as"
        " training reads."
    )
    return _FirstSamples(data, count)


@final
class _FirstSamples(IterableDataset[Any]):
    """The first samples of a stream.

    Args:
        dataset: stream of samples.
        count: number of samples after which it ends.
    """

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset = dataset
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.dataset), self.count)
