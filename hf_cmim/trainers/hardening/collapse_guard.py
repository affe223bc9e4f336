"""Guard that looks for merging classes in training, reports the figure that shows it, and acts."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.utils import logging

from hf_cmim.class_names import class_names_of
from hf_cmim.hardening.collapse import LEARNED_RECALL, LOST_RECALL, MERGED_DISTANCE, STALLED_CHECKS, CollapsedPair

if TYPE_CHECKING:
    from hf_cmim.trainers.hardening.cmim_trainer import CMIMTrainer

logger = logging.get_logger(__name__)

CHECKS = 100
"""Number of checks in a whole training; ours."""
MEASURED_STEPS = 1000
"""Number of steps at which pulls are measured in a whole training, at most about twice as many; ours."""
LISTED_PAIRS = 5
"""Number of pairs that a warning lists."""
COLLAPSED_PAIRS = "collapsed_pairs"
"""Logged name of the number of pairs that began to collapse at a step."""


class CollapseGuard(TrainerCallback):
    """A callback that checks for collapse a hundred times in a training, and warns, reduces the weight or stops.

    Each collapse is also an entry `collapsed_pairs` in the logs, at its step, and an alert with `report_to="trackio"`.

    Args:
        trainer: trainer whose classes are watched.
    """

    def __init__(self, trainer: "CMIMTrainer") -> None:
        self.trainer = trainer

    @property
    def is_on(self) -> bool:
        """True if the guard looks for collapse at all."""
        return self.trainer.args.collapse_guard != "off" and self.trainer.args.cmi_weight > 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check for collapse if a check is due."""
        # Checks before the weight rises record how well plain cross-entropy separates the classes.
        trainer, hardening = self.trainer, self.trainer._state
        is_due = state.global_step % max(1, state.max_steps // CHECKS) == 0
        if hardening is None or not is_due or not self.is_on:
            return
        pairs = hardening.detector.check(hardening.bank, hardening.pulls.ratios)
        if not pairs:
            return
        weight, consequence = trainer.final_weight, 'nothing was changed (collapse_guard="warn")'
        if args.collapse_guard == "reduce":
            hardening.weight_scale /= 2
            consequence = f"the weight goes from {weight:g} to {weight / 2:g}"
        elif args.collapse_guard == "stop":
            control.should_training_stop = True
            consequence = "training stops here"
        names = dict(enumerate(class_names_of(trainer.model) or ()))
        message = warning(pairs, names, state.global_step, consequence)
        logger.warning(message)
        is_logged = control.should_log
        trainer.log({COLLAPSED_PAIRS: len(pairs)})
        # Logging clears the flag, but the loss of this step must still be logged.
        control.should_log = is_logged
        if "trackio" in args.report_to and state.is_world_process_zero:
            importlib.import_module("trackio").alert(title="Class collapse", text=message)


def warning(pairs: list[CollapsedPair], class_names: Mapping[int, str], step: int, consequence: str) -> str:
    """Return the warning about pairs that began to collapse.

    Args:
        pairs: collapsing pairs, the most urgent first.
        class_names: names of the classes by number; a class without a name is shown by its number.
        step: optimizer steps done.
        consequence: action of the guard, in words.
    """
    listed = "; ".join(described(pair, class_names) for pair in pairs[:LISTED_PAIRS])
    more = f"; and {len(pairs) - LISTED_PAIRS} more" if len(pairs) > LISTED_PAIRS else ""
    return (
        f"Class collapse at step {step}: the outputs of {len(pairs)} pair(s) of classes merge. {listed}{more}. The"
        f" model loses the power to tell them apart; {consequence}. Lower cmi_weight, or lengthen cmi_warmup and"
        " cmi_ramp."
    )


def described(pair: CollapsedPair, class_names: Mapping[int, str]) -> str:
    """Return the names of a pair and the figure that triggered the report, with its reference and its threshold."""
    first = str(class_names.get(pair.first, pair.first))
    second = str(class_names.get(pair.second, pair.second))
    lost = str(class_names.get(pair.lost, pair.lost))
    if pair.trigger == "recall":
        figure = (
            f"recall of {lost} {pair.recall:.1%}, once {pair.largest_recall:.1%} (lost below {LOST_RECALL:.0%} once"
            f" it was above {LEARNED_RECALL:.0%})"
        )
    elif pair.trigger == "distance":
        figure = (
            f"distance {pair.distance:.3f}, once {pair.largest_distance:.3f} (collapsing from half of that on,"
            f" {pair.largest_distance / 2:.3f})"
        )
    else:
        figure = (
            f"distance {pair.distance:.3f} (merged below {MERGED_DISTANCE:g}) over {STALLED_CHECKS} checks, and recall"
            f" of {lost} {pair.recall:.1%} (lost below {LOST_RECALL:.0%})"
        )
    return f"{first} and {second}: {figure}"
