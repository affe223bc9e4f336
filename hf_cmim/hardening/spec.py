"""Specification of a hardening objective, read by the loss, the bank, the checkpoint and the certificate."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.temperatures import DEFAULT_TEMPERATURES, check_temperatures

DEFAULT_LOGIT_SCALE = 4.0
"""Approximate root mean square of a classifier's centred logits after training with cross-entropy; ours."""
BALANCED = "balanced"
"""Value of `class_weights` for weights that come from the labels of the training data."""

FormName = Literal["scaled", "share", "plain"]
Source = Literal["bank", "epoch"]


@dataclass(frozen=True)
class ObjectiveSpec:
    """Everything that decides which objective is trained, except its weight.

    The loss is CE + w * mean over T of f(T) * CMI_T, with CMI_T = mean KL(softmax(z / T) || Q_y^T). The form says how
    the CMI enters:

    - "scaled" (ours): f = max(1, T^2), of logits brought to one spread. The gradient has no part along the scale of
      all logits, because shrinking them would reduce the CMI and hide nothing.
    - "share" (ours): f = 1 / I_T, where I_T is all information that outputs carry, about the label and beyond, with
      the gradient of the quotient. It needs no scale, and gains nothing from pushing apart classes that are never
      confused.
    - "plain": f = max(1, T^2). For large T, T^2 CMI_T tends to the within-class variance of the centred logits
      divided by 2 C.

    Attributes:
        form: "scaled", "share" or "plain".
        temperatures: `K` distinct numbers above 0.
        logit_scale: root mean square of a sample's centred logits to which larger logits are scaled down, above 0;
            only for "scaled", where None stands for 4.
        correct_only: True to take CMI and centroids only of samples whose largest logit is at their label.
        centroids: "bank" (running means of the training outputs) or "epoch" (exact means, which a pass over the data
            gives before each epoch).
        window: number of samples of a class after which an older sample weighs 1/e of the newest, above 1.
        class_weights: factors of the cross-entropy, `C` numbers of at least 0, "balanced", or None.
        label_smoothing: label smoothing of the cross-entropy, in [0, 1).

    Raises:
        HfCmimError: a value outside its range, at construction.

    Source: idea, arXiv 2507.00012; every default is ours (the paper's are not public).

    >>> ObjectiveSpec("share", correct_only=True).changes_since(ObjectiveSpec("share").to_dict())
    ['correct_only was False and is now True']
    """

    form: FormName = "scaled"
    temperatures: tuple[float, ...] = DEFAULT_TEMPERATURES
    logit_scale: float | None = None
    correct_only: bool = False
    centroids: Source = "bank"
    window: float = 500.0
    class_weights: tuple[float, ...] | str | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Fill the scale, convert lists to tuples, and check every range."""
        object.__setattr__(self, "temperatures", check_temperatures(self.temperatures))
        if self.class_weights is not None and not isinstance(self.class_weights, str):
            object.__setattr__(self, "class_weights", tuple(map(float, self.class_weights)))
        if self.form == "scaled" and self.logit_scale is None:
            object.__setattr__(self, "logit_scale", DEFAULT_LOGIT_SCALE)
        self._check_concentration()
        self._check_cross_entropy()

    def _check_concentration(self) -> None:
        if self.form not in get_args(FormName):
            raise HfCmimError(f'Expected the form "scaled", "share" or "plain", got {self.form!r}.')
        if self.form != "scaled" and self.logit_scale is not None:
            raise HfCmimError(
                f"Expected no logit_scale with the form {self.form!r}, got {self.logit_scale}: only the form 'scaled'"
                " scales logits. Leave logit_scale out."
            )
        if self.logit_scale is not None and not 0 < self.logit_scale < math.inf:
            raise HfCmimError(
                f"Expected a logit_scale above 0 and finite, got {self.logit_scale}: a classifier trained with"
                ' cross-entropy has about 4. For logits as they are use the form "plain" or "share".'
            )
        if self.centroids not in get_args(Source):
            raise HfCmimError(f'Expected centroids "bank" or "epoch", got {self.centroids!r}.')
        if not 1 < self.window < math.inf:
            raise HfCmimError(
                f"Expected a window above 1 sample a class and finite, got {self.window}: a window of 1 averages"
                " nothing, and with an infinite window the centroids never forget the untrained model. Start near 500."
            )

    def _check_cross_entropy(self) -> None:
        weights = self.class_weights
        if isinstance(weights, str) and weights != BALANCED:
            raise HfCmimError(f'Expected class_weights "balanced" or one factor per class, got {weights!r}.')
        if not isinstance(weights, str) and not all(0 <= value < math.inf for value in weights or ()):
            raise HfCmimError(f"Expected class_weights >= 0 and finite, got {list(weights or ())}.")
        if not 0 <= self.label_smoothing < 1:
            raise HfCmimError(
                f"Expected label_smoothing in [0, 1), got {self.label_smoothing}: at 1 the target has no label left."
                " The usual value is 0.1."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, as JSON holds them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def changes_since(self, written: Mapping[str, Any]) -> list[str]:
        """Return a phrase for each setting that has changed since a specification was written.

        Args:
            written: result of `to_dict`, of this version or an earlier one.
        """
        now = self.to_dict()
        names = [*now, *(name for name in written if name not in now)]
        return [
            f"{name} was {written.get(name)!r} and is now {now.get(name)!r}"
            for name in names
            if now.get(name) != written.get(name)
        ]
