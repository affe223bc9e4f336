"""Settings that a hardening checkpoint was written with, compared with those it is resumed with."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils import logging

from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.cmim_config import CMIMConfig

logger = logging.get_logger(__name__)

SETTINGS = {
    "objective": (
        "temperature_weighting", "reduction", "reduction_order", "cmi_correct_only", "class_weights",
        "label_smoothing_factor", "centroids", "centroid_window",
    ),
    "schedule": ("cmi_weight", "cmi_warmup", "cmi_ramp", "cmi_follow_calibration"),
}  # fmt: skip
"""Settings by group: those that say what is optimised or what the centroids mean (temperatures and the scale of the
logits are compared by the state itself), and those that say how strongly the same CMI pulls, and when."""


def settings_to_write(args: CMIMConfig) -> dict[str, str]:
    """Return the settings as metadata of a checkpoint, JSON by group."""
    return {group: json.dumps({name: getattr(args, name) for name in names}) for group, names in SETTINGS.items()}


def check_resumed_settings(state_file: Path, args: CMIMConfig) -> None:
    """Compare the settings with those a checkpoint was written with.

    Another objective is refused: a training's two halves would optimise two things, from centroids of only one. A
    weight or a schedule may be changed on purpose, because a guard or a person saw that it was too strong, and is
    warned of. Checkpoints of earlier versions, which do not say, are accepted.

    Args:
        state_file: hardening state in the checkpoint; a missing one is left to who loads it.
        args: settings to resume with.

    Raises:
        HfCmimError: settings of the objective or of the centroids differ.
    """
    if not state_file.is_file():
        return
    with safe_open(state_file, framework="pt") as file:
        metadata = file.metadata() or {}
    changes = {group: _changes(json.loads(metadata.get(group, "{}")), args) for group in SETTINGS}
    if changes["objective"]:
        raise HfCmimError(
            f"The checkpoint {state_file.parent} was written with other settings: {'; '.join(changes['objective'])}."
            " Resumed with these, the rest of training would optimise another objective than its beginning, from"
            " centroids that belong to the first. Resume with the settings it was written with, or load its weights"
            " with from_pretrained and train anew."
        )
    if changes["schedule"]:
        logger.warning(
            f"The checkpoint {state_file.parent} was written with another weight of the CMI:"
            f" {'; '.join(changes['schedule'])}. Training goes on with the new one, and is no longer the run that was"
            " interrupted."
        )


def _changes(written: dict[str, Any], args: CMIMConfig) -> list[str]:
    now = {name: getattr(args, name, None) for name in written}
    if now.get("reduction") != "power_mean" and written.get("reduction") != "power_mean":
        written = {name: value for name, value in written.items() if name != "reduction_order"}  # nothing reads it
    return [f"{name} was {value!r} and is now {now[name]!r}" for name, value in written.items() if value != now[name]]
