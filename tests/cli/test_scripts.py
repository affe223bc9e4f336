"""Flags of training scripts: a YAML file, defaults, and the objective."""

from dataclasses import dataclass

import pytest

from hf_cmim import DataArguments, HfCmimError, script_arguments


@dataclass
class Shape:
    """A flag of a script's own."""

    width: int = 8
    depth: int | None = 2


def parsed(*words, defaults=None):
    return script_arguments((DataArguments, Shape), "A script.", defaults or {}, words=list(map(str, words)))


def test_flags_come_before_the_file_and_the_file_before_defaults(tmp_path):
    """Catches a file that overrides what was typed, and a null that is lost."""
    path = tmp_path / "run.yaml"
    path.write_text("width: 3\ndepth: null\n")
    _, shape = parsed(path, defaults={"width": 1, "depth": 1})
    assert (shape.width, shape.depth) == (3, None)
    _, shape = parsed(path, "--width", 5)
    assert shape.width == 5


@pytest.mark.parametrize(("text", "message"), [
    ("", "NAME: VALUE .*got NoneType"),
    ("- width", "NAME: VALUE .*got list"),
    ("widht: 3", "Unknown setting 'widht'.*Did you mean width"),
    ("width: [", "No YAML file can be read"),
])  # fmt: skip
def test_file_that_says_nothing_is_refused(tmp_path, text, message):
    """Catches a traceback from an empty file, and a misspelt setting that has no effect."""
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(HfCmimError, match=message):
        parsed(path)
