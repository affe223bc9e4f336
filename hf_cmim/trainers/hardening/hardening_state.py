"""Training state of the hardening: centroids, collapse detector and weight, as a checkpoint keeps them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging

from hf_cmim.centroids import CentroidBank
from hf_cmim.collapse import CollapseDetector
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.label_information import LabelInformation
from hf_cmim.functional.scaling import Scaling
from hf_cmim.trainers.hardening.class_pulls import ClassPulls

logger = logging.get_logger(__name__)

STATE_NAME = "cmim_state.safetensors"
"""File of this state in a checkpoint."""
LARGEST_SAVED_BYTES = 2**30
"""Larger centroids are left out of checkpoints (5 temperatures: above 7,327 classes): one pass makes them anew."""


class HardeningState:
    """What hardening remembers from step to step. Created when the number of classes is known.

    Args:
        num_classes: `C`.
        settings: what `CentroidBank` takes beside it: `temperatures`, `window`, `logit_scale`, `follows_label`.
        device: where the tensors live.

    Attributes:
        bank: running centroids.
        detector: watcher of merging classes.
        pulls: how hard the CMI pulls on each class.
        weight_scale: factor of the CMI's weight, below 1 once the guard has reduced it, above 1 where it grows.
        calibrated_at: fraction of training at which it last followed the calibration.
        lacks_centroids: whether a checkpoint was loaded that leaves them out; the bank must be filled before training.
    """

    def __init__(self, num_classes: int, settings: Mapping[str, Any], device: torch.device) -> None:
        self.bank = CentroidBank(num_classes, **settings).to(device)
        self.detector = CollapseDetector(num_classes).to(device)
        self.pulls = ClassPulls(num_classes).to(device)
        self.weight_scale = 1.0
        self.calibrated_at = 0.0
        self.lacks_centroids = False

    @property
    def known(self) -> tuple[Tensor, Scaling | None, LabelInformation | None]:
        """What the objective takes from the steps before."""
        return self.bank.terms, self.bank.scaling, self.bank.label_information

    def save(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Write the state into a checkpoint folder.

        Args:
            folder: folder of the checkpoint.
            settings: further metadata that says with which settings it was written.
        """
        tensors = {f"bank.{name}": value for name, value in self.bank.state_dict().items()}
        if self.bank.probs.nbytes > LARGEST_SAVED_BYTES:
            del tensors["bank.probs"]
        tensors |= {f"detector.{name}": value for name, value in self.detector.state_dict().items()}
        tensors |= {f"pulls.{name}": value for name, value in self.pulls.state_dict().items()}
        for name in ("weight_scale", "calibrated_at"):
            tensors[name] = torch.tensor(getattr(self, name), dtype=torch.float64)
        written = {"temperatures": self.bank.temperatures, "logit_scale": self.bank.logit_scale}
        metadata = {name: json.dumps(value) for name, value in written.items()} | dict(settings or {})
        save_file(tensors, folder / STATE_NAME, metadata=metadata)

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any], device: torch.device) -> "HardeningState":
        """Read the state from a checkpoint folder.

        Raises:
            HfCmimError: there is none, or it was written at other temperatures or another scale of the logits.
        """
        path = folder / STATE_NAME
        if not path.is_file():
            raise HfCmimError(
                f"Expected the hardening state {path}, got nothing: CMIMTrainer did not write this checkpoint, and"
                " its centroids would start empty. Load its weights with from_pretrained and train anew."
            )
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        for name in ("temperatures", "logit_scale"):
            asked, written = json.dumps(settings[name]), metadata.get(name, "none")
            if written != asked:
                raise HfCmimError(
                    f"Expected a checkpoint at {name} {asked}, got {written}: its centroids mean something else."
                    " Resume with the settings it was written with."
                )
        state = cls(len(tensors["bank.mass"]), settings, device)
        state.lacks_centroids = "bank.probs" not in tensors
        if state.lacks_centroids:
            tensors |= {"bank.probs": state.bank.probs, "bank.mass": state.bank.mass}  # empty: it weighs nothing
            logger.warning_once(
                f"{path} leaves out {state.bank.probs.nbytes / 2**30:.1f} GiB of centroids. One pass over the training"
                " data makes them anew from the checkpoint's weights: training goes on as well as without the"
                " interruption, but not bit for bit."
            )
        state.bank.load_state_dict(_bank_tensors(state.bank, _under("bank.", tensors)))
        for prefix, module in (("detector.", state.detector), ("pulls.", state.pulls)):
            module.load_state_dict(module.state_dict() | _under(prefix, tensors))  # older ones lack recalls and pulls
        state.weight_scale = tensors["weight_scale"].item()
        state.calibrated_at = tensors.get("calibrated_at", torch.zeros(())).item()  # older ones lack it
        return state


def _bank_tensors(bank: CentroidBank, written: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return them with what the bank itself follows of the label: it reads its table where that was not written."""
    label = {name: value for name, value in bank.state_dict().items() if name.startswith("label.")}
    return label | {name: value for name, value in written.items() if name in label or not name.startswith("label.")}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
