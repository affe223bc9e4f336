"""The words of a command line: NAME=VALUE, names that nobody knows, and files that hold what flags would say."""

import argparse
import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_cmim.errors import HfCmimError


def name_and_value(word: str) -> tuple[str, str]:
    """Return the two sides of NAME=VALUE.

    Raises:
        argparse.ArgumentTypeError: one of them is missing.
    """
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {word!r}")
    return name, value


def nearest(name: str, names: Iterable[str], otherwise: str = "--help lists them all.") -> str:
    """Return a sentence with the names that are spelt most like this one, or another sentence where none is."""
    similar = difflib.get_close_matches(name, list(names), n=2, cutoff=0.5)
    return f"Did you mean {' or '.join(similar)}?" if similar else otherwise


def refuse_unknown(words: list[str], parser: argparse.ArgumentParser) -> None:
    """Raise an `HfCmimError` that names the first word no flag takes, and its nearest flag."""
    if words:
        flag = words[0].partition("=")[0]
        raise HfCmimError(
            f"Expected flags that this command knows, got {words[0]!r}: it would do nothing."
            f" {nearest(flag, _flags(parser))}"
        )


def with_config(options: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None]) -> Any:
    """Return the options with what the file `options.config` says where no flag does; lists are added to.

    Args:
        options: of the command line; an option without a flag is None.
        add_arguments: adds the command's flags to a parser.

    Raises:
        HfCmimError: a file that cannot be read, or says what no flag can.
    """
    if options.config is None:
        return options
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    add_arguments(parser)
    path = Path(options.config)
    try:
        given, unknown = parser.parse_known_args([*_words(_settings(path), path, parser)])
    except argparse.ArgumentError as error:
        raise HfCmimError(f"Expected settings in {path} as --help lists them, got another: {error}.") from error
    refuse_unknown(unknown, parser)
    merged = vars(given)
    for name, value in vars(options).items():
        if isinstance(value, list) and isinstance(merged.get(name), list) and value and isinstance(value[0], tuple):
            merged[name] = [*merged[name], *value]
        elif value is not None:
            merged[name] = value
    return argparse.Namespace(**merged)


def _settings(path: Path) -> dict[str, Any]:
    if path.suffix not in (".yaml", ".yml"):
        raise HfCmimError(
            f"Expected a YAML file (.yaml) before the flags, got {str(path)!r}: nothing else is read as one. The"
            " classifier is --teacher, the data are --dataset."
        )
    import yaml

    try:
        settings = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise HfCmimError(f"Expected a YAML file at {path}, got none that can be read: {error}.") from error
    if not isinstance(settings, dict):
        raise HfCmimError(f"Expected names with their values in {path}, got {type(settings).__name__}: no settings.")
    return {str(name): value for name, value in settings.items() if value is not None}


def _words(settings: dict[str, Any], path: Path, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a file's settings as the words of a command line."""
    names = [flag.removeprefix("--") for flag in _flags(parser)]
    names = ["training" if name == "set" else name for name in names]
    for name, value in settings.items():
        name = name.replace("_", "-")
        if name not in names:
            raise HfCmimError(
                f"Expected flags' names in {path}, got {name!r}: nothing would read it. {nearest(name, names)}"
            )
        flag = "--set" if name == "training" else f"--{name}"
        if isinstance(value, bool):
            yield flag if value else f"--no-{name}"
        elif isinstance(value, dict):
            for key, each in value.items():
                yield f"{flag}={key}={each if isinstance(each, str) else json.dumps(each)}"
        elif isinstance(value, list):
            yield from (flag, *map(str, value))
        else:
            yield f"{flag}={value}"


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for flag in parser._option_string_actions if flag.startswith("--")]
