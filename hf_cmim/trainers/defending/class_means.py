"""Mean answers of a classifier to the samples of each class, before a defence trains it."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.utils import logging

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.clusters import ClusterStatistics
from hf_cmim.trainers.shared.components import unchanged_random_states
from hf_cmim.trainers.shared.training_pass import training_outputs

if TYPE_CHECKING:
    from hf_cmim.trainers.defending.defense_trainer import DefenseTrainer

logger = logging.get_logger(__name__)


class ClassMeansBeforeTraining(TrainerCallback):
    """A callback that takes the class means before the first step; a resumed run has those of its checkpoint.

    Args:
        trainer: trainer of the defence.
    """

    def __init__(self, trainer: "DefenseTrainer") -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take them, if the defence needs them and they are not known yet."""
        self.trainer.class_means()


@torch.no_grad()
def mean_answers(trainer: "DefenseTrainer") -> Tensor:
    """Return the mean answer to the training samples of each class, `(C, C)` fp32; 0 for a class without a sample.

    One pass in evaluation mode over all processes. Random states are restored.

    Raises:
        HfCmimError: no training data.
    """
    if trainer.train_dataset is None:
        raise HfCmimError(
            f"Expected a train_dataset for {trainer.defense!r}, got None: the loss needs the mean answer of each class"
            " of the training data. Pass it, or measure the model with plain Trainer."
        )
    model = trainer.model_wrapped
    was_training = model.training
    model.eval()
    statistics: ClusterStatistics | None = None
    with unchanged_random_states(trainer.args.device):
        for logits, labels in training_outputs(trainer, model, "Class means"):
            if statistics is None:
                statistics = ClusterStatistics(logits.shape[-1], (1.0,))
            statistics.update(logits, labels)
    model.train(was_training)
    # The data set is not empty, or Trainer would have refused it.
    assert statistics is not None
    means = statistics.centroids()[0].float()
    _warn_of_an_untrained_model(means)
    return means


def _warn_of_an_untrained_model(means: Tensor) -> None:
    classes = torch.arange(len(means), device=means.device)
    seen = means.sum(dim=-1) > 0
    led = int((means.argmax(dim=-1) == classes)[seen].sum())
    if 2 * led < int(seen.sum()):
        logger.warning(
            f"The model's mean answer names the right class for {led} of {int(seen.sum())} classes: it has not learned"
            " the task yet, and this defence would keep such means for the whole training. Start from a trained model:"
            " its folder with from_pretrained."
        )
