"""`hf-cmim attacks`: nothing missing, nothing wider than a terminal, and settings as they are."""

import inspect
import re

import pytest

from hf_cmim import attacks, channels
from hf_cmim.attacks import ATTACKS
from hf_cmim.attacks.suites import QUICK_V2, STANDARD_V2
from hf_cmim.cli.attacks import source_of
from hf_cmim.cli.main import main

PARTS = {
    name: value for module in (attacks, channels) for name, value in vars(module).items() if inspect.isclass(value)
}


def rounded(part):
    """A part with its numbers to four digits, as they are shown."""
    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.4g}", repr(part))


def printed(capsys, *words):
    assert main(["attacks", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    return lines


def test_table_has_every_method_with_class_source_and_defaults(capsys):
    """A method that is missing, or one beside another's source, would not be found or be miscited."""
    lines = printed(capsys)
    starts = [number for number, line in enumerate(lines) if line.split()[0] in ATTACKS and line[0] != " "]
    assert [lines[start].split()[:2] for start in starts] == [[name, kind.__name__] for name, kind in ATTACKS.items()]
    for start, end, kind in zip(starts, [*starts[1:], len(lines)], ATTACKS.values(), strict=True):
        entry = " ".join(" ".join(line[44:].split()) for line in lines[start:end])
        for name, setting in inspect.signature(kind).parameters.items():
            default = setting.default
            shown = f"{default:.4g}" if isinstance(default, float) and len(str(default)) > 6 else repr(default)
            assert (name if default is setting.empty else f"{name}={shown}") in entry
    entry = " ".join(lines[starts[list(ATTACKS).index("dkd")] :][:4])
    assert "Zhao et al., CVPR 2022, arXiv 2203.08679" in entry
    assert "warmup=0.08333" in entry


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "cross-entropy"])  # which nobody claims
def test_source_is_one_line_of_the_docstring(name):
    """A docstring without its source, or one cut in the middle of an initial, tells nobody where a method is from."""
    source = source_of(ATTACKS[name])
    assert source in " ".join(inspect.getdoc(ATTACKS[name]).split())
    assert len(source) >= 4
    assert source != "none"


@pytest.mark.parametrize("name", ATTACKS)
def test_one_method_is_shown_with_its_whole_docstring(name, capsys):
    """Lines joined or cut on the way would lose a setting's range."""
    lines = printed(capsys, name)
    assert lines[0] == f"{ATTACKS[name].__module__}.{ATTACKS[name].__name__}"
    words = " ".join(lines).split()
    docstring = inspect.getdoc(ATTACKS[name]).split()
    assert words[len(words) - len(docstring) :] == docstring
    for line in inspect.getdoc(ATTACKS[name]).splitlines():
        if line.startswith(("    ", ">>>")) and line[4:5] != " ":
            assert any(shown.startswith(line[:20]) for shown in lines), line  # items and code begin their own lines


@pytest.mark.parametrize("suite", [QUICK_V2, STANDARD_V2], ids=lambda suite: suite.name)
def test_suite_is_shown_so_that_it_can_be_built_again(suite, capsys):
    """A setting left out because it looks like the default is another attack than the audit ran."""
    families, current = {}, ""
    for line in printed(capsys, "--suite", suite.name):
        if not line.startswith(" "):
            current = families.setdefault(line, [])
        elif line.startswith("    ") and line[4] != " ":
            current.append(line.strip())
        else:
            current[-1] += f" {line.strip()}"
    assert tuple(families) == suite.families
    for family, shown in families.items():
        for text, attack in zip(shown, suite.of(family), strict=True):
            built = attacks.Composition(*(eval(part, PARTS) for part in text.split(" + ")))
            assert list(map(rounded, built.active_parts)) == list(map(rounded, attack.active_parts))


def test_one_family_of_a_suite(capsys):
    """The whole suite would hide it."""
    assert len(printed(capsys, "--suite", "standard-v2", "dkd")) == 1 + len(STANDARD_V2.of("dkd"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nkdd"], "Unknown method 'nkdd': there is nothing to show. Did you mean nkd"),
        (["--suite", "standard"], "Unknown suite 'standard'"),
        (["--suite", "quick-v2", "nkd"], "Unknown family 'nkd'"),
    ],
)
def test_unknown_name_is_refused_with_its_nearest(words, message, capsys):
    """An empty table would look like a method without settings."""
    assert main(["attacks", *words]) == 2
    assert message in capsys.readouterr().err
