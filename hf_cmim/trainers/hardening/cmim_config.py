"""Settings of the hardening trainer."""

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.temperatures import DEFAULT_TEMPERATURES
from hf_cmim.hardening.spec import BALANCED, FormName, ObjectiveSpec, Source
from hf_cmim.trainers.shared.component_config import ComponentConfig


@dataclass
class CMIMConfig(ComponentConfig):
    """Settings of `CMIMTrainer`: those of `TrainingArguments`, and those of the hardening.

    `load_best_model_at_end` and early stopping consider a model only after the ramp has ended. `greater_is_better` is
    False by default for every metric that should fall, not only for a loss.

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
    cmi_form: FormName = field(
        default="scaled",
        metadata={
            "help": "How the CMI enters the loss: 'scaled' (times max(1, T^2), of logits brought to one scale),"
            " 'share' (divided by all information in the outputs, with the quotient's gradient: it leaks less, and"
            " needs a larger cmi_weight, and a warm-up or centroid_prefill) or 'plain' (times max(1, T^2), of the"
            " logits as they are: shrinking all logits reduces it and hides nothing)."
        },
    )
    temperatures: list[float] = field(
        default_factory=lambda: list(DEFAULT_TEMPERATURES),
        metadata={"help": "Temperatures at which the clusters are concentrated, each above 0."},
    )
    logit_scale: float | None = field(
        default=None,
        metadata={
            "help": "Largest root mean square, around their mean, of a sample's logits in the CMI, with cmi_form"
            " 'scaled': larger logits are scaled down to it first. The CMI then leaves the scale of the logits to the"
            " cross-entropy, because shrinking all logits hides nothing. Unset: 4."
        },
    )
    cmi_correct_only: bool = field(
        default=False,
        metadata={
            "help": "Take the CMI only of samples that the model classifies correctly at that step. The others get"
            " only the cross-entropy: to concentrate them means to memorise them."
        },
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
    centroids: Source = field(
        default="bank",
        metadata={
            "help": "Source of class centroids: 'bank' (running mean of the training outputs) or 'epoch' (exact, one"
            " extra pass over the data before each epoch)."
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
        """Read the words of a command line as numbers, then check every range."""
        super().__post_init__()
        # A command line gives words, also for numbers.
        if isinstance(self.class_weights, list) and all(isinstance(value, str) for value in self.class_weights):
            self.class_weights = _from_words(self.class_weights)
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
        if self.collapse_guard not in ("warn", "reduce", "stop", "off"):
            raise HfCmimError(
                f'Expected collapse_guard "warn", "reduce", "stop" or "off", got {self.collapse_guard!r}.'
            )
        has_learned = self.cmi_warmup > 0 or self.centroid_prefill
        if self.cmi_form == "share" and not has_learned:
            raise HfCmimError(
                f'Expected cmi_warmup above 0 with cmi_form "share", got {self.cmi_warmup}: the share would merge the'
                " classes of a model that has learned nothing yet. For a trained model set centroid_prefill=True"
                " instead."
            )
        # Building it checks the settings of the objective.
        _ = self.spec

    @property
    def spec(self) -> ObjectiveSpec:
        """Specification of the objective that these settings describe."""
        weights = self.class_weights
        return ObjectiveSpec(
            form=self.cmi_form,
            temperatures=tuple(self.temperatures),
            logit_scale=self.logit_scale,
            correct_only=self.cmi_correct_only,
            centroids=self.centroids,
            window=self.centroid_window,
            class_weights=weights if weights is None or isinstance(weights, str) else tuple(weights),
            label_smoothing=self.label_smoothing_factor,
        )

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
