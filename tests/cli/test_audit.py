"""`hf-cmim audit` as it is typed: real students, small images, no network."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from forked import ended, start
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTImageProcessorPil

from hf_cmim.audit.audit import Audit
from hf_cmim.audit.preview import StudentCosts, preview_of
from hf_cmim.audit.state import MANIFEST_NAME, STUDENTS_NAME
from hf_cmim.cli.audit_setup import AuditSetup
from hf_cmim.cli.main import main
from hf_cmim.pages.html import audit_page
from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.pages.terminal import audit_table
from hf_cmim.report import AuditReport

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
QUICK = {
    "suite": "quick-v2", "looks": [2], "screening-seeds": 1, "null-families": 0, "diagnosed": 0,
    "training": {"max_steps": 4, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def config(teacher, data, student_config, tmp_path_factory) -> Path:
    """A file with everything but the folder that is written to."""
    path = tmp_path_factory.mktemp("config") / "audit.yaml"
    models = {"teacher": teacher, "student-config": student_config, "dataset": data}
    path.write_text(yaml.safe_dump(QUICK | {name: str(value) for name, value in models.items()}))
    return path


def run(*words) -> None:
    sys.exit(main(list(map(str, words))))


@pytest.fixture(scope="module")
def audited(config, teacher, tmp_path_factory) -> tuple[Path, str]:
    """A finished audit's folder, and what was printed."""
    folder = tmp_path_factory.mktemp("audited") / "audit"
    words = ["--twin", teacher, "--control", f"again={teacher}", "--max-transfer-samples", "200", "--rest-as-test"]
    said = folder.parent / "said.txt"
    assert ended(start(run, "audit", config, *words, "--output-dir", folder, output=said)) == [0], said.read_text()
    return folder, said.read_text()


def without_circumstances(report):
    values = json.loads(report.to_json())
    for name in ("date", "reproduction", "sittings"):
        del values[name]
    del values["costs"]["seconds"]
    return values


# A whole audit


@pytest.mark.slow
def test_audit_is_of_the_teacher_and_data_that_were_named(audited, teacher, data):
    """Answers in another order of classes, another processor, or rows that were not asked for.

    The teacher's accuracy is computed once more by plain transformers, in the order of its own classes.
    """
    report = AuditReport.read(audited[0])
    scope = report.scope
    assert (scope.num_transfer, scope.num_validation, scope.num_test, scope.num_classes) == (200, 30, 640 + 70, 3)
    assert scope.suite == "quick-v2"
    assert scope.student.startswith("ViTForImageClassification")
    assert scope.training["max_steps"] == 4
    train = Dataset.from_parquet(str(data / "train.parquet")).train_test_split(test_size=0.1, seed=0)["train"]
    rest, test = train.select(range(200, 270)), Dataset.from_parquet(str(data / "test.parquet"))
    model = AutoModelForImageClassification.from_pretrained(teacher)
    processor = AutoImageProcessor.from_pretrained(teacher)
    right = 0
    for rows in (rest, test):
        with torch.no_grad():
            named = model(**processor(list(rows["image"]), return_tensors="pt")).logits.argmax(dim=-1)
        labels = [rows.features["label"].int2str(label) for label in rows["label"]]
        right += sum(model.config.id2label[int(each)] == label for each, label in zip(named, labels, strict=True))
    assert right > 0.5 * 710  # else any order of classes would do
    assert report.teacher.accuracy == pytest.approx(right / 710)
    assert report.teacher.path == f"…/{teacher.name}"
    assert [control.name for control in report.controls] == ["CE twin", "again"]
    assert report.twin.fingerprint == report.teacher.fingerprint
    assert not any(check.name in ("test samples seen", "validation samples seen") for check in report.checks)


@pytest.mark.slow
def test_pages_and_table_are_the_reports(audited):
    """A page that is not written, or of another report, is missed after days."""
    folder, printed = audited
    report = AuditReport.read(folder)
    assert (folder / "audit.html").read_text() == audit_page(report)
    assert (folder / "audit.md").read_text() == audit_markdown(report)
    assert audit_table(report) in printed
    assert f"Written: {folder}/audit.json, {folder}/audit.html, {folder}/audit.md" in printed


@pytest.mark.slow
def test_same_command_trains_nothing_again_and_another_is_refused(audited, config, teacher, tmp_path, capsys):
    """Students or samples that come out otherwise the second time would begin a new audit, or mix two."""
    folder = shutil.copytree(audited[0], tmp_path / "audit")
    before = {path.name for path in (folder / STUDENTS_NAME).iterdir()}
    words = [str(config), "--twin", str(teacher), "--control", f"again={teacher}", "--output-dir", str(folder)]
    assert main(["audit", *words, "--max-transfer-samples", "200", "--rest-as-test"]) == 0
    assert {path.name for path in (folder / STUDENTS_NAME).iterdir()} == before
    again, first = AuditReport.read(folder), AuditReport.read(audited[0])
    assert again.sittings == first.sittings + 1
    assert without_circumstances(again) == without_circumstances(first)
    assert main(["audit", *words, "--max-transfer-samples", "199", "--rest-as-test"]) == 2
    assert "data, transfer set" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_find_the_same(audited, config, teacher, tmp_path):
    """Processes that each train everything, or print everything twice, or hang at the end.

    The second command has no launcher and no --processes, and must accept the students of two.
    """
    words = ["--twin", teacher, "--control", f"again={teacher}", "--max-transfer-samples", "200", "--rest-as-test"]
    words += ["--output-dir", tmp_path / "two"]
    for number, said in enumerate((tmp_path / "said.txt", tmp_path / "said-again.txt")):
        launch = [] if number else ["--processes", "2"]
        assert ended(start(run, "audit", config, *words, *launch, output=said)) == [0], said.read_text()
        assert said.read_text().count("Written: ") == 1
        first, second = AuditReport.read(audited[0]), AuditReport.read(tmp_path / "two")
        assert second.reproduction["processes"] == 2 - number
        assert without_circumstances(second) == without_circumstances(first)
    assert second.sittings == 2


@pytest.mark.slow
def test_students_start_from_a_checkpoint_with_a_view_of_its_own(config, teacher, data, tmp_path):
    """A student shown the teacher's pixels, or a teacher the student's: here they would be the better for it."""
    student = shutil.copytree(teacher, tmp_path / "student")
    ViTImageProcessorPil(
        size={"height": 12, "width": 12}, image_mean=[0.3, 0.3, 0.3], image_std=[-0.2] * 3
    ).save_pretrained(student)  # a negative of each image
    settings = yaml.safe_load(config.read_text()) | {"student": str(student), "student-config": None}
    settings["training"] |= {"learning_rate": 0.0, "warmup_steps": 0}
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(settings))
    assert main(["audit", str(tmp_path / "audit.yaml"), "--output-dir", str(tmp_path / "audit")]) == 0
    report = AuditReport.read(tmp_path / "audit")
    rows = Dataset.from_parquet(str(data / "test.parquet"))
    model = AutoModelForImageClassification.from_pretrained(student)
    processor = AutoImageProcessor.from_pretrained(student)
    with torch.no_grad():
        named = model(**processor(list(rows["image"]), return_tensors="pt")).logits.argmax(dim=-1)
    labels = torch.tensor([model.config.label2id[rows.features["label"].int2str(label)] for label in rows["label"]])
    expected = (named == labels).double().mean().item()
    assert abs(expected - report.teacher.accuracy) > 0.1
    for arm in report.arms:
        assert arm.accuracies == pytest.approx([expected] * len(arm.accuracies))
    assert any(check.name == "pretrained student" for check in report.checks)


# A dry run


def test_dry_run_says_what_would_be_done_and_keeps_nothing(config, tmp_path, capsys):
    """Whoever wants to know the price would have begun to pay it."""
    folder = tmp_path / "dry"
    assert main(["audit", str(config), "--output-dir", str(folder), "--looks", "3", "5", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "Samples: 270 to ask about, 30 to choose settings on, 640 to test on" in lines
    assert "Attacks: kd, dkd, logit-standardization, dist, markov-kd" in lines
    assert any(line.split()[:2] == ["5", "settings"] for line in lines)
    looks = [line.split() for line in lines if line.strip()[:2] in ("3 ", "5 ")][-2:]
    assert [row[:2] for row in looks] == [["3", str(3 * 5 + 9 * 3)], ["5", str(5 * 5 + 15 * 3)]]
    assert len(looks[0]) == 2 + 2 + 3  # hours with their unit, and the margin at three spreads
    assert not (folder / MANIFEST_NAME).exists()
    assert not (folder / STUDENTS_NAME).exists()


# Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing --teacher and --dataset"),
        (["--teacher", "t"], "Missing --dataset"),
        (["--teacher", "t", "--dataset", "d"], "Expected either --student"),
        (["--teacher", "t", "--dataset", "d", "--student", "a", "--student-config", "b"], "got 'a' and 'b'"),
        (["--teacher", "t", "--dataset", "d", "--student", "a", "--control", "CE twin=t"], "is --twin"),
        (["--teacher", "t", "--dataset", "d", "--student", "a", "--control", "teacher=t"],
         "A control is named 'teacher'"),
        (["--teacher", "t", "--dataset", "d", "--student", "a", "--validation-split", "v", "--validation-share", ".1"],
         "Expected either --validation-split or --validation-share"),
        (["--teacher", "t", "--dataset", "d", "--student", "a", "--margin-points", "0.005"], "was a fraction meant"),
        (["--teacher", "t", "--dataset", "d", "--student", "a", "--set", "learning_rat=1"], "learning_rate"),
        (["--teacher", "no/t", "--dataset", "d", "--student", "a", "--set", "use_cpu=true"],
         "No classifier for --teacher"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together_are_refused(words, message, capsys):
    """Each would be found out late, or run another audit than was meant."""
    assert main(["audit", *words]) == 2
    assert message in (printed := capsys.readouterr().err)
    assert "Traceback" not in printed


def test_words_of_the_wrong_type_are_refused_by_their_flag(capsys):
    """A control without a name, or a look that is no number, would be guessed at."""
    for words, message in (
        (["--control", "path"], "expected NAME=VALUE, got 'path'"),
        (["--looks", "x"], "invalid int"),
    ):
        with pytest.raises(SystemExit):
            main(["audit", *words])
        assert message in capsys.readouterr().err


def refused(config, message, capsys, *words):
    assert main(["audit", str(config), *map(str, words)]) == 2
    assert message in capsys.readouterr().err


def test_margin_that_the_test_set_cannot_tell_is_refused_before_training(config, tmp_path, capsys):
    """The audit would train for days and then say that it could not decide."""
    words = ["--max-test-samples", "500", "--output-dir", tmp_path / "audit"]
    refused(config, "Expected --margin-points of at least 0.6 on 500 test samples", capsys, *words)
    assert not (tmp_path / "audit" / MANIFEST_NAME).exists()


def test_classifiers_that_see_other_samples_or_know_other_classes_are_refused(
    config, teacher, audit_options, tmp_path, capsys
):
    """One collator serves all teachers; classes by position would be paired by chance."""
    other = shutil.copytree(teacher, tmp_path / "other")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(other)
    refused(config, "--twin has another processor in", capsys, "--twin", other)
    refused(config, "--control b has another processor in", capsys, "--control", f"b={other}")
    renamed = shutil.copytree(teacher, tmp_path / "renamed")
    settings = json.loads((renamed / "config.json").read_text())
    settings |= {"id2label": {"0": "blue", "1": "red", "2": "cyan"}, "label2id": {"blue": 0, "red": 1, "cyan": 2}}
    (renamed / "config.json").write_text(json.dumps(settings))
    for flag in ("--teacher", "--twin"):
        options = audit_options(config, flag, renamed)
        with pytest.raises(ValueError, match="Only the teacher has 'cyan'"):  # before any sample is prepared
            AuditSetup.of(options)


def test_everything_is_opened_once_and_matched(config, teacher, audit_options):
    """Labels in the student's order, both views of one row, and the plan, as `Audit` is given them."""
    audit = AuditSetup.of(audit_options(config, "--margin-points", "1")).audit
    assert audit.plan.margin == 0.01
    assert audit.models.teacher.class_names == ("blue", "red", "green")
    assert audit.data.teacher_collator is None
    samples = [audit.data.transfer[0], audit.data.transfer[1]]
    batch = audit.data.collator(samples)
    assert batch["labels"].tolist() == [sample["labels"] for sample in samples]
    assert batch["pixel_values"].shape == (2, 3, 12, 12)
    brightest = torch.stack([sample["student"]["pixel_values"].mean(dim=(1, 2)) for sample in audit.data.transfer])
    labels = torch.tensor([sample["labels"] for sample in audit.data.transfer])
    assert (brightest.argmax(dim=1) == labels).double().mean() > 0.6  # red, green, blue: channels in the data's order


# A budget


def test_a_budget_chooses_a_plan_says_what_it_leaves_out_and_keeps_it(config, tmp_path, monkeypatch, capsys):
    """Catches a plan that changes with the speed of the machine when the audit goes on after a kill."""
    costs = StudentCosts(steps=4, batches=4, batch_size=64, seconds=36.0, asking_seconds=0.0, varies=False,
                         num_classes=3, teachers=1, sizes=(270, 30, 640), processes=1)  # fmt: skip
    measured = []

    def preview(self):
        measured.append(self)
        return preview_of(self.plan, costs)

    monkeypatch.setattr(Audit, "preview", preview)
    plans = []
    monkeypatch.setattr(Audit, "run", lambda self: plans.append(self.plan))
    words = ["audit", str(config), "--output-dir", str(tmp_path), "--looks", "3", "5", "8", "12", "--budget", "1h"]
    with pytest.raises(ValueError, match=r"audit\.json"):  # no report: nothing was run
        AuditReport.read(tmp_path)
    assert main(words) == 2, "the report that the audit did not write is missed"
    printed = capsys.readouterr().out
    assert re.search(r"Within 1h: \d attacks?, last look at \d seeds, .* at most", printed)
    assert "Left out: " in printed
    assert "Limit of the verdict: " in printed
    assert "The same plan as flags: --families " in printed
    assert preview_of(plans[0], costs).hours <= 1
    assert main(words) == 2
    assert plans[1] == plans[0]
    assert len(measured) == 1


def test_a_dry_run_suggests_budgets(config, tmp_path, monkeypatch, capsys):
    """Catches "400 h" as the last word to somebody who has an afternoon."""
    costs = StudentCosts(steps=4, batches=4, batch_size=64, seconds=600.0, asking_seconds=0.0, varies=False,
                         num_classes=3, teachers=1, sizes=(270, 30, 640), processes=1)  # fmt: skip
    monkeypatch.setattr(Audit, "preview", lambda self: preview_of(self.plan, costs))
    assert main(["audit", str(config), "--output-dir", str(tmp_path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "--budget 1h fits nothing. The smallest audit, one attack at 2 seeds, takes" in " ".join(printed.split())
    assert re.search(r"Too long\? --budget 8h: \d attacks?, last look at 2 seeds", printed)
    assert main(["audit", str(config), "--output-dir", str(tmp_path), "--dry-run", "--budget", "8h"]) == 0
    assert "Within 8h: " in (printed := capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= 100
    assert not (tmp_path / "budget.json").exists()


def test_progress_is_shown_unless_it_is_forbidden(teacher, data, student_config, audit_options):
    """Catches hours of silence: the log level that quiets transformers also quieted the audit's own bar."""
    words = ["--teacher", teacher, "--dataset", data, "--student-config", student_config, "--set", "use_cpu=true"]
    for more, is_quiet in (([], False), (["--quiet"], True), (["disable_tqdm=true"], True)):
        assert AuditSetup.of(audit_options(*words, *more)).audit.args.disable_tqdm is is_quiet
