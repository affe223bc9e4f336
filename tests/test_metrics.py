"""The metrics as a user loads them: by folder, offline, in a fresh process whose caches are thrown away."""

import json
import os
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
