"""Training state of the hardening: bank, collapse detector, pulls and weight, as a checkpoint keeps them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging

from hf_cmim.errors import HfCmimError
from hf_cmim.hardening.bank import CentroidBank
from hf_cmim.hardening.collapse import CollapseDetector
from hf_cmim.hardening.pulls import ClassPulls
from hf_cmim.hardening.spec import ObjectiveSpec

logger = logging.get_logger(__name__)

STATE_NAME = "cmim_state.safetensors"
"""File of this state in a checkpoint."""
LARGEST_SAVED_BYTES = 2**30
"""Larger centroids are left out of checkpoints (5 temperatures: above 7,327 classes): one pass makes them anew."""


class HardeningState:
    """Everything that hardening remembers from step to step. Created when the number of classes is known.

    Args:
        num_classes: number of classes `C`.
        spec: specification of the objective.
        device: device of the tensors.

    Attributes:
        bank: running centroids, and the state of the objective's form.
        detector: detector of merging classes.
        pulls: strength of the CMI's pull on each class.
        weight_scale: factor of the CMI's weight, below 1 once the guard has reduced it, above 1 where it grows.
        calibrated_at: fraction of training at which it last followed the calibration.
        lacks_centroids: True after loading a checkpoint without centroids; the bank must be filled before training.
        logged_names: names of the logged parts: cross-entropy, CMI, and the CMI at each temperature.
    """

    def __init__(self, num_classes: int, spec: ObjectiveSpec, device: torch.device) -> None:
        self.bank = CentroidBank(num_classes, spec).to(device)
        self.detector = CollapseDetector(num_classes).to(device)
        self.pulls = ClassPulls(num_classes).to(device)
        self.weight_scale = 1.0
        self.calibrated_at = 0.0
        self.lacks_centroids = False
        self.logged_names = "ce", "cmi", *(f"cmi_T{temperature:g}" for temperature in spec.temperatures)

    def save(self, folder: Path, schedule: Mapping[str, Any] | None = None) -> None:
        """Write the state, with the specification of the objective, into a checkpoint folder.

        Args:
            folder: folder of the checkpoint.
            schedule: settings of the CMI's weight.
        """
        tensors = {f"bank.{name}": value for name, value in self.bank.state_dict().items()}
        if self.bank.probs.nbytes > LARGEST_SAVED_BYTES:
            del tensors["bank.probs"]
        tensors |= {f"detector.{name}": value for name, value in self.detector.state_dict().items()}
        tensors |= {f"pulls.{name}": value for name, value in self.pulls.state_dict().items()}
        for name in ("weight_scale", "calibrated_at"):
            tensors[name] = torch.tensor(getattr(self, name), dtype=torch.float64)
        metadata = {"spec": json.dumps(self.bank.spec.to_dict()), "schedule": json.dumps(dict(schedule or {}))}
        save_file(tensors, folder / STATE_NAME, metadata=metadata)

    @classmethod
    def load(
        cls, folder: Path, spec: ObjectiveSpec, device: torch.device, schedule: Mapping[str, Any] | None = None
    ) -> "HardeningState":
        """Read the state from a checkpoint folder.

        Another objective is refused: the two halves of training would optimise different losses, with centroids of
        only one. Another weight or schedule gives a warning: users change it on purpose, for instance after a warning
        of the collapse guard.

        Args:
            folder: folder of the checkpoint.
            spec: specification of the resumed run.
            device: device of the tensors.
            schedule: settings of the CMI's weight in the resumed run.

        Raises:
            HfCmimError: no hardening state, or one of another specification.
        """
        path = folder / STATE_NAME
        if not path.is_file():
            raise HfCmimError(
                f"Expected the hardening state {path}, got nothing: CMIMTrainer did not write this checkpoint, and"
                " its centroids would start empty. Load its weights with from_pretrained and train anew."
            )
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        _check_written(folder, metadata, spec, schedule or {})
        tensors = load_file(path)
        state = cls(len(tensors["bank.mass"]), spec, device)
        state.lacks_centroids = "bank.probs" not in tensors
        if state.lacks_centroids:
            # An empty bank: it weighs nothing.
            tensors |= {"bank.probs": state.bank.probs, "bank.mass": state.bank.mass}
            logger.warning_once(
                f"{path} leaves out {state.bank.probs.nbytes / 2**30:.1f} GiB of centroids. One pass over the training"
                " data makes them anew from the checkpoint's weights: training goes on as well as without the"
                " interruption, but not bit for bit."
            )
        for prefix, module in (("bank.", state.bank), ("detector.", state.detector), ("pulls.", state.pulls)):
            module.load_state_dict(_under(prefix, tensors))
        state.weight_scale = tensors["weight_scale"].item()
        state.calibrated_at = tensors["calibrated_at"].item()
        return state


def _check_written(
    folder: Path, metadata: Mapping[str, str], spec: ObjectiveSpec, schedule: Mapping[str, Any]
) -> None:
    """Compare the objective and its schedule with those in a checkpoint."""
    changes = spec.changes_since(json.loads(metadata.get("spec", "{}")))
    if changes:
        raise HfCmimError(
            f"The checkpoint {folder} was written with another objective: {'; '.join(changes)}. The resumed training"
            " would optimise another objective than its beginning, with centroids that belong to the first one. Resume"
            " with the settings of the checkpoint, or load its weights with from_pretrained and train from the start."
        )
    written = json.loads(metadata.get("schedule", "{}"))
    weights = [
        f"{name} was {written[name]!r} and is now {value!r}"
        for name, value in schedule.items()
        if name in written and written[name] != value
    ]
    if weights:
        logger.warning(
            f"The checkpoint {folder} was written with another weight of the CMI: {'; '.join(weights)}. Training goes"
            " on with the new one: it is no longer the interrupted run."
        )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
