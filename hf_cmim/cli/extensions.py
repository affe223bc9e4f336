"""Attacks, channels and students of the user's own, named on the command line as PACKAGE.MODULE:NAME."""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_cmim.attacks.base import AbstractAttack, AttackPart
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.cli.words import nearest
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.channels import AbstractChannel, Argmax, ReverseSigmoid, Rounded, Sharpened, TopK

CHANNELS: dict[str, type[AbstractChannel]] = {
    "rounded": Rounded, "top-k": TopK, "argmax": Argmax, "sharpened": Sharpened, "reverse-sigmoid": ReverseSigmoid,
}  # fmt: skip
"""Channels of this package, by the name that --channel takes."""
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
SHOWN = 8


def is_reference(word: str | None) -> bool:
    """Return whether a word names an object of a module, and no path or Hub id.

    >>> is_reference("my_attacks:Margin"), is_reference("outputs/ce"), is_reference("user/name")
    (True, False, False)
    """
    return word is not None and REFERENCE.fullmatch(word) is not None and not Path(word).exists()


def load_object(reference: str, flag: str) -> Any:
    """Return what a reference names; modules in the current folder are found, as with `python -m`.

    Args:
        reference: PACKAGE.MODULE:NAME.
        flag: flag that it was given to, for errors.

    Raises:
        HfCmimError: no such module, or nothing of that name in it. An error inside the module keeps its traceback.
    """
    if not REFERENCE.fullmatch(reference):
        raise HfCmimError(f"{flag} takes PACKAGE.MODULE:NAME, for instance my_attacks:Margin, and got {reference!r}.")
    module_name, _, name = reference.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module is there, and imports one that is not
        raise HfCmimError(
            f"No module {error.name!r} for {flag} {reference}: it is neither installed nor in {folder}. Start hf-cmim"
            " in the folder that holds it, or install its package."
        ) from error
    if not hasattr(module, name):
        names = [each for each in vars(module) if not each.startswith("_")]
        raise HfCmimError(
            f"Module {module_name!r} has no {name!r}, which {flag} {reference} names."
            f" {nearest(name, names, otherwise=f'It has {_listed(names)}.')}"
        )
    return getattr(module, name)


def split_settings(words: Sequence[str], flag: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the name in the words of a flag, and the settings after it, each a JSON object.

    >>> split_settings(['m:A', '{"weight": 2}', '{"weight": 3}'], "--attack")
    ('m:A', [{'weight': 2}, {'weight': 3}])
    >>> split_settings(['m:A={"weight": 2}'], "--attack")
    ('m:A', [{'weight': 2}])

    Raises:
        HfCmimError: something else than JSON objects.
    """
    name, brace, rest = " ".join(words).partition("{")
    decoder, settings, text = json.JSONDecoder(), [], f"{brace}{rest}".strip()
    while text:
        try:
            values, end = decoder.raw_decode(text)
        except json.JSONDecodeError as error:
            values, end = error, 0
        if not isinstance(values, dict):
            raise HfCmimError(
                f"The settings of {flag} {name.strip()} are no JSON objects ({values}): {text!r}. Write them as"
                """ '{"weight": 2.0}', in single quotes for the shell."""
            )
        settings.append(values)
        text = text[end:].strip()
    return name.strip().rstrip("=").strip(), settings


def built(maker: Any, settings: Mapping[str, Any], reference: str, flag: str) -> Any:
    """Return what a class or function makes of settings.

    Raises:
        HfCmimError: settings that it does not take.
    """
    try:
        inspect.signature(maker).bind(**settings)
    except TypeError as error:
        raise HfCmimError(
            f"{flag} {reference} does not take the settings {dict(settings)}: {error}. It takes"
            f" {reference.partition(':')[2]}{inspect.signature(maker)}."
        ) from error
    return maker(**settings)


# Attacks


def own_entries(words: Sequence[str]) -> list[SuiteEntry]:
    """Return one attack as a family of a suite, an entry for each of its settings.

    Args:
        words: reference, then settings.

    Raises:
        HfCmimError: what it names is no attack.
    """
    reference, settings = split_settings(words, "--attack")
    maker = load_object(reference, "--attack")
    if isinstance(maker, AttackPart | Composition):
        if settings:
            raise HfCmimError(f"--attack {reference} is an attack already and takes no settings. Name its class.")
        attacks = [maker]
    elif callable(maker):
        attacks = [built(maker, each, reference, "--attack") for each in settings or [{}]]
    else:
        attacks = [maker]
    return [SuiteEntry(reference.partition(":")[2], _composed(each, reference)) for each in attacks]


def _composed(attack: Any, reference: str) -> Composition:
    """Return an attack as a composition; what is no loss is added to plain distillation."""
    if isinstance(attack, Composition | AbstractAttack):
        return Composition.of(attack)
    if isinstance(attack, AttackPart):
        return Composition(KD(), attack)
    raise HfCmimError(
        f"--attack {reference} is no attack: it gives {type(attack).__name__}. Derive the class from"
        " hf_cmim.attacks.base.AbstractAttack, or return a Composition of such parts (docs/extend.md has examples)."
    )


def composed_suite(suite: Suite, families: Sequence[str] | None, attacks: Sequence[Sequence[str]]) -> Suite:
    """Return a suite with attacks added, then only some of its families, under a name that says so.

    Args:
        suite: released suite.
        families: names of the families to keep; None for all.
        attacks: words of each --attack.

    Raises:
        HfCmimError: a family that there is not, or an attack of the name of another.
    """
    added = [own_entries(words) for words in attacks]
    names = [entries[0].family for entries in added]
    taken = [name for position, name in enumerate(names) if name in (*suite.families, *names[:position])]
    if taken:
        raise HfCmimError(
            f"--attack {taken[0]}: the suite has a family of that name, and their settings would compete with each"
            " other. Rename the class or function."
        )
    whole = Suite(suite.name, (*suite.entries, *(entry for entries in added for entry in entries)))
    if families is not None:
        for family in families:
            if family not in whole.families:
                raise HfCmimError(
                    f"No family {family!r} in {suite.name}: nothing could be tried."
                    f" {nearest(family, whole.families, otherwise=f'It has {_listed(whole.families)}.')}"
                )
        whole = whole.subset(families)
    if not added:
        return whole
    return Suite(f"{whole.name.removesuffix(' + own')} + own", whole.entries)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


# Channels


def channel_of(words: Sequence[str]) -> AbstractChannel:
    """Return the channel that the words of --channel name.

    Raises:
        HfCmimError: no such channel, or settings that it does not take.
    """
    name, settings = split_settings(words, "--channel")
    if len(settings) > 1:
        raise HfCmimError(f"--channel {name} takes one JSON object of settings, and got {len(settings)}.")
    if name not in CHANNELS and ":" not in name:
        raise HfCmimError(
            f"No channel {name!r}: answers would pass unchanged."
            f" {nearest(name, CHANNELS, otherwise=f'There are {_listed([*CHANNELS])}')}, and channels of your own as"
            " PACKAGE.MODULE:NAME."
        )
    maker = CHANNELS.get(name) or load_object(name, "--channel")
    channel = maker if isinstance(maker, AbstractChannel) else None
    if channel is None and callable(maker):
        channel = built(maker, settings[0] if settings else {}, name, "--channel")
    if not isinstance(channel, AbstractChannel):
        raise HfCmimError(
            f"--channel {name} is no channel: it gives {type(channel or maker).__name__}. Derive the class from"
            " hf_cmim.functional.channels.AbstractChannel (docs/extend.md has an example)."
        )
    return channel
