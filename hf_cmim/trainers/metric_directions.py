"""Direction in which each evaluation metric of our trainers gets better."""

import re

FALLING = (
    "loss", "ce", "cmi", "cmi_sup", "ncmi", "nll", "nll_calibrated", "ece", "ece_calibrated", "aurc",
    "prediction_entropy", "within_total_ratio", "teacher_kl",
)  # fmt: skip
"""Metrics of which less is better; `cmi_T4` and its like count as `cmi`."""
RISING = ("accuracy", "top5_accuracy", "agreement", "teacher_accuracy")
"""Metrics of which more is better."""
WITHOUT_DIRECTION = (
    "calibration_temperature", "cmi_sup_temperature", "runtime", "samples_per_second", "steps_per_second",
    "model_preparation_time",
)  # fmt: skip
"""Metrics that describe a model or a run, and of which neither more nor less is better."""


def is_falling(metric: str) -> bool | None:
    """Return whether less of a metric is better, or None where its name does not tell.

    Args:
        metric: name with or without `eval_`, and with or without the name of an evaluation set before it.

    >>> is_falling("eval_test_nll"), is_falling("accuracy"), is_falling("f1")
    (True, False, None)
    """
    plain = re.sub(r"cmi_T[\d.e+-]+$", "cmi", metric)
    matches = [name for name in (*FALLING, *RISING, *WITHOUT_DIRECTION) if plain == name or plain.endswith(f"_{name}")]
    longest = max(matches, key=len, default=None)
    return None if longest is None or longest in WITHOUT_DIRECTION else longest in FALLING
