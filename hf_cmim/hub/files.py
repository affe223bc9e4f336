"""Kinds of files in a model's folder, and the hashes of those that are published.

Every path is certified, a document, or a state of training. Some loader could prefer a path of any other kind, so it
is refused. Only names decide, and unknown names are not allowed.
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
ATTESTATION_NAME = "cmim_attestation.intoto.json"
MODEL_SIGNATURE_NAME = "model.sig"
EVAL_RESULTS_NAME = ".eval_results/hf_cmim.yaml"
CURVE_NAME = "cmi_curve.png"
FOREST_NAME = "audit_forest.png"
PAGE_NAME = "audit.html"
LICENSE_NAME = "LICENSE"
INDEX_NAME = "model.safetensors.index.json"

WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
PROCESSORS = frozenset(
    {
        "added_tokens.json",
        "bpe.codes",
        "byte_maps.json",
        "chat_template.jinja",
        "dict.txt",
        "emoji.json",
        "entity_vocab.json",
        "feature_extractor_config.json",
        "image_processor_config.json",
        "merges.txt",
        "normalizer.json",
        "preprocessor_config.json",
        "processor_config.json",
        "prophetnet.tokenizer",
        "sentencepiece.bpe.model",
        "sentencepiece.model",
        "source.spm",
        "special_tokens_map.json",
        "spiece.model",
        "spm.model",
        "spm_char.model",
        "target.spm",
        "target_vocab.json",
        "tekken.json",
        "tiktoken.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab-src.json",
        "vocab-tgt.json",
        "vocab.json",
        "vocab.txt",
        "video_preprocessor_config.json",
        "word_pronunciation.json",
        "word_shape.json",
    }
)
"""Files of tokenizers and processors. They make the model's inputs, so they are certified like its weights."""
BOUND_TO_CERTIFICATE = frozenset({SIGNATURE_NAME, ATTESTATION_NAME, MODEL_SIGNATURE_NAME})
"""Documents about one certificate: a new certificate removes them."""
OURS = BOUND_TO_CERTIFICATE | {CARD_NAME, CERTIFICATE_NAME, CURVE_NAME, FOREST_NAME, PAGE_NAME, EVAL_RESULTS_NAME}
"""Documents that a push writes or removes; all other documents belong to the owner."""
DOCUMENTS = frozenset({*OURS, LICENSE_NAME})
"""Documents that a push sends."""
_FOR_PEOPLE = re.compile(
    r"\.git(attributes|ignore)|(LICENSE|LICENCE|NOTICE|COPYING|CITATION)(\.\w+)?|[^.].*\.(md|png|jpe?g|gif|svg|webp|pdf)"
)
"""Names of documents anywhere in a repository: texts and pictures for people, which no loader reads."""
_EVAL_RESULTS = re.compile(r"\.eval_results/[^/]+\.ya?ml")
"""Paths of results that the Hub shows beside a model, of any author."""
_STATE_FOLDERS = re.compile(r"checkpoint-\d+|last-checkpoint|runs|\.git|\.cache")
"""Folders that a trainer or a client leaves; a loader uses them only if a user gives their path."""
PRIVATE = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state\w*|(cmim|attack|defense)_state)\.(bin|pt|pth|safetensors)"
    r"|(trainer_state|query_ledger|distillation|(all|train|eval|test|predict)_results)\.json"
    r"|events\.out\.tfevents.*|.+\.\d+\.partial"
)
"""Files of a training, which nobody needs to load the model. They stay on this machine."""
_DATA = re.compile(
    r"(additional_chat_templates/)?[A-Za-z0-9][\w.-]*\.(json|txt|model|spm|bpe|codes|jinja|tiktoken|tokenizer|vocab)"
)
"""Further names that a certificate may contain: data that tokenizers of other releases read, never code."""
_LOADABLE = re.compile(r".*\.(bin|pt|pth|ckpt|pkl|pickle|h5|msgpack|onnx|gguf|safetensors|index\.json)")
LISTED_NAMES = 5
"""Number of names that a sentence lists before it only counts the rest."""


@dataclass(frozen=True)
class FileRecord:
    """A file's size in bytes and the sha256 hex of its content."""

    size: int
    sha256: str


# Kinds of paths


def is_certified(name: str) -> bool:
    """Return True if a file of a folder determines the model's answers."""
    return name == CONFIG_NAME or name in PROCESSORS or bool(WEIGHTS.fullmatch(name))


def is_certifiable(name: str) -> bool:
    """Return True if a certificate may name a file: one that determines answers, or data of an unknown processor."""
    return is_certified(name) or bool(
        _DATA.fullmatch(name) and not PRIVATE.fullmatch(name) and not is_weights(name) and name not in OURS
    )


def is_published(name: str) -> bool:
    """Return True if a file may leave this machine."""
    return is_certified(name) or name in DOCUMENTS


def is_weights(name: str) -> bool:
    """Return True if some loader, of any library, may look for weights under this name in a model's folder."""
    return "/" not in name and bool(_LOADABLE.fullmatch(name)) and not PRIVATE.fullmatch(name)


def unaccounted(paths: Iterable[str], certified: Container[str]) -> list[str]:
    """Return the paths, sorted, that are neither certified nor a document nor a state of training.

    Args:
        paths: paths in a repository or a folder, with "/" between folders.
        certified: paths in a certificate.
    """
    return sorted(path for path in paths if path not in certified and not _is_harmless(path))


def _is_harmless(path: str) -> bool:
    *folders, name = PurePosixPath(path).parts
    if folders and _STATE_FOLDERS.fullmatch(folders[0]):
        return True
    if folders:
        return bool(_FOR_PEOPLE.fullmatch(name) or _EVAL_RESULTS.fullmatch(path))
    return name in DOCUMENTS or bool(_FOR_PEOPLE.fullmatch(name) or PRIVATE.fullmatch(name))


def listed(names: list[str]) -> str:
    """Return the first five names separated by commas, and the number of the rest."""
    more = f" and {len(names) - LISTED_NAMES} more" if len(names) > LISTED_NAMES else ""
    return safe_text(", ".join(names[:LISTED_NAMES]) + more)


# Folders


def folder_paths(folder: Path) -> Iterator[str]:
    """Yield the relative path of every file below a folder, with "/" between folders; links are not followed."""
    for root, _, names in os.walk(folder):
        for name in names:
            yield (Path(root) / name).relative_to(folder).as_posix()


def link_out_of(folder: Path, path: Path) -> str:
    """Return the target of a file that is a link out of its folder, or "" for any other file.

    A snapshot in the Hub's cache consists of links into the folder `blobs` beside it. These count as inside.
    """
    home, target = folder.resolve(), path.resolve()
    allowed = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    return "" if any(target.is_relative_to(parent) for parent in allowed) else str(target)


def published_files(folder: Path) -> list[str]:
    """Return the paths of the files in a folder that a push uploads.

    Raises:
        HfCmimError: a link to a file outside of the folder, which would be published.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and is_published(path.name))
    if (folder / EVAL_RESULTS_NAME).is_file():
        names.append(EVAL_RESULTS_NAME)
    check_links(folder, names)
    return names


def check_links(folder: Path, names: Iterable[str]) -> None:
    """Raise an `HfCmimError` if a name in a folder is a link to a file outside of it, which would be published."""
    for name in names:
        if target := link_out_of(folder, folder / name):
            raise HfCmimError(
                f"{folder / name} is a link to {target}, outside of the folder: that file would be published. Replace"
                " the link by a copy of the file, if you want to publish it."
            )


def hash_file(path: Path) -> FileRecord:
    """Return the size and sha256 of a file, which is read once."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(path.stat().st_size, sha256)
    except OSError as error:
        raise HfCmimError(f"{path} cannot be read: {error.strerror}. Check its access rights.") from error


def hash_model(folder: Path, processor_files: Collection[str] = ()) -> dict[str, FileRecord]:
    """Return size and sha256 of every file that determines a model's answers, by path.

    Args:
        folder: folder of the model.
        processor_files: names of the files that the model's processor wrote, in addition to the usual names.

    Raises:
        HfCmimError: no classifier with complete safetensors weights in the folder, or a model with a setting that
            makes a loader use other files or code.
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
        existing = f"only {', '.join(others)}, which may run code when it is loaded" if others else "no weights"
        raise HfCmimError(
            f"Expected model.safetensors in {folder}, got {existing}: nobody could load the model safely. Save it with"
            " save_pretrained, which writes safetensors."
        )
    if (folder / INDEX_NAME).is_file():
        shards = set(weight_map(folder).values())
        if missing := sorted(shards - set(weights)):
            raise HfCmimError(
                f"{INDEX_NAME} names weight files that are missing in {folder}: {', '.join(missing)}. The model cannot"
                " be loaded. Save it again."
            )
    check_links(folder, names)
    for name in weights:
        check_weights(folder / name)
    if faults := list(redirects(folder, names)):
        raise HfCmimError(
            f"The model in {folder} loads more than its own files: {faults[0]}. A certificate cannot bind those."
            " Remove that setting, or save the model again."
        )
    return {name: hash_file(folder / name) for name in names}


def weight_map(folder: Path) -> dict[str, str]:
    """Return the file of each tensor by the tensor's name, from the index of sharded weights.

    Raises:
        HfCmimError: a missing or malformed index.
    """
    path = folder / INDEX_NAME
    values = read_json(path, f"the index of weights {path}")
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise HfCmimError(
            f"{path} does not say which file holds which weight: the model cannot be loaded. Save the model again."
        )
    return names


def check_weights(path: Path) -> None:
    """Raise an `HfCmimError` if a file is not a complete safetensors file."""
    # Opening compares the header with the size of the file; no tensor is read.
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise HfCmimError(
            f"Expected complete weights in {path}, got {path.stat().st_size:,} bytes that are no safetensors file"
            f" ({error}). Perhaps the disk was full when it was written. Save or download it again."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of the model in a folder.

    Raises:
        HfCmimError: no configuration, or one of a model that is no classifier of transformers.
    """
    path = folder / CONFIG_NAME
    if (folder / ADAPTER_NAME).is_file() and not path.is_file():
        raise HfCmimError(
            f"{folder} holds an adapter without its base model: its answers depend on weights outside of this folder,"
            " which a certificate cannot bind. Merge it in Python: model = PeftModel.from_pretrained(base, folder);"
            ' model.merge_and_unload().save_pretrained("merged"), and save its processor there. Then run: hf-cmim'
            " certify merged"
        )
    if not folder.is_dir() or not path.is_file():
        raise HfCmimError(
            f"Expected a folder with a model (config.json and model.safetensors), got {folder}, which has no"
            " config.json: there is no model to load. Save one there with save_model or save_pretrained."
        )
    try:
        config = read_json(path, "a model's configuration", allows_constants=True)
        architecture = str((config.get("architectures") or [""])[0])
    except (HfCmimError, AttributeError, LookupError, TypeError) as error:
        raise HfCmimError(
            f"Expected a model's configuration in {path}, got none ({error}). Save the model again."
        ) from None
    if "Classification" not in architecture or config.get("auto_map"):
        actual = f"{architecture or 'none'}{' with code of its own' if config.get('auto_map') else ''}"
        raise HfCmimError(
            f"Expected an architecture of transformers that ends in ...Classification in {path}, got {actual}. Only"
            " classifiers that load without remote code can be certified."
        )
    checked: dict[str, Any] = config
    return checked


def certified_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names of a config.json in the order of the logits.

    Raises:
        HfCmimError: names that are not numbered from 0, or an impossible number of classes.
    """
    for fault in unbounded_faults(config):
        raise HfCmimError(f"{fault}: loading it could take all memory. Save the model again.")
    # Without names and number, transformers builds a head of two classes.
    return class_names_of(config) or default_names(2)
