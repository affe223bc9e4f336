"""Prose check of the package: places that make a reader stumble. Run `python tests/prose.py` to list them.

Exits with 1 if there are more of them than the budgets below allow. It needs only the standard library.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "hf_cmim"
RELATIVES_PER_1000_WORDS = 1.0
VAGUE_PERCENT = 1.0
NAMELESS_PERCENT = 1.0
# "what it costs" for "the cost": the thing has no name, and the sentence has to be read twice.
RELATIVE = re.compile(r"\b[Ww]hat (?:a|an|the|it|was|is|one|no|else|they|others|[a-z]+s)\b")
# A docstring begins with the thing or the action, an entry of Args or Attributes with a noun.
NAMELESS_START = re.compile(r"(?:(?:Return|Yield) )?(?:what|whether|how|of|where|why|who|which)\b", re.IGNORECASE)
SECTION = re.compile(r"^(?:Args|Attributes):\n((?: .*\n|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+: .+)", re.MULTILINE)
NAMELESS_ENTRY = re.compile(r"\w+: (?:of|that|whether|what|how|where|who|with|by|for)\b")
# Names that fit any value.
VAGUE = re.compile(
    "found|known|each|own|named|asked|given|others?|meant|every|said|what|it|shown|both|wanted|taken|held|kept"
    "|counting|rest|theirs|whole|answering|curious"
)


class Place(NamedTuple):
    """A place that stops a reader."""

    line: int
    kind: str
    text: str


class Report(NamedTuple):
    """Places in one source, with the numbers of words, names and docstrings or entries to compare them with."""

    places: list[Place]
    words: int
    names: int
    starts: int


def check(source: str) -> Report:
    """Return the places in a source that make a reader stumble."""
    tree = ast.parse(source)
    texts = list(_texts(tree, source))
    names = list(_names(tree))
    starts = list(_starts(tree))
    places = [
        *(Place(line, "what ...", match[0]) for line, text in texts for match in RELATIVE.finditer(text)),
        *(Place(line, "vague name", name) for line, name in names if VAGUE.fullmatch(name)),
        *(Place(line, "nameless start", start) for line, pattern, start in starts if pattern.match(start)),
    ]
    return Report(sorted(places), sum(len(text.split()) for _, text in texts), len(names), len(starts))


def _texts(tree: ast.AST, source: str) -> Iterator[tuple[int, str]]:
    """Yield docstrings, other strings and comments of four words or more, with their lines."""
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    lines = enumerate(source.splitlines(), 1)
    comments = [(number, line.split("#", 1)[1]) for number, line in lines if line.lstrip().startswith("#")]
    for line, text in [*((node.lineno, str(node.value)) for node in strings), *comments]:
        if len(text.split()) > 3:
            yield line, text


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names of variables and arguments where they are bound."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def _starts(tree: ast.AST) -> Iterator[tuple[int, re.Pattern[str], str]]:
    """Yield first lines of docstrings and of their entries, each with the pattern that it must not match."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text:
            line = getattr(node, "lineno", 1)
            yield line, NAMELESS_START, text.splitlines()[0]
            for section in SECTION.findall(f"{text}\n"):
                yield from ((line, NAMELESS_ENTRY, entry) for entry in ENTRY.findall(section))


def verdict(reports: list[Report]) -> list[str]:
    """Return a sentence for each budget that the sources exceed together."""
    counts = Counter(place.kind for report in reports for place in report.places)
    words, names, starts = (sum(getattr(report, name) for report in reports) for name in ("words", "names", "starts"))
    relatives = 1000 * counts["what ..."] / max(1, words)
    vague = 100 * counts["vague name"] / max(1, names)
    nameless = 100 * counts["nameless start"] / max(1, starts)
    faults = []
    if relatives > RELATIVES_PER_1000_WORDS:
        faults.append(f"{relatives:.1f} relatives with 'what' per 1,000 words, {RELATIVES_PER_1000_WORDS} are allowed")
    if vague > VAGUE_PERCENT:
        faults.append(f"{vague:.1f} % vague names, {VAGUE_PERCENT} % are allowed")
    if nameless > NAMELESS_PERCENT:
        faults.append(
            f"{nameless:.1f} % docstrings and entries without a noun first, {NAMELESS_PERCENT} % are allowed"
        )
    return faults


def main() -> int:
    """Print every place, then the budgets that are exceeded; return the exit status."""
    paths = sorted(PACKAGE.rglob("*.py"))
    reports = [check(path.read_text(encoding="utf-8")) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        for place in report.places:
            print(f"{path.relative_to(PACKAGE.parent)}:{place.line}: {place.kind}: {place.text}")
    faults = verdict(reports)
    print("\n".join(faults) or "The prose is within its budgets.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
