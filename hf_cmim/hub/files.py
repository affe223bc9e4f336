"""Which files of a folder are a published model, and their hashes. Names decide, never endings."""

import hashlib
import json
import re
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from hf_cmim.class_names import class_names_of, default_names
from hf_cmim.errors import HfCmimError
from hf_cmim.report import CERTIFICATE_NAME

CONFIG_NAME = "config.json"
ADAPTER_NAME = "adapter_config.json"
CARD_NAME = "README.md"
SIGNATURE_NAME = f"{CERTIFICATE_NAME}.sig"
CURVE_NAME = "cmi_curve.png"
FOREST_NAME = "audit_forest.png"
PAGE_NAME = "audit.html"
LICENSE_NAME = "LICENSE"

WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
PROCESSORS = frozenset({
    "added_tokens.json", "bpe.codes", "feature_extractor_config.json", "image_processor_config.json", "merges.txt",
    "preprocessor_config.json", "processor_config.json", "sentencepiece.bpe.model", "special_tokens_map.json",
    "spiece.model", "spm.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
    "vocab.txt", "video_preprocessor_config.json",
})  # fmt: skip
"""What makes a model's inputs; other inputs give other answers, so they are certified too."""
DOCUMENTS = frozenset({CARD_NAME, CERTIFICATE_NAME, SIGNATURE_NAME, CURVE_NAME, FOREST_NAME, PAGE_NAME, LICENSE_NAME})
LOADABLE = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle|h5|msgpack|onnx|safetensors)")
"""Names under which a loader may find weights, or code that a pickle runs."""
PRIVATE = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*|cmim_state|attack_state)\.\w+")
"""Files of a training, which nobody who loads the model needs."""


@dataclass(frozen=True)
class FileRecord:
    """A file's size in bytes and the sha256 hex of its content."""

    size: int
    sha256: str


def is_certified(name: str) -> bool:
    """Return whether a file determines the model's answers."""
    return name == CONFIG_NAME or name in PROCESSORS or bool(WEIGHTS.fullmatch(name))


def stays_inside(name: str) -> bool:
    """Return whether a certified name is a path inside the model's folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def is_published(name: str) -> bool:
    """Return whether a file may leave the machine."""
    return is_certified(name) or name in DOCUMENTS


def published_files(folder: Path) -> list[str]:
    """Return the names of the files in a folder that are uploaded, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and is_published(path.name))


def is_weights(name: str) -> bool:
    """Return whether a loader may find weights under a name of a folder itself, ours or of another kind."""
    return "/" not in name and bool(LOADABLE.fullmatch(name)) and not PRIVATE.fullmatch(name)


def uncertified(names: Iterable[str], certified: Container[str]) -> list[str]:
    """Return the names, sorted, that a loader may take beside or instead of what was certified."""
    return sorted(name for name in names if name not in certified and (is_certified(name) or is_weights(name)))


def hash_file(path: Path) -> FileRecord:
    """Return the record of a file, read once."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(path.stat().st_size, sha256)


def hash_model(folder: Path, processor_files: Collection[str] = ()) -> dict[str, FileRecord]:
    """Return the records of all files that determine a model's answers.

    Args:
        folder: folder of the model.
        processor_files: names of files that its processor wrote, beside those that every architecture has.

    Raises:
        HfCmimError: the folder holds no classifier with whole safetensors weights.
    """
    read_config(folder)
    processors = {name for name in processor_files if (folder / name).is_file()}
    names = sorted(processors.union(name for name in published_files(folder) if is_certified(name)))
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        others = sorted(path.name for path in folder.iterdir() if is_weights(path.name))
        found = f"only {', '.join(others)}, which run code when they are loaded or which" if others else "none that"
        raise HfCmimError(
            f"Expected model.safetensors in {folder}, got {found} transformers loads safely: nobody should download"
            " it. Save the model with save_pretrained, which writes safetensors."
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(wanted - set(weights)):
            raise HfCmimError(
                f"Expected the weight files that {index.name} names in {folder}, got no {', '.join(missing)}: the"
                " model could not be loaded. Save it again."
            )
    for name in weights:
        check_weights(folder / name)
    return {name: hash_file(folder / name) for name in names}


def check_weights(path: Path) -> None:
    """Raise an `HfCmimError` if a safetensors file was cut or is none."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise HfCmimError(
            f"Expected whole weights in {path}, got a file of {path.stat().st_size:,} bytes that is not ({error}): its"
            " writing was cut, or the disk was full. Save or download it again."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of the model in a folder.

    Raises:
        HfCmimError: none there, or none of a classifier.
    """
    path = folder / CONFIG_NAME
    if (folder / ADAPTER_NAME).is_file() and not path.is_file():
        raise HfCmimError(
            f"{folder} holds an adapter without its base model: its answers depend on weights that a certificate of"
            " this folder would not bind. Merge it in Python: model = PeftModel.from_pretrained(base, folder);"
            ' model.merge_and_unload().save_pretrained("merged"), and save its processor there. Then run: hf-cmim'
            " certify merged"
        )
    if not folder.is_dir() or not path.is_file():
        raise HfCmimError(
            f"Expected a folder with a model (config.json and model.safetensors), got {folder}, which has no"
            " config.json: nothing could be loaded from it. Save a model there with save_model or save_pretrained."
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        architecture = str((config.get("architectures") or [""])[0])
    except (ValueError, AttributeError) as error:
        raise HfCmimError(
            f"Expected a model's configuration in {path}, got none ({error}). Save the model again."
        ) from None
    if "Classification" not in architecture or config.get("auto_map"):
        got = f"{architecture or 'none'}{' with code of its own' if config.get('auto_map') else ''}"
        raise HfCmimError(
            f"Expected an architecture of transformers that ends in ...Classification in {path}, got {got}: only"
            " classifiers are certified, and only such as load without remote code."
        )
    return config


def certified_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names of a config.json; where it gives none, transformers counts two."""
    return class_names_of(config) or default_names(2)
