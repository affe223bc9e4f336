"""Weights of a checkpoint whose names in the file differ from those in memory.

`save_pretrained` writes several architectures (ViT, BEiT, Swin, DINOv2) under older names. `Trainer` looks for the
names in memory, finds none of those, and leaves the weights as they are (transformers#43701).
"""

import inspect
import json
import os
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


def restore_renamed_weights(model: PreTrainedModel, folder: str | os.PathLike[str]) -> bool:
    """Load the weights of a folder if they were saved under other names than the model has now.

    Args:
        model: the model to load into, with whatever head or constructor it has.
        folder: checkpoint.

    Returns:
        Whether the weights were loaded; False where the names agree or the files are no safetensors of a whole model,
        which `Trainer` loads correctly.
    """
    files = _weight_files(Path(folder))
    saved_names = {name for names in files.values() for name in names}
    state = model.state_dict()
    if saved_names <= state.keys():
        return False
    # The conversion of a whole state at once, as save_pretrained does it; a tensor that comes out itself was renamed.
    memory_names = {id(tensor): name for name, tensor in state.items()}
    written = revert_weight_conversion(model, dict(state))
    names_in_memory = {name: memory_names.get(id(tensor)) for name, tensor in written.items()}
    if all(names_in_memory.get(name) for name in saved_names):
        loaded = {str(names_in_memory[name]): tensor for name, tensor in _tensors(files).items()}
        missing = state.keys() - loaded.keys()
        pointers = {state[name].data_ptr() for name in loaded}
        if all(state[name].data_ptr() in pointers for name in missing):  # tied: the file holds them once
            model.load_state_dict(loaded, strict=False)
            return True
    return _restore_converted(model, folder)


def _restore_converted(model: PreTrainedModel, folder: str | os.PathLike[str]) -> bool:
    """Load through `from_pretrained` what was not only renamed, if it builds the same model from the config."""
    try:
        inspect.signature(type(model)).bind(model.config)
    except TypeError:
        return False
    saved = type(model).from_pretrained(folder, config=model.config, local_files_only=True).state_dict()
    if {name: value.shape for name, value in saved.items()} != {
        name: value.shape for name, value in model.state_dict().items()
    }:
        return False
    model.load_state_dict(saved, strict=True)
    return True


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """Return the safetensors files of a whole model, with the names of their tensors; none of an adapter."""
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
