"""Words of a command line: NAME=VALUE pairs and unknown flags."""

import argparse
import difflib
from collections.abc import Iterable

from hf_cmim.errors import HfCmimError


def name_and_value(word: str) -> tuple[str, str]:
    """Split NAME=VALUE into name and value.

    Raises:
        argparse.ArgumentTypeError: a missing name or value.
    """
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {word!r}")
    return name, value


def nearest(name: str, names: Iterable[str], otherwise: str = "--help lists them all.") -> str:
    """Return a suggestion of the most similar names, or the sentence `otherwise` if none is similar."""
    similar = difflib.get_close_matches(name, list(names), n=2, cutoff=0.5)
    return f"Did you mean {' or '.join(similar)}?" if similar else otherwise


def refuse_unknown(words: list[str], parser: argparse.ArgumentParser) -> None:
    """Raise an `HfCmimError` for the first unknown word, with the most similar flag."""
    if words:
        flag = words[0].partition("=")[0]
        raise HfCmimError(f"Unknown flag {words[0]!r}: it would have no effect. {nearest(flag, _flags(parser))}")


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for flag in parser._option_string_actions if flag.startswith("--")]
