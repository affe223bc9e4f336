"""Trial loading of the files to be published, as any user would: with plain transformers, offline, in a new folder."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import logging

from hf_cmim.errors import HfCmimError
from hf_cmim.tasks import LOADING_ERRORS, TASKS, architectures_of


def check_loads_alone(folder: Path, names: Iterable[str], *, trust_remote_code: bool = False) -> None:
    """Check that the named files are enough to load the model and its processor.

    Weights are compared by name and shape; no memory is taken for them.

    Args:
        folder: folder of the model.
        names: paths in the folder that would be published.
        trust_remote_code: True if the model needs Python files of its own.

    Raises:
        HfCmimError: the copy cannot be loaded, or some weights would start at random.
    """
    fault = loading_fault(folder, names, trust_remote_code=trust_remote_code)
    if fault:
        raise HfCmimError(
            f"A copy of the files to be published cannot be loaded: {fault}. Everyone who downloads the model would"
            " have this problem, so nothing was uploaded. Publish a model that from_pretrained loads exactly as it was"
            " saved, without replaced layers, or keep it on this machine (push_to_hub=False in a trainer)."
        )


def loading_fault(folder: Path, names: Iterable[str], *, trust_remote_code: bool = False) -> str:
    """Return the reason why a copy of the named files cannot be loaded, or "" if it can."""
    names = sorted(names)
    with tempfile.TemporaryDirectory() as temporary, _silent_transformers():
        copy = Path(temporary)
        for name in names:
            _link_or_copy(folder / name, copy / name)
        try:
            return _model_fault(copy, trust_remote_code) or _load_processors(copy, names, trust_remote_code)
        except (OSError, *LOADING_ERRORS) as error:
            reason = " ".join(str(error).replace(temporary, "the copy").split())[:300]
            return f"{type(error).__name__}: {reason}"


def _model_fault(copy: Path, trust_remote_code: bool) -> str:
    """Return the difference between the saved weights and the model that transformers builds, or ""."""
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(copy, **options)
    architecture = (config.architectures or ["a model without a class"])[0]
    auto_model = auto_model_of(config, architecture)
    if auto_model is None:
        return f"no AutoModelFor...Classification of transformers knows {architecture}"
    # transformers only warns about weights that do not fit, and then draws them at random. The device "meta" compares
    # names and shapes without taking memory.
    _, info = auto_model.from_pretrained(copy, output_loading_info=True, device_map="meta", **options)
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or unexpected:
        parts = [f"{len(missing)} weights would start at random ({', '.join(missing[:3])})"] if missing else []
        parts += [f"{len(unexpected)} weights would be ignored ({', '.join(unexpected[:3])})"] if unexpected else []
        return f"{auto_model.__name__} builds another model: {' and '.join(parts)}"
    return ""


def auto_model_of(config: Any, architecture: str) -> Any:
    """Return the Auto class of transformers that loads an architecture with a configuration, or None."""
    remote = {*(getattr(config, "auto_map", None) or {})}
    for task in TASKS:
        if task.auto_class in remote or architecture in architectures_of(task):
            return getattr(transformers, task.auto_class)
    return None


def _load_processors(copy: Path, names: list[str], trust_remote_code: bool) -> str:
    """Load every processor in the folder; return "", or raise the error of transformers."""
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    if "processor_config.json" in names:
        transformers.AutoProcessor.from_pretrained(copy, **options)
    if "tokenizer_config.json" in names:
        transformers.AutoTokenizer.from_pretrained(copy, **options)
    if "preprocessor_config.json" in names:
        # Processors of images and of sound share this file name; only the settings tell them apart.
        settings = json.loads((copy / "preprocessor_config.json").read_text(encoding="utf-8"))
        is_sound = "feature_extractor_type" in settings
        auto: Any = transformers.AutoFeatureExtractor if is_sound else transformers.AutoImageProcessor
        auto.from_pretrained(copy, **options)
    return ""


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source.resolve(strict=True), target)
    except OSError:
        # The file system has no links.
        shutil.copy(source, target)


@contextmanager
def _silent_transformers() -> Iterator[None]:
    """Keep transformers from printing a loading report and progress bars: the user did not load this model."""
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
