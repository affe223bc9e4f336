"""Ways to publish a trained model: with a certificate, without one, or not at all."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.card_metadata import HUB_ID
from hf_cmim.hub.files import CONFIG_NAME, WEIGHTS
from hf_cmim.hub.loading import auto_model_of, check_loads_alone
from hf_cmim.hub.uncertified_card import Library


@dataclass(frozen=True)
class Publication:
    """A way to publish a kind of model.

    Attributes:
        kind: "certified" for a classifier of transformers; "adapter" for a PEFT model; "remote code" for a class whose
            Python files are saved with it; "unloadable" for everything that from_pretrained cannot load.
        reason: explanation why the model gets no certificate; "" if it gets one.
    """

    kind: Literal["certified", "adapter", "remote code", "unloadable"]
    reason: str

    @property
    def library(self) -> Library:
        """Library that loads the model."""
        libraries: dict[str, Library] = {"adapter": "peft", "unloadable": "pytorch"}
        return libraries.get(self.kind, "transformers")


def publication_of(model: Any) -> Publication:
    """Return the way to publish a model, given without the wrappers of a launch."""
    if is_adapter(model):
        return Publication(
            "adapter",
            "This is an adapter. Its answers also depend on the weights of a base model, which are stored elsewhere"
            " and can change: a certificate of these files would not bind them.",
        )
    # FSDP puts a class of its own in front of the model's.
    model_classes = (cls for cls in type(model).__mro__ if not cls.__module__.startswith("torch.distributed."))
    model_class = next(model_classes)
    # register_for_auto_class sets _auto_class: saving then copies the Python files of the class.
    if isinstance(model, PreTrainedModel) and getattr(model_class, "_auto_class", None):
        return Publication(
            "remote code",
            "Loading this model runs Python code that is published with it. Only models that plain transformers loads"
            " are certified.",
        )
    name = model_class.__name__
    if not isinstance(model, PreTrainedModel) or not model_class.__module__.startswith("transformers."):
        return Publication(
            "unloadable",
            f"The model is a {name}, a class that transformers does not have: from_pretrained cannot load it.",
        )
    if "Classification" not in name:
        return Publication("unloadable", f"The model is a {name}. Only classifiers are certified.")
    return Publication("certified", "")


def is_adapter(model: Any) -> bool:
    """Return True for a model of PEFT."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def name_adapter_base(model: Any) -> str:
    """Return the id or path of an adapter's base model, or "", and write it into configurations that lack it."""
    # PEFT reads a name that only a loaded model has; for a model built from a configuration it writes none.
    name = str(getattr(model.get_base_model().config, "_name_or_path", "") or "")
    for config in model.peft_config.values():
        config.base_model_name_or_path = config.base_model_name_or_path or name
    return str(model.peft_config[model.active_adapter].base_model_name_or_path)


def auto_model_name(model: Any) -> str:
    """Return the name of transformers' Auto class that loads a model."""
    auto_model = auto_model_of(getattr(model, "config", None), type(model).__name__)
    return "AutoModel" if auto_model is None else str(auto_model.__name__)


def model_files(folder: Path, processor_files: Iterable[str]) -> list[str]:
    """Return the names of the files in a folder that are its model and its processor, sorted."""
    names = {path.name for path in folder.iterdir()}
    of_model = {name for name in names if name == CONFIG_NAME or WEIGHTS.fullmatch(name)}
    of_processor = {name for name in processor_files if (folder / name).is_file()}
    return sorted(of_model | of_processor)


def rehearsed_files(model: Any, processor: Any, publication: Publication) -> frozenset[str]:
    """Save model and processor into an empty folder, and check that another user could load them from there.

    Random states are restored, so a training that pushes equals one that does not.

    Returns:
        Names of the files that saving wrote.

    Raises:
        HfCmimError: no other user could load the published files.
    """
    if publication.kind == "unloadable":
        raise HfCmimError(
            f"push_to_hub=True would publish a model that nobody could load. {publication.reason} Train with"
            " push_to_hub=False, or make the model loadable as in transformers' documentation on custom models"
            " (register_for_auto_class)."
        )
    if publication.kind == "adapter":
        _check_base_can_be_found(name_adapter_base(model))
    with tempfile.TemporaryDirectory() as temporary, torch.random.fork_rng([]):
        folder = Path(temporary)
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
        names = frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        if publication.kind != "adapter":
            check_loads_alone(folder, names, trust_remote_code=publication.kind == "remote code")
    return names


def _check_base_can_be_found(base: str) -> None:
    if not HUB_ID.fullmatch(base) or Path(base).exists():
        raise HfCmimError(
            f"The adapter's base model {f'is the folder {base}' if base else 'was not loaded from anywhere'}, so that"
            " nobody else could use the adapter. Push the base model and load it from the Hub before you add the"
            " adapter; or train with push_to_hub=False, merge the adapter (merge_and_unload), and publish the merged"
            " model with hf-cmim push."
        )
