"""Class names in the order of a model's logits, read from its configuration."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hf_cmim.errors import HfCmimError, abbreviated


def class_names_of(source: Any) -> tuple[str, ...] | None:
    """Return the class names of a model or a configuration, in the order of the logits.

    The keys of `id2label` may be numbers or, as in JSON, strings of numbers, in any order. Configurations of timm
    wrappers give `label_names`. A configuration with only a count gets transformers' defaults (LABEL_0, LABEL_1, ...),
    which say how many classes there are and not which is which (`are_default_names`).

    Args:
        source: model with a `config` (a PEFT model too), configuration object, or parsed config.json.

    Returns:
        Names, of which two may be equal (`check_names_differ`); None where nothing tells names or count.

    Raises:
        HfCmimError: a class without a name, a number with two names, a key that is no number, another count than
            `num_labels`, or a `label2id` that contradicts `id2label`.

    >>> class_names_of({"id2label": {"1": "dog", "0": "cat"}})
    ('cat', 'dog')
    """
    config = getattr(source, "config", None if isinstance(source, nn.Module) else source)
    # timm's wrappers have num_classes and label_names in the place of num_labels and id2label.
    count = _setting(config, "num_labels") or _setting(config, "num_classes")
    names = _named(_setting(config, "id2label") or _setting(config, "label_names"))
    if not names:
        return default_names(int(count)) if isinstance(count, int) else None
    if isinstance(count, int) and count != len(names):
        raise HfCmimError(
            f"The configuration names {len(names)} classes, its num_labels is {count}: transformers would drop the"
            f" names when it loads the model. Give id2label {count} names, or remove num_labels."
        )
    _check_inverse(names, _setting(config, "label2id"))
    return names


def default_names(count: int) -> tuple[str, ...]:
    """Return the names that transformers gives to classes without one."""
    return tuple(f"LABEL_{number}" for number in range(count))


def are_default_names(names: Sequence[str]) -> bool:
    """Return True if all names are transformers' defaults, which do not tell the classes apart.

    >>> are_default_names(["LABEL_0", "LABEL_1"]), are_default_names(["LABEL_0", "dog"])
    (True, False)
    """
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def check_names_differ(names: Sequence[str]) -> None:
    """Check that classes can be told apart by name.

    Raises:
        HfCmimError: two classes of one name, with both numbers and the line that renames them.
    """
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in first:
            raise HfCmimError(
                f"Expected different class_names, got {name!r} for the classes {first[name]} and {number}: answers"
                f" could not be told apart by name. Rename one where the model comes from, the same for every model,"
                f" and save it: model.config.id2label[{number}] = {f'{name} ({number})'!r}; or give class_names."
            )
        first[name] = number


def _setting(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _named(names: Any) -> tuple[str, ...]:
    """Return the names by number."""
    if not isinstance(names, Mapping):
        return tuple(map(str, names)) if isinstance(names, Sequence) and not isinstance(names, str) else ()
    # Python has numbers as keys and JSON has texts, so a configuration changed after loading can hold both.
    by_number: dict[int, str] = {}
    for key, name in names.items():
        number = _number(key)
        if by_number.setdefault(number, str(name)) != str(name):
            raise HfCmimError(
                f"id2label names class {number} twice, {by_number[number]!r} and {str(name)!r}: its keys are numbers"
                " and strings of numbers. Keep one of them."
            )
    missing = [number for number in range(len(by_number)) if number not in by_number]
    if missing:
        numbers = sorted(by_number)
        raise HfCmimError(
            f"id2label names {len(by_number)} classes, but has no name for class {missing[0]} (its numbers are"
            f" {abbreviated(numbers)}): later names would belong to other classes. Name each class from 0 to"
            f" {max(numbers)}, or number them without a gap."
        )
    return tuple(by_number[number] for number in range(len(by_number)))


def _number(key: Any) -> int:
    try:
        return int(key)
    except (TypeError, ValueError):
        raise HfCmimError(
            f"id2label has the key {key!r}, which is not the number of a class: the order of the classes is unknown."
            " The keys are numbers and the values names: {0: 'cat', 1: 'dog'}. Is it label2id instead?"
        ) from None


def _check_inverse(names: Sequence[str], label2id: Any) -> None:
    """Refuse a label2id that numbers a class otherwise; a name that two classes have can be in it only once."""
    if not isinstance(label2id, Mapping):
        return
    counts = Counter(names)
    for number, name in enumerate(names):
        inverse = label2id.get(name)
        if inverse is not None and counts[name] == 1 and _number(inverse) != number:
            raise HfCmimError(
                f"id2label calls class {number} {name!r}, but label2id says that {name!r} is class {inverse}: labels"
                " made with one and outputs read with the other would be of different classes. Keep the order in which"
                " the head was trained: model.config.label2id = {name: int(number) for number, name in"
                " model.config.id2label.items()}."
            )
