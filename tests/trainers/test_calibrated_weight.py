"""The weight that grows while the model is over-confident: its law, what it refuses, and that a resumed run has it."""

import pytest
import tiny
import torch

from hf_cmim.trainers.hardening.calibrated_weight import CalibratedWeight

FOLLOWING = {"cmi_follow_calibration": True, "eval_strategy": "epoch"}
KEEPING = {"load_best_model_at_end": True, "save_strategy": "epoch"}


def trainer(folder, **changes):
    data = {"eval_dataset": tiny.images(24, 2)} | changes
    return tiny.cmim_trainer(tiny.vit(), tiny.images(32), folder, **(FOLLOWING | data))


def in_training(folder, **changes):
    """A trainer as if in training, of 100 steps, and its callback."""
    found = trainer(folder, cmi_weight=3.0, **changes)
    found.hardening_state(tiny.NUM_LABELS)
    found.is_in_train, found.state.max_steps = True, 100
    (callback,) = (each for each in found.callback_handler.callbacks if isinstance(each, CalibratedWeight))

    def evaluated(step, temperature):
        found.state.global_step = step
        metrics = {"eval_calibration_temperature": temperature}
        callback.on_evaluate(found.args, found.state, found.control, metrics=metrics)
        return found.final_weight

    return found, evaluated


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eval_dataset": None, "eval_strategy": "no"}, "got eval_dataset none and eval_strategy 'no'"),
        ({"eval_strategy": "no"}, "got eval_dataset list and eval_strategy 'no'"),
        ({"eval_dataset": {"a": tiny.images(8), "b": tiny.images(8)}}, "one labelled.*got eval_dataset dict"),
        (KEEPING, "Expected a metric_for_best_model"),
        (KEEPING | {"metric_for_best_model": "eval_loss"}, "Expected a metric_for_best_model"),
    ],
    ids=["nothing", "never", "several", "by loss", "by eval_loss"],
)  # fmt: skip
def test_what_could_not_tell_is_refused(changes, words, tmp_path):
    """Catches a weight that silently stays, one moved by each of several sets, and the least hardened kept as best."""
    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, **changes)


def test_evaluations_that_measure_no_calibration_are_refused(tmp_path):
    """Catches a weight that silently stays where a head is too large to be measured, or nothing has a label."""
    model = tiny.vit(num_labels=5001)
    with pytest.raises(ValueError, match="at most 5,000 classes.*got 5,001 classes"):
        tiny.cmim_trainer(model, tiny.images(32), tmp_path, eval_dataset=tiny.images(24, 2), **FOLLOWING)
    found, _ = in_training(tmp_path)
    with pytest.raises(ValueError, match="got an evaluation that measured no calibration"):
        found.callback_handler.on_evaluate(found.args, found.state, found.control, {"eval_loss": 1.0})


def test_best_by_accuracy_is_taken(tmp_path):
    """Catches a refusal of all metrics."""
    trainer(tmp_path, metric_for_best_model="accuracy", **KEEPING)


def test_the_weight_follows_the_temperature(tmp_path):
    """Catches a rate by evaluation, not by training, growth without bound, and less than what was asked for."""
    _, evaluated = in_training(tmp_path)
    assert evaluated(10, 1.5) == pytest.approx(3 * 1.5**2.4)
    assert evaluated(20, 1.0) == pytest.approx(3 * 1.5**2.4)
    assert evaluated(30, 7.0) == pytest.approx(3 * 1.5**2.4 * 2**2.4), "one evaluation counts as 2 at most"
    assert evaluated(40, 0.9) == pytest.approx(3 * 1.5**2.4 * 2**2.4 * 0.9**2.4)
    assert evaluated(90, 0.1) == 3
    assert evaluated(100, 1.1) == pytest.approx(3 * 1.1**2.4)


def test_how_often_is_evaluated_changes_nothing(tmp_path):
    """Catches a weight that explodes under eval_steps=10."""
    ends = []
    for steps in (range(50, 101, 50), range(1, 101)):
        _, evaluated = in_training(tmp_path)
        ends.append([evaluated(step, 1.2) for step in steps][-1])
    assert ends[0] == pytest.approx(ends[1])


def test_nothing_moves_before_the_weight_or_outside_training(tmp_path):
    """Catches a warm-up whose over-confidence is held against the model, and `evaluate()` by hand that changes it."""
    found, evaluated = in_training(tmp_path, cmi_warmup=0.5)
    assert evaluated(40, 1.5) == 3
    assert evaluated(60, 1.5) == pytest.approx(3 * 1.5**4.8), "only what passed since the last evaluation counts"
    found.is_in_train = False
    assert evaluated(80, 1.5) == pytest.approx(3 * 1.5**4.8)


def test_a_weight_that_the_guard_reduced_is_not_raised_to_the_one_asked_for(tmp_path):
    """Catches calibration that undoes the guard at the next evaluation."""
    found, evaluated = in_training(tmp_path)
    found._state.weight_scale = 0.25
    assert evaluated(10, 0.8) == 0.75
    assert evaluated(20, 1.1) == pytest.approx(0.75 * 1.1**2.4)


def test_off_by_default(tmp_path):
    """Catches a weight that changes unasked."""
    _, evaluated = in_training(tmp_path, cmi_follow_calibration=False)
    assert evaluated(50, 2.0) == 3


def noisy(folder, **changes):
    """Labels are random: what is learned of the training data is over-confident on others."""
    generator = torch.Generator().manual_seed(7)
    samples = tiny.images(64)
    labels = torch.randint(0, tiny.NUM_LABELS, (64,), generator=generator)
    data = tiny.Dataset([sample | {"labels": int(label)} for sample, label in zip(samples, labels, strict=True)])
    settings = {"cmi_weight": 0.1, "num_train_epochs": 12, "learning_rate": 5e-3, "optim": "adamw_torch",
                "save_strategy": "epoch", "eval_dataset": tiny.images(64, 5)}  # fmt: skip
    return tiny.cmim_trainer(tiny.vit(), data, folder, **(FOLLOWING | settings | changes))


def test_a_resumed_run_ends_with_the_same_weight_and_the_same_model(tmp_path):
    """Catches a weight, or the moment it last moved, that a checkpoint forgets."""
    whole = noisy(tmp_path / "whole")
    whole.train()
    assert whole.final_weight > 0.2, "an over-confident model, or this test shows nothing"
    assert whole.training_record().settings["final_cmi_weight"] == whole.final_weight, "a certificate says it"
    resumed = noisy(tmp_path / "whole")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-56"))
    assert resumed.final_weight == whole.final_weight
    assert tiny.largest_difference(tiny.weights(resumed.model), tiny.weights(whole.model)) == 0
