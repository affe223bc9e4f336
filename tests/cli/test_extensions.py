"""Attacks, channels and students of a user's own. Every file of the page that tells how to write them is run."""

import re
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml

from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.suites import QUICK_V2
from hf_cmim.audit.inputs import AuditData
from hf_cmim.channels import Argmax, ClassAnswers, ModelGuardS, Rounded, TopK
from hf_cmim.cli.audit_setup import AuditSetup
from hf_cmim.cli.extensions import channel_of, composed_suite, load_object, own_entries, split_settings
from hf_cmim.cli.main import main
from hf_cmim.errors import HfCmimError
from hf_cmim.report import AuditReport

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
FILES = {
    re.match(r"# (\w+\.py)\n", code)[1]: code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
}


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    """The page's files in the current folder, importable anew."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    (tmp_path / "others.py").write_text(
        "from hf_cmim.attacks.kd import KD\nfrom hf_cmim.attacks.averager import Averager\n"
        "from hf_cmim.attacks.composition import Composition\nnumber = 3\nready = KD(temperature=3.0)\n"
        "class kd(KD):\n    pass\n"
        "def composed(temperature=2.0):\n    return Composition(KD(temperature=temperature), Averager())\n"
    )
    (tmp_path / "broken.py").write_text("import no_such_module_of_theirs\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("others", "broken", *(name.removesuffix(".py") for name in FILES)):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


@pytest.fixture
def words(teacher, data, written):
    """A whole audit of a second: own attack in two settings, own channel, own student."""
    return [
        "audit", "--teacher", str(teacher), "--dataset", str(data), "--student", "my_students:build", "--attack",
        "my_attacks:TopTwoMargin", '{"weight": 0.5}', '{"weight": 2.0}', "--channel", "my_channels:Capped",
        '{"largest": 0.9}', "--suite", "quick-v2", "--families", "kd", "TopTwoMargin", "--looks", "2",
        "--screening-seeds", "1", "--final-seeds", "0", "--null-families", "0", "--diagnosed", "0", "--quiet",
        "--output-dir", str(written / "audit"), "--set", "max_steps=2", "use_cpu=true",
        "dataloader_pin_memory=false",
    ]  # fmt: skip


def test_the_page_has_a_file_for_each_part():
    """Catches a page whose examples this test does not find."""
    assert set(FILES) == {"my_attacks.py", "my_suite.py", "my_channels.py", "my_students.py", "my_audit.py"}
    assert all(len(code.splitlines()) <= 26 for code in FILES.values())


def test_a_dry_run_counts_an_attack_of_ones_own(words, capsys):
    """Catches an attack that is read and then left out."""
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "Attacks: kd, TopTwoMargin" in printed
    assert re.search(r"^ +3  settings of attacks$", printed, re.M)


def test_an_audit_with_own_attack_channel_and_student(words, written, capsys):
    """Catches an attack without its settings, answers that bypass the channel, another student than was named."""
    assert main(words) == 0
    report = AuditReport.read(written / "audit")
    assert report.scope.suite == "quick-v2, 2 of 6 families + own"
    (arm,) = [arm for arm in report.arms if arm.name == "TopTwoMargin"]
    assert arm.setting in ("Composition(TopTwoMargin(weight=0.5, ce_weight=1.0))",
                           "Composition(TopTwoMargin(weight=2.0, ce_weight=1.0))")  # fmt: skip
    assert len(arm.validation) == 2
    assert report.title.endswith("behind Capped(largest=0.9)")
    assert report.scope.student.startswith("SmallStudent, ")
    assert "certify" not in capsys.readouterr().out
    assert main(words) == 0, "the same command goes on where it was"


def test_an_audit_behind_class_answers(words, written, capsys):
    """Catches answers that bypass the table, and a table that no service can load afterwards."""
    channel = words.index("my_channels:Capped")
    assert main([*words[:channel], 'class-answers:{"sharpness": 0.25}', *words[channel + 2 :]]) == 0
    printed = capsys.readouterr().out
    path = written / "audit" / "class_answers.safetensors"
    assert str(path) in printed
    assert "certify" not in printed
    report = AuditReport.read(written / "audit")
    assert report.title.endswith(f"behind {ClassAnswers.load(path)!r}")
    assert ClassAnswers.load(path).sharpness == 0.25


def test_class_answers_are_fitted_on_the_validation_split_alone(words, audit_options):
    """Catches a fit that sees the test split, and labels that are numbered in another order than the answers."""
    channel = words.index("my_channels:Capped")
    setup = AuditSetup.of(audit_options(*words[1:channel], "class-answers", *words[channel + 2 :]))
    samples = [setup.audit.data.validation[row] for row in range(len(setup.audit.data.validation))]
    with torch.no_grad():
        pixels = torch.stack([sample["student"]["pixel_values"] for sample in samples])
        log_probs = setup.audit.models.teacher.model(pixel_values=pixels).logits.log_softmax(-1)
    # The data number red, green, blue; the teacher blue, red, green.
    labels = torch.tensor([(sample["labels"] + 1) % 3 for sample in samples])
    assert (log_probs.argmax(-1) == labels).double().mean() > 0.6
    fitted = ClassAnswers.fit(log_probs, labels)
    assert torch.allclose(setup.channel.probs, fitted.probs, atol=1e-5)
    assert setup.channel.sharpness == 0


def test_a_file_says_the_same_as_flags(words, written, audit_options, teacher, data):
    """Catches a mapping in YAML that becomes another attack."""
    settings = {
        "teacher": str(teacher), "dataset": str(data), "student": "my_students:build", "suite": "quick-v2",
        "attack": {"my_attacks:TopTwoMargin": {"weight": 0.5}}, "channel": ["rounded", '{"decimals": 2}'],
        "families": ["kd", "TopTwoMargin"],
        "training": {"max_steps": 2, "use_cpu": True, "dataloader_pin_memory": False},
    }  # fmt: skip
    (written / "audit.yaml").write_text(yaml.safe_dump(settings))
    audit = AuditSetup.of(audit_options(written / "audit.yaml")).audit
    assert audit.plan.attacks.families == ("kd", "TopTwoMargin")
    assert repr(audit.plan.attacks.of("TopTwoMargin")) == "(Composition(TopTwoMargin(weight=0.5, ce_weight=1.0)),)"
    assert audit.models.teacher.channel == Rounded(decimals=2)


def test_students_classes_are_those_of_the_data_or_its_own(words, audit_options):
    """Catches a student whose class numbers are read in the teacher's order."""
    models = AuditSetup.of(audit_options(*words[1:])).audit.models
    assert models.student().config.id2label == {0: "red", 1: "green", 2: "blue"}
    assert models.teacher.class_names == ("blue", "red", "green")


def test_the_suite_and_the_audit_of_the_page_run(written):
    """Catches an example that was never run."""
    plan = load_object("my_suite:plan", "--attack")
    assert plan.attacks.of("top-two-margin")[0].loss.weight == 0.25
    audit = load_object("my_audit:audit", "--attack")
    data = AuditData(tiny.images(16, 1), tiny.images(16, 2), tiny.images(640, 3))
    models = [tiny.vit(seed).eval() for seed in (5, 6)]
    quick = type(plan)(
        suite=QUICK_V2.subset(["kd"]), screening_seeds=1, looks=(2,), final_seeds=0, null_families=0, diagnosed=0
    )
    report = audit(models, lambda: tiny.vit(torch.initial_seed() % 2**32), data, quick, str(written / "ensemble"))
    images = torch.stack([row["pixel_values"] for row in data.test])
    with torch.no_grad():
        probs = sum(model(pixel_values=images)["logits"].softmax(-1) for model in models)
    labels = torch.tensor([row["labels"] for row in data.test])
    assert report.teacher.accuracy == pytest.approx((probs.argmax(-1) == labels).double().mean().item())


# What is named


def test_settings_are_json_objects():
    """Catches settings that are split at spaces, or a list taken for settings."""
    assert split_settings(["a:B", '{"x": [1, 2]}', '{"y": "a b"}'], "--attack") == (
        "a:B", [{"x": [1, 2]}, {"y": "a b"}],
    )  # fmt: skip
    for wrong in ("{x: 1}", '{"x": 1} 3'):
        with pytest.raises(HfCmimError, match="no JSON objects"):
            split_settings(["a:B", wrong], "--attack")


@pytest.mark.parametrize(
    ("name", "reprs"),
    [
        (["others:ready"], ["Composition(KD(temperature=3.0, ce_weight=1.0, kd_weight=1.0))"]),
        (["others:Averager"], None),
        (["others:composed", '{"temperature": 5.0}', "{}"], None),
    ],
)
def test_instances_functions_and_transforms_are_attacks(name, reprs, written):
    """Catches a function that is called without its settings, and a transform without a loss."""
    entries = own_entries(name)
    if name == ["others:Averager"]:
        assert [type(part).__name__ for part in entries[0].attack.active_parts] == ["Averager", "KD"]
    elif name[0] == "others:composed":
        assert [entry.attack.loss.temperature for entry in entries] == [5.0, 2.0]
    else:
        assert [entry.attack.loss.temperature for entry in entries] == [3.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (["my_attacks"], "takes PACKAGE.MODULE:NAME"),
        (["my_atacks:TopTwoMargin"], "No module 'my_atacks' for --attack"),
        (["my_attacks.inner:TopTwoMargin"], "No module 'my_attacks.inner'"),
        (["my_attacks:TopTwoMargins"], "has no 'TopTwoMargins'.*Did you mean TopTwoMargin"),
        (["others:number"], "is no attack, but int"),
        (["my_students:build"], "is no attack, but SmallStudent"),
        (
            ["my_attacks:TopTwoMargin", '{"wait": 2}'],
            r"unexpected keyword argument 'wait'.*Its signature is TopTwoMargin\(",
        ),
        (["my_attacks:TopTwoMargin", '{"weight": -2}'], "weight at least 0"),
        (["others:ready", "{}"], "is an instance and takes no settings"),
    ],
)
def test_what_is_no_attack_is_refused_with_the_reason(name, message, written):
    """Catches a raw traceback of the importer for a typing error."""
    with pytest.raises(HfCmimError, match=message):
        own_entries(name)


def test_an_error_inside_a_users_module_keeps_its_traceback(written):
    """Catches "no such module" said of a module that is there and imports one that is not."""
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_theirs"):
        own_entries(["broken:Attack"])


def test_a_family_that_is_there_already_or_is_not_there_is_refused(written):
    """Catches an attack of one's own that competes with the suite's as one of its settings."""
    with pytest.raises(HfCmimError, match="--attack kd: the suite already has a family of this name"):
        composed_suite(QUICK_V2, None, [["others:kd"]])
    with pytest.raises(HfCmimError, match="Unknown family 'dkdd' of quick-v2.*Did you mean dkd"):
        composed_suite(QUICK_V2, ["dkdd"], [])
    assert composed_suite(QUICK_V2, [*QUICK_V2.families], []) is not None
    assert composed_suite(QUICK_V2, [*QUICK_V2.families], []).name == "quick-v2"
    assert composed_suite(QUICK_V2, ["kd"], []).name == "quick-v2, 1 of 5 families"
    assert isinstance(composed_suite(QUICK_V2, ["kd"], []).entries[0].attack.loss, KD)


def test_channels_by_name_and_of_ones_own(written):
    """Catches settings that do not reach a channel."""
    assert channel_of(["argmax"]) == Argmax()
    assert channel_of(["top-k", '{"k": 2, "renormalized": true}']) == TopK(k=2, renormalized=True)
    assert channel_of(['top-k:{"k": 2}']) == TopK(k=2)
    log_probs = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]).log()
    fitted = channel_of(["class-answers", '{"sharpness": 0.5}'])(log_probs, torch.tensor([0, 1, 2]))
    assert repr(fitted) == repr(ClassAnswers.fit(log_probs, torch.tensor([0, 1, 2]), sharpness=0.5))
    fitted = channel_of(["model-guard-s", '{"epsilon": 0.5}'])(log_probs, torch.tensor([0, 1, 2]))
    assert repr(fitted) == repr(ModelGuardS.fit(log_probs, epsilon=0.5))
    assert repr(channel_of(["my_channels:Capped"])) == "Capped(largest=0.95)"
    capped = channel_of(["my_channels:Capped", '{"largest": 0.5}'])(torch.tensor([[0.8, 0.1, 0.1]]).log())
    assert torch.allclose(capped.exp(), torch.tensor([[5 / 7, 1 / 7, 1 / 7]]))  # .5, .1, .1 scaled to sum to 1
    for wrong, message in (
        (["roundd"], "Unknown channel 'roundd'.*Did you mean rounded"),
        (["rounded"], "does not accept the settings {}.*Its signature is"),
        (["rounded", '{"decimals": 0}'], "at least 1 decimal"),
        (["rounded", "{}", "{}"], "one JSON object"),
        (["class-answers", '{"sharp": 1}'], r"does not accept the settings \{'sharp': 1\}"),
        (["my_students:build"], "is no channel, but SmallStudent"),
    ):
        with pytest.raises(HfCmimError, match=message):
            channel_of(wrong)


def test_students_that_build_no_model_are_refused(words, written, capsys):
    """Catches a raw error of torch for a function that returns something else."""
    for name, message in (("others:number", "is no function"), ("os:getcwd", "returned str instead of a torch.nn")):
        words[words.index("--student") + 1] = name
        assert main(words) == 2
        assert message in capsys.readouterr().err
