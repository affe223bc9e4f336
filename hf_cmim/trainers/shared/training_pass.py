"""A pass over the training data beside training."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, final

from torch import Tensor, nn
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm
from transformers.trainer_utils import has_length
from transformers.utils import logging

from hf_cmim.trainers.shared.components import ComponentTrainer

logger = logging.get_logger(__name__)


def training_outputs(trainer: ComponentTrainer, model: nn.Module, description: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of the training data by batch, gathered from all processes.

    Data without a length may never end: then the pass takes as many samples as training reads.

    Args:
        trainer: trainer with the data.
        model: model to ask, in the mode that it is to be asked in.
        description: title of the progress bar.
    """
    data: Any = _bounded(trainer)
    # Not the evaluation loader: Trainer may have cached one for other data.
    dataloader = trainer.get_test_dataloader(data)
    for batch in tqdm(dataloader, desc=description, leave=False, disable=trainer.args.disable_tqdm):
        _, logits, labels = trainer.labelled_outputs(model, trainer._prepare_inputs(batch))
        yield trainer.gather_samples(logits, labels)


def _bounded(trainer: ComponentTrainer) -> Any:
    """Return the training data; of a stream without a length only as many samples as training reads."""
    data: Any = trainer.train_dataset
    if has_length(data):
        return data
    args = trainer.args
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    count = trainer.state.max_steps * batch
    logger.warning_once(
        f"The training data have no length: a pass over them takes at most their first {count} samples, as many as"
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
