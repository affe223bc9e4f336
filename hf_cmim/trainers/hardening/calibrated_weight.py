"""Callback that raises the weight of the CMI while the model is over-confident."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.shared.evaluation import LARGEST_MEASURED

if TYPE_CHECKING:
    from hf_cmim.trainers.hardening.cmim_trainer import CMIMTrainer

RATE = 24.0
"""Exponent of the calibration temperature over a whole training; ours, chosen on validation data."""
LARGEST_TEMPERATURE = 2.0
"""Upper bound of the temperature; its inverse is the lower bound. So no single evaluation decides."""


class CalibratedWeight(TrainerCallback):
    """A callback that multiplies the weight by T^(24 f) after each evaluation, never to less than `cmi_weight`.

    T is the temperature that calibrates the model's logits on the evaluation data; f is the fraction of training since
    the previous evaluation. A model with T above 1 is over-confident: it has fitted its training data. Concentration
    removes this confidence first. So the weight rises until the model is calibrated.

    Args:
        trainer: trainer whose weight follows the calibration.

    Raises:
        HfCmimError: no evaluation set or several, no evaluations, or evaluations that measure no calibration.

    Source: ours.
    """

    def __init__(self, trainer: "CMIMTrainer") -> None:
        self.trainer = trainer
        args, data = trainer.args, trainer.eval_dataset
        if not args.cmi_follow_calibration:
            return
        strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
        if data is None or isinstance(data, Mapping) or strategy == "no":
            data_type = "none" if data is None else type(data).__name__
            raise _cannot_follow(f"eval_dataset {data_type} and eval_strategy {strategy!r}")
        classes = len(class_names_of(trainer.model) or ())
        if classes > LARGEST_MEASURED:
            raise _cannot_follow(f"{classes:,} classes")

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Update the weight, once it is above 0."""
        hardening = self.trainer._state
        if not (args.cmi_follow_calibration and self.trainer.is_in_train) or hardening is None:
            return
        temperature = (metrics or {}).get("eval_calibration_temperature")
        if temperature is None:
            raise _cannot_follow("an evaluation that measured no calibration, because it had too few labelled samples")
        progress = state.global_step / max(state.max_steps, 1)
        fraction_passed = progress - hardening.calibrated_at
        hardening.calibrated_at = progress
        if self.trainer.current_weight > 0:
            bounded = min(max(temperature, 1 / LARGEST_TEMPERATURE), LARGEST_TEMPERATURE)
            scale = hardening.weight_scale
            # The collapse guard may have lowered the scale below 1: calibration then does not lower it further.
            smallest = min(scale, 1.0)
            hardening.weight_scale = max(smallest, scale * bounded ** (RATE * fraction_passed))


def _cannot_follow(situation: str) -> HfCmimError:
    return HfCmimError(
        f"Expected one labelled eval_dataset, at most {LARGEST_MEASURED:,} classes and an eval_strategy with"
        f" cmi_follow_calibration=True, got {situation}: without a measured calibration nothing limits the weight."
        ' Give held-out data and eval_strategy="epoch", or leave cmi_follow_calibration out.'
    )
