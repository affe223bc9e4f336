"""Loading of weights whose names in a checkpoint differ from those in memory.

`save_pretrained` writes several architectures (ViT, BEiT, Swin, DINOv2) under older names. `Trainer` looks for the
names in memory, does not find them, and silently loads nothing (transformers#43701).
"""

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Size, Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


def restore_renamed_weights(model: PreTrainedModel, folder: str | os.PathLike[str]) -> bool:
    """Load the weights of a folder if they were saved under other names than those in memory.

    Args:
        model: model to load into, with any head and any constructor.
        folder: checkpoint folder.

    Returns:
        True if the weights were loaded. False if the names agree, or if the files are no safetensors of a whole model:
        `Trainer` loads these correctly.
    """
    files = _weight_files(Path(folder))
    saved_names = {name for names in files.values() for name in names}
    state = model.state_dict()
    if saved_names <= state.keys():
        return False
    # Convert a whole state at once, as save_pretrained does. A tensor that is the same object afterwards was only
    # renamed; merged or split ones are new objects.
    memory_names = {id(tensor): name for name, tensor in state.items()}
    written = revert_weight_conversion(model, dict(state))
    names_in_memory = {name: memory_names.get(id(tensor)) for name, tensor in written.items()}
    if all(names_in_memory.get(name) for name in saved_names):
        loaded = {str(names_in_memory[name]): tensor for name, tensor in _tensors(files).items()}
        missing = state.keys() - loaded.keys()
        pointers = {state[name].data_ptr() for name in loaded}
        # Tied weights share their memory, and the file holds them once.
        if all(state[name].data_ptr() in pointers for name in missing):
            model.load_state_dict(loaded, strict=False)
            return True
    return _restore_converted(model, folder)


def _restore_converted(model: PreTrainedModel, folder: str | os.PathLike[str]) -> bool:
    """Load weights that were merged or split through `from_pretrained`, if it builds the same model."""
    # A class with a constructor of its own cannot be built from the config only.
    try:
        inspect.signature(type(model)).bind(model.config)
    except TypeError:
        return False
    saved = type(model).from_pretrained(folder, config=model.config, local_files_only=True).state_dict()
    if _shapes(saved) != _shapes(model.state_dict()):
        return False
    model.load_state_dict(saved, strict=True)
    return True


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {name: value.shape for name, value in state.items()}


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """Return the safetensors files of a whole model, with the names of their tensors; nothing for an adapter."""
    # An index lists the files of a model that was saved in several parts.
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    names = [SAFE_WEIGHTS_NAME]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    files = {}
    for path in (folder / name for name in names):
        if path.is_file():
            with safe_open(path, framework="pt") as file:
                files[path] = list(file.keys())
    return files


def _tensors(files: dict[Path, list[str]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path, names in files.items():
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in names}
    return tensors
