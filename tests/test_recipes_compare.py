"""recipes/compare_defences.py as users start it: a few images, two models, one channel, no network."""

import sys

import pytest
import yaml
from test_recipes import ROOT, load_recipe

from hf_cmim import HfCmimError
from hf_cmim.cli.audit_defences import defences_of
from hf_cmim.cli.audit_flags import AuditFlags
from hf_cmim.cli.flags import read_flags
from hf_cmim.report import CERTIFICATE_NAME, AuditReport

CONFIG = ROOT / "recipes/configs/compare_defences.yaml"
PLAN = {
    "student": "recipes.demo_student:Perceptron", "suite": "quick-v2", "families": ["kd"], "looks": [2],
    "screening-seeds": 1, "final-seeds": 0, "null-families": 0, "diagnosed": 0, "margin-points": 2, "quiet": True,
    "training": {"max_steps": 2, "use_cpu": True, "dataloader_pin_memory": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("compare_defences")


@pytest.mark.slow
def test_defences_are_trained_once_and_audited_together(recipe, tmp_path, monkeypatch, capsys):
    """Catches a defence that is trained for another, a table without it, and a model that is trained twice."""
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(PLAN))
    words = [CONFIG, "--audit", tmp_path / "audit.yaml", "--output_dir", tmp_path, "--max_train_samples", 200]
    words += ["--max_eval_samples", 200, "--max_steps", 2, "--warmup_steps", 0, "--use_cpu", "--disable_tqdm", "true"]
    words += ["--trained", "cmim", "ce", "squared-error", "--channels", "argmax", 'top-k:{"k": 3}']
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["compare_defences.py", *map(str, words)])
    recipe.main()
    report = AuditReport.read(tmp_path / "audit")
    assert [control.name for control in report.controls] == ["CE twin", "squared-error", "argmax", 'top-k:{"k": 3}']
    assert report.teacher.path == "…/cmim"
    assert [control.facts.path.rsplit("/")[-1] for control in report.controls] == ["ce", "squared-error", "ce", "ce"]
    assert len({control.facts.fingerprint for control in report.controls}) == 4
    assert "Defences compared" in capsys.readouterr().out
    assert "Defences compared" in (tmp_path / "audit" / "audit.html").read_text()
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").glob(f"*/{CERTIFICATE_NAME}")}
    assert len(trained) == 3
    monkeypatch.setattr(recipe.AuditSetup, "of", None)
    with pytest.raises(TypeError):  # at the audit, after all trainings
        recipe.main()
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


def test_models_of_other_settings_are_not_compared(recipe, tmp_path):
    """Catches a table of models of which some were trained with the settings of an earlier command."""

    def check(*words):
        data, settings, args = recipe.parse_arguments(
            [str(CONFIG), "--use_cpu", "--output_dir", str(tmp_path), *words]
        )
        recipe.check_same_settings(tmp_path, data, settings, args)

    check()
    check("--disable_tqdm", "true", "--trained", "cmim", "ce")
    with pytest.raises(HfCmimError, match=r"were trained with learning_rate 0.002, now 0.1: .* another --output_dir"):
        check("--learning_rate", "0.1")
    with pytest.raises(HfCmimError, match=r"max_train_samples 8000, now 100"):
        check("--max_train_samples", "100")


@pytest.mark.parametrize(
    ("words", "attackers", "own"),
    [
        ({}, ["training"], (None, None)),
        ({"attacker": ["training", "own"], "own-split": "validation"}, ["training", "own"], (None, "validation")),
        ({"attacker": ["own"], "own-data": "photos"}, ["own"], ("photos", None)),
    ],
)
def test_the_file_of_the_audit_names_its_attackers(recipe, tmp_path, words, attackers, own):
    """Catches attackers of the file that are never audited, and an attacker that is given where none is named."""
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(PLAN | words))
    plan = read_flags(recipe.Namespace(config=str(tmp_path / "audit.yaml")), AuditFlags)
    data, settings, _ = recipe.parse_arguments([str(CONFIG), "--use_cpu"])
    flags = recipe.audit_flags(plan, data, settings, tmp_path, 500)
    assert flags.attacker == attackers
    assert (flags.own_data, flags.own_split) == own
    assert flags.teacher == str(tmp_path / "models" / "cmim")
    assert (flags.dataset, flags.max_transfer_samples) == ("recipes/data", 500)


def test_config_names_defences_that_exist(recipe, monkeypatch):
    """Catches a channel, a setting or a file that was renamed."""
    monkeypatch.chdir(ROOT)
    data, settings, args = recipe.parse_arguments([str(CONFIG)])
    assert (data.max_train_samples, args.num_train_epochs) == (8000, 24)
    assert set(settings.trained) == {*recipe.OBJECTIVES, *recipe.RIVALS}
    assert len(defences_of(settings.channels, ())) == len(recipe.CHANNELS)
    plan = read_flags(recipe.Namespace(config=settings.audit), AuditFlags)
    assert (plan.suite, plan.max_transfer_samples) == ("quick-v2", 2000)
    for name, changes in recipe.OBJECTIVES.items():
        chosen = recipe.settings(recipe.CMIMConfig, args, output_dir=name, **changes)
        assert (chosen.cmi_weight == 0) == (name in ("ce", "label-smoothing"))
        assert chosen.num_train_epochs == 24


def test_an_audit_needs_the_model_and_its_twin(recipe):
    """Catches an audit of something else, or one without a positive control."""
    for words in (["cmim"], ["cmim", "ce", "nastyteacher"]):
        with pytest.raises(HfCmimError, match="Expected --trained with cmim, ce and any of label-smoothing"):
            recipe.parse_arguments([str(CONFIG), "--trained", *words])
