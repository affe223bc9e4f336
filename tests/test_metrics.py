"""The metrics as a user loads them: by folder, offline, in a fresh process whose caches are thrown away."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import reference

import hf_cmim

METRICS = Path(hf_cmim.__file__).parent / "metrics"
LOGITS, LABELS = reference.random_samples(seed=0, size=40, num_classes=4)
TWINS = {"cmi": reference.cmi, "ncmi": reference.ncmi}
SETTINGS = [{}, {"temperature": 4.0}, {"correct_only": True}, {"temperature": 0.5, "correct_only": True}]
REFUSED = {
    "ragged": ([[1.0, 0.0], [1.0, 0.0, 2.0]], [0, 1], {}, "rows of [2, 3] logits"),
    "label": ([[1.0, 0.0], [0.0, 1.0]], [0, 2], {}, "Expected labels in [0, 2)"),
    "nothing": ([[1.0, 0.0], [0.0, 1.0]], [-100, -100], {}, "at least one valid sample"),
    "temperature": ([[1.0, 0.0], [0.0, 1.0]], [0, 1], {"temperature": 0.0}, "above 0 and finite, got 0.0"),
}
PROBE = """
import doctest, json, sys
import evaluate
import numpy as np
import torch

folder, logits, labels, settings, refused = json.load(sys.stdin)
found = {}
for name in ("cmi", "ncmi"):
    metric = evaluate.load(f"{folder}/{name}")
    values = [metric.compute(predictions=logits, references=labels, **each) for each in settings]
    kinds = [
        metric.compute(predictions=kind(logits), references=kind(labels)) for kind in (np.array, torch.tensor)
    ]
    for start in range(0, len(labels), 7):
        metric.add_batch(predictions=logits[start : start + 7], references=labels[start : start + 7])
    kinds.append(metric.compute())
    example = doctest.DocTestParser().get_doctest(metric.inputs_description, {}, name, None, 0)
    failures = doctest.DocTestRunner().run(example)
    errors = {}
    for case, (rows, references, each, _) in refused.items():
        try:
            evaluate.load(f"{folder}/{name}").compute(predictions=rows, references=references, **each)
        except ValueError as error:
            errors[case] = str(error)
    info = [metric.name, metric.description, metric.citation, metric.inputs_description]
    found[name] = {"values": values, "kinds": kinds, "example": failures, "errors": errors, "info": info}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both metrics answer in a process of their own: loading `evaluate` takes seconds, and leaves caches."""
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([str(METRICS), LOGITS, LABELS, SETTINGS, REFUSED]),
        cwd=home,
        env=os.environ
        | {
            "HF_HOME": str(home),
            "HF_MODULES_CACHE": str(home / "modules"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(METRICS.parents[1]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", TWINS)
def test_value_equals_twin(name, found):
    """Catches a temperature or a filter that `compute` swallows, probabilities taken for logits, a wrong key."""
    for settings, result in zip(SETTINGS, found[name]["values"], strict=True):
        rows = reference.valid_samples(LOGITS, LABELS, settings.get("correct_only", False))
        assert result == {name: pytest.approx(TWINS[name](*rows, settings.get("temperature", 1.0)), rel=1e-5)}


@pytest.mark.parametrize("name", TWINS)
def test_lists_arrays_tensors_and_batches_agree(name, found):
    """Catches a feature type that takes lists alone, and a metric of the last batch."""
    for result in found[name]["kinds"]:
        assert result == found[name]["values"][0]


@pytest.mark.parametrize("name", TWINS)
def test_example_in_the_description_is_true(name, found):
    """Catches an example that was never run."""
    failed, attempted = found[name]["example"]
    assert failed == 0
    assert attempted >= 6


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", TWINS)
def test_wrong_inputs_are_explained(name, case, found):
    """Catches a number for inputs that mean nothing."""
    assert REFUSED[case][3] in found[name]["errors"][case]


@pytest.mark.parametrize("name", TWINS)
def test_metric_describes_itself(name, found):
    """Catches one metric under the other's name, and a card without source or scale."""
    own_name, description, citation, inputs = found[name]["info"]
    assert own_name == name
    assert "convenience" in description
    assert "hf_cmim.functional" in description
    assert "arXiv:2309.09123" in citation
    for argument in ("predictions", "references", "temperature", "correct_only"):
        assert f"    {argument}: " in inputs


def test_metrics_are_packages():
    """Catches a metric that a wheel leaves out: without __init__.py setuptools does not find its folder."""
    for folder in (METRICS, *(METRICS / name for name in TWINS)):
        assert (folder / "__init__.py").is_file()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package as its wheel installs it."""
    folder = tmp_path_factory.mktemp("wheel")
    source, root = folder / "source", METRICS.parents[1]
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    shutil.copytree(root / "hf_cmim", source / "hf_cmim", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "installed", wheel], check=True)
    return folder / "installed"


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_a_metric_loads_from_an_installed_wheel(name, installed, found, tmp_path):
    """Catches a metric that only a clone has: the wheel lacks a file, or the documented call names the clone."""
    (call,) = re.findall(r"metric = (evaluate\.load\(.+\))", found[name]["info"][3])
    code = (
        "import json\nfrom pathlib import Path\nimport evaluate\nimport hf_cmim\n"
        f"metric = {call}\n"
        f"value = metric.compute(predictions={LOGITS!r}, references={LABELS!r})\n"
        "print(json.dumps([hf_cmim.__file__, value]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules"),
                          "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    file, value = json.loads(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(installed)
    assert value == found[name]["values"][0]
