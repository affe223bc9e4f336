"""Checks for settings in a model's files that would make a loader read something else than these files."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hf_cmim.errors import HfCmimError
from hf_cmim.names import safe_text
from hf_cmim.plain_data import read_json

INDEX_ENDING = ".index.json"
_VOCABULARIES = ("tokenizer.json", "tekken.json", "vocab.json", "word_shape.json", "word_pronunciation.json")
"""JSON files whose keys are words, not settings."""
_WORDS = frozenset({"id2label", "label2id", "added_tokens_decoder", "task_specific_params"})
"""Settings whose keys are a user's words."""
CODE = "names code of the repository's own"
"""Reason for settings that transformers follows only if it may run code of the repository."""
_OTHER_FILE = "names another file to load"
REDIRECTING = {
    "auto_map": CODE,
    "custom_pipelines": CODE,
    "custom_generate": CODE,
    "transformers_weights": _OTHER_FILE,
    "configuration_files": _OTHER_FILE,
    "fast_tokenizer_files": _OTHER_FILE,
    "gguf_file": _OTHER_FILE,
    "init_inputs": _OTHER_FILE,
    "checkpoint_path": _OTHER_FILE,
    "base_model_name_or_path": "names another model to load",
    "use_pretrained_backbone": "loads another model's weights",
    "source_spm": _OTHER_FILE,
    "target_spm": _OTHER_FILE,
    "mecab_option": _OTHER_FILE,
    "subfolder": "names another folder to load from",
    "revision": "names another commit to load from",
}
"""Settings that make transformers, or a library that it calls, load something else; with the reason for each."""
_FILE_ENDINGS = ("_file", "_files", "_filename")
_ATTENTION = ("attn_implementation", "experts_implementation")
_SLASH = "/"


def redirects(folder: Path, names: Collection[str]) -> Iterator[str]:
    """Yield a sentence for every setting in a model's JSON files that leads a loader elsewhere.

    Args:
        folder: folder of the model.
        names: names of the certified files in it.
    """
    for name in sorted(names):
        if not name.endswith(".json") or name in _VOCABULARIES or not (folder / name).is_file():
            continue
        try:
            values = read_json(folder / name, name, allows_constants=True)
        except HfCmimError as error:
            yield str(error)
            continue
        if name.endswith(INDEX_ENDING):
            yield from _of_index(name, values, names)
        elif isinstance(values, dict):
            yield from setting_redirects(name, values)


def _of_index(name: str, values: Any, names: Collection[str]) -> Iterator[str]:
    files = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(files, dict):
        yield f"{name} does not say which file holds which weight"
        return
    uncertified = sorted({str(file) for file in files.values() if not isinstance(file, str) or file not in names})
    if uncertified:
        yield f"{name} takes weights from {safe_text(', '.join(uncertified[:3]))}, not among the certified files"


def setting_redirects(name: str, values: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for every setting of a file that leads a loader elsewhere, at any depth.

    Args:
        name: name of the file.
        values: settings, parsed from JSON.
    """
    for setting, value in values.items():
        if reason := _reason(setting, value):
            yield f"{name}: {safe_text(setting)} {reason} ({safe_text(str(value))[:60]})"
        elif setting not in _WORDS:
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, dict):
                    yield from setting_redirects(name, inner)


def _reason(setting: str, value: Any) -> str:
    """Return the reason to refuse a setting, or ""."""
    # A setting without a value leads nowhere.
    if not value:
        return ""
    if setting in REDIRECTING:
        return REDIRECTING[setting]
    if setting.endswith(_FILE_ENDINGS) and isinstance(value, str | list | dict):
        return _OTHER_FILE
    if setting in ("vocab", "merges") and isinstance(value, str):
        return _OTHER_FILE
    if setting.strip("_").removesuffix("_internal") in _ATTENTION and _SLASH in str(value):
        return "names code on the Hub"
    return ""
