"""The user's own attacks, channels and students, given on the command line as PACKAGE.MODULE:NAME."""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, AttackPart
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.channels import (
    AbstractChannel,
    Argmax,
    ClassAnswers,
    ConfidenceTemperature,
    LinearMap,
    ModelGuardS,
    ModelGuardW,
    ReverseSigmoid,
    Rounded,
    Sharpened,
    TopK,
)
from hf_cmim.cli.words import nearest
from hf_cmim.errors import HfCmimError, abbreviated

CHANNELS: dict[str, type[AbstractChannel]] = {
    "rounded": Rounded,
    "top-k": TopK,
    "argmax": Argmax,
    "sharpened": Sharpened,
    "confidence-temperature": ConfidenceTemperature,
    "reverse-sigmoid": ReverseSigmoid,
    "model-guard-w": ModelGuardW,
    "model-guard-s": ModelGuardS,
    "linear-map": LinearMap,
    "class-answers": ClassAnswers,
}
"""Channels of this package by their name for --channel."""
ChannelFit = Callable[[Tensor, Tensor], AbstractChannel]
"""A function from log-probabilities `(N, C)` and labels `(N,)` to the channel that fits them."""
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_reference(word: str | None) -> bool:
    """Return True if a word is a reference PACKAGE.MODULE:NAME and no path or Hub id.

    >>> is_reference("my_attacks:Margin"), is_reference("outputs/ce"), is_reference("user/name")
    (True, False, False)
    """
    return word is not None and REFERENCE.fullmatch(word) is not None and not Path(word).exists()


def load_object(reference: str, flag: str) -> Any:
    """Import and return the object of a reference; modules may be in the current folder, as with `python -m`.

    Args:
        reference: reference PACKAGE.MODULE:NAME.
        flag: flag of the reference, for errors.

    Raises:
        HfCmimError: a module that does not exist, or has no such name. An error inside the module keeps its traceback.
    """
    if not REFERENCE.fullmatch(reference):
        raise HfCmimError(f"{flag} takes PACKAGE.MODULE:NAME, for instance my_attacks:Margin, not {reference!r}.")
    module_name, _, name = reference.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module exists, but imports a missing one
        raise HfCmimError(
            f"No module {error.name!r} for {flag} {reference}: it is neither installed nor in {folder}. Start hf-cmim"
            " in the folder of the module, or install its package."
        ) from error
    if not hasattr(module, name):
        names = [attribute for attribute in vars(module) if not attribute.startswith("_")]
        raise HfCmimError(
            f"Module {module_name!r} has no {name!r} for {flag} {reference}."
            f" {nearest(name, names, otherwise=f'It has {abbreviated(names)}.')}"
        )
    return getattr(module, name)


def split_settings(words: Sequence[str], flag: str) -> tuple[str, list[dict[str, Any]]]:
    """Split the words of a flag into a name and the JSON objects after it.

    >>> split_settings(['m:A', '{"weight": 2}', '{"weight": 3}'], "--attack")
    ('m:A', [{'weight': 2}, {'weight': 3}])
    >>> split_settings(['m:A={"weight": 2}'], "--attack")
    ('m:A', [{'weight': 2}])
    >>> split_settings(['top-k:{"k": 3}'], "--channel")
    ('top-k', [{'k': 3}])

    Raises:
        HfCmimError: settings that are no JSON objects.
    """
    name, brace, after_brace = " ".join(words).partition("{")
    text = f"{brace}{after_brace}".strip()
    decoder, settings = json.JSONDecoder(), []
    # raw_decode reads one object and returns its end, so that several may follow each other.
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
    return name.strip().rstrip("=:" if settings else "=").strip(), settings


def built(maker: Any, settings: Mapping[str, Any], reference: str, flag: str) -> Any:
    """Call a class or function with settings and return its result.

    Raises:
        HfCmimError: settings that it does not accept.
    """
    _check_accepts(maker, (), settings, reference, flag)
    return maker(**settings)


def _check_accepts(
    maker: Any, arguments: Sequence[Any], settings: Mapping[str, Any], reference: str, flag: str
) -> None:
    try:
        inspect.signature(maker).bind(*arguments, **settings)
    except TypeError as error:
        raise HfCmimError(
            f"{flag} {reference} does not accept the settings {dict(settings)}: {error}. Its signature is"
            f" {reference.partition(':')[2]}{inspect.signature(maker)}."
        ) from error


# Attacks


def own_entries(words: Sequence[str]) -> list[SuiteEntry]:
    """Return the user's attack as a family of a suite, with one entry per setting.

    Args:
        words: reference and settings of --attack.

    Raises:
        HfCmimError: a reference to something that is no attack.
    """
    reference, settings = split_settings(words, "--attack")
    maker = load_object(reference, "--attack")
    if isinstance(maker, AttackPart | Composition):
        if settings:
            raise HfCmimError(
                f"--attack {reference} is an instance and takes no settings. Give its class, or remove the settings."
            )
        attacks = [maker]
    elif callable(maker):
        attacks = [built(maker, values, reference, "--attack") for values in settings or [{}]]
    else:
        attacks = [maker]
    family = reference.partition(":")[2]
    return [SuiteEntry(family, _composed(attack, reference)) for attack in attacks]


def _composed(attack: Any, reference: str) -> Composition:
    """Return an attack as a composition; a part that is no loss is added to plain distillation."""
    if isinstance(attack, Composition | AbstractAttack):
        return Composition.of(attack)
    if isinstance(attack, AttackPart):
        return Composition(KD(), attack)
    raise HfCmimError(
        f"--attack {reference} is no attack, but {type(attack).__name__}. Derive the class from"
        " hf_cmim.attacks.base.AbstractAttack, or return a Composition of such parts (docs/extend.md has examples)."
    )


def composed_suite(suite: Suite, families: Sequence[str] | None, attacks: Sequence[Sequence[str]]) -> Suite:
    """Return a suite with the user's attacks and only the requested families, under a name that shows both.

    Args:
        suite: released suite.
        families: names of the requested families; None for all.
        attacks: words of each --attack.

    Raises:
        HfCmimError: an unknown family, or an attack with the name of another one.
    """
    added = [own_entries(words) for words in attacks]
    names = [entries[0].family for entries in added]
    duplicates = [name for position, name in enumerate(names) if name in (*suite.families, *names[:position])]
    if duplicates:
        raise HfCmimError(
            f"--attack {duplicates[0]}: the suite already has a family of this name, and their settings would compete"
            " with each other. Rename the class or function."
        )
    composed = Suite(suite.name, (*suite.entries, *(entry for entries in added for entry in entries)))
    if families is not None:
        for family in families:
            if family not in composed.families:
                raise HfCmimError(
                    f"Unknown family {family!r} of {suite.name}: no attack has this name."
                    f" {nearest(family, composed.families, otherwise=f'It has {abbreviated(composed.families)}.')}"
                )
        composed = composed.subset(families)
    if not added:
        return composed
    return Suite(f"{composed.name.removesuffix(' + own')} + own", composed.entries)


# Channels


def channel_of(words: Sequence[str], flag: str = "--channel") -> AbstractChannel | ChannelFit:
    """Return the channel for the words of a flag, or how to fit it, for a class with a method `fit`.

    Args:
        words: name or reference of the channel, and its settings.
        flag: flag of the words, for errors.

    Raises:
        HfCmimError: an unknown channel, or settings that it does not accept.
    """
    name, settings = split_settings(words, flag)
    if len(settings) > 1:
        raise HfCmimError(f"{flag} {name} takes one JSON object of settings, not {len(settings)}.")
    if name not in CHANNELS and ":" not in name:
        raise HfCmimError(
            f"Unknown channel {name!r}: answers would pass unchanged."
            f" {nearest(name, CHANNELS, otherwise=f'There are {abbreviated([*CHANNELS])}.')} Give your own channel as"
            " PACKAGE.MODULE:NAME."
        )
    maker = CHANNELS.get(name) or load_object(name, flag)
    if isinstance(maker, type) and hasattr(maker, "fit"):
        values = settings[0] if settings else {}
        _check_accepts(maker.fit, (None, None), values, name, flag)
        return partial(maker.fit, **values)
    channel = maker if isinstance(maker, AbstractChannel) else None
    if channel is None and callable(maker):
        channel = built(maker, settings[0] if settings else {}, name, flag)
    if not isinstance(channel, AbstractChannel):
        raise HfCmimError(
            f"{flag} {name} is no channel, but {type(channel or maker).__name__}. Derive the class from"
            " hf_cmim.channels.AbstractChannel (docs/extend.md has an example)."
        )
    return channel
