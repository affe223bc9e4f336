"""recipes/zoo.py: an entry is trained once, audited, certified, and pushed to a real Hub with its twin."""

from functools import partial

import pytest
import torch
import yaml
from hub.certified import certified_model
from scripts import ROOT, load_script
from transformers import AutoModelForImageClassification
from transformers.utils import find_labels

from hf_cmim import HfCmimError
from hf_cmim.cli.harden_flags import HardenFlags
from hf_cmim.hub.certificate import Certificate
from hf_cmim.hub.transfer import Repository
from hf_cmim.hub.verification import check_certificate
from hf_cmim.report import AuditReport

ENTRIES = sorted((ROOT / "recipes/zoo").glob("*.yaml"))
TINY = {
    "max-train-samples": 60, "max-validation-samples": 60, "max-test-samples": 600, "max-transfer-samples": 40,
    "accuracy-budget": 99, "quiet": True,
    "training": {"max_steps": 2, "per_device_train_batch_size": 20, "save_strategy": "no", "use_cpu": True},
    "student-training": {"max_steps": 1, "per_device_train_batch_size": 20, "use_cpu": True},
}  # fmt: skip


@pytest.fixture
def zoo(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_script(ROOT / "recipes/zoo.py")


def changed_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_a_tiny_entry_is_made_once_and_pushed_with_its_twin(zoo, hub, hub_api, monkeypatch, tmp_path):
    """Catches an entry trained twice, a push without the twin, a repository that nobody can load or verify."""
    entry = yaml.safe_load((ROOT / "recipes/zoo/clothes_small.yaml").read_text()) | TINY
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(entry | {"output-dir": str(tmp_path / "tiny")}))
    monkeypatch.setattr(zoo.harden, "QUICK_FAMILIES", ("dist",))
    monkeypatch.setattr(zoo.harden, "QUICK_PLAN", zoo.harden.QUICK_PLAN | {"looks": [2], "null_families": 0})
    api = hub_api(hub)
    monkeypatch.setattr(zoo, "Repository", partial(Repository, api=api))
    words = [str(tmp_path / "tiny.yaml")]
    local = zoo.made(tmp_path / "tiny.yaml", zoo.parse_arguments(words))
    assert local.where == str(tmp_path / "tiny" / "share-32")
    trained = changed_files(tmp_path / "tiny")
    pushed = zoo.made(tmp_path / "tiny.yaml", zoo.parse_arguments([*words, "--push", "owner", "--license", "mit"]))
    assert changed_files(tmp_path / "tiny") == trained
    assert pushed.where == "owner/tiny"
    for name in ("owner/tiny", "owner/tiny-twin"):
        fetched = Repository(name, api=api).fetch()
        findings = list(check_certificate(fetched.folder, paths=fetched.paths, repo_id=name))
        assert [finding.sentence for finding in findings if not finding.holds] == []
        assert "license: mit" in (fetched.folder / "README.md").read_text()
        model = AutoModelForImageClassification.from_pretrained(fetched.folder)
        assert model.config.id2label[9] == "Ankle boot"
        assert (Certificate.read(fetched.folder).audit is None) == name.endswith("twin")


def test_the_table_has_both_models_of_each_entry_and_a_failure_stops_no_other(zoo, monkeypatch, tmp_path, capsys):
    """Catches a table without the twin or the bounds, and an entry that is lost behind one that failed."""
    report = AuditReport.read(certified_model(tmp_path / "model"))

    def made(file, options):
        if file.stem == "software":
            raise HfCmimError("no such data")
        return zoo.Entry(file.stem, report, "somewhere")

    monkeypatch.setattr(zoo, "made", made)
    monkeypatch.setattr(zoo.sys, "argv", ["zoo.py", "a/software.yaml", "a/clothes.yaml"])
    with pytest.raises(SystemExit, match=r"Not finished:\na/software.yaml: no such data"):
        zoo.main()
    _, _, hardened, twin = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    best = max(report.primary.comparisons, key=lambda comparison: comparison.gain)
    assert hardened.startswith("| clothes | 93.00 % | Undistillable within 0.5 points |")
    assert f"{100 * best.upper:.2f}".lstrip("-") in hardened
    assert twin.startswith("| its twin | 92.80 % |")


@pytest.mark.parametrize("change", ["bag.quiet=1", "clothes", "clothes.quiet"])
def test_a_change_without_effect_is_refused(zoo, change):
    """Catches a misspelt entry whose change nobody would miss."""
    with pytest.raises(HfCmimError, match=r"Expected --change ENTRY.FLAG=VALUE of clothes, got"):
        zoo.check_changes([ROOT / "recipes/zoo/clothes.yaml"], [change])


@pytest.mark.parametrize("file", ENTRIES, ids=lambda file: file.stem)
def test_an_entry_has_flags_that_exist_and_a_folder_of_its_own(zoo, file):
    """Catches a misspelt flag, a file that was renamed, and two entries in one folder."""
    flags = zoo.flags_of(file, [f"{file.stem}.dataset=elsewhere", "another.dataset=nowhere"])
    assert isinstance(flags, HardenFlags)
    assert (flags.dataset, flags.output_dir) == ("elsewhere", f"outputs/zoo/{file.stem}")
    for path in (flags.model, flags.student_config or "recipes/zoo.py"):
        assert (ROOT / path).is_file() or path == "distilbert/distilbert-base-uncased"


def test_the_student_of_texts_reads_words_and_no_padding():
    """Catches a mean over padding, with which a student would learn how long the other texts of its batch are."""
    students = load_script(ROOT / "recipes/demo_student.py")
    student = students.WordMeans()
    words = torch.tensor([[101, 7, 30_521]])
    padded = torch.tensor([[101, 7, 30_521, 0, 0]])
    # A tokenizer of BERT names the types of tokens as well.
    logits = student(words, torch.ones_like(words), token_type_ids=torch.zeros_like(words))["logits"]
    assert find_labels(students.WordMeans) == ["labels"]  # or no trainer would take it
    torch.testing.assert_close(student(padded, (padded > 0).long())["logits"], logits)
    numbers = [101, 7, 30_521 % students.NUM_VECTORS]
    torch.testing.assert_close(student.head(student.vectors.weight[numbers].mean(dim=0)), logits[0])
