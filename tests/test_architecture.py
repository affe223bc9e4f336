"""The shape of the code base: floors, sizes, names. Each check has a twin that plants a violation."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# docs/design.md explains them. The key is the file or folder directly under hf_cmim.
FLOORS = {
    "errors": -1,
    "whole_files": 0,
    "functional": 0,
    "statistics": 0,
    "channels": 1,
    "class_names": 1,
    "hardening": 1,
    "measurement": 1,
    "names": 1,
    "plain_data": 1,
    "positions": 1,
    "private_paths": 1,
    "attacks": 2,
    "checkpoint_redirects": 2,
    "checkpoint_sizes": 2,
    "defenses": 2,
    "environment": 2,
    "report": 2,
    "tasks": 2,
    "guarded_pipeline": 3,
    "data": 3,
    "plots": 3,
    "teachers": 3,
    "pages": 4,
    "hub": 5,
    "trainers": 6,
    "audit": 7,
    "metrics": 7,
    "cli": 8,
}
MATHS = {name for name, floor in FLOORS.items() if floor <= 1} | {"attacks"}
ABOVE_THE_MATHS = {"accelerate", "datasets", "evaluate", "huggingface_hub", "matplotlib", "transformers"}


def sources(root: Path) -> Iterator[tuple[Path, str]]:
    """Every Python file of the package and the recipes."""
    for folder in ("hf_cmim", "recipes"):
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root), path.read_text(encoding="utf-8")


def imported_modules(path: Path, source: str) -> Iterator[str]:
    """Full names of what a file imports, also inside functions and under TYPE_CHECKING; relative ones resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(path.parts[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from hf_cmim import plots` names a module only together with the name.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def floor_violations(root: Path) -> list[str]:
    violations = []
    for path, source in sources(root):
        if path.parts[0] != "hf_cmim" or path == Path("hf_cmim/__init__.py"):
            continue
        here = path.parts[1].removesuffix(".py")
        if here not in FLOORS:
            violations.append(f"{path} stands on no floor")
            continue
        for module in imported_modules(path, source):
            package, there = (*module.split("."), "")[:2]
            if here in MATHS and package in ABOVE_THE_MATHS:
                violations.append(f"{path} is maths but imports {module}")
            if package != "hf_cmim" or there == here:
                continue
            if there not in FLOORS:
                violations.append(f"{path} imports {module}, which is no module on a floor")
            elif FLOORS[there] >= FLOORS[here]:
                violations.append(f"{path} (floor {FLOORS[here]}) imports {module} (floor {FLOORS[there]})")
    return violations


def size_violations(root: Path) -> list[str]:
    violations = []
    for path, source in sources(root):
        if (lines := len(source.splitlines())) > MAX_FILE_LINES:
            violations.append(f"{path} has {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    violations.append(f"{path}: {node.name} has {lines} lines")
    return violations


def name_violations(root: Path) -> list[str]:
    return [f"{path} has a name that says nothing" for path, _ in sources(root) if path.stem in {"utils", "helpers"}]


CHECKS = [floor_violations, size_violations, name_violations]


@pytest.mark.parametrize("check", CHECKS)
def test_code_base_keeps_the_rule(check):
    """A rule that nobody checks is broken within a month."""
    assert {path.parts[0] for path, _ in sources(ROOT)} == {"hf_cmim", "recipes"}, "nothing was looked at"
    assert check(ROOT) == []


@pytest.mark.parametrize(
    ("check", "path", "source", "named"),
    [
        (floor_violations, "functional/a.py", "from hf_cmim.hardening.bank import CentroidBank", "hardening"),
        (floor_violations, "functional/a.py", "def f():\n    import hf_cmim.trainers.shared.components", "trainers"),
        (floor_violations, "functional/a.py", "from ..trainers import components", "trainers"),
        (floor_violations, "functional/a.py", "from transformers import Trainer", "transformers"),
        (floor_violations, "measurement.py", "from hf_cmim import hardening", "hardening"),
        (floor_violations, "trainers/a.py", "from hf_cmim import CMIMTrainer", "no module on a floor"),
        (floor_violations, "trainers/a.py", "from hf_cmim.audit.plan import Plan", "audit"),
        (floor_violations, "novelty.py", "", "stands on no floor"),
        (size_violations, "measurement.py", "a = 1\n" * (MAX_FILE_LINES + 1), "401 lines"),
        (
            size_violations,
            "measurement.py",
            "class A:\n  def f(self):\n" + "    a = 1\n" * MAX_FUNCTION_LINES,
            "61 lines",
        ),
        (name_violations, "trainers/utils.py", "", "utils.py"),
    ],
)
def test_check_sees_a_planted_violation(check, path, source, named, tmp_path):
    """A check that looks at the wrong files, or at none, would pass for ever."""
    planted = tmp_path / "hf_cmim" / path
    planted.parent.mkdir(parents=True)
    planted.write_text(source, encoding="utf-8")
    violations = check(tmp_path)
    assert len(violations) == 1
    assert named in violations[0]


def test_floors_allow_what_they_should(tmp_path):
    """A check that forbids everything would be noticed late, too."""
    trainers = tmp_path / "hf_cmim" / "trainers"
    trainers.mkdir(parents=True)
    (trainers / "a.py").write_text(
        "import torch\nfrom transformers import Trainer\nfrom hf_cmim.hardening.loss import CMIMLoss\n"
        "from hf_cmim.trainers.shared.components import b\nfrom .components import c\n"
    )
    assert floor_violations(tmp_path) == []
