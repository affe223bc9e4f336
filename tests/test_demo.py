"""The demo: its data and words in a moment, the whole of it as a user runs it when slow tests run."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from scripts import ROOT, load_script

from hf_cmim.functional.calibration import Calibration
from hf_cmim.measurement import Measurement

BASE = Measurement(
    num_samples=500, accuracy=0.9, top5_accuracy=1.0, calibration=Calibration(0.2, 0.02, 1.0, 0.2, 0.02, 0.01),
    temperatures=(1.0, 4.0), cmi=(0.4, 0.08), cmi_correct=(0.03, 0.06), ncmi=0.1, separation=4.0,
    prediction_entropy=0.5, within_class_variance=2.0, within_total_ratio=0.2, logit_scale=1.0,
    labels_fingerprint="7e" * 32,
)  # fmt: skip


@pytest.fixture(scope="module")
def demo():
    return load_script(ROOT / "recipes/digits_demo.py")


def test_images_are_those_of_the_benchmark(demo):
    """Catches another split or scaling: the demo's figures would belong to no row of the benchmark."""
    task = load_script(ROOT / "benchmarks/hardening.py").digits("")
    ours = demo.load_images()
    assert [len(ours[part]) for part in ("train", "validation", "test")] == [1078, 269, 450]
    for part in ours:
        theirs = getattr(task, part)
        assert [image["labels"] for image in ours[part]] == [image["labels"] for image in theirs]
        assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(ours[part], theirs, strict=True))
    assert demo.build_model().num_parameters() == task.build_model().num_parameters()


def test_words_follow_the_numbers(demo, capsys):
    """Catches a success story that is printed whatever was measured, and a cost that counts as a gain."""
    worse = dataclasses.replace(
        BASE, accuracy=0.88, cmi=(0.8, 0.16), within_total_ratio=0.05,
        calibration=Calibration(0.1, 0.05, 1.0, 0.2, 0.02, 0.01),
    )  # fmt: skip
    demo.print_meaning(test={"CE": BASE, "CMIM": worse}, train={"CE": worse, "CMIM": BASE})
    said = capsys.readouterr().out
    assert "training: CMI at T = 4: 2.0x lower; within/total variance of logits: 4.0x higher" in said
    assert "test: CMI at T = 4: 2.0x higher; within/total variance of logits: 4.0x lower" in said
    assert "worse: accuracy 90.00 -> 88.00 %; ECE 2.00 -> 5.00 %\n" in said
    assert "better: NLL 0.2 -> 0.1 nats\n" in said
    assert "same: top-5 accuracy 100.00 -> 100.00 %; NLL calibrated" in said
    assert "one test image is 0.20 points" in said


@pytest.mark.parametrize(("before", "after", "change"), [(0.0, 0.0, ""), (0.1, 0.0, "to 0"), (0.0, 0.1, "from 0")])
def test_change_from_or_to_nothing(demo, before, after, change):
    """Catches a division by zero where a model has no CMI or makes no errors."""
    row = demo.Row("entropy", "nats", lambda m: m.prediction_entropy)
    measured = {
        arm: dataclasses.replace(BASE, prediction_entropy=value) for arm, value in (("CE", before), ("CMIM", after))
    }
    assert row.cells(measured)[-1] == change


def test_checkpoint_that_predicts_otherwise_is_refused(demo, tmp_path):
    """Catches a comparison that only prints."""
    model = demo.build_model()
    model.save_pretrained(tmp_path)
    images = demo.load_images()["test"][:8]
    with torch.no_grad():
        logits = model.eval()(torch.stack([image["pixel_values"] for image in images])).logits
    demo.check_checkpoint(tmp_path, logits, images, torch.device("cpu"))
    with pytest.raises(SystemExit, match="not what was measured"):
        demo.check_checkpoint(tmp_path, -logits, images, torch.device("cpu"))


@pytest.mark.slow
def test_demo_from_the_shell(tmp_path):
    """Catches a demo that lacks a figure, drowns the table in logs, draws nothing, or saves what needs hf_cmim."""
    command = [sys.executable, str(ROOT / "recipes/digits_demo.py"), "--smoke", "--output_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]

    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert {len(cells) for cells in table} == {4}
    names = [cells[0].split(",")[0] for cells in table]
    for name in (
        "accuracy", "top-5 accuracy", "NLL", "NLL calibrated [1]", "ECE", "ECE calibrated [1]", "AURC [2]",
        "largest CMI over T [3]", "its temperature [3]", *(f"CMI at T = {t}" for t in (1, 2, 8, 16)),
        "H(prediction given label) [4]", "within/total variance of logits", "NCMI at T = 1",
    ):  # fmt: skip
        assert names.index(name) > names.index("TEST")
    assert names.count("CMI at T = 4") == names.count("within/total variance of logits") == 2  # test and training
    assert all(float(cell) >= 0 for cells in table if cells[1] not in ("CE", "--:", "") for cell in cells[1:3])
    assert "450 of 450 predictions are the same, the largest difference between logits is 0\n" in done.stdout
    assert "{'" not in done.stdout + done.stderr, "a log was printed as a dict"

    for picture in ("curves", "clusters", "training"):
        content = (tmp_path / f"{picture}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 10_000
    code = (
        "import sys; sys.modules['hf_cmim'] = None\n"  # importing it would now fail
        "from transformers import AutoModelForImageClassification as Auto\n"
        "print(Auto.from_pretrained(sys.argv[1]).config.id2label[7])"
    )
    plain = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "hardened")],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert plain.stdout == "7\n", plain.stderr[-2000:]
