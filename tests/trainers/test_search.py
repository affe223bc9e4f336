"""Hyper-parameter search with both trainers, through optuna itself, and the direction of every metric."""

import optuna
import pytest
import tiny

from hf_cmim import CMIMConfig, CMIMTrainer, DistillationConfig, DistillationTrainer
from hf_cmim.attacks import CTKD, KD
from hf_cmim.trainers.shared.metric_directions import FALLING, RISING, WITHOUT_DIRECTION, is_falling

EVALUATION = tiny.images(32, seed=1)
ADAM = {"optim": "adamw_torch", "num_train_epochs": 3, "per_device_train_batch_size": 8}


def hardener(folder, **changes):
    data = changes.pop("eval_dataset", EVALUATION)
    config = CMIMConfig(**tiny.settings(folder, **(ADAM | changes)))
    return CMIMTrainer(None, config, train_dataset=tiny.images(48), eval_dataset=data, model_init=lambda: tiny.vit())


def distiller(folder, attack=None, **changes):
    data = changes.pop("eval_dataset", EVALUATION)
    config = DistillationConfig(**tiny.settings(folder, **(ADAM | changes)))
    return DistillationTrainer(
        None, config, train_dataset=tiny.images(48), eval_dataset=data, model_init=lambda: tiny.vit(),
        teacher=tiny.vit(3).eval(), attack=attack or KD(kd_weight=0.0),
    )  # fmt: skip


BOTH = pytest.mark.parametrize("build", [hardener, distiller])


def search(trainer, trials, **options):
    """Run one trial for each dict of settings, and return the best run with what each trial saw."""
    seen = []

    def space(trial):
        return dict(trials[trial.number])

    original = trainer._inner_training_loop

    def recording(*args, **kwargs):
        result = original(*args, **kwargs)
        seen.append({**vars(trainer.args), **trainer.evaluate()})
        return result

    trainer._inner_training_loop = recording
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    best = trainer.hyperparameter_search(space, n_trials=len(trials), backend="optuna", **options)
    return best, seen


RATES = [{"learning_rate": 1e-6}, {"learning_rate": 1e-2}]


class TestObjective:
    @BOTH
    @pytest.mark.parametrize("strategy", ["no", "epoch"])
    @pytest.mark.parametrize("direction", ["minimize", "maximize"])
    def test_chooses_the_better_model(self, build, strategy, direction, tmp_path):
        """Catches Trainer's sum of all metrics, and a search's result stored over the loss in training."""
        best, seen = search(build(tmp_path, eval_strategy=strategy), RATES, direction=direction)
        assert seen[1]["eval_accuracy"] > seen[0]["eval_accuracy"] + 0.2, "the trials do not differ in this test"
        assert best.run_id == "1"
        metric = "eval_loss" if direction == "minimize" else "eval_accuracy"
        assert best.objective == pytest.approx(seen[1][metric])

    @BOTH
    @pytest.mark.parametrize(("data", "options", "message"), [
        (EVALUATION, {"direction": ["minimize", "maximize"]}, "Expected compute_objective for direction"),
        ({"a": EVALUATION, "b": EVALUATION}, {}, r"sets are \['a', 'b'\].*metrics\[\"eval_a_loss\"\]"),
        (None, {}, "no eval_dataset"),
    ], ids=["directions", "sets", "no data"])  # fmt: skip
    def test_says_what_it_needs_before_any_trial(self, build, data, options, message, tmp_path):
        """Catches a KeyError, or a sum of metrics, after the first trial has trained."""
        trainer = build(tmp_path, eval_dataset=data)
        with pytest.raises(ValueError, match=message):
            search(trainer, RATES, **options)
        assert trainer.state.global_step == 0

    @BOTH
    def test_an_objective_over_several_sets(self, build, tmp_path):
        """Shows that the line which the refusal gives works."""
        trainer = build(tmp_path, eval_dataset={"a": EVALUATION, "b": EVALUATION}, eval_strategy="epoch")
        best, _ = search(trainer, RATES, compute_objective=lambda metrics: metrics["eval_b_loss"])
        assert best.run_id == "1"


class TestTrials:
    FORM = {"cmi_warmup": 0.2, "cmi_ramp": 0.2}

    def test_the_form_can_be_searched(self, tmp_path):
        """Catches a setting of one trial that stays in the next."""
        trials = [{"cmi_form": "share"}, {}, {"logit_scale": 2.0}, {"temperatures": [1.0, 2.0]}, {"cmi_form": "plain"}]
        trainer = hardener(tmp_path, num_train_epochs=1, **self.FORM)
        _, seen = search(trainer, trials, direction="maximize")
        for trial, after in zip(trials, seen, strict=True):
            plain = CMIMConfig(output_dir=str(tmp_path), **(self.FORM | trial))
            for name in ("temperatures", "cmi_form", "logit_scale"):
                assert after[name] == getattr(plain, name), (trial, name)

    def test_a_trial_out_of_range_is_refused(self, tmp_path):
        """Catches a setting of a trial that nobody checks."""
        trial = {"cmi_form": "share", "logit_scale": 4.0}
        with pytest.raises(ValueError, match="Expected no logit_scale with the form 'share', got 4.0"):
            search(hardener(tmp_path, **self.FORM), [trial], direction="maximize")
        with pytest.raises(ValueError, match="query_budget of at least 1 answer, got 0"):
            search(distiller(tmp_path), [{"query_budget": 0}])

    def test_the_best_form_can_be_set_afterwards(self, tmp_path):
        """Catches the documented next step of a search, which sets attributes, refused or trained otherwise."""
        trainer = hardener(tmp_path, num_train_epochs=1, **self.FORM)
        best, _ = search(trainer, [{"cmi_form": "share"}, {}], direction="maximize")
        trainer.args.cmi_form = "share"
        trainer.train()
        assert trainer.bank.spec.form == "share"
        assert best is not None

    @BOTH
    def test_a_trial_leaves_nothing_to_the_next(self, build, tmp_path):
        """Catches a setting that only some trials choose and all later ones keep."""
        _, seen = search(build(tmp_path, num_train_epochs=1), [{"weight_decay": 0.5}, {}, {"learning_rate": 1e-3}])
        assert [after["weight_decay"] for after in seen] == [0.5, 0.0, 0.0]
        assert seen[2]["learning_rate"] == 1e-3

    @BOTH
    def test_equal_trials_end_equally(self, build, tmp_path):
        """Catches state of one trial in the next: centroids, or an attack's own parameters."""
        changes = {"attack": CTKD(curriculum=0.1)} if build is distiller else {}
        _, seen = search(build(tmp_path, **changes), [{"learning_rate": 1e-2}] * 2)
        assert seen[0]["eval_loss"] == seen[1]["eval_loss"]


class TestDirections:
    def test_every_logged_metric_is_classified(self, tmp_path):
        """Catches a metric that is added to a trainer and then selected by in the wrong direction."""
        classified = {*FALLING, *RISING, *WITHOUT_DIRECTION}
        assert len(classified) == len(FALLING) + len(RISING) + len(WITHOUT_DIRECTION)
        logged = set()
        for trainer in (hardener(tmp_path, num_train_epochs=1), distiller(tmp_path, num_train_epochs=1)):
            trainer.train()
            logged |= {name.removeprefix("eval_") for name in trainer.evaluate()} - {"epoch"}
        curve = {name for name in logged if name.startswith("cmi_T")}
        assert len(curve) == 5
        assert logged - curve <= classified
        assert {"teacher_kl", "cmi_sup", "agreement"} <= logged

    @pytest.mark.parametrize("config", [CMIMConfig, DistillationConfig])
    @pytest.mark.parametrize("prefix", ["", "eval_", "b_", "eval_b_", "eval_validation_set_"])
    def test_the_better_direction_is_inferred(self, config, prefix, tmp_path):
        """Catches selection that keeps the worst model, by either trainer's metrics and under several sets."""
        for falls, names in {True: (*FALLING, "cmi_T4", "cmi_T0.5"), False: RISING}.items():
            for name in names:
                assert is_falling(prefix + name) is falls, name
                args = config(output_dir=str(tmp_path), metric_for_best_model=prefix + name)
                assert args.greater_is_better is not falls, name

    @pytest.mark.parametrize("config", [CMIMConfig, DistillationConfig])
    def test_other_metrics_follow_the_rule_of_trainer(self, config, tmp_path):
        """Catches a table that decides about metrics that are not ours."""
        for name, greater in {"f1": True, "my_loss": False, "score": True, None: None}.items():
            args = config(output_dir=str(tmp_path), metric_for_best_model=name)
            assert args.greater_is_better is greater, name
        assert is_falling("eval_b_cmi_sup_temperature") is None

    @pytest.mark.parametrize(("metric", "greater", "warned"), [
        ("teacher_kl", True, "of which less is better"), ("b_accuracy", False, "of which more is better"),
        ("teacher_kl", False, ""), ("f1", False, ""),
    ])  # fmt: skip
    def test_the_wrong_direction_warns(self, metric, greater, warned, tmp_path, caplog):
        """Catches a silent choice of the worst model."""
        with caplog.at_level("WARNING"):
            DistillationConfig(output_dir=str(tmp_path), metric_for_best_model=metric, greater_is_better=greater)
        assert warned in caplog.text
        assert bool(warned) == ("is better" in caplog.text)

    def test_the_student_nearest_to_the_teacher_is_kept(self, tmp_path):
        """Catches the worst student kept as the best."""
        trainer = distiller(
            tmp_path, KD(), learning_rate=5e-3, eval_strategy="epoch", save_strategy="epoch",
            load_best_model_at_end=True, metric_for_best_model="b_teacher_kl",
            eval_dataset={"a": EVALUATION, "b": EVALUATION},
        )  # fmt: skip
        trainer.train()
        values = [entry["eval_b_teacher_kl"] for entry in trainer.state.log_history if "eval_b_teacher_kl" in entry]
        assert len(set(values)) == 3
        assert trainer.state.best_metric == min(values)
        assert trainer.evaluate()["eval_b_teacher_kl"] == pytest.approx(min(values))
