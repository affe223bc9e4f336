"""The notebooks: without outputs in the repository, and each runs offline and draws a picture."""

import json
from pathlib import Path

import nbclient
import nbformat
import pytest
from hanging import HANGING

FOLDER = Path(__file__).parents[1] / "recipes" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def with_outputs(notebook: dict) -> list[int]:
    """Return the numbers of the cells that hold outputs or a count of executions."""
    cells = enumerate(notebook["cells"])
    return [number for number, cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    """Pictures in the repository would change with every run, and show another version than the code."""
    assert with_outputs(json.loads(path.read_text(encoding="utf-8"))) == []


def test_an_output_would_be_seen():
    """The check above has to see what it is for."""
    cells = [{"cell_type": "markdown"}, {"outputs": [], "execution_count": None}, {"outputs": [{}]}]
    assert with_outputs({"cells": [*cells, {"outputs": [], "execution_count": 1}]}) == [2, 3]


def test_there_are_four():
    """A folder that was moved would leave nothing to run."""
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_offline_and_draws(path, tmp_path, monkeypatch):
    """A renamed argument would stop a reader in the first minute; a picture that is not drawn would show nothing."""
    root = str(FOLDER.parents[1])
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": root}
    settings |= {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_PLATFORM_DIRS": "1", "TMPDIR": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=HANGING, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
