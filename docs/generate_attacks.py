"""Pages of the attacks, one a method, made from docstrings, signatures and suites.

mkdocs calls `on_files` and `on_page_markdown` (`hooks` in mkdocs.yml); nothing is written into docs/. To read
one page:

    python docs/generate_attacks.py dkd
"""

import inspect
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hf_cmim.attacks import ATTACKS
from hf_cmim.attacks.base import AbstractAttack, AbstractTransform, AttackPart
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.suites import OPT_IN, SUITES
from hf_cmim.attacks.teacher_free import CrossEntropy, LabelSmoothing, TeacherFreeKD

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

TABLE_MARK = "<!-- table of methods -->"
SECTIONS = ("Args", "Attributes", "Raises")
HEADINGS = {"Strength: ": "## When is it strong?", "Source: ": "## Where does it come from?"}
"""Headings of the paragraphs that begin with these words."""
TEACHER_FREE = (CrossEntropy, LabelSmoothing, TeacherFreeKD)


def kind_of(part: type[AttackPart]) -> str:
    """Return the kind of a method, as the table of methods groups them."""
    if part in TEACHER_FREE:
        return "arm without a teacher"
    if issubclass(part, AbstractAttack):
        return "loss over a batch" if part.batch_level else "loss"
    return "answer transform" if issubclass(part, AbstractTransform) else "protocol"


def attack_page(name: str) -> str:
    """Return the page of one method as Markdown.

    Args:
        name: name in `ATTACKS`.
    """
    part = ATTACKS[name]
    title = (sys.modules[part.__module__].__doc__ or name).splitlines()[0].rstrip(".")
    lines = [f"# {name}", "", f"{title}. Class `hf_cmim.attacks.{part.__name__}`, {kind_of(part)}.", ""]
    lines += _description(inspect.getdoc(part) or "")
    lines += ["## How do I use it?", "", *_usage(name, part), ""]
    lines += ["## Which settings does it have?", "", *_settings(part), ""]
    lines += ["## Which settings does an audit try?", "", *_suites(name)]
    return "\n".join(lines) + "\n"


def _description(docstring: str) -> Iterator[str]:
    """Yield the docstring without its examples, sections as headings, entries of a section as a list."""
    for paragraph in docstring.split("\n\n"):
        head, _, entries = paragraph.partition("\n")
        if paragraph.startswith(">>>"):
            continue
        if head.rstrip(":") in SECTIONS:
            if head != "Args:":  # the settings have a table of their own
                yield from (f"**{head}**", "", *_listed(entries), "")
        elif word := next(filter(head.startswith, HEADINGS), None):
            text = " ".join(paragraph.removeprefix(word).split())
            yield from (HEADINGS[word], "", _escaped(text[0].upper() + text[1:]), "")
        elif _is_formula(paragraph):
            yield from ("```text", paragraph, "```", "")
        else:
            yield from (_escaped(" ".join(paragraph.split())), "")


def _is_formula(paragraph: str) -> bool:
    """Return whether a paragraph is a formula and no sentence."""
    has_sentence = re.match(r"[A-Z][a-z]+ |.*\. [A-Z]", paragraph, re.DOTALL)
    return not has_sentence and ("CE(y)" in paragraph or "||" in paragraph)


def _entries(text: str) -> list[tuple[str, str]]:
    """Return the entries of a Google section: name, and meaning on one line."""
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return [(name, " ".join(meaning.split())) for name, meaning in found]


def _listed(entries: str) -> list[str]:
    return [f"- `{name}`: {_escaped(meaning)}" for name, meaning in _entries(entries)]


def _settings(part: type[AttackPart]) -> list[str]:
    """Return a table of the constructor's arguments with their defaults and meanings."""
    section = re.search(r"^Args:\n((?: {4}.*\n?)+)", inspect.getdoc(part) or "", re.MULTILINE)
    meanings = dict(_entries(section[1])) if section else {}
    rows = [
        f"| `{name}` | {f'`{_short(parameter.default)}`' if parameter.default is not parameter.empty else 'required'}"
        f" | {_escaped(meanings.get(name, '')).replace('|', chr(92) + '|')} |"
        for name, parameter in inspect.signature(part).parameters.items()
    ]
    return ["| setting | default | meaning |", "|---|---|---|", *rows] if rows else ["None."]


def _usage(name: str, part: type[AttackPart]) -> Iterator[str]:
    """Yield a call of the trainer, and what the method asks for."""
    teacher = "" if part in TEACHER_FREE else "teacher=teacher, "
    required = [each.name for each in inspect.signature(part).parameters.values() if each.default is each.empty]
    settings = ", ".join(f"{setting}=..." for setting in required)
    itself = f"{part.__name__}({settings})" if required else f'"{name}"'
    attack = itself if issubclass(part, AbstractAttack) else f'Composition("kd", {itself})'
    yield from ("```python", "DistillationTrainer(", f"    model=student, {teacher}attack={attack},")
    yield from ("    args=args, train_dataset=transfer_set,", ")", "```", "")
    if not issubclass(part, AbstractAttack):
        yield "It changes another attack, here `kd`. Without one it is put around `KD()`."
    if issubclass(part, AbstractAttack) and part.batch_level:
        yield "It compares the samples of a batch, so results depend on how a batch is split."
    if part.needs_every_class:
        yield "It needs a probability for every class, and refuses answers that hide some (top-k, labels only)."


def _suites(name: str) -> Iterator[str]:
    """Yield each suite's settings of the family of this name, or of the families that the method is a part of."""
    is_family = any(name in suite.families for suite in SUITES.values())
    for suite in SUITES.values():
        attacks = [
            entry.attack
            for entry in suite.entries
            if (entry.family == name if is_family else ATTACKS[name] in map(type, entry.attack.active_parts))
        ]
        if attacks:
            yield from (f"`{suite.name}`:", "", *(f"- `{_composed(attack)}`" for attack in attacks), "")
        else:
            yield from (f"`{suite.name}`: none.", "")
    asked_for = [entry.attack for entry in OPT_IN if entry.family == name]
    if asked_for:
        yield from ("If you ask for it (`OPT_IN`):", "", *(f"- `{_composed(attack)}`" for attack in asked_for), "")


def _composed(attack: Composition) -> str:
    return " + ".join(_short(part) for part in attack.active_parts)


def _short(value: object) -> str:
    """Return the value's repr, long decimals rounded to four digits."""
    return re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.4g}", repr(value))


def _escaped(text: str) -> str:
    """Return text in which Markdown finds no emphasis, link or element; code between backticks stays."""
    pieces = re.split(r"(`[^`]*`)", text)
    plain = (re.sub(r"([*_\[\]])", r"\\\1", piece).replace("<", "&lt;") for piece in pieces[::2])
    return "".join(piece for pair in zip(plain, [*pieces[1::2], ""], strict=True) for piece in pair)


def table_of_methods() -> str:
    """Return the table of all methods with links to their pages."""
    rows = ["| method | kind | in short |", "|---|---|---|"]
    for name, part in ATTACKS.items():
        first = (inspect.getdoc(sys.modules[part.__module__]) or "").splitlines()[0]
        rows.append(f"| [`{name}`](attacks/{name}.md) | {kind_of(part)} | {_escaped(first)} |")
    return "\n".join(rows)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the page of every method; called by mkdocs."""
    from mkdocs.structure.files import File

    for name in ATTACKS:
        files.append(File.generated(config, f"attacks/{name}.md", content=attack_page(name)))
    return files


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """Put the table of methods in its place; called by mkdocs."""
    return markdown.replace(TABLE_MARK, table_of_methods()) if page.file.src_uri == "attacks.md" else markdown


if __name__ == "__main__":
    print(attack_page(sys.argv[1]))
