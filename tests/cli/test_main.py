"""`hf-cmim` itself: what it loads, what its help teaches, and how it refuses."""

import argparse
import ast
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
import torch
from torch.nn.functional import nll_loss

from hf_cmim.cli import main as face
from hf_cmim.cli.main import COMMANDS, main
from hf_cmim.errors import HfCmimError

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "accelerate", "datasets", "numpy", "scipy", "matplotlib", "jinja2", "yaml"}
PROBE = """
import contextlib, io, json, sys
from hf_cmim.cli.main import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as output:
    main(json.loads(sys.argv[1]))
print(json.dumps([output.getvalue(), list(sys.modules)]))
"""


def probe(*words):
    """Run the command line in a fresh interpreter; return what it printed and the modules then loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(words)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed, modules = json.loads(done.stdout)
    return printed, set(modules)


# Help


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(words):
    """A module that imports torch or YAML at its top makes whoever wants to know a flag wait for seconds."""
    printed, modules = probe(*words)
    assert "examples:" in printed
    assert not HEAVY & modules


def test_probe_sees_what_a_command_loads():
    """Twin: a probe that looked into another process would find every help light."""
    _, modules = probe("attacks", "kd")
    assert "torch" in modules


def examples():
    """Every command line that a help shows, continued lines joined."""
    for name in (None, *COMMANDS):
        module = face if name is None else import_module(f"hf_cmim.cli.{name}")
        for line in re.sub(r"\\\n\s+", "", module.EXAMPLES).splitlines():
            found = re.match(r"  (?:hf-cmim|accelerate launch -m hf_cmim.cli.main) (.*?)(?:  |$)", line)
            if found:
                yield shlex.split(found[1])


def test_every_example_of_a_help_can_be_typed():
    """An example with a flag that was renamed teaches an error."""
    lines = [words for words in examples() if "--help" not in words]
    assert len(lines) >= 10
    for name, *words in lines:
        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(f"hf_cmim.cli.{name}").add_arguments(parser)
        assert parser.parse_known_args(words)[1] == [], (name, words)


def test_help_fits_a_terminal_of_100_columns(monkeypatch):
    """Lines that the terminal breaks itself cannot be read as a table."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in COMMANDS:
        printed = probe(name, "--help")[0]
        assert max(map(len, printed.splitlines())) <= 100, name


def test_command_line_without_a_command_says_what_there_is(capsys):
    """A traceback, or silence, would be the first that somebody sees."""
    assert main([]) == 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_version_is_the_installed_one(capsys):
    """A version written a second time would go stale."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("hf_cmim")


def test_entry_point_is_this_command_line():
    """`hf-cmim` on PATH would point at a name that moved."""
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    (scripts,) = [
        ast.literal_eval(keyword.value)["console_scripts"]
        for call in calls for keyword in call.keywords if keyword.arg == "entry_points"
    ]  # fmt: skip
    name, value = (part.strip() for part in scripts[0].split("="))
    assert (name, EntryPoint(name, value, "console_scripts").load()) == ("hf-cmim", main)


# Refusals


def test_unknown_flag_is_refused_with_its_nearest(capsys):
    """A misspelt flag without a hint sends its user to read the whole help."""
    assert main(["audit", "--teachr", "there"]) == 2
    assert "Unknown flag '--teachr'" in (printed := capsys.readouterr().err)
    assert "Did you mean --teacher" in printed


def test_our_refusals_come_without_a_traceback_and_faults_with_one(capsys, monkeypatch):
    """The class of an error decides: torch words some of its own faults as we word ours ("Expected ...")."""
    attacks = import_module("hf_cmim.cli.attacks")

    def refuse(options):
        raise HfCmimError(options.name)

    monkeypatch.setattr(attacks, "run", refuse)
    assert main(["attacks", "No such attack."]) == 2
    assert capsys.readouterr().err == "hf-cmim attacks: No such attack.\n"
    monkeypatch.setattr(attacks, "run", lambda options: nll_loss(torch.zeros(3, 2), torch.zeros(2).long()))
    with pytest.raises(ValueError, match="Expected input batch_size"):
        main(["attacks", "dkd"])


def test_reader_that_has_seen_enough_ends_it_quietly():
    """`hf-cmim attacks | head` would end in a traceback."""
    command = [sys.executable, "-m", "hf_cmim.cli.main", "attacks"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0
    assert errors == ""
