"""Defences of an audit: the twin's weights behind channels, each audited as one more teacher."""

import pytest
import torch
import yaml
from cli.conftest import read_audit_flags
from datasets import Dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_cmim.channels import Argmax, ClassAnswers, TopK
from hf_cmim.cli.audit_defences import defences_of
from hf_cmim.cli.audit_setup import AuditSetup
from hf_cmim.cli.main import main
from hf_cmim.report import AuditReport


@pytest.fixture(scope="module")
def quick(teacher, data, student_config):
    """A whole audit of a second."""
    return [
        "--teacher", str(teacher), "--dataset", str(data), "--student-config", str(student_config), "--suite",
        "quick-v2", "--families", "kd", "--looks", "2", "--screening-seeds", "1", "--final-seeds", "0",
        "--null-families", "0", "--diagnosed", "0", "--quiet", "--set", "max_steps=2", "use_cpu=true",
        "dataloader_pin_memory=false",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def twin(teacher, tmp_path_factory):
    """The teacher with other weights."""
    folder = tmp_path_factory.mktemp("twin")
    model = AutoModelForImageClassification.from_pretrained(teacher)
    with torch.no_grad():
        model.classifier.weight.mul_(0.5)
    model.save_pretrained(folder)
    AutoImageProcessor.from_pretrained(teacher).save_pretrained(folder)
    return folder


def test_a_defence_has_one_name_however_it_is_typed(audit_options, tmp_path):
    """Catches a continued audit that takes a defence for a new one because of a space or the order of settings."""
    typed = (
        ["argmax", 'top-k:{"renormalized":true,  "k":2}'],
        ["argmax", "top-k", '{"k": 2, "renormalized": true}'],
    )
    (tmp_path / "audit.yaml").write_text(
        yaml.safe_dump({"defence": {"argmax": {}, "top-k": {"k": 2, "renormalized": True}}})
    )
    given = [audit_options("--defence", *words).defence for words in typed]
    for words in (*given, audit_options(tmp_path / "audit.yaml").defence):
        assert defences_of(words, ()) == {
            "argmax": Argmax(), 'top-k:{"k": 2, "renormalized": true}': TopK(k=2, renormalized=True)
        }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--defence", "argmx"], "Unknown channel 'argmx'"),
        (["--defence", "argmx"], "Did you mean argmax"),
        (["--defence", "argmax:{]"], "The settings of --defence argmax: are no JSON objects"),
        (["--defence", 'rounded:{"digits": 1}'], "--defence rounded does not accept the settings {'digits': 1}"),
        (["--defence", "argmax", "--defence", "argmax:{}"], "--defence argmax is given twice"),
        (["--control", "argmax=t", "--defence", "argmax"], "--defence argmax has the name of a --control"),
    ],
)
def test_defences_are_refused_before_anything_is_opened(words, message, capsys):
    """Each would be noticed after the models and data are opened, or replace another teacher."""
    assert main(["audit", "--teacher", "no/t", "--dataset", "no/d", "--student", "no/s", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_defence_has_the_twins_weights(quick, teacher, twin, audit_options):
    """Catches defences of the hardened model, a second channel around --channel, and a fit to other weights."""
    words = [*quick, "--channel", "argmax", "--defence", "class-answers"]
    for more, path in ((["--twin", twin], twin), ([], teacher)):
        models = AuditSetup.of(audit_options(*words, *more)).audit
        (defended,) = models.models.controls.values()
        expected = AutoModelForImageClassification.from_pretrained(path)
        assert torch.equal(defended.model.classifier.weight, expected.classifier.weight)
        samples = [models.data.validation[row] for row in range(len(models.data.validation))]
        with torch.no_grad():
            pixels = torch.stack([sample["student"]["pixel_values"] for sample in samples])
            log_probs = expected.eval()(pixel_values=pixels).logits.log_softmax(-1)
        # The data number red, green, blue; the models blue, red, green.
        labels = torch.tensor([(sample["labels"] + 1) % 3 for sample in samples])
        assert torch.allclose(defended.channel.probs, ClassAnswers.fit(log_probs, labels).probs, atol=1e-5)


@pytest.fixture(scope="module")
def audited(quick, twin, tmp_path_factory):
    """The folder of a finished audit with two defences, and its words."""
    folder = tmp_path_factory.mktemp("defences") / "audit"
    words = [*quick, "--twin", str(twin), "--defence", "argmax", "class-answers", "--output-dir", str(folder)]
    AuditSetup.of(read_audit_flags(*words)).run()
    return folder, words


def test_figures_are_those_of_the_answers_that_a_user_gets(audited, twin, data):
    """Catches the figures of the undefended weights beside the leak of their defended answers.

    Accuracy and NLL are computed once more by plain transformers; argmax gives every other class 1e-12.
    """
    report = AuditReport.read(audited[0])
    controls = {control.name: control for control in report.controls}
    assert [*controls] == ["CE twin", "argmax", "class-answers"]
    rows = Dataset.from_parquet(str(data / "test.parquet"))
    model = AutoModelForImageClassification.from_pretrained(twin).eval()
    with torch.no_grad():
        inputs = AutoImageProcessor.from_pretrained(twin)(list(rows["image"]), return_tensors="pt")
        named = model(**inputs).logits.argmax(dim=-1)
    labels = torch.tensor([model.config.label2id[rows.features["label"].int2str(label)] for label in rows["label"]])
    accuracy = (named == labels).double().mean().item()
    facts = controls["argmax"].facts
    assert [control.facts.accuracy for control in controls.values()] == pytest.approx([accuracy] * 3)
    assert facts.nll == pytest.approx((1 - accuracy) * 12 * 2.302585, rel=1e-3)
    assert facts.ece == pytest.approx(1 - accuracy, rel=1e-3)
    assert controls["CE twin"].facts.nll < 1.2 < facts.nll
    assert facts.nll_calibrated < 1.2
    assert [control.facts.channel for control in controls.values()][:2] == ["", "Argmax()"]
    assert controls["class-answers"].facts.channel.startswith("ClassAnswers(3 classes, ")
    assert len({control.facts.fingerprint for control in controls.values()}) == 3


def test_a_fitted_defence_is_kept_for_a_service(audited):
    """Catches a defence that won the comparison and cannot be deployed."""
    report = AuditReport.read(audited[0])
    kept = ClassAnswers.load(audited[0] / "defences" / "class-answers.safetensors")
    assert repr(kept) == report.controls[-1].facts.channel


def test_every_teacher_has_its_leak_under_other_criteria_and_its_price(audited):
    """Catches a described criterion of the audited model only, and a price that is not the ledger's."""
    report = AuditReport.read(audited[0])
    paid = 2 * 64  # two steps
    for control in report.controls:
        assert [leak.criterion for leak in control.described] == ["paper"], "no nulls and no labels were trained"
        assert control.queries == report.costs.queries_paid == paid
    knockoffs = [arm for arm in report.arms if arm.role == "knockoff"]
    assert {arm.queries for arm in knockoffs} == {paid}
    assert {arm.queries for arm in report.arms if arm.role == "reference"} == {0}


def test_the_same_words_are_the_same_teachers(audited):
    """Catches a defence that is another teacher in each run, such as one that is fitted to other rows."""
    folder, words = audited
    report = AuditReport.read(folder)
    again = AuditSetup.of(read_audit_flags(*words)).audit.models.controls
    found = {control.name: control.facts.fingerprint for control in report.controls[1:]}
    assert {name: teacher.fingerprint() for name, teacher in again.items()} == found
