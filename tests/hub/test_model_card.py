"""Model cards: what each says, what of the user's stays, and that no name can break them."""

import re
from dataclasses import replace

import pytest
import yaml
from hub.card_rules import faults
from hub.certified import certified_model, genuine_audit, save_model
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from pages.reports import HOSTILE

from hf_cmim.hub.certificate import Certificate, Evaluation, Training
from hf_cmim.hub.certify import certify
from hf_cmim.hub.model_card import BEGIN, END, write_card
from hf_cmim.hub.verified_card import card_faults
from hf_cmim.measurement import MeasurementAccumulator
from hf_cmim.report import Interval

HARDENED = Training(
    trainer="CMIMTrainer", objective="CMIMLoss(temperatures=(1.0, 4.0))", settings={"cmi_weight": 1.0, "seed": None},
    base_model="someone/vit", dataset="someone/data", is_hardened=True, is_knockoff=False,
)  # fmt: skip
KNOCKOFF = replace(HARDENED, trainer="DistillationTrainer", settings={}, is_hardened=False, is_knockoff=True)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return certified_model(tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def certificate(original):
    return Certificate.read(original)


def card_of(folder):
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


def evaluation():
    import torch

    accumulator = MeasurementAccumulator((4.0,))
    accumulator.update(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3)
    return Evaluation("shapes: test", accumulator.compute())


def test_an_audited_card_says_verdict_and_scope(certificate, tmp_path):
    """Catches a card that leaves out what the verdict is about, and pictures that are not there."""
    folder = tmp_path / "model"
    folder.mkdir()
    written = write_card(folder, replace(certificate, training=HARDENED), repo_id="owner/model", license="mit")
    assert [path.name for path in written] == ["README.md", "cmi_curve.png", "audit_forest.png", "audit.html"]
    card = card_of(folder)
    audit = certificate.audit
    for words in ("Undistillable within 0.5 points", audit.scope.suite, "45,000 samples", audit.date, "audited"):
        assert words in card.text, words
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", card.text):
        assert (folder / picture).stat().st_size > 1000
    data = card.data.to_dict()
    assert data["tags"] == ["hf_cmim", "cmim", "arxiv:2507.00012", "cmim-audited"]
    assert (data["base_model"], data["datasets"], data["license"]) == ("someone/vit", ["someone/data"], "mit")
    assert data["pipeline_tag"] == "image-classification"
    (result,) = data["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["accuracy", "cmi"]
    assert result["metrics"][0]["value"] == audit.teacher.accuracy
    assert faults((folder / "README.md").read_text(encoding="utf-8")) == ([], [])


def test_an_audited_card_says_in_words_what_losses_tell_about_the_training_data(certificate, tmp_path):
    """Catches the twin's figure, a missing interval, a changed figure that passes, a line without a measurement."""
    audit = certificate.audit
    model = replace(audit.teacher, membership_auc=Interval(0.5312, 0.5203, 0.5421))
    twin = replace(audit.twin, membership_auc=Interval(0.6, 0.59, 0.61))
    measured = replace(certificate, audit=replace(audit, teacher=model, twin=twin))
    write_card(tmp_path, measured, repo_id="owner/model")
    line = "smaller loss on the training sample with probability 0.531 (95 % interval 0.520 to 0.542)"
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert line in card.partition("## What this does not protect against")[2]
    assert [*card_faults(tmp_path, measured, "owner/model")] == []
    changed = card.replace("probability 0.531", "probability 0.501")
    (tmp_path / "README.md").write_text(changed, encoding="utf-8")
    (fault,) = card_faults(tmp_path, measured, "owner/model")
    assert "changed by hand" in fault
    write_card(tmp_path, certificate, repo_id="owner/model")
    assert "training sample" not in card_of(tmp_path).text


@pytest.mark.parametrize(
    ("training", "said", "not_said"),
    [
        (HARDENED, "was hardened against", "not** hardened"),
        (replace(HARDENED, is_hardened=False), "is not finished", "was hardened against"),
        (replace(HARDENED, is_hardened=False, settings={"cmi_weight": 0.0}), "**not** hardened", "was hardened"),
        (KNOCKOFF, "This is a knockoff student", "hardened against"),
        (None, "not known whether it was hardened", "## How it was trained"),
    ],
)
def test_every_origin_has_its_words(certificate, tmp_path, training, said, not_said):
    """Catches a student, or half a hardening, advertised as a hardened model."""
    write_card(tmp_path, replace(certificate, training=training, audit=None))
    text = card_of(tmp_path).text
    assert said in text
    assert not_said not in text
    assert "**It was not audited**" in text
    assert "cmim-audited" not in card_of(tmp_path).data.tags


def test_a_measured_card_shows_its_figures(certificate, tmp_path):
    """Catches figures of nothing, and a table beside the audit's better one."""
    measured = evaluation()
    write_card(tmp_path, replace(certificate, training=HARDENED, evaluation=measured, audit=None))
    card = card_of(tmp_path)
    assert f"| accuracy | {100 * measured.measurement.accuracy:.2f} % |" in card.text
    assert "shapes: test, 60 samples" in card.text
    assert (tmp_path / "cmi_curve.png").is_file()
    assert card.data.eval_results[1].metric_value == pytest.approx(measured.measurement.cmi_at(4.0), abs=1e-6)
    write_card(tmp_path, replace(certificate, training=HARDENED, evaluation=measured))
    assert "## How accurate is it?" not in card_of(tmp_path).text


# What others wrote


def test_own_sections_and_metadata_stay(certificate, tmp_path):
    """Catches a user's words lost at the second writing, and our part written twice."""
    write_card(tmp_path, certificate)
    path = tmp_path / "README.md"
    text = path.read_text(encoding="utf-8")
    text = text.replace(BEGIN, f"# Before\n\nmine\n\n{BEGIN}") + "\n## After\n\nmine, too: {{ 7 * 7 }}\n"
    text = text.replace("tags:\n", "license: cc-by-4.0\nextra_field: 5\ntags:\n- my-tag\n", 1)
    path.write_text(text, encoding="utf-8")
    for _ in range(2):
        write_card(tmp_path, replace(certificate, training=HARDENED, audit=None))
    card = card_of(tmp_path)
    assert card.text.startswith("\n# Before\n\nmine") or card.text.startswith("# Before\n\nmine")
    assert card.text.rstrip().endswith("## After\n\nmine, too: {{ 7 * 7 }}")
    assert (card.text.count(BEGIN), card.text.count(END)) == (1, 1)
    data = card.data.to_dict()
    assert (data["license"], data["extra_field"]) == ("cc-by-4.0", 5)
    assert data["tags"][0] == "my-tag"
    assert "cmim-audited" not in data["tags"]
    assert "model-index" not in data, "results of an audit that is no longer there"


def test_results_of_others_stay_and_ours_are_replaced(certificate, tmp_path):
    """Catches a measurement by someone else that we delete, and ours twice."""
    theirs = {
        "name": "theirs",
        "results": [
            {"task": {"type": "image-classification"}, "dataset": {"type": "a/b", "name": "b"},
             "metrics": [{"type": "f1", "value": 0.5, "name": "F1"}]}
        ],
    }  # fmt: skip
    (tmp_path / "README.md").write_text(
        f"---\n{yaml.safe_dump({'model-index': [theirs]})}---\nmine\n", encoding="utf-8"
    )
    for _ in range(2):
        write_card(tmp_path, certificate)
    index = card_of(tmp_path).data.to_dict()["model-index"]
    metrics = [metric["type"] for entry in index for each in entry["results"] for metric in each["metrics"]]
    assert sorted(metrics) == ["accuracy", "cmi", "f1"]


@pytest.mark.parametrize("text", ["", "Only words of mine.\n", "---\n---\nmine\n"])
def test_a_card_without_metadata_gains_it(certificate, tmp_path, text):
    """Catches a README of the user's that is overwritten, or taken for metadata."""
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    write_card(tmp_path, certificate)
    card = card_of(tmp_path)
    assert card.data.library_name == "transformers"
    assert text.replace("-", "").strip() in card.text


def test_metadata_that_cannot_be_read_are_not_lost(certificate, tmp_path):
    """Catches a card rewritten without what it could not parse."""
    path = tmp_path / "README.md"
    path.write_text("---\ntags: [unclosed\n---\nmine\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no valid YAML .* a new card would lose your entries"):
        write_card(tmp_path, certificate)
    assert path.read_text(encoding="utf-8") == "---\ntags: [unclosed\n---\nmine\n"


# Names


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_the_card(tmp_path, name):
    """Catches markup, templates and tables that a class, a data set or an objective bring along."""
    others = ("one", "two")
    folder = save_model(tmp_path / "model", names=(name, *others), processor=False)
    audit = genuine_audit(folder)
    audit = replace(audit, title=name, teacher=replace(audit.teacher, name=name))
    hostile = replace(HARDENED, objective=name, settings={name: name, "cmi_weight": 1.0}, dataset=name)
    write_card(folder, certify(folder, training=hostile, audit=audit))
    card = card_of(folder)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert "<script" not in html
    assert 'href="there"' not in html
    rows = [line for line in card.text.splitlines() if line.startswith("| trainer |")]
    assert rows == ["| trainer | CMIMTrainer |"]
    assert (card.text.count(BEGIN), card.text.count(END)) == (1, 1)


def test_ten_thousand_labels(tmp_path):
    """Catches a card as long as the list of classes."""
    folder = save_model(tmp_path / "model", names=tuple(f"class {n}" for n in range(10_000)))
    certificate = certify(folder)
    assert len(certificate.class_names) == 10_000
    write_card(folder, certificate)
    text = card_of(folder).text
    assert "10,000 classes: class 0, class 1" in text
    assert len(text) < 10_000
