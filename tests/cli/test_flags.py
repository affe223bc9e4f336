"""The flags of `hf-cmim audit`, typed or in a file, and what plan and training become of them."""

import argparse
import re

import pytest
import yaml

from hf_cmim.audit.plan import AuditPlan
from hf_cmim.cli.audit import add_arguments
from hf_cmim.cli.flags import words_of
from hf_cmim.cli.training import (
    DEFAULTS,
    FINE_TUNING,
    audit_plan,
    check_margin,
    training_settings,
)
from hf_cmim.report import Attacker

# Each flag: its words, how a file says the same, the option and its value.
FLAGS = [
    (["--teacher", "t"], {"teacher": "t"}, "teacher", "t"),
    (["--twin", "t"], {"twin": "t"}, "twin", "t"),
    (["--control", "a b=p", "--control", "c=q=r"], {"control": {"a b": "p", "c": "q=r"}},
     "control", [("a b", "p"), ("c", "q=r")]),
    (["--student-config", "s.json"], {"student-config": "s.json"}, "student_config", "s.json"),
    (["--student", "s"], {"student": "s"}, "student", "s"),
    (["--students", "a=s", "b=t"], {"students": {"a": "s", "b": "t"}}, "students", [("a", "s"), ("b", "t")]),
    (["--dataset", "d"], {"dataset": "d"}, "dataset", "d"),
    (["--dataset-config", "a"], {"dataset-config": "a"}, "dataset_config", "a"),
    (["--train-split", "a"], {"train-split": "a"}, "train_split", "a"),
    (["--validation-split", "a"], {"validation-split": "a"}, "validation_split", "a"),
    (["--validation-share", "0.2"], {"validation-share": 0.2}, "validation_share", 0.2),
    (["--test-split", "a"], {"test-split": "a"}, "test_split", "a"),
    (["--test-share", "0.2"], {"test-share": 0.2}, "test_share", 0.2),
    (["--max-transfer-samples", "7"], {"max-transfer-samples": 7}, "max_transfer_samples", 7),
    (["--max-validation-samples", "7"], {"max_validation_samples": 7}, "max_validation_samples", 7),
    (["--max-test-samples", "7"], {"max-test-samples": 7}, "max_test_samples", 7),
    (["--rest-as-test"], {"rest-as-test": True}, "rest_as_test", True),
    (["--no-rest-as-test"], {"rest-as-test": False}, "rest_as_test", False),
    (["--image-column", "i"], {"image-column": "i"}, "image_column", "i"),
    (["--text-column", "i"], {"text-column": "i"}, "text_column", "i"),
    (["--audio-column", "i"], {"audio-column": "i"}, "audio_column", "i"),
    (["--label-column", "i"], {"label-column": "i"}, "label_column", "i"),
    (["--attacker", "training", "own:0.1"], {"attacker": ["training", "own:0.1"]}, "attacker",
     ["training", "own:0.1"]),
    (["--own-data", "d"], {"own-data": "d"}, "own_data", "d"),
    (["--own-split", "a"], {"own-split": "a"}, "own_split", "a"),
    (["--suite", "quick-v2"], {"suite": "quick-v2"}, "suite", "quick-v2"),
    (["--criterion", "paper"], {"criterion": "paper"}, "criterion", "paper"),
    (["--margin-points", "0.3"], {"margin-points": 0.3}, "margin_points", 0.3),
    (["--looks", "3", "5"], {"looks": [3, 5]}, "looks", [3, 5]),
    (["--screening-seeds", "1"], {"screening-seeds": 1}, "screening_seeds", 1),
    (["--final-seeds", "0"], {"final-seeds": 0}, "final_seeds", 0),
    (["--null-families", "2"], {"null-families": 2}, "null_families", 2),
    (["--diagnosed", "0"], {"diagnosed": 0}, "diagnosed", 0),
    (["--set", "learning_rate=1e-3", "lr_scheduler_kwargs={\"a\": 1}", "--set", "bf16=true"],
     {"training": {"learning_rate": "1e-3", "lr_scheduler_kwargs": {"a": 1}, "bf16": True}},
     "training", [("learning_rate", "1e-3"), ("lr_scheduler_kwargs", '{"a": 1}'), ("bf16", "true")]),
    (["--output-dir", "o"], {"output-dir": "o"}, "output_dir", "o"),
    (["--dry-run"], {"dry-run": True}, "dry_run", True),
    (["--channel", "rounded", '{"decimals": 2}'], {"channel": ["rounded", '{"decimals": 2}']}, "channel",
     ["rounded", '{"decimals": 2}']),
    (["--defence", "argmax={}", "--defence", 'top-k={"k": 2}'], {"defence": {"argmax": {}, "top-k": {"k": 2}}},
     "defence", ["argmax={}", 'top-k={"k": 2}']),
    (["--families", "kd", "dkd"], {"families": ["kd", "dkd"]}, "families", ["kd", "dkd"]),
    (["--attack", "m:A={}", "--attack", 'm:B={"weight": 2}'], {"attack": {"m:A": {}, "m:B": {"weight": 2}}},
     "attack", [["m:A={}"], ['m:B={"weight": 2}']]),
    (["--budget", "2h30m"], {"budget": "2h30m"}, "budget", "2h30m"),
    (["--quiet"], {"quiet": True}, "quiet", True),
    (["--processes", "2"], {"processes": 2}, "processes", 2),
]  # fmt: skip


def read(audit_options, path, settings, *words):
    """What the command makes of a file and the flags after it."""
    path.write_text(yaml.safe_dump(settings, sort_keys=False) if isinstance(settings, dict) else settings)
    return audit_options(path, *words)


@pytest.mark.parametrize(("words", "settings", "name", "value"), FLAGS, ids=[each[0][0] for each in FLAGS])
def test_flag_is_read_typed_and_from_a_file(words, settings, name, value, audit_options, tmp_path):
    """A flag that nobody reads, or that a file says otherwise, runs another audit than was asked for."""
    for options in (audit_options(*words), read(audit_options, tmp_path / "audit.yaml", settings)):
        found = getattr(options, name)
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("words", [each[0] for each in FLAGS], ids=[each[0][0] for each in FLAGS])
def test_flags_are_said_again_to_other_processes(words, audit_options):
    """A flag that gets lost, or means something else the second time: the processes would run another audit."""
    flags = audit_options(*words)
    assert audit_options(*words_of(flags)) == flags


def test_all_flags_are_said_at_once(audit_options):
    """Words that a neighbour swallows."""
    flags = audit_options(*(word for each in FLAGS for word in each[0]))
    assert audit_options(*words_of(flags)) == flags


def test_table_of_flags_is_whole(audit_options):
    """A flag without a row here was never tried."""
    options = {each[2] for each in FLAGS}
    assert options == set(vars(audit_options()))
    assert set(vars(audit_options()).values()) == {None}  # else a file could not say otherwise


def test_flags_override_a_file_and_pairs_are_added_to_it(audit_options, tmp_path):
    """A file that won over what was typed, or pairs that replaced all of its others, would run another experiment."""
    settings = {"looks": [3, 5], "margin-points": 0.3, "training": {"learning_rate": 0.1, "num_train_epochs": 7},
                "rest-as-test": True, "suite": None}  # fmt: skip
    words = ("--looks", "8", "--set", "learning_rate=0.5", "--no-rest-as-test")
    options = read(audit_options, tmp_path / "audit.yml", settings, *words)
    assert (options.looks, options.margin_points, options.rest_as_test, options.suite) == ([8], 0.3, False, None)
    assert dict(options.training) == {"learning_rate": "0.5", "num_train_epochs": "7"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "teachr: there", r"Unknown setting 'teachr'.*Did you mean teacher"),
        ("a.yaml", "set: {a: 1}", r"Unknown setting 'set'"),
        ("a.yaml", "looks: [three]", r"A setting in .*invalid int value: 'three'"),
        ("a.yaml", "training: fast", r"NAME=VALUE, got 'fast'"),
        ("a.yaml", "teacher: false", r"Unknown flag '--no-teacher'"),
        ("a.yaml", "[teacher, there]", r"Expected settings as NAME: VALUE .*got list"),
        ("a.yaml", "teacher: [", r"No YAML file can be read from"),
        ("a.json", "{}", r"Expected a YAML file \(.yaml\) before the flags, got .*--teacher"),
    ],
)
def test_file_that_says_what_no_flag_can_is_refused(name, text, message, audit_options, tmp_path):
    """A key or a value that is dropped in silence leaves a default in its place."""
    with pytest.raises(ValueError, match=message):
        read(audit_options, tmp_path / name, text)


def test_missing_file_is_refused(audit_options, tmp_path):
    """The same for a file whose name is misspelt."""
    with pytest.raises(ValueError, match=r"No YAML file can be read from"):
        audit_options(tmp_path / "none.yaml")


# Plan


def test_flags_make_the_plan(audit_options):
    """A margin taken as a fraction of one, or a flag that does not reach the plan."""
    words = ["--suite", "quick-v2", "--criterion", "no-leak", "--margin-points", "0.3", "--looks", "3", "4"]
    plan = audit_plan(audit_options(*words, "--screening-seeds", "1", "--null-families", "2", "--diagnosed", "0"))
    assert plan == AuditPlan("quick-v2", "no-leak", 0.003, (3, 4), 1, null_families=2, diagnosed=0)
    assert audit_plan(audit_options()) == AuditPlan()


def test_attackers_are_named_by_flags(audit_options):
    """Catches an attacker that is left out, or whose share is lost."""
    plan = audit_plan(audit_options("--attacker", "training", "own:0.25", "--attacker", "own-unlabelled"))
    assert plan.attackers == (Attacker("training"), Attacker("own", 0.25), Attacker("own-unlabelled"))


def test_help_states_the_defaults_of_the_plan():
    """A default that changes in the plan would stay as it was in the help."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    help_texts = {action.dest: action.help for action in parser._actions}
    plan = AuditPlan()
    shown = {
        "suite": plan.suite, "criterion": plan.criterion, "margin_points": f"{100 * plan.margin:g}",
        "looks": " ".join(map(str, plan.looks)), "screening_seeds": str(plan.screening_seeds),
        "final_seeds": str(plan.final_seeds), "null_families": str(plan.null_families),
        "diagnosed": str(plan.diagnosed),
    }  # fmt: skip
    for name, value in shown.items():
        assert re.findall(r"\(([^()]*)\)", help_texts[name])[-1] == value, name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--margin-points 0.005", r"in points.*got 0.005.*a fraction of 0.005, is --margin-points 0.5"),
        ("--margin-points 100", r"in points"),
        ("--margin-points -1", r"in points"),
        ("--suite standard", r"Unknown suite 'standard': .*Use one of quick-v2, standard-v2"),
        (
            "--criterion strict",
            r"Unknown criterion 'strict': .*Use one of paper, teacher-free, no-leak, beyond",
        ),
        ("--looks 5 3", r"Expected looks that increase"),
        ("--screening-seeds 0", r"Expected screening_seeds of at least 1"),
    ],
)
def test_plan_that_cannot_be_is_refused(words, message, audit_options):
    """A margin of half a hundredth of a point is none that anybody means."""
    with pytest.raises(ValueError, match=message):
        audit_plan(audit_options(*words.split()))


def test_margin_that_the_test_set_cannot_tell_is_refused_at_once():
    """An audit of days would end with the check that says so."""
    check_margin(AuditPlan(margin=0.005), 600)
    with pytest.raises(ValueError, match=r"at least 0.5 on 599 test samples.*got 0.5.*at least 600"):
        check_margin(AuditPlan(margin=0.005), 599)


# Training


def test_settings_come_from_defaults_and_flags(tmp_path):
    """A rate for random weights would destroy a checkpoint's; one that was asked for must stand."""
    new = training_settings(None, str(tmp_path), from_checkpoint=False)
    assert {name: getattr(new, name) for name in ("learning_rate", "num_train_epochs", "weight_decay")} == {
        name: DEFAULTS[name] for name in ("learning_rate", "num_train_epochs", "weight_decay")
    }
    assert new.output_dir == str(tmp_path)
    assert new.remove_unused_columns is False  # the collators need them
    tuned = training_settings([("num_train_epochs", "3")], str(tmp_path), from_checkpoint=True)
    assert (tuned.learning_rate, tuned.num_train_epochs) == (FINE_TUNING["learning_rate"], 3)
    given = [("learning_rate", "1"), ("learning_rate", "2e-3"), ("use_cpu", "true"), ("lr_scheduler_type", "cosine")]
    own = training_settings(given, str(tmp_path), from_checkpoint=True)
    assert (own.learning_rate, own.use_cpu, own.lr_scheduler_type.value) == (2e-3, True, "cosine")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rat", "1", r"got 'learning_rat'.*Did you mean learning_rate"),
        ("learning_rate", "fast", r"invalid float value: 'fast'"),
        ("bf16", "perhaps", r"perhaps"),
        ("logging_steps", "0", r"The settings after --set do not fit together.*requires non-zero --logging_steps"),
        ("seed", "3", r"Expected no seed after --set.*chooses its seeds itself"),
        ("output_dir", "there", r"Give --output-dir"),
        ("query_budget", "0", r"Expected a query_budget of at least 1"),
    ],
)
def test_setting_that_would_do_nothing_is_refused(name, value, message, tmp_path):
    """A misspelt setting, or one that the audit overwrites, trains other students than were asked for."""
    with pytest.raises(ValueError, match=message):
        training_settings([(name, value)], str(tmp_path), from_checkpoint=False)
