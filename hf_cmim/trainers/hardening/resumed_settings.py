"""Comparison of the settings in a hardening checkpoint with those of the resumed run."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils import logging

from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.hardening.cmim_config import CMIMConfig

logger = logging.get_logger(__name__)

SETTINGS = {
    "objective": (
        "temperature_weighting",
        "reduction",
        "reduction_order",
        "cmi_correct_only",
        "class_weights",
        "label_smoothing_factor",
        "centroids",
        "centroid_window",
    ),
    "schedule": ("cmi_weight", "cmi_warmup", "cmi_ramp", "cmi_follow_calibration"),
}
"""Settings by group. "objective": the loss and the meaning of the centroids (the hardening state itself compares
temperatures and the scale of the logits). "schedule": strength and timing of the same CMI."""


def settings_to_write(args: CMIMConfig) -> dict[str, str]:
    """Return the settings as metadata of a checkpoint, JSON by group."""
    metadata: dict[str, str] = {}
    for group, names in SETTINGS.items():
        metadata[group] = json.dumps({name: getattr(args, name) for name in names})
    return metadata


def check_resumed_settings(state_file: Path, args: CMIMConfig) -> None:
    """Compare the settings with those in a checkpoint.

    Another objective is refused: the two halves of training would optimise different losses, with centroids of only
    one. Another weight or schedule gives a warning: users change it on purpose, for instance after a warning of the
    collapse guard. Checkpoints of earlier versions without settings are accepted.

    Args:
        state_file: hardening state in the checkpoint; a missing file is reported by its loader.
        args: settings of the resumed run.

    Raises:
        HfCmimError: settings of the objective or of the centroids differ.
    """
    if not state_file.is_file():
        return
    with safe_open(state_file, framework="pt") as file:
        metadata = file.metadata() or {}
    changes: dict[str, list[str]] = {}
    for group in SETTINGS:
        written = json.loads(metadata.get(group, "{}"))
        changes[group] = _changes(written, args)
    if changes["objective"]:
        raise HfCmimError(
            f"The checkpoint {state_file.parent} was written with other settings: {'; '.join(changes['objective'])}."
            " The resumed training would optimise another objective than its beginning, with centroids that belong to"
            " the first one. Resume with the settings of the checkpoint, or load its weights with from_pretrained and"
            " train from the start."
        )
    if changes["schedule"]:
        logger.warning(
            f"The checkpoint {state_file.parent} was written with another weight of the CMI:"
            f" {'; '.join(changes['schedule'])}. Training goes on with the new one: it is no longer the interrupted"
            " run."
        )


def _changes(written: dict[str, Any], args: CMIMConfig) -> list[str]:
    current = {name: getattr(args, name, None) for name in written}
    changes: list[str] = []
    for name, value in written.items():
        # Only the power mean reads its order.
        uses_order = "power_mean" in (current.get("reduction"), written.get("reduction"))
        is_unused = name == "reduction_order" and not uses_order
        if value != current[name] and not is_unused:
            changes.append(f"{name} was {value!r} and is now {current[name]!r}")
    return changes
