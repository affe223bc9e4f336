"""What importing hf_cmim costs and needs, seen in fresh interpreters. Each check has a twin that makes it fail."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hf_cmim

PUBLIC = {
    "Audit",
    "AuditData",
    "AuditModels",
    "AuditPlan",
    "AuditReport",
    "BlackBoxDistillationConfig",
    "BlackBoxDistillationTrainer",
    "CMIMConfig",
    "CMIMLoss",
    "CMIMTrainer",
    "CentroidBank",
    "ClassAnswers",
    "CollapseDetector",
    "Composition",
    "DataArguments",
    "DefenseConfig",
    "DefenseTrainer",
    "DistillationConfig",
    "DistillationTrainer",
    "Fraction",
    "Hardened",
    "HfCmimError",
    "KCenter",
    "Measurement",
    "MeasurementAccumulator",
    "ObjectiveArguments",
    "ObjectiveSpec",
    "Relative",
    "Repeatable",
    "Unlabelled",
    "__version__",
    "check_launch",
    "finish_training",
    "guard",
    "harden_within",
    "pipeline_answers",
    "run_script",
    "script_arguments",
    "train_and_save",
}
FACE = Path(hf_cmim.__file__)
PACKAGE_PATH = str(FACE.parents[1])
HARDENING = ("hardening.loss", "hardening.bank", "hardening.collapse")
MATHS = [f"hf_cmim.{name}" for name in ("functional", "channels", "attacks", *HARDENING, "measurement")]

PROBE = """
import importlib, json, sys
modules, blocked = json.loads(sys.argv[1])
before = set(sys.modules)
sys.modules.update(dict.fromkeys(blocked))  # None there makes an import fail as if it were not installed
for module in modules:
    importlib.import_module(module)
print(json.dumps([name for name, module in sys.modules.items() if module is not None and name not in before]))
"""


def probe(modules, blocked=(), path=PACKAGE_PATH):
    """Import the modules in a fresh interpreter, and return the names of all modules that this loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([modules, list(blocked)])],
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ImportError(done.stderr)
    return set(json.loads(done.stdout.splitlines()[-1]))


def foreign(loaded):
    """Return the packages among the loaded modules that are neither Python's own nor ours."""
    return {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {"hf_cmim"}


@pytest.fixture
def planted(tmp_path):
    """A folder with a module whose import breaks every promise, and stand-ins for what it imports."""
    heavy = ["torch", "transformers", "datasets", "evaluate"]
    for name in heavy:
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "planted.py").write_text(f"import {', '.join(heavy)}\n")
    return tmp_path


def test_import_loads_no_other_package():
    """An eager import in the face would make `hf_cmim --help` take seconds."""
    assert foreign(probe(["hf_cmim"])) == set()


def test_maths_loads_without_transformers():
    """Floors 0 and 1 must serve people who train without transformers."""
    loaded = probe(MATHS)
    assert {"torch", *MATHS} <= loaded
    assert not {"transformers", "accelerate", "datasets", "evaluate", "huggingface_hub"} & loaded


@pytest.mark.parametrize("module", ["hf_cmim.trainers.hardening.cmim_trainer", "hf_cmim.audit.audit"])
def test_training_loads_without_datasets_and_evaluate(module):
    """GPU images carry neither; training and auditing must not need them."""
    assert module in probe([module], blocked=["datasets", "evaluate"])


def test_probe_sees_what_a_planted_module_loads(planted):
    """Twin: the probe names what was loaded."""
    assert foreign(probe(["planted"], path=planted)) == {"planted", "torch", "transformers", "datasets", "evaluate"}


@pytest.mark.parametrize("blocked", ["datasets", "evaluate"])
def test_probe_fails_when_a_planted_module_needs_what_is_blocked(blocked, planted):
    """Twin: blocking really blocks."""
    with pytest.raises(ImportError, match=blocked):
        probe(["planted"], blocked=[blocked], path=planted)


def names_of(source):
    """The public names as the face tells them: `__all__`, to type checkers, and to the lazy import."""
    tree = ast.parse(source)
    told = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in {"__all__", "_MODULES"}
    }
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_cmim.")
        for alias in node.names
    }
    return set(told["__all__"]), typed, told["_MODULES"]


def test_public_names_are_those_of_the_list():
    """A name that slips in is a promise; one that slips out breaks users. Three places must agree."""
    public, typed, lazy = names_of(FACE.read_text(encoding="utf-8"))
    assert public == PUBLIC == set(hf_cmim.__all__)
    assert typed == lazy
    assert set(lazy) == PUBLIC - {"__version__"}


@pytest.mark.parametrize("place", ['    "CMIMLoss",\n', '    "CMIMLoss": ', "import CMIMLoss\n"])
def test_public_names_check_sees_a_planted_name(place):
    """Twin: a misspelling in any of the three places shows."""
    source = FACE.read_text(encoding="utf-8")
    assert source.count(place) == 1
    public, typed, lazy = names_of(source.replace(place, place.replace("CMIMLoss", "Planted")))
    assert public != PUBLIC or typed != lazy


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_resolves(name):
    """The face may point at a module that moved."""
    assert name in dir(hf_cmim)
    assert getattr(hf_cmim, name)


def test_unknown_name_is_an_attribute_error():
    """A lazy import that returned None for a misspelt name would fail far away."""
    with pytest.raises(AttributeError, match="CMIMTrainr"):
        _ = hf_cmim.CMIMTrainr
