"""Settings of the hardening trainer."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_cmim.centroids import check_logit_scale
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.temperatures import DEFAULT_TEMPERATURES, check_temperatures, reconstruction_temperatures
from hf_cmim.objective import DEFAULT_LOGIT_SCALE, CMIMLoss, Reduction, TemperatureWeighting
from hf_cmim.trainers.hardening.class_weights import BALANCED
from hf_cmim.trainers.shared.component_config import ComponentConfig

PRESET_SETTINGS = ("temperatures", "temperature_weighting", "logit_scale", "reduction")
"""Settings that the preset fills if they are unset."""


@dataclass
class CMIMConfig(ComponentConfig):
    """Settings of `CMIMTrainer`: those of `TrainingArguments`, and those of the hardening.

    `load_best_model_at_end` and early stopping consider a model only after the ramp has ended. `greater_is_better` is
    False by default for every metric that should fall, not only for a loss. When a search changes the preset, the
    settings that the preset filled change with it.

    Every default below is ours, chosen on validation data; the paper's defaults are not public.

    Raises:
        HfCmimError: a value outside its range, at construction.
    """

    # Objective
    cmi_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the conditional mutual information beside the cross-entropy, at least 0."},
    )
    cmi_warmup: float = field(
        default=0.2,
        metadata={"help": "Fraction of training with weight 0, while the centroids settle; in [0, 1]."},
    )
    cmi_ramp: float = field(
        default=0.3,
        metadata={"help": "Fraction of training over which the weight then rises linearly; warmup + ramp at most 1."},
    )
    cmi_follow_calibration: bool = field(
        default=False,
        metadata={
            "help": "Raise the weight while the model is over-confident on eval_dataset. Each evaluation multiplies it"
            " by T^(24 f): T is the temperature that calibrates the model, f the fraction of training since the"
            " previous evaluation. The weight never falls below cmi_weight. Needs an eval_strategy."
        },
    )
    preset: Literal["default", "reconstruction"] = field(
        default="default",
        metadata={
            "help": "Source of unset objective settings: 'default' (powers of two, max(1, T^2), mean, scale 4)"
            " or 'reconstruction' (our reading of the paper's relaxation: uniform powers 1/T, power mean, no T^2,"
            " no scale)."
        },
    )
    temperatures: list[float] | None = field(
        default=None,
        metadata={"help": "Temperatures at which the clusters are concentrated, each above 0; unset: the preset's."},
    )
    temperature_weighting: TemperatureWeighting | None = field(
        default=None,
        metadata={
            "help": "Factor of each temperature's CMI: 'squared' (max(1, T^2)), 'information' (1 divided by all"
            " information in the outputs, with the quotient's gradient: it leaks less, and needs a larger cmi_weight,"
            " logit_scale 0, and a warm-up or centroid_prefill) or 'none'; unset: the preset's."
        },
    )
    logit_scale: float | None = field(
        default=None,
        metadata={
            "help": "Largest root mean square, around their mean, of a sample's logits in the CMI: larger logits are"
            " scaled down to it first. The CMI then leaves the scale of the logits to the cross-entropy, because"
            " shrinking all logits hides nothing. 0: no scaling; unset: the preset's."
        },
    )
    cmi_correct_only: bool = field(
        default=False,
        metadata={
            "help": "Take the CMI only of samples that the model classifies correctly at that step. The others get"
            " only the cross-entropy: to concentrate them means to memorise them."
        },
    )
    reduction: Reduction | None = field(
        default=None,
        metadata={"help": "Combination of the temperatures: 'mean', 'power_mean' or 'max'; unset: the preset's."},
    )
    reduction_order: float = field(
        default=4.0, metadata={"help": "Exponent of the power mean over temperatures, at least 1."}
    )
    class_weights: list[float] | str | None = field(
        default=None,
        metadata={
            "help": "One factor per class for the cross-entropy, or 'balanced': n / (C n_c) from the labels of"
            " train_dataset. The sum is divided by the number of labels.",
            # HfArgumentParser would read this annotation as one string.
            "nargs": "+",
        },
    )

    # Centroids
    centroids: Literal["bank", "epoch", "batch"] = field(
        default="bank",
        metadata={
            "help": "Source of class centroids: 'bank' (running mean of the training outputs), 'epoch' (exact, one"
            " extra pass over the data before each epoch) or 'batch' (only this micro-batch: biased low by about"
            " (n - 1) / n for n samples of a class, and not invariant to how a batch is split)."
        },
    )
    centroid_window: float = field(
        default=500.0,
        metadata={"help": "Number of samples of a class over which the bank averages, above 1."},
    )
    centroid_prefill: bool = field(
        default=False,
        metadata={"help": "Fill the bank by one pass over the data before training; for trained models."},
    )

    # Guard
    collapse_guard: Literal["warn", "reduce", "stop", "off"] = field(
        default="warn",
        metadata={
            "help": "Action when classes merge: 'warn', 'reduce' (halve the weight from this step on), 'stop' (end"
            " training at this step) or 'off'."
        },
    )

    def __post_init__(self) -> None:
        """Fill unset objective settings from the preset, then check every range."""
        super().__post_init__()
        # A command line gives words, also for numbers.
        if isinstance(self.class_weights, list) and all(isinstance(value, str) for value in self.class_weights):
            self.class_weights = _from_words(self.class_weights)
        self._from_preset: dict[str, Any] = {}
        self.derive()

    def unset_derived(self) -> None:
        """Unset the objective settings that still have the preset's value."""
        for name, value in self._from_preset.items():
            if getattr(self, name) == value:
                setattr(self, name, None)
        self._from_preset = {}

    def derive(self) -> None:
        """Fill unset objective settings from the preset, then check every range."""
        self.unset_derived()
        reconstructed = self.preset == "reconstruction"
        if self.preset not in ("default", "reconstruction"):
            raise HfCmimError(f'Expected preset "default" or "reconstruction", got {self.preset!r}.')
        unset = [name for name in PRESET_SETTINGS if getattr(self, name) is None]
        if self.temperatures is None:
            self.temperatures = list(reconstruction_temperatures() if reconstructed else DEFAULT_TEMPERATURES)
        self.temperatures = list(check_temperatures(self.temperatures))
        self.temperature_weighting = self.temperature_weighting or ("none" if reconstructed else "squared")
        self.reduction = self.reduction or ("power_mean" if reconstructed else "mean")
        if self.logit_scale is None:
            # The quotient needs no scale: shrinking all logits lowers both of its parts.
            needs_none = reconstructed or self.temperature_weighting == "information"
            self.logit_scale = 0.0 if needs_none else DEFAULT_LOGIT_SCALE
        self._from_preset = {name: getattr(self, name) for name in unset}
        self.check_ranges()

    def check_ranges(self) -> None:
        """Raise an `HfCmimError` that names the first setting outside its range."""
        if not 0 <= self.cmi_weight < float("inf"):
            raise HfCmimError(
                f"Expected cmi_weight >= 0, got {self.cmi_weight}: a negative weight spreads the clusters and makes"
                " the model a better teacher. Use 0 for plain cross-entropy."
            )
        if not (self.cmi_warmup >= 0 and self.cmi_ramp >= 0 and self.cmi_warmup + self.cmi_ramp <= 1):
            raise HfCmimError(
                f"Expected cmi_warmup and cmi_ramp >= 0 with a sum of at most 1, got {self.cmi_warmup} and"
                f" {self.cmi_ramp}: training would end before the full weight is reached, and the model would not be"
                " hardened as asked. Shorten one."
            )
        judge = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if self.cmi_follow_calibration and self.load_best_model_at_end and judge == "loss":
            raise HfCmimError(
                'Expected a metric_for_best_model with cmi_follow_calibration=True, got "loss": it contains the'
                ' weighted CMI, so the least hardened model would count as the best. Use, for instance, "accuracy".'
            )
        if not self.centroid_window > 1:
            raise HfCmimError(f"Expected centroid_window > 1 sample a class, got {self.centroid_window}.")
        if self.centroids not in ("bank", "epoch", "batch"):
            raise HfCmimError(f'Expected centroids "bank", "epoch" or "batch", got {self.centroids!r}.')
        if self.collapse_guard not in ("warn", "reduce", "stop", "off"):
            raise HfCmimError(
                f'Expected collapse_guard "warn", "reduce", "stop" or "off", got {self.collapse_guard!r}.'
            )
        weights = self.class_weights
        if isinstance(weights, str) and weights != BALANCED:
            raise HfCmimError(f'Expected class_weights "balanced" or one factor per class, got {weights!r}.')
        if not isinstance(weights, str) and not all(0 <= value < float("inf") for value in weights or ()):
            raise HfCmimError(f"Expected class_weights >= 0 and finite, got {weights}.")
        has_learned = self.cmi_warmup > 0 or self.centroid_prefill
        if self.temperature_weighting == "information" and (self.logit_scale or not has_learned):
            raise HfCmimError(
                'Expected logit_scale 0 and cmi_warmup above 0 with temperature_weighting "information", got'
                f" {self.logit_scale} and {self.cmi_warmup}: the quotient needs no scale, and would merge the classes"
                " of a model that has learned nothing yet. For a trained model set centroid_prefill=True instead."
            )
        check_logit_scale(self.logit_scale or 0.0)
        self.build_objective()

    def build_objective(self, balanced_weights: list[float] | None = None) -> CMIMLoss:
        """Return the loss of these settings.

        Args:
            balanced_weights: one weight per class, used if `class_weights` is "balanced".
        """
        return CMIMLoss(
            self.temperatures or DEFAULT_TEMPERATURES,
            temperature_weighting=self.temperature_weighting or "squared",
            reduction=self.reduction or "mean",
            order=self.reduction_order,
            class_weights=balanced_weights if isinstance(self.class_weights, str) else self.class_weights,
            label_smoothing=self.label_smoothing_factor,
            correct_only=self.cmi_correct_only,
        )

    @property
    def bank_settings(self) -> dict[str, Any]:
        """Arguments of `CentroidBank`, without the number of classes."""
        return {
            "temperatures": self.temperatures or DEFAULT_TEMPERATURES,
            "window": self.centroid_window,
            "logit_scale": float(self.logit_scale or 0),
            "follows_label": self.temperature_weighting == "information",
            "correct_only": self.cmi_correct_only,
        }

    @property
    def ramp_end(self) -> float:
        """Fraction of training after which the weight is full; 0 without a weight."""
        return self.cmi_warmup + self.cmi_ramp if self.cmi_weight else 0.0


def _from_words(words: list[Any]) -> list[float] | str:
    """Return the words of a command line as numbers, or the one word "balanced"."""
    if words == [BALANCED]:
        return BALANCED
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise HfCmimError(f'Expected class_weights "balanced" or one factor per class, got {words}.') from error
