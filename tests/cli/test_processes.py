"""The flag --processes: mistakes are told once, and nothing that was trained is lost."""

import os
import re

import pytest
import torch
from forked import ended, start

from hf_cmim.cli.main import main
from hf_cmim.cli.processes import suggested_processes

AUDIT = ["audit", "--teacher", "none", "--dataset", "none", "--student", "none"]
FAULTY = """
import os, sys

def student(num_labels=3):
    if os.environ["LOCAL_RANK"] == "1":
        {fault}
    os.read(os.open({pipe!r}, os.O_RDONLY), 1)  # this process works until the launcher ends it
"""


@pytest.mark.parametrize("command", [AUDIT, ["harden", "--model", "none", "--dataset", "none"]])
def test_number_that_makes_no_sense_is_refused(command, capsys, monkeypatch):
    """No process at all, or two processes in each of two."""
    assert main([*command, "--processes", "0"]) == 2
    assert "Expected --processes of at least 1, got 0" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command, "--processes", "2"]) == 2
    assert "has started 2 processes, and each would start 2 more" in capsys.readouterr().err


def run(*words) -> None:
    raise SystemExit(main([*words]))


def test_mistake_is_told_once(tmp_path):
    """Each process finds the same mistake, and a launcher has a page to say about it."""
    said = tmp_path / "said.txt"
    assert ended(start(run, *AUDIT, "--processes", "2", output=said)) == [2]
    (line,) = said.read_text().splitlines()
    assert re.fullmatch(r"hf-cmim audit: .*none.*", line)


@pytest.mark.parametrize(
    ("count", "cores", "device", "is_said"),
    [(1, 8, "cpu", True), (2, 8, "cpu", False), (1, 1, "cpu", False), (1, None, "cpu", False), (1, 8, "cuda", False)],
)
def test_preview_suggests_processes_where_cores_are_idle(count, cores, device, is_said, monkeypatch):
    """Catches advice that would slow an audit down: on a GPU, with one core, or with processes already."""
    monkeypatch.setattr("psutil.cpu_count", lambda logical: cores)
    said = suggested_processes(count, torch.device(device))
    assert said == (["This machine has 8 cores: --processes 8 shares the students among them."] if is_said else [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("os.kill(os.getpid(), 9)", "status -9: it said nothing. "),
        ("sys.exit('out of luck')", "status 1: out of luck. "),
    ],
    ids=["killed", "failed"],
)
def test_process_that_ends_early_ends_all(fault, said, teacher, data, tmp_path):
    """Catches an audit that waits forever for a process that is gone, or ends without a reason."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "faulty.py").write_text(FAULTY.format(fault=fault, pipe=str(tmp_path / "pipe")))
    words = ["--teacher", str(teacher), "--dataset", str(data), "--student", "faulty:student", "--processes", "2"]
    words += ["--output-dir", str(tmp_path / "audit")]
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    output = tmp_path / "said.txt"
    assert ended(start(run, "audit", *words, output=output, PYTHONPATH=paths)) == [2]
    last = output.read_text().splitlines()[-1]
    assert last.startswith(f"hf-cmim audit: Process 1 of 2 ended with exit {said}")
    assert "the same command continues" in last
