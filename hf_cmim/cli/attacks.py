"""List every attack with its source and settings, or show one in full."""

import argparse
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hf_cmim.cli.printing import say_lines
from hf_cmim.cli.words import nearest
from hf_cmim.errors import HfCmimError

if TYPE_CHECKING:
    from hf_cmim.attacks.base import AttackPart
    from hf_cmim.attacks.suites import Suite

EXAMPLES = """\
examples:
  hf-cmim attacks                          every method: name, class, defaults, source
  hf-cmim attacks dkd                      formula, settings and source of one
  hf-cmim attacks --suite standard-v1      what an audit tries: each family with all its settings
  hf-cmim attacks --suite standard-v1 dkd  the settings of one family
They cost the few seconds that importing torch takes.
"""
WIDTH = 100
NAME_WIDTH = 23
CLASS_WIDTH = 21


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="a method, or a family of the suite")
    parser.add_argument("--suite", metavar="SUITE", help="standard-v1 or quick-v1: its families with their settings")


def run(options: argparse.Namespace) -> None:
    """Print the table, one method, or a suite."""
    from hf_cmim.attacks import ATTACKS
    from hf_cmim.attacks.suites import SUITES

    if options.suite is not None:
        suite = SUITES[_known(options.suite, SUITES, "a suite")]
        names = [_known(options.name, suite.families, "a family")] if options.name else list(suite.families)
        say_lines("\n".join(line for name in names for line in _family(suite, name)))
    elif options.name is not None:
        say_lines("\n".join(_method(ATTACKS[_known(options.name, ATTACKS, "a method")])))
    else:
        say_lines("\n".join(_table(ATTACKS)))


def _known(name: str, names: Any, what: str) -> str:
    if name not in names:
        raise HfCmimError(
            f"Expected {what} that there is, got {name!r}: there is nothing to show. {nearest(name, names)}"
        )
    return name


def _table(methods: "Mapping[str, type[AttackPart]]") -> Iterator[str]:
    yield f"{'method':{NAME_WIDTH}}{'class':{CLASS_WIDTH}}source, defaults"
    for name, kind in methods.items():
        title = f"{name:{NAME_WIDTH}}{kind.__name__:{CLASS_WIDTH}}"
        yield from _wrapped(source_of(kind), title)
        yield from _wrapped(_settings(kind), " " * len(title))


def _method(kind: "type[AttackPart]") -> Iterator[str]:
    yield f"{kind.__module__}.{kind.__name__}"
    yield from _wrapped(f"defaults: {_settings(kind)}")
    yield ""
    for text, indent in _paragraphs(inspect.getdoc(kind) or ""):
        yield from _wrapped(text, " " * indent, " " * (indent + 4 * bool(indent))) or [""]


def _paragraphs(text: str) -> Iterator[tuple[str, int]]:
    """Yield a docstring's paragraphs, items and lines of code, each with its indentation."""
    held: list[str] = []
    indent = 0
    for line in [*text.splitlines(), ""]:
        depth = len(line) - len(line.lstrip())
        is_text = held and line and not line.startswith(">>>") and not held[0].startswith(">>>")
        if is_text and not re.fullmatch(r"\w+:", held[-1]) and (depth > indent or not (depth or indent)):
            held.append(line.strip())
            continue
        if held:
            yield " ".join(held), indent
        if not line:
            yield "", 0
        held, indent = [line.strip()] if line else [], depth


def _family(suite: "Suite", family: str) -> Iterator[str]:
    yield family
    for attack in suite.of(family):
        others = [part for part in attack.active_parts if part is not attack.loss]
        parts = [f"{type(part).__name__}({_changes(part)})" for part in (attack.loss, *others)]
        yield from _wrapped(" + ".join(parts), " " * 4, " " * 8)


def _settings(kind: "type[AttackPart]") -> str:
    found = inspect.signature(kind).parameters.values()
    return _rounded(", ".join(str(each.replace(annotation=each.empty)) for each in found)) or "no settings"


def _changes(part: "AttackPart") -> str:
    """Return the settings in which a part differs from its defaults."""
    defaults = {name: each.default for name, each in inspect.signature(type(part)).parameters.items()}
    changed = [f"{name}={value!r}" for name, value in part.settings().items() if repr(defaults[name]) != repr(value)]
    return _rounded(", ".join(changed))


def _rounded(text: str) -> str:
    return re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.4g}", text)


def source_of(kind: "type[AttackPart]") -> str:
    """Return the paper that a method's docstring names: the first part of its source."""
    paragraphs = (inspect.getdoc(kind) or "").split("\n\n")
    found = next((each for each in paragraphs if each.startswith("Source: ")), "Source: none")
    return re.split(r"[;:]|\.(?= [A-Z]|$)", " ".join(found.removeprefix("Source: ").split()))[0]


def _wrapped(text: str, first: str = "", later: str | None = None) -> list[str]:
    """Return the text in lines of at most 100 columns, the later ones indented as far as the first."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first) if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    )
