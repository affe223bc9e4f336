"""Five lines of words at the end of a hardening: their figures are the logs', and their advice fits."""

import dataclasses

import pytest
import tiny

from hf_cmim.trainers.hardening.hardening_summary import EvaluationFigures, HardeningSummary

BEFORE = EvaluationFigures("eval", 200, 0.903, 0.08, 1.5, 0.12)
NOW = EvaluationFigures("eval", 1000, 0.931, 0.013, 1.04, 0.03)
SUMMARY = HardeningSummary(BEFORE, NOW, 1.0, 1000, 200, {}, "my runs/a")


def lines_of(**changes):
    lines = str(dataclasses.replace(SUMMARY, **changes)).splitlines()
    assert [line.split(":")[0] for line in lines] == ["Accuracy", "Calibration", "Concentration", "Collapse", "Next"]
    return lines


def changed(figures, **changes):
    return dataclasses.replace(figures, **changes)


class TestWords:
    def test_of_a_good_run(self):
        """Catches figures in another unit than their words, and a command that a folder's space breaks."""
        assert lines_of() == [
            "Accuracy: 93.1% at step 1,000; 90.3% at step 200: +2.8 points since the weight was 0.",
            "Calibration: error 0.013, 0.080 before; its probabilities can be taken as they are.",
            "Concentration: answers to samples of one class differ by 0.030 nats (eval_cmi_sup), 0.120 before: 4.0"
            " times less, so a student has less to learn from them.",
            "Collapse: none seen.",
            "Next: trainer.save_model(), its processor beside it, then see what students learn: hf-cmim audit"
            " --teacher 'my runs/a' --dataset DATA --student-config student.json --dry-run",
        ]

    @pytest.mark.parametrize(("accuracy", "words"), [
        (0.90, "unchanged since"), (0.9075, "unchanged since"), (0.91, "+0.7 points"),
        (0.893, "-1.0 points since the weight was 0, so hardening costs accuracy: lower cmi_weight or train longer."),
    ])  # fmt: skip
    def test_of_the_accuracy(self, accuracy, words):
        """Catches a loss of accuracy that reads like a success."""
        assert words in lines_of(now=changed(NOW, accuracy=accuracy))[0]

    @pytest.mark.parametrize(("temperature", "words"), [
        (1.6, "over-confident, dividing the logits by 1.60 corrects it"),
        (0.5, "under-confident, dividing the logits by 0.50 corrects it"),
    ])  # fmt: skip
    def test_of_the_calibration(self, temperature, words):
        """Catches over- and under-confidence in each other's place."""
        assert words in lines_of(now=changed(NOW, ece=0.1, calibration_temperature=temperature))[1]

    @pytest.mark.parametrize(("cmi_sup", "words"), [
        (0.11, "about the same; train a twin with cmi_weight=0"),
        (0.24, "2.0 times more, as the model learned; train a twin"),
        (0.0, "more than 100 times less"),
    ])  # fmt: skip
    def test_of_the_concentration(self, cmi_sup, words):
        """Catches a hardening without effect that is praised."""
        assert words in lines_of(now=changed(NOW, cmi_sup=cmi_sup))[2]

    def test_of_a_collapse(self):
        """Catches a collapse that the last lines on the screen do not mention."""
        line = lines_of(collapses={340: 2, 500: 1})[3]
        assert line == "Collapse: 3 pair(s) of classes merged, the first at step 340; lower cmi_weight."

    def test_of_what_was_not_measured(self):
        """Catches a crash, or "nan", where there is no evaluation, no calibration or nobody who watched."""
        lines = lines_of(before=None, now=None, collapses=None)
        assert (
            lines[0] == "Accuracy: not measured. Give eval_dataset, call trainer.evaluate(), then hardening_summary()."
        )
        assert lines[1:3] == ["Calibration: not measured.", "Concentration: not measured."]
        assert lines[3].startswith("Collapse: not watched (collapse_guard is off")
        many_classes = changed(NOW, ece=None, calibration_temperature=None, cmi_sup=None)
        assert lines_of(now=many_classes)[1:3] == lines[1:3]

    def test_of_nothing_to_compare_with(self):
        """Catches advice that does not lead to an evaluation before the weight rises."""
        assert 'set eval_strategy="steps", eval_steps=200.' in lines_of(before=None)[0]
        assert "No warm-up, so nothing to compare with" in lines_of(before=None, warmup_steps=0)[0]

    def test_of_plain_cross_entropy(self):
        """Catches a run without hardening that reads like a hardened one."""
        lines = lines_of(cmi_weight=0.0, before=None, collapses=None)
        assert lines[0].endswith("cmi_weight is 0: this is plain cross-entropy, and nothing was hardened.")
        assert lines[3] == "Collapse: not watched (cmi_weight is 0)."
        assert "--twin 'my runs/a'" in lines[4]

    def test_of_other_samples_than_images_and_texts(self):
        """Catches a command that would refuse the model."""
        assert "hf_cmim.Audit." in lines_of(has_audit_command=False)[4]


@pytest.mark.parametrize(("entry", "prefix", "step"), [
    ({"step": 3, "eval_accuracy": 0.5, "eval_top5_accuracy": 0.9, "eval_cmi_sup": 0.1}, "eval", 3),
    ({"step": 3, "eval_b_top5_accuracy": 0.9, "eval_b_accuracy": 0.5}, "eval_b", 3),
])  # fmt: skip
def test_entries_of_the_logs(entry, prefix, step):
    """Catches the top-5 accuracy taken for that of a data set called top5."""
    figures = EvaluationFigures.from_log(entry)
    assert (figures.prefix, figures.step, figures.accuracy) == (prefix, step, 0.5)
    assert figures.cmi_sup == entry.get("eval_cmi_sup")
    assert EvaluationFigures.from_log({"step": 3, "loss": 1.0}) is None


def run(tmp_path, model=None, data=None, resume=False, **changes):
    settings = {"cmi_warmup": 0.25, "cmi_ramp": 0.25, "eval_strategy": "steps", "eval_steps": 4} | changes
    settings.setdefault("eval_dataset", tiny.images(32, seed=1))
    trainer = tiny.cmim_trainer(model or tiny.vit(), data or tiny.images(64), tmp_path, num_train_epochs=2, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-12") if resume else None)
    return trainer


def logged(trainer, step, name="eval_accuracy"):
    return next(entry[name] for entry in trainer.state.log_history if entry["step"] == step and name in entry)


def test_figures_are_those_of_the_warm_ups_end_and_of_the_last_step(tmp_path, capsys):
    """Catches figures of another step, and a summary that nobody sees or sees twice."""
    trainer = run(tmp_path)
    summary = trainer.hardening_summary()
    assert (summary.before.step, summary.now.step, summary.warmup_steps) == (4, 16, 4)
    assert summary.before.cmi_sup == logged(trainer, 4, "eval_cmi_sup")
    assert summary.now.ece == logged(trainer, 16, "eval_ece")
    assert summary.collapses == {}
    assert capsys.readouterr().out.count(str(summary)) == 1


def test_resumed_run_remembers_what_was_before(tmp_path):
    """Catches a comparison lost with the process that made it."""
    whole = run(tmp_path, save_strategy="steps", save_steps=12).hardening_summary()
    assert run(tmp_path, resume=True).hardening_summary() == whole


def test_best_model_is_the_one_that_is_summed_up(tmp_path):
    """Catches the last step's figures for weights that are those of an earlier one."""
    trainer = run(tmp_path, save_strategy="steps", save_steps=4, load_best_model_at_end=True,
                  metric_for_best_model="cmi", learning_rate=0.5)  # fmt: skip
    summary = trainer.hardening_summary()
    assert summary.now.step == trainer.state.best_global_step
    assert summary.now.accuracy == pytest.approx(trainer.evaluate()["eval_accuracy"])


def test_evaluation_after_training_counts_where_there_was_none(tmp_path):
    """Catches "not measured" after the evaluation that the summary itself asked for."""
    trainer = run(tmp_path, eval_strategy="no")
    assert trainer.hardening_summary().now is None
    metrics = trainer.evaluate()
    assert trainer.hardening_summary().now.accuracy == metrics["eval_accuracy"]
    assert trainer.hardening_summary().before is None


def test_evaluation_of_other_data_after_training_does_not_count(tmp_path):
    """Catches a comparison of the validation data before with the test data now."""
    trainer = run(tmp_path)
    before = trainer.hardening_summary()
    trainer.evaluate(tiny.images(48, seed=7))
    assert trainer.hardening_summary() == before


def test_first_of_several_data_sets_is_followed(tmp_path):
    """Catches a change that is the difference between two data sets."""
    data = {"one": tiny.images(32, seed=1), "two": tiny.images(32, seed=2)}
    trainer = run(tmp_path, eval_dataset=data)
    summary = trainer.hardening_summary()
    assert {summary.before.prefix, summary.now.prefix} == {"eval_one"}
    assert summary.now.accuracy == logged(trainer, 16, "eval_one_accuracy")


@pytest.mark.parametrize("changes", [{"log_level": "error"}, {"log_level": "critical"}], ids=str)
def test_nothing_is_printed_where_the_log_level_hides_warnings(changes, tmp_path, capsys):
    """Catches lines on the screen of who asked for none."""
    run(tmp_path, **changes)
    assert "Concentration:" not in capsys.readouterr().out


def test_tokens_and_weight_zero(tmp_path):
    """Catches a summary that only an image classifier with a weight survives."""
    tokens = run(
        tmp_path, tiny.token_bert(), tiny.tagged_sentences(64), eval_dataset=tiny.tagged_sentences(16, seed=1)
    )
    assert "hf_cmim.Audit." in str(tokens.hardening_summary())
    plain = run(tmp_path, cmi_weight=0.0).hardening_summary()
    assert (plain.before, plain.collapses) == (None, None)
    assert "nothing was hardened" in str(plain)
