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

from hf_cmim.trainers.components import unchanged_random_states
from hf_cmim.trainers.validation import logits_and_labels

if TYPE_CHECKING:
    from hf_cmim.trainers.cmim_trainer import CMIMTrainer

logger = logging.get_logger(__name__)


class CentroidRefresh(TrainerCallback):
    """Fill the bank by a pass over the training data, where it is asked for or where a checkpoint left it out.

    `centroids="epoch"` asks for it before each epoch, `centroid_prefill` before the first one. Data without a
    length may never end: of these the pass takes as many samples as training reads.

    Args:
        trainer: the trainer whose bank, model and data these are.
    """

    def __init__(self, trainer: "CMIMTrainer") -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fill where it is due; resuming inside an epoch keeps the checkpoint's centroids, if it holds them."""
        epoch_starts = float(state.epoch or 0).is_integer()
        asked = args.centroids == "epoch" or (args.centroid_prefill and state.global_step == 0)
        loaded = self.trainer._state
        if (epoch_starts and asked) or (loaded is not None and loaded.lacks_centroids):
            self.fill_bank()

    @torch.no_grad()
    def fill_bank(self) -> None:
        """Replace the bank by the centroids of one pass in evaluation mode over all processes.

        Random states are left as they were, so that the training after it does not depend on the pass.
        """
        model = self.trainer.model_wrapped
        model.eval()
        with unchanged_random_states(self.trainer.args.device):
            batches = self._outputs(model)
            first = next(batches, None)
            if first is not None:  # it says how many classes there are
                state = self.trainer.hardening_state(first[0].shape[-1])
                state.bank.fill(chain([first], batches))
                state.lacks_centroids = False
        model.train()

    def _outputs(self, model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels of the training data, batch by batch, gathered from all processes."""
        trainer = self.trainer
        data: Any = _bounded(trainer)
        dataloader = trainer.get_test_dataloader(data)  # not the eval loader: it may be cached for other data
        for batch in tqdm(dataloader, desc="Centroids", leave=False, disable=trainer.args.disable_tqdm):
            inputs = dict(trainer._prepare_inputs(batch))
            labels = inputs.pop("labels", None)
            outputs = model(**inputs)
            yield trainer.gather_samples(*logits_and_labels(outputs, labels, inputs))


def _bounded(trainer: "CMIMTrainer") -> Any:
    """Return the training data; of a stream that may never end, as many samples as training reads."""
    data: Any = trainer.train_dataset
    if has_length(data):
        return data
    args = trainer.args
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    count = trainer.state.max_steps * batch
    logger.warning_once(
        f"The training data have no length: exact centroids come from at most their first {count} samples, as many as"
        " training reads."
    )
    return _FirstSamples(data, count)


@final
class _FirstSamples(IterableDataset[Any]):
    """The start of a stream.

    Args:
        dataset: stream.
        count: number of samples after which it ends.
    """

    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset = dataset
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.dataset), self.count)
