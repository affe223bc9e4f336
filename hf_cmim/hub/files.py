"""Which files of a folder are a published model, and their hashes.

Every path is certified, a document, or a state of training. A path of no kind could be one that some loader prefers,
so it is refused: names decide, and what is not known is not allowed.
"""

import hashlib
import os
import re
from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from hf_cmim.checkpoint_redirects import redirects
from hf_cmim.checkpoint_sizes import unbounded_faults
from hf_cmim.class_names import class_names_of, default_names
from hf_cmim.errors import HfCmimError
from hf_cmim.names import safe_text
from hf_cmim.plain_data import read_json
from hf_cmim.report import CERTIFICATE_NAME

CONFIG_NAME = "config.json"
ADAPTER_NAME = "adapter_config.json"
CARD_NAME = "README.md"
SIGNATURE_NAME = f"{CERTIFICATE_NAME}.sig"
CURVE_NAME = "cmi_curve.png"
FOREST_NAME = "audit_forest.png"
PAGE_NAME = "audit.html"
LICENSE_NAME = "LICENSE"
INDEX_NAME = "model.safetensors.index.json"

WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
PROCESSORS = frozenset({
    "added_tokens.json", "bpe.codes", "byte_maps.json", "chat_template.jinja", "dict.txt", "emoji.json",
    "entity_vocab.json", "feature_extractor_config.json", "image_processor_config.json", "merges.txt",
    "normalizer.json", "preprocessor_config.json", "processor_config.json", "prophetnet.tokenizer",
    "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "special_tokens_map.json", "spiece.model",
    "spm.model", "spm_char.model", "target.spm", "target_vocab.json", "tekken.json", "tiktoken.model",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab-src.json", "vocab-tgt.json", "vocab.json",
    "vocab.txt", "video_preprocessor_config.json", "word_pronunciation.json", "word_shape.json",
})  # fmt: skip
"""What makes a model's inputs; other inputs give other answers, so they are certified too."""
OURS = frozenset({CARD_NAME, CERTIFICATE_NAME, SIGNATURE_NAME, CURVE_NAME, FOREST_NAME, PAGE_NAME})
"""Documents that a push writes or removes; all others are the owner's."""
DOCUMENTS = frozenset({*OURS, LICENSE_NAME})
"""Documents that a push sends."""
_SHOWN = re.compile(
    r"\.git(attributes|ignore)|(LICENSE|LICENCE|NOTICE|COPYING|CITATION)(\.\w+)?|[^.].*\.(md|png|jpe?g|gif|svg|webp|pdf)"
)
"""Names of documents anywhere in a repository: text and pictures for people, which no loader reads."""
_STATE_FOLDERS = re.compile(r"checkpoint-\d+|last-checkpoint|runs|\.git|\.cache")
"""Folders that a trainer or a client leaves; a loader takes weights from one only where a user names it."""
PRIVATE = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state\w*|cmim_state|attack_state)\.(bin|pt|pth|safetensors)"
    r"|(trainer_state|query_ledger|distillation|(all|train|eval|test|predict)_results)\.json"
    r"|events\.out\.tfevents.*|.+\.\d+\.partial"
)
"""Files of a training, which nobody who loads the model needs."""
_DATA = re.compile(
    r"(additional_chat_templates/)?[A-Za-z0-9][\w.-]*\.(json|txt|model|spm|bpe|codes|jinja|tiktoken|tokenizer|vocab)"
)
"""Names that a certificate may add to the ones above: data that a tokenizer of another release reads, never code."""
_LOADABLE = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle|h5|msgpack|onnx|gguf|safetensors|index\.json)")
SHOWN_NAMES = 5
"""Names that a sentence lists before it counts."""


@dataclass(frozen=True)
class FileRecord:
    """A file's size in bytes and the sha256 hex of its content."""

    size: int
    sha256: str


# Kinds of paths


def is_certified(name: str) -> bool:
    """Return whether a file of a folder determines the model's answers."""
    return name == CONFIG_NAME or name in PROCESSORS or bool(WEIGHTS.fullmatch(name))


def is_certifiable(name: str) -> bool:
    """Return whether a certificate may name a file: one that determines answers, or data of a kind not known here."""
    return is_certified(name) or bool(
        _DATA.fullmatch(name) and not PRIVATE.fullmatch(name) and not is_weights(name) and name not in OURS
    )


def is_published(name: str) -> bool:
    """Return whether a file may leave the machine."""
    return is_certified(name) or name in DOCUMENTS


def is_weights(name: str) -> bool:
    """Return whether a loader may find weights under a name of a folder itself, ours or of another kind."""
    return "/" not in name and bool(_LOADABLE.fullmatch(name)) and not PRIVATE.fullmatch(name)


def unaccounted(paths: Iterable[str], certified: Container[str]) -> list[str]:
    """Return the paths, sorted, that are neither certified nor a document nor a state of training.

    Args:
        paths: of a repository or a folder, with "/" between folders.
        certified: paths that a certificate names.
    """
    return sorted(path for path in paths if path not in certified and not _is_harmless(path))


def _is_harmless(path: str) -> bool:
    *folders, name = PurePosixPath(path).parts
    if folders and _STATE_FOLDERS.fullmatch(folders[0]):
        return True
    if folders:
        return bool(_SHOWN.fullmatch(name))
    return name in DOCUMENTS or bool(_SHOWN.fullmatch(name) or PRIVATE.fullmatch(name))


def listed(names: list[str]) -> str:
    """Return the first names in words, and how many more there are."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return safe_text(", ".join(names[:SHOWN_NAMES]) + more)


# Folders


def folder_paths(folder: Path) -> Iterator[str]:
    """Yield the path of every file below a folder, relative to it, with "/" between folders; no link is followed."""
    for root, _, names in os.walk(folder):
        for name in names:
            yield (Path(root) / name).relative_to(folder).as_posix()


def link_out_of(folder: Path, path: Path) -> str:
    """Return where a file of a folder leads if it is a link out of it, or "".

    A snapshot in the Hub's cache keeps its files beside it, as links into `blobs`: they count as inside.
    """
    home, target = folder.resolve(), path.resolve()
    inside = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    return "" if any(target.is_relative_to(each) for each in inside) else str(target)


def published_files(folder: Path) -> list[str]:
    """Return the names of the files in a folder that are uploaded, sorted.

    Raises:
        HfCmimError: one of them is a link to a file elsewhere, which would be published.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and is_published(path.name))
    check_links(folder, names)
    return names


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Raise an `HfCmimError` if a name in a folder is a link to a file elsewhere, which would be published."""
    for name in names:
        if target := link_out_of(folder, folder / name):
            raise HfCmimError(
                f"{folder / name} is a link to {target}, outside of the folder: that file would be published. Put a"
                " copy of what you want to publish in the place of the link."
            )


def hash_file(path: Path) -> FileRecord:
    """Return the record of a file, read once."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(path.stat().st_size, sha256)
    except OSError as error:
        raise HfCmimError(f"{path} cannot be read: {error.strerror}. Check its rights.") from error


def hash_model(folder: Path, processor_files: Collection[str] = ()) -> dict[str, FileRecord]:
    """Return the records of all files that determine a model's answers.

    Args:
        folder: folder of the model.
        processor_files: names of files that its processor wrote, beside those that every architecture has.

    Raises:
        HfCmimError: the folder holds no classifier with whole safetensors weights, or one that leads elsewhere.
    """
    read_config(folder)
    names = sorted(
        {
            *(name for name in published_files(folder) if is_certified(name)),
            *(name for name in processor_files if is_certifiable(name) and (folder / name).is_file()),
        }
    )
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        others = sorted(path.name for path in folder.iterdir() if is_weights(path.name))
        loadable = f"only {', '.join(others)}, which run code when they are loaded or which" if others else "none that"
        raise HfCmimError(
            f"Expected model.safetensors in {folder}, got {loadable} transformers loads safely: nobody should download"
            " it. Save the model with save_pretrained, which writes safetensors."
        )
    if (folder / INDEX_NAME).is_file():
        named_weights = set(weight_map(folder).values())
        if missing := sorted(named_weights - set(weights)):
            raise HfCmimError(
                f"Expected the weight files that {INDEX_NAME} names in {folder}, got no {', '.join(missing)}: the"
                " model could not be loaded. Save it again."
            )
    check_links(folder, names)
    for name in weights:
        check_weights(folder / name)
    if faults := list(redirects(folder, names)):
        raise HfCmimError(
            f"Expected a model that loads from its own files in {folder}, got one that leads elsewhere: {faults[0]}."
            " What would be certified is not what would be loaded. Remove that setting, or save the model again."
        )
    return {name: hash_file(folder / name) for name in names}


def weight_map(folder: Path) -> dict[str, str]:
    """Return which file holds which tensor, as the index of sharded weights says.

    Raises:
        HfCmimError: no index, or one of another shape.
    """
    path = folder / INDEX_NAME
    values = read_json(path, f"the index of weights {path}")
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise HfCmimError(f"{path} does not say which file holds which weight: the model could not be loaded.")
    return names


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
        config = read_json(path, "a model's configuration", allows_constants=True)
        architecture = str((config.get("architectures") or [""])[0])
    except (HfCmimError, AttributeError, LookupError, TypeError) as error:
        raise HfCmimError(
            f"Expected a model's configuration in {path}, got none ({error}). Save the model again."
        ) from None
    if "Classification" not in architecture or config.get("auto_map"):
        got = f"{architecture or 'none'}{' with code of its own' if config.get('auto_map') else ''}"
        raise HfCmimError(
            f"Expected an architecture of transformers that ends in ...Classification in {path}, got {got}: only"
            " classifiers are certified, and only such as load without remote code."
        )
    checked: dict[str, Any] = config
    return checked


def certified_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names of a config.json; where it gives none, transformers counts two.

    Raises:
        HfCmimError: names that are not numbered from 0, or a count that is none.
    """
    for fault in unbounded_faults(config):
        raise HfCmimError(f"{fault}: loading it could take all memory. Save the model again.")
    return class_names_of(config) or default_names(2)
