"""What loading a certified model gives: its sizes before it is loaded, and the fingerprint of its answers after."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from hf_cmim.errors import HfCmimError
from hf_cmim.hub.files import CONFIG_NAME, certified_names
from hf_cmim.names import safe_text
from hf_cmim.teachers.model import ModelTeacher

_LAYERS = re.compile(r"(num|n)_.*(layers?|blocks?|stages?|groups?|experts?)|.*depths?|.*layers?|n_layer")
"""Settings that count modules, each of which takes memory before any weight is read."""
LARGEST_SIZE = 2**31
"""Largest integer in a configuration, where the weights hold fewer numbers; ours."""

Shapes = Mapping[str, tuple[int, ...]]


def tensor_shapes(folder: Path, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the safetensors files among the names, without reading the tensors."""
    shapes = {}
    for name in names:
        if name.endswith(".safetensors"):
            with safe_open(folder / name, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118 (it is not a dict)
                    shapes[key] = tuple(file.get_slice(key).get_shape())
    return shapes


def size_faults(config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    """Yield every size that a configuration claims and its weights cannot have, as a sentence.

    Building a model takes memory by its configuration. So a small file that claims ten thousand million classes, or as
    many layers, would stop the machine before the first weight is read.

    Args:
        config: as JSON holds it.
        shapes: of the weights.
    """
    widest = max((size for shape in shapes.values() for size in shape), default=0)
    numbers = max(LARGEST_SIZE, sum(math.prod(shape) for shape in shapes.values()))
    classes = config.get("num_labels")
    if isinstance(classes, int) and classes > widest:
        yield f"{CONFIG_NAME} counts {classes:,} classes, and no weight is wider than {widest:,}"
        return
    if (names := len(certified_names(dict(config)))) > widest:
        yield f"{CONFIG_NAME} names {names:,} classes, and no weight is wider than {widest:,}"
    for setting, value in _integers(config):
        if _LAYERS.fullmatch(setting) and value > len(shapes):
            yield f"{CONFIG_NAME} says {safe_text(setting)} = {value:,}, and there are {len(shapes):,} weights in all"
        elif value > numbers:
            yield f"{CONFIG_NAME} says {safe_text(setting)} = {value:,}, more than all weights together hold"


def _integers(values: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for setting, value in values.items():
        if setting in ("id2label", "label2id"):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                yield from _integers(each)
            elif isinstance(each, int):
                yield setting, each


@contextmanager
def certified_copy(folder: Path, names: Collection[str]) -> Iterator[Path]:
    """Give a folder with the certified files and nothing else, as links: what a loader finds there is certified."""
    with TemporaryDirectory(prefix="hf_cmim-") as temporary:
        copy = Path(temporary) / "model"
        copy.mkdir()
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).symlink_to((folder / name).resolve())
        yield copy


def loaded_fingerprint(folder: Path, names: Collection[str]) -> str:
    """Return the fingerprint of the model that transformers loads from the certified files of a folder.

    Raises:
        HfCmimError: transformers cannot load it from these files.
    """
    with certified_copy(folder, names) as copy:
        try:
            return ModelTeacher(copy).fingerprint()
        except HfCmimError as error:
            raise HfCmimError(str(error).replace(str(copy), str(folder))) from error
