"""How many files of the package a reader opens to follow one hardening step."""

import sys
from pathlib import Path

import tiny

import hf_cmim
from hf_cmim import CMIMConfig, CMIMTrainer

PACKAGE = str(Path(hf_cmim.__file__).parent)
MOST_FILES = 8


class RecordedSteps(CMIMTrainer):
    """A trainer that records the files of the package through which each training step passes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.files_of_steps = []

    def training_step(self, *args, **kwargs):
        files = set()
        self.files_of_steps.append(files)

        def record(frame, event, _):
            path = frame.f_code.co_filename
            if event == "call" and path.startswith(PACKAGE):
                files.add(path.removeprefix(PACKAGE))

        before = sys.getprofile()
        sys.setprofile(record)
        try:
            return super().training_step(*args, **kwargs)
        finally:
            sys.setprofile(before)


def test_a_step_passes_few_files(tmp_path):
    """Catches a ninth file on the way through a step: each one is a place to look for a fault."""
    config = CMIMConfig(**tiny.settings(tmp_path))
    trainer = RecordedSteps(model=tiny.vit(), args=config, train_dataset=tiny.images(32))
    trainer.train()
    assert trainer.state.log_history[-2]["cmi_weight"] == config.cmi_weight, "the CMI never entered the loss"
    # The first step creates the state, and is not the one that a reader follows.
    files = trainer.files_of_steps[1:]
    assert len(files) == 3
    assert {"/hardening/loss.py", "/hardening/bank.py", "/hardening/forms/scaled.py"} <= files[-1]
    # So short a training measures the pulls of the classes in each step: the longest way.
    assert "/hardening/pulls.py" in files[-1]
    assert max(map(len, files)) <= MOST_FILES, sorted(max(files, key=len))
