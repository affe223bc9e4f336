"""Attacks by their name and settings, as one word of a command line."""

import json
from collections.abc import Sequence
from inspect import getdoc, signature
from typing import Any

from hf_cmim.attacks import ATTACKS
from hf_cmim.attacks.base import Relative
from hf_cmim.attacks.composition import Composition
from hf_cmim.cli.extensions import CHANNELS
from hf_cmim.cli.words import nearest
from hf_cmim.errors import HfCmimError

PARTS: dict[str, Any] = {**ATTACKS, **CHANNELS}
"""Parts that settings may name: attacks, and channels that an attack simulates."""


def attack_of(words: str | Sequence[str]) -> Composition:
    """Return the attack whose parts are given as NAME or NAME:{JSON settings}, one word for each part.

    Inside the settings {"relative": 1.0} is a temperature in units of the teacher's logit scale, and
    {NAME: {settings}} another part.

    >>> attack_of('kd:{"temperature": {"relative": 2.0}}').loss.temperature
    Relative(factor=2.0)

    Raises:
        HfCmimError: an unknown name, or settings that a part does not accept.
    """
    return Composition(*map(_part, [words] if isinstance(words, str) else words))


def _part(word: str) -> Any:
    name, _, settings = word.partition(":")
    if name not in ATTACKS:
        raise HfCmimError(
            f"Unknown --attack {name!r}: no attack has this name."
            f" {nearest(name, ATTACKS, otherwise='List all attacks with: hf-cmim attacks')}"
        )
    try:
        return ATTACKS[name](**json.loads(settings or "{}", object_hook=_meant))
    except (TypeError, ValueError) as error:
        raise HfCmimError(
            f"--attack {word!r} has settings that cannot be used: {error}. Write them in single quotes,"
            f""" '{name}:{{"setting": value}}', with the settings {signature(ATTACKS[name])}."""
        ) from error


def attack_lines() -> list[str]:
    """Return two lines for each attack: name and purpose, then its settings with their defaults."""
    lines = []
    for name, part in ATTACKS.items():
        settings = [str(each.replace(annotation=each.empty)) for each in signature(part).parameters.values()]
        purpose = (getdoc(part) or "").splitlines()[0]
        lines += [f"{name:22} {purpose}", f"{'':22} {', '.join(settings) or 'no settings'}"]
    return lines


def _meant(values: dict[str, Any]) -> Any:
    """Return the relative temperature or the part that an object in JSON settings describes, or the object."""
    name = next(iter(values), "")
    if name == "relative":
        return Relative(values[name])
    return PARTS[name](**values[name]) if name in PARTS else values
