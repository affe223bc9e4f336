"""Words of a command line: NAME=VALUE pairs, unknown flags, and YAML files with values for flags."""

import argparse
import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

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


def with_config(options: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None]) -> Any:
    """Return the options, with values from the file `options.config` for missing flags; lists of pairs are joined.

    Args:
        options: options of the command line; a missing flag is None.
        add_arguments: function that adds the command's flags to a parser.

    Raises:
        HfCmimError: a file that cannot be read, or has settings that no flag has.
    """
    if options.config is None:
        return options
    # The file's settings are parsed as flags, so that types, choices and errors are those of the command line.
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    add_arguments(parser)
    path = Path(options.config)
    try:
        file_options, unknown = parser.parse_known_args([*_words(_settings(path), path, parser)])
    except argparse.ArgumentError as error:
        raise HfCmimError(f"A setting in {path} does not accept its value: {error}.") from error
    refuse_unknown(unknown, parser)
    merged = vars(file_options)
    for name, value in vars(options).items():
        # Pairs NAME=VALUE of file and flags are joined, flags last, so that they count.
        if isinstance(value, list) and isinstance(merged.get(name), list) and value and isinstance(value[0], tuple):
            merged[name] = [*merged[name], *value]
        elif value is not None:
            merged[name] = value
    return argparse.Namespace(**merged)


def _settings(path: Path) -> dict[str, Any]:
    if path.suffix not in (".yaml", ".yml"):
        raise HfCmimError(
            f"Expected a YAML file (.yaml) before the flags, got {str(path)!r}. Give the classifier with --teacher and"
            " the data with --dataset."
        )
    import yaml

    try:
        settings = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise HfCmimError(f"No YAML file can be read from {path}: {error}.") from error
    if not isinstance(settings, dict):
        raise HfCmimError(f"Expected settings as NAME: VALUE in {path}, got {type(settings).__name__}.")
    return {str(name): value for name, value in settings.items() if value is not None}


def _words(settings: dict[str, Any], path: Path, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield a file's settings as the words of a command line."""
    names = [flag.removeprefix("--") for flag in _flags(parser)]
    names = ["training" if name == "set" else name for name in names]
    for name, value in settings.items():
        name = name.replace("_", "-")
        if name not in names:
            raise HfCmimError(f"Unknown setting {name!r} in {path}: it would have no effect. {nearest(name, names)}")
        flag = "--set" if name == "training" else f"--{name}"
        if isinstance(value, bool):
            yield flag if value else f"--no-{name}"
        elif isinstance(value, dict):
            for key, entry in value.items():
                yield f"{flag}={key}={entry if isinstance(entry, str) else json.dumps(entry)}"
        elif isinstance(value, list):
            yield from (flag, *map(str, value))
        else:
            yield f"{flag}={value}"


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for flag in parser._option_string_actions if flag.startswith("--")]
