"""Flags of a command as fields of a dataclass: each field is one flag, one key of a YAML file and one typed value."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_cmim.cli.words import nearest, refuse_unknown
from hf_cmim.errors import HfCmimError

if TYPE_CHECKING:
    from dataclasses import Field

    from _typeshed import DataclassInstance

Flags = TypeVar("Flags", bound="DataclassInstance")


def flag(help: str, **settings: Any) -> Any:
    """Return the field of a flag, which is None where the flag is missing.

    Args:
        help: help text.
        settings: further arguments of `ArgumentParser.add_argument`, and `name`, the flag if it is not the field's.
    """
    return field(default=None, metadata={"help": help, **settings})


def add_flags(group: "argparse._ActionsContainer", kind: "type[DataclassInstance]") -> None:
    """Add the flags of a dataclass to a parser or to a group of one."""
    for setting in fields(kind):
        settings = {name: value for name, value in setting.metadata.items() if name != "name"}
        group.add_argument(_flag_of(setting), dest=setting.name, **settings)


def add_groups(parser: argparse.ArgumentParser, groups: "Mapping[str, Sequence[type[DataclassInstance]]]") -> None:
    """Add the flags of dataclasses in groups, by their title in the help."""
    for title, kinds in groups.items():
        group = parser.add_argument_group(title)
        for kind in kinds:
            add_flags(group, kind)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the file that gives values for missing flags."""
    parser.add_argument("config", nargs="?", help="YAML file (.yaml) with the flags' names as keys, before all flags")


def read_flags(options: argparse.Namespace, kind: type[Flags]) -> Flags:
    """Return the flags of a command, with values from the file `options.config` for missing ones.

    Pairs NAME=VALUE of file and command line are joined, those of the command line last, so that they count.

    Args:
        options: parsed command line, which may lack some of the flags.
        kind: dataclass of the flags.

    Raises:
        HfCmimError: a file that cannot be read, or has settings that no flag has.
    """
    names = [setting.name for setting in fields(kind)]
    values = {name: getattr(options, name, None) for name in names}
    if options.config is None:
        return kind(**values)
    for name, of_file in _values_in(Path(options.config), kind).items():
        value = values[name]
        if value is None:
            values[name] = of_file
        elif _are_pairs(value) and of_file is not None:
            values[name] = [*of_file, *value]
    return kind(**values)


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], tuple)


def _are_lists(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def _values_in(path: Path, kind: "type[DataclassInstance]") -> dict[str, Any]:
    """Return the values of a file, parsed as flags: types, choices and errors are those of the command line."""
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    add_flags(parser, kind)
    try:
        options, unknown = parser.parse_known_args([*_words(_settings(path), path, kind)])
    except argparse.ArgumentError as error:
        raise HfCmimError(f"A setting in {path} does not accept its value: {error}.") from error
    refuse_unknown(unknown, parser)
    return vars(options)


def yaml_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a YAML file by name.

    Raises:
        HfCmimError: a file that cannot be read, or is not made of NAME: VALUE.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise HfCmimError(f"No YAML file can be read from {path}: {error}.") from error
    if not isinstance(settings, dict):
        raise HfCmimError(f"Expected settings as NAME: VALUE in {path}, got {type(settings).__name__}.")
    return {str(name): value for name, value in settings.items()}


def _settings(path: Path) -> dict[str, Any]:
    if path.suffix not in (".yaml", ".yml"):
        raise HfCmimError(
            f"Expected a YAML file (.yaml) before the flags, got {str(path)!r}. Give the classifier with --teacher and"
            " the data with --dataset."
        )
    return {name: value for name, value in yaml_settings(path).items() if value is not None}


def _words(settings: dict[str, Any], path: Path, kind: "type[DataclassInstance]") -> Iterator[str]:
    """Yield a file's settings as the words of a command line."""
    flags = {setting.name.replace("_", "-"): _flag_of(setting) for setting in fields(kind)}
    for key, value in settings.items():
        name = key.replace("_", "-")
        if name not in flags:
            raise HfCmimError(f"Unknown setting {name!r} in {path}: it would have no effect. {nearest(name, flags)}")
        yield from _words_of(flags[name], value)


def words_of(flags: "DataclassInstance") -> list[str]:
    """Return the words of a command line that has these flags."""
    words: list[str] = []
    for setting in fields(flags):
        value = getattr(flags, setting.name)
        # A list of lists is a flag that was given several times, with several words each.
        for one in value if _are_lists(value) else [value]:
            words += [] if one is None else _words_of(_flag_of(setting), dict(one) if _are_pairs(one) else one)
    return words


def _flag_of(setting: "Field[Any]") -> str:
    name: str = setting.metadata.get("name", f"--{setting.name.replace('_', '-')}")
    return name


def _words_of(flag: str, value: Any) -> Iterator[str]:
    """Yield the words of a flag with a value."""
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag.removeprefix('--')}"
    elif isinstance(value, dict):
        for entry_name, entry in value.items():
            yield f"{flag}={entry_name}={entry if isinstance(entry, str) else json.dumps(entry)}"
    elif isinstance(value, list):
        yield from (flag, *map(str, value))
    else:
        yield f"{flag}={value}"
