"""`hf-cmim audit --students`: the same audit for several students, each in its own folder."""

import json
from pathlib import Path

import pytest
import yaml

from hf_cmim.cli.main import main
from hf_cmim.cli.several_students import flags_of_students
from hf_cmim.errors import HfCmimError
from hf_cmim.report import AuditReport


def test_each_student_has_its_folder_and_its_kind_of_flag(audit_options):
    """Catches two audits in one folder, and a configuration that is loaded as a checkpoint."""
    words = ["--students", "small=a/small.json", "same=outputs/ce", "own=package.module:build"]
    students = flags_of_students(audit_options(*words, "--output-dir", "audits", "--looks", "3"))
    assert list(students) == ["small", "same", "own"]
    assert students["small"].student_config == "a/small.json"
    assert students["small"].student is None
    assert students["same"].student == "outputs/ce"
    assert students["own"].student == "package.module:build"
    assert [Path(each.output_dir) for each in students.values()] == [Path("audits") / name for name in students]
    assert all(each.looks == [3] for each in students.values())


def test_one_student_keeps_its_options(audit_options):
    options = audit_options("--student-config", "small.json")
    assert flags_of_students(options) == {"": options}


@pytest.mark.parametrize(("words", "message"), [
    (["--students", "a=a.json", "b=b.json", "--student", "c"], "either --students or --student, got both"),
    (["--students", "a=a.json", "a=b.json"], "Two students are named 'a'"),
    (["--students", "a=a.json"], "got 'a' alone"),
    (["--students", "a=a.json", "../b=b.json"], "a folder's name, got '../b'"),
    (["--students", "a=a.json", "..=b.json"], "a folder's name, got '..'"),
])  # fmt: skip
def test_students_that_cannot_be_told_apart_are_refused(audit_options, words, message):
    """Catches an audit that overwrites another, or that is written outside the folder."""
    with pytest.raises(HfCmimError, match=message):
        flags_of_students(audit_options(*words))


def test_a_mistake_in_the_last_student_comes_before_the_first_is_trained(teacher, data, student_config, tmp_path):
    """Catches hours of training before a missing file is noticed."""
    words = ["--teacher", teacher, "--dataset", data, "--output-dir", tmp_path / "audits"]
    words += ["--students", f"small={student_config}", f"other={tmp_path / 'missing.json'}", "--set", "use_cpu=true"]
    assert main(["audit", *map(str, words)]) == 2
    assert not (tmp_path / "audits").exists()


@pytest.mark.slow
def test_two_students_are_audited_and_compared(teacher, data, student_config, tmp_path, capsys):
    """Catches a second student that is the first one again, and a comparison of other audits."""
    wide = json.loads(Path(student_config).read_text()) | {"hidden_size": 32}
    (tmp_path / "wide.json").write_text(json.dumps(wide))
    settings = {
        "suite": "quick-v2", "looks": [2], "screening-seeds": 1, "null-families": 0, "diagnosed": 0,
        "families": ["kd"], "students": {"small": str(student_config), "wide": str(tmp_path / "wide.json")},
        "training": {"max_steps": 4, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False},
        "teacher": str(teacher), "dataset": str(data), "output-dir": str(tmp_path / "audits"),
    }  # fmt: skip
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(settings))
    assert main(["audit", str(tmp_path / "audit.yaml")]) == 0
    printed = capsys.readouterr().out
    assert printed.index("Student small") < printed.index("Student wide")
    students = [AuditReport.read(tmp_path / "audits" / name).scope.student for name in ("small", "wide")]
    assert students[0] != students[1]
    page = (tmp_path / "audits" / "comparison.html").read_text()
    assert "small" in page
    assert "wide" in page
