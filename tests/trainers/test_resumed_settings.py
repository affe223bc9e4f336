"""A hardening is resumed with the objective it began with; its weight may be changed, with a warning."""

import shutil
from pathlib import Path

import pytest
import tiny

RUN = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "optim": "adamw_torch", "learning_rate": 1e-3}


def trainer_in(folder: Path, **changes):
    return tiny.cmim_trainer(tiny.vit(), tiny.images(32), folder, **(RUN | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    trainer_in(folder).train()
    return folder


@pytest.fixture
def run_folder(finished, tmp_path):
    """A copy of that run, interrupted after two steps."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoint-4")
    return folder


@pytest.mark.parametrize(("changes", "message"), [
    ({"cmi_correct_only": True}, "correct_only was False and is now True"),
    ({"cmi_form": "share", "cmi_warmup": 0.1},
     "form was 'scaled' and is now 'share'; logit_scale was 4.0 and is now None"),
    ({"temperatures": [1.0, 4.0]}, r"temperatures was \[1.0, 2.0, 4.0, 8.0, 16.0\] and is now \[1.0, 4.0\]"),
    ({"logit_scale": 2.0}, "logit_scale was 4.0 and is now 2.0"),
    ({"class_weights": [1.0, 1.0, 1.0, 2.0]}, r"class_weights was None and is now \[1.0, 1.0, 1.0, 2.0\]"),
    ({"label_smoothing_factor": 0.1}, "label_smoothing was 0.0 and is now 0.1"),
    ({"centroids": "epoch"}, "centroids was 'bank' and is now 'epoch'"),
    ({"centroid_window": 20.0}, "window was 500.0 and is now 20.0"),
], ids=str)  # fmt: skip
def test_another_objective_is_refused(changes, message, run_folder):
    """Catches a training whose two halves optimise two things."""
    with pytest.raises(ValueError, match=f"written with another objective: {message}\\. The resumed training"):
        trainer_in(run_folder, **changes).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(("changes", "message"), [
    ({"cmi_weight": 0.5}, "cmi_weight was 1.0 and is now 0.5"),
    ({"cmi_warmup": 0.1, "cmi_ramp": 0.2}, "cmi_warmup was 0.0 and is now 0.1; cmi_ramp was 0.0 and is now 0.2"),
], ids=str)  # fmt: skip
def test_another_weight_is_told(changes, message, run_folder, caplog):
    """Catches a weight that cannot be lowered after a warning of collapse, or that changes without a word."""
    trainer = trainer_in(run_folder, **changes)
    with caplog.at_level("WARNING"):
        trainer.train(resume_from_checkpoint=True)
    assert message in caplog.text
    assert trainer.state.global_step == 4


def test_the_same_objective_is_silent(run_folder, caplog):
    """Catches refusing what is equal: numbers that went through JSON."""
    with caplog.at_level("WARNING"):
        trainer_in(run_folder).train(resume_from_checkpoint=True)
    assert "written with" not in caplog.text
