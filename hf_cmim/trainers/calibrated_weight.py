"""A weight of the CMI that grows for as long as the model is surer than it is right."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.evaluation import LARGEST_MEASURED

if TYPE_CHECKING:
    from hf_cmim.trainers.cmim_trainer import CMIMTrainer

RATE = 24.0
"""Power of the calibration temperature by which the weight grows over a whole training; ours, on validation data."""
LARGEST_TEMPERATURE = 2.0
"""Temperatures beyond this or below its inverse count as these: one evaluation alone must not decide."""


class CalibratedWeight(TrainerCallback):
    """After each evaluation multiplies the weight by T^(24 f), never to less than `cmi_weight`.

    T is the temperature that calibrates the model's logits on the evaluation data, f the fraction of training since
    the evaluation before. A model that needs T above 1 is over-confident, from having fitted its training data;
    concentration takes that confidence first. So the weight rises until the model is calibrated.

    Args:
        trainer: whose weight it is.

    Raises:
        HfCmimError: asked for without one evaluation set, without evaluations, or where these measure no calibration.

    Source: ours.
    """

    def __init__(self, trainer: "CMIMTrainer") -> None:
        self.trainer = trainer
        args, data = trainer.args, trainer.eval_dataset
        if not args.cmi_follow_calibration:
            return
        strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
        if data is None or isinstance(data, Mapping) or strategy == "no":
            given = "none" if data is None else type(data).__name__
            raise _cannot_follow(f"eval_dataset {given} and eval_strategy {strategy!r}")
        classes = len(class_names_of(trainer.model) or ())
        if classes > LARGEST_MEASURED:
            raise _cannot_follow(f"{classes:,} classes")

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Let the weight follow, once there is one."""
        hardening = self.trainer._state
        if not (args.cmi_follow_calibration and self.trainer.is_in_train) or hardening is None:
            return
        temperature = (metrics or {}).get("eval_calibration_temperature")
        if temperature is None:
            raise _cannot_follow("an evaluation that measured no calibration, for want of labels or of samples")
        progress = state.global_step / max(state.max_steps, 1)
        passed, hardening.calibrated_at = progress - hardening.calibrated_at, progress
        if self.trainer.current_weight > 0:
            bounded = min(max(temperature, 1 / LARGEST_TEMPERATURE), LARGEST_TEMPERATURE)
            scale = hardening.weight_scale
            hardening.weight_scale = max(min(scale, 1.0), scale * bounded ** (RATE * passed))


def _cannot_follow(given: str) -> HfCmimError:
    return HfCmimError(
        f"Expected one labelled eval_dataset, at most {LARGEST_MEASURED:,} classes and an eval_strategy with"
        f" cmi_follow_calibration=True, got {given}: nothing would say how far the weight may rise. Give held-out data"
        ' and eval_strategy="epoch", or leave cmi_follow_calibration out.'
    )
