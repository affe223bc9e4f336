"""State of a defence in a checkpoint: which defence and reference wrote it, and the class means."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_cmim.defenses.base import AbstractDefense
from hf_cmim.errors import HfCmimError

STATE_NAME = "defense_state.safetensors"
"""Name of the file of this state in a checkpoint."""
CLASS_MEANS = "class_means"


def save_defense_state(folder: Path, defense: AbstractDefense, reference: str, class_means: Tensor | None) -> None:
    """Write the state into a checkpoint folder; `reference` is the fingerprint of the reference, or ""."""
    tensors = {} if class_means is None else {CLASS_MEANS: class_means.contiguous()}
    save_file(tensors, folder / STATE_NAME, metadata={"defense": repr(defense), "reference": reference})


def load_defense_state(folder: Path, defense: AbstractDefense, reference: str, device: torch.device) -> Tensor | None:
    """Return the class means from a checkpoint folder, or None for a defence that has none.

    Raises:
        HfCmimError: no state of a defence, or one of another defence or reference.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise HfCmimError(
            f"Expected the state of a defence {path}, got nothing: DefenseTrainer did not write this checkpoint, and"
            " its first half had another loss. Load its weights with from_pretrained and train anew."
        )
    with safe_open(path, framework="pt", device=str(device)) as file:
        written = file.metadata()
        class_means = file.get_tensor(CLASS_MEANS) if CLASS_MEANS in list(file.keys()) else None
    if written["defense"] != repr(defense):
        raise HfCmimError(
            f"Expected a checkpoint of {defense!r}, got one of {written['defense']}: the second half of training would"
            " have another loss. Resume with the defence that wrote the checkpoint."
        )
    if written["reference"] != reference:
        raise HfCmimError(
            f"The checkpoint {folder} was written with another reference (fingerprint {written['reference'][:16]},"
            f" now {reference[:16]}): the second half of training would compare with other answers. Resume with the"
            " reference of the beginning."
        )
    return class_means
