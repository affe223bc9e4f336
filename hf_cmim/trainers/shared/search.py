"""Default objective of a hyper-parameter search."""

from collections.abc import Callable, Mapping
from typing import Any

from hf_cmim.errors import HfCmimError


def evaluation_loss(metrics: dict[str, float]) -> float:
    """Return `eval_loss`."""
    return metrics["eval_loss"]


def evaluation_accuracy(metrics: dict[str, float]) -> float:
    """Return `eval_accuracy`."""
    return metrics["eval_accuracy"]


def default_objective(direction: str | list[str], eval_dataset: Any) -> Callable[[dict[str, float]], float]:
    """Return the objective of a search: the loss to minimize or the accuracy to maximize.

    `Trainer`'s own default adds up all metrics.

    Args:
        direction: "minimize" or "maximize".
        eval_dataset: evaluation data of the trainer.

    Raises:
        HfCmimError: several directions, no evaluation data or several sets of them.
    """
    if direction not in ("minimize", "maximize"):
        raise HfCmimError(
            f"Expected compute_objective for direction {direction!r}: Trainer's default would add up all"
            " metrics, those that should rise and those that should fall."
        )
    metric = "loss" if direction == "minimize" else "accuracy"
    if eval_dataset is None:
        raise HfCmimError(
            f"The search judges trials by eval_{metric}, and there is no eval_dataset: the first trial would train"
            " and could not be judged. Give the trainer an eval_dataset."
        )
    if isinstance(eval_dataset, Mapping):
        names = list(eval_dataset)
        raise HfCmimError(
            f"The evaluation sets are {names}, and it is unclear which of them judges a trial. Choose one, for"
            f' instance compute_objective=lambda metrics: metrics["eval_{names[0] if names else "name"}_{metric}"].'
        )
    return evaluation_loss if direction == "minimize" else evaluation_accuracy
