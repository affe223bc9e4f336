"""Checks of arguments and model, before training and at the first batch."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.hardening.cmim_config import CMIMConfig
from hf_cmim.trainers.shared.heads import check_is_classifier

PROBABILITY_TOLERANCE = 1e-2
"""Largest distance of a row's sum from 1, because bfloat16 rounds."""


def check_arguments(args: object, model: nn.Module | None) -> None:
    """Check the arguments before a Trainer exists.

    Raises:
        HfCmimError: settings of another class, or a head that is not single-label.
    """
    if not isinstance(args, CMIMConfig):
        raise HfCmimError(
            f"Expected args of class CMIMConfig, got {type(args).__name__}: the hardening's settings would be missing."
            " CMIMConfig takes every argument of TrainingArguments and adds its own."
        )
    if model is not None:
        check_head(model, ["labels"], args.class_weights)


def check_head(model: nn.Module, label_names: Sequence[str], class_weights: Sequence[float] | str | None) -> None:
    """Check the model's head by its class and its config.

    Raises:
        HfCmimError: a head that does not classify, a multi-label or regression head, fewer than 2 classes, class names
            that contradict each other, labels under another name, or a wrong number of class weights.
    """
    check_is_classifier(model)
    if not label_names:
        raise HfCmimError(
            f"Expected a model whose forward takes 'labels', got {type(model).__name__}, which takes none. Is it the"
            " base model without its head? Use an AutoModelFor...Classification class. If it is a classifier whose"
            " forward does not name them, set label_names=['labels'] in its settings."
        )
    if list(label_names) != ["labels"]:
        raise HfCmimError(
            f"Expected one target named 'labels', got {list(label_names)}: Trainer counts only labels with that name,"
            " so gradient accumulation would change the scale of the loss. Rename the column."
        )
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    if problem in ("multi_label_classification", "regression"):
        raise HfCmimError(
            f"Expected a single-label classification head, got problem_type={problem!r}: its outputs have no cluster"
            " per class. Set problem_type='single_label_classification' and give one integer label a sample."
        )
    names = class_names_of(model)
    num_labels = None if names is None else len(names)
    if num_labels is not None and num_labels < 2:
        raise HfCmimError(
            f"Expected at least 2 classes, got num_labels={num_labels}: with one class there is nothing to learn."
            " Build the model with num_labels >= 2."
        )
    weights = () if class_weights is None or isinstance(class_weights, str) else class_weights
    if weights and num_labels is not None and len(weights) != num_labels:
        raise HfCmimError(
            f"Expected {num_labels} class_weights, one per class, got {len(weights)}. Give every class a factor."
        )


def check_are_logits(outputs: Tensor) -> None:
    """Refuse outputs that are probabilities, such as those of a model with a softmax at its end.

    The check waits for the device.

    Args:
        outputs: `(..., C)` outputs of a first batch; a single row is not checked, because it may sum to 1 by chance.

    Raises:
        HfCmimError: all outputs are at least 0, and each row sums to 1.
    """
    rows = outputs.detach().flatten(0, -2).float()
    if len(rows) < 2 or rows.shape[1] < 2:
        return
    sums_to_one = (rows.sum(dim=1) - 1).abs() < PROBABILITY_TOLERANCE
    if bool(((rows >= 0).all(dim=1) & sums_to_one).all()):
        # A second softmax sees at most 1 for one class and 0 for all others.
        largest = math.e / (math.e + rows.shape[1] - 1)
        raise HfCmimError(
            f"The model returns probabilities, not logits: all {len(rows)} rows of the first batch are at least 0 and"
            " sum to 1. The loss applies a second softmax, after which no class could get a probability above"
            f" {largest:.2f}. Return the inputs of the model's last softmax, or the logarithm of the probabilities."
        )


def check_width(logits: Tensor, num_classes: int | None) -> None:
    """Check that the head has one logit for each class in its configuration.

    Raises:
        HfCmimError: the numbers differ.
    """
    if num_classes is not None and logits.shape[-1] != num_classes:
        raise HfCmimError(
            f"The model gives {logits.shape[-1]} logits, but its id2label names {num_classes} classes: names would"
            " belong to the wrong outputs, and the saved model could not be loaded. Set id2label and label2id of"
            " model.config to the classes of the head."
        )
