"""Direction in which each evaluation metric of our trainers gets better."""

import re

FALLING = (
    "loss",
    "ce",
    "cmi",
    "cmi_sup",
    "ncmi",
    "nll",
    "nll_calibrated",
    "ece",
    "ece_calibrated",
    "aurc",
    "prediction_entropy",
    "within_total_ratio",
    "teacher_kl",
)
"""Metrics that are better when lower; `cmi_T4` and the other temperatures count as `cmi`."""
RISING = ("accuracy", "top5_accuracy", "agreement", "teacher_accuracy")
"""Metrics that are better when higher."""
WITHOUT_DIRECTION = (
    "calibration_temperature",
    "cmi_sup_temperature",
    "runtime",
    "samples_per_second",
    "steps_per_second",
    "model_preparation_time",
)
"""Metrics that describe a model or a run, without a better direction."""


def is_falling(metric: str) -> bool | None:
    """Return True if a metric is better when lower, False if better when higher, None if its name does not tell.

    Args:
        metric: name with or without `eval_`, and with or without the name of an evaluation set before it.

    >>> is_falling("eval_test_nll"), is_falling("accuracy"), is_falling("f1")
    (True, False, None)
    """
    plain = re.sub(r"cmi_T[\d.e+-]+$", "cmi", metric)
    candidates = (*FALLING, *RISING, *WITHOUT_DIRECTION)
    matches = [name for name in candidates if plain == name or plain.endswith(f"_{name}")]
    # The longest match: "eval_teacher_accuracy" also ends in "accuracy".
    longest = max(matches, key=len, default=None)
    if longest is None or longest in WITHOUT_DIRECTION:
        return None
    return longest in FALLING
