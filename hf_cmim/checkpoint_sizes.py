"""Sizes that a configuration claims, compared with its weights before anything takes memory for them."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from hf_cmim.class_names import class_names_of
from hf_cmim.names import safe_text

CONFIG_NAME = "config.json"
_LAYERS = re.compile(r"(num|n)_(\w+_)?(layers?|blocks?|experts?)|(\w+_)?(depths?|layers)")
"""Settings that count modules, each of which takes memory before any weight is read."""
MOST_CLASSES = 1_000_000
"""Classes that a configuration may count: more than any classifier has, and no danger to memory."""
MOST_LAYERS = 10_000
LAYERS_PER_WEIGHT = 10
"""Layers that may share one weight."""
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
    if (names := len(class_names_of(config) or ())) > widest:
        yield f"{CONFIG_NAME} names {names:,} classes, and no weight is wider than {widest:,}"
    for setting, value in _integers(config):
        if _LAYERS.fullmatch(setting) and value > LAYERS_PER_WEIGHT * len(shapes):
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


def unbounded_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield every size that no model has, whatever its weights, as a sentence."""
    for name in ("num_labels", "num_classes"):
        count = config.get(name, 2)
        if count is not None and not (isinstance(count, int) and 0 < count <= MOST_CLASSES):
            yield f"{CONFIG_NAME} says {name} = {safe_text(str(count))[:40]}, expected 1 to {MOST_CLASSES:,} classes"
    for setting, value in _integers(config):
        if _LAYERS.fullmatch(setting) and value > MOST_LAYERS:
            yield f"{CONFIG_NAME} says {safe_text(setting)} = {value:,}, more than {MOST_LAYERS:,}"
