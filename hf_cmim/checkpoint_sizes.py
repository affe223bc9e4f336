"""Checks of the sizes in a configuration against its weights, before a model of these sizes takes memory."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from hf_cmim.class_names import class_names_of
from hf_cmim.names import safe_text

CONFIG_NAME = "config.json"
# Settings that count modules. Each module takes memory before any weight is read.
_LAYERS = re.compile(r"(num|n)_(\w+_)?(layers?|blocks?|experts?)|(\w+_)?(depths?|layers)")
MOST_CLASSES = 1_000_000
"""Most classes in a configuration: more than any classifier has, and no danger to memory."""
MOST_LAYERS = 10_000
LAYERS_PER_WEIGHT = 10
"""Most layers that share one weight."""
LARGEST_SIZE = 2**31
"""Largest integer in a configuration, unless the weights hold more numbers; ours."""

Shapes = Mapping[str, tuple[int, ...]]


def tensor_shapes(folder: Path, names: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the safetensors files among the names, without reading the tensors."""
    shapes = {}
    for name in names:
        if name.endswith(".safetensors"):
            with safe_open(folder / name, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    shapes[key] = tuple(file.get_slice(key).get_shape())
    return shapes


def size_faults(config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    """Yield a sentence for every size in a configuration that its weights cannot have.

    The configuration decides how much memory a model takes. So a small file that claims ten thousand million classes,
    or as many layers, would stop the machine before the first weight is read.

    Args:
        config: configuration, parsed from JSON.
        shapes: shapes of the weights, by name.
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
    """Yield every integer setting with its value, at any depth."""
    for setting, value in values.items():
        # The numbers of classes are not sizes.
        if setting in ("id2label", "label2id"):
            continue
        for element in value if isinstance(value, list) else [value]:
            if isinstance(element, dict):
                yield from _integers(element)
            elif isinstance(element, int):
                yield setting, element


def unbounded_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for every size that no model has, without reading the weights."""
    for name in ("num_labels", "num_classes"):
        count = config.get(name, 2)
        if count is not None and not (isinstance(count, int) and 0 < count <= MOST_CLASSES):
            yield f"{CONFIG_NAME} says {name} = {safe_text(str(count))[:40]}, expected 1 to {MOST_CLASSES:,} classes"
    for setting, value in _integers(config):
        if _LAYERS.fullmatch(setting) and value > MOST_LAYERS:
            yield f"{CONFIG_NAME} says {safe_text(setting)} = {value:,}, more than {MOST_LAYERS:,}"
