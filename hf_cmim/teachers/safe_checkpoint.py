"""Checks of a checkpoint of unknown origin, before transformers reads it."""

from pathlib import Path

from safetensors import SafetensorError
from transformers.utils.hub import cached_file

from hf_cmim.checkpoint_redirects import CODE, REDIRECTING, setting_redirects
from hf_cmim.checkpoint_sizes import CONFIG_NAME, size_faults, tensor_shapes, unbounded_faults
from hf_cmim.errors import HfCmimError
from hf_cmim.plain_data import read_json

WEIGHTS = "model*.safetensors"


def check_safe_to_load(path: str) -> None:
    """Check that a checkpoint's configuration leads only to its own safetensors, and fits them.

    Args:
        path: folder or Hub id.

    Raises:
        HfCmimError: a setting that names other weights, perhaps pickled ones, or a size that would take all memory.
        OSError: no such folder or repository.
    """
    config_file = cached_file(path, CONFIG_NAME)
    config = read_json(Path(str(config_file)), f"the configuration of {path}", allows_constants=True)
    if not isinstance(config, dict):
        raise HfCmimError(
            f"The configuration of {path} is no mapping, so it does not describe a model. Save the model again."
        )
    # Transformers itself refuses these settings, because of trust_remote_code=False.
    code_settings = {name for name, reason in REDIRECTING.items() if reason == CODE}
    settings = {name: value for name, value in config.items() if name not in code_settings}
    faults = [*setting_redirects(CONFIG_NAME, settings), *unbounded_faults(config)]
    # Weights on the Hub are not compared: they would have to be downloaded first.
    weights = [file.name for file in Path(path).glob(WEIGHTS)] if Path(path).is_dir() else []
    if not faults and weights:
        try:
            faults += size_faults(config, tensor_shapes(Path(path), weights))
        except (SafetensorError, OSError) as error:
            faults.append(f"its weights cannot be read ({error})")
    if faults:
        raise HfCmimError(
            f"The model in {path} cannot be loaded safely: {faults[0]}. Save it again with save_pretrained, or use"
            " another copy."
        )
