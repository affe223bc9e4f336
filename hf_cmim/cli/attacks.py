"""List all attacks with source and settings, or show one in full."""

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
  hf-cmim attacks dkd                      formula, settings and source of one method
  hf-cmim attacks --suite standard-v2      the attacks of an audit: each family with its settings
  hf-cmim attacks --suite standard-v2 dkd  the settings of one family
Each takes a few seconds, in which torch is imported.
"""
WIDTH = 100
NAME_WIDTH = 23
CLASS_WIDTH = 21


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of a method, or of a family of --suite")
    parser.add_argument(
        "--suite", metavar="SUITE", help="list the families of this suite with their settings: standard-v2 or quick-v2"
    )


def run(options: argparse.Namespace) -> None:
    """Print the table, one method, or a suite."""
    from hf_cmim.attacks import ATTACKS
    from hf_cmim.attacks.suites import RELEASED_SUITES

    if options.suite is not None:
        suite = RELEASED_SUITES[_checked(options.suite, RELEASED_SUITES, "suite")]
        names = [_checked(options.name, suite.families, "family")] if options.name else list(suite.families)
        say_lines("\n".join(line for name in names for line in _family(suite, name)))
    elif options.name is not None:
        say_lines("\n".join(_method(ATTACKS[_checked(options.name, ATTACKS, "method")])))
    else:
        say_lines("\n".join(_table(ATTACKS)))


def _checked(name: str, names: Any, kind: str) -> str:
    if name not in names:
        raise HfCmimError(f"Unknown {kind} {name!r}: there is nothing to show. {nearest(name, names)}")
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
    """Yield the paragraphs, entries and code lines of a docstring, each with its indentation."""
    block: list[str] = []
    indent = 0
    # The empty line at the end closes the last block.
    for line in [*text.splitlines(), ""]:
        depth = len(line) - len(line.lstrip())
        is_text = block and line and not line.startswith(">>>") and not block[0].startswith(">>>")
        # A line continues a block that is no heading ("Args:") if it is indented further or neither is indented.
        if is_text and not re.fullmatch(r"\w+:", block[-1]) and (depth > indent or not (depth or indent)):
            block.append(line.strip())
            continue
        if block:
            yield " ".join(block), indent
        if not line:
            yield "", 0
        block, indent = [line.strip()] if line else [], depth


def _family(suite: "Suite", family: str) -> Iterator[str]:
    yield family
    for attack in suite.of(family):
        other_parts = [part for part in attack.active_parts if part is not attack.loss]
        parts = [f"{type(part).__name__}({_changes(part)})" for part in (attack.loss, *other_parts)]
        yield from _wrapped(" + ".join(parts), " " * 4, " " * 8)


def _settings(kind: "type[AttackPart]") -> str:
    parameters = inspect.signature(kind).parameters.values()
    without_types = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    return _rounded(", ".join(map(str, without_types))) or "no settings"


def _changes(part: "AttackPart") -> str:
    """Return the settings of a part that differ from its defaults."""
    parameters = inspect.signature(type(part)).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    changed = [f"{name}={value!r}" for name, value in part.settings().items() if repr(defaults[name]) != repr(value)]
    return _rounded(", ".join(changed))


def _rounded(text: str) -> str:
    return re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.4g}", text)


def source_of(kind: "type[AttackPart]") -> str:
    """Return the paper in a method's docstring: the first part of its "Source:" paragraph."""
    paragraphs = (inspect.getdoc(kind) or "").split("\n\n")
    source = next((paragraph for paragraph in paragraphs if paragraph.startswith("Source: ")), "Source: none")
    one_line = " ".join(source.removeprefix("Source: ").split())
    # The first part ends at a semicolon, a colon or the end of a sentence.
    return re.split(r"[;:]|\.(?= [A-Z]|$)", one_line)[0]


def _wrapped(text: str, first: str = "", later: str | None = None) -> list[str]:
    """Return the lines of a text, at most 100 columns wide; `later` defaults to an indentation as wide as `first`."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first) if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    )
