"""What an audit keeps: whole or not at all, of this audit or refused, and written by one process at a time."""

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from planted import PlantedTeacher, Samples, Student
from trainers.killing import lives

from hf_cmim import DistillationConfig, whole_files
from hf_cmim.audit import audit, state
from hf_cmim.audit.engine.pooled import StudentResult
from hf_cmim.audit.inputs import AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.state import MANIFEST_NAME, AuditFolder
from hf_cmim.whole_files import write_whole

MANIFEST = {"plan, margin": 0.005, "student": "a" * 64}


def student(seed: int = 3, **changes: Any) -> StudentResult:
    values = {
        "name": "kd", "seed": seed, "predictions": np.array([2, 0, 1, 1], dtype=np.int32), "steps": 7,
        "queries": 44, "has_diverged": False, "seconds": 0.25,
    }  # fmt: skip
    return StudentResult(**(values | changes))


def same(first: StudentResult, second: StudentResult) -> bool:
    plain, other = ({**asdict(each), "predictions": each.predictions.tolist()} for each in (first, second))
    return plain == other and first.predictions.dtype == second.predictions.dtype == np.int32


# Students


def test_a_student_comes_back_as_it_was_and_under_its_own_name_alone(tmp_path):
    """Catches a field that is lost or rounded, and a name that leaves out arm, data or seed."""
    kept = student(has_diverged=True, seconds=1 / 3, predictions=np.zeros(0, dtype=np.int32))
    with AuditFolder(tmp_path / "new" / "folder", MANIFEST) as folder:
        folder.write("arm", "test", student())
        folder.write("arm", "test", kept := student(4, has_diverged=kept.has_diverged, seconds=kept.seconds))
        assert same(folder.read("arm", "test", 3), student())
        assert same(folder.read("arm", "test", 4), kept)
        others = [("other", "test", 3), ("arm", "validation", 3), ("arm", "test", 5)]
        assert [folder.has(*each) for each in [("arm", "test", 3), *others]] == [True, False, False, False]


def _die(original: Any, halved: Any = None) -> Any:
    """Return the function with a kill in it: before it does anything, or where `halved` finds a path, half-way."""

    def killed(*args: Any, **keywords: Any) -> None:
        if halved is not None:
            original(*args, **keywords)
            path = Path(halved(*args))
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    return killed


def _write_and_die(folder: Path, moment: str, kept: StudentResult) -> None:
    if moment == "inside the file":
        state.save_file = _die(state.save_file, lambda _, path: path)
    elif moment == "before it is on disk":
        state.os.fsync = _die(os.fsync)
    elif moment == "before it has its name":
        state.os.replace = _die(os.replace)
    AuditFolder(folder, MANIFEST).write("arm", "test", kept)


@pytest.mark.parametrize("had_one", [False, True])
@pytest.mark.parametrize("moment", ["inside the file", "before it is on disk", "before it has its name"])
def test_a_student_killed_while_written_is_not_there(moment, had_one, tmp_path):
    """Catches a file written in place, or renamed before it is whole: a reader would find half a student."""
    if had_one:
        with AuditFolder(tmp_path, MANIFEST) as folder:
            folder.write("arm", "test", student(steps=1))
    assert lives(_write_and_die, tmp_path, moment, student(steps=2)) == -signal.SIGKILL
    with AuditFolder(tmp_path, MANIFEST) as folder:
        assert folder.has("arm", "test", 3) is had_one
        if had_one:
            assert same(folder.read("arm", "test", 3), student(steps=1))
        folder.write("arm", "test", student(steps=3))
        assert same(folder.read("arm", "test", 3), student(steps=3))


def _text_and_die(path: Path, moment: str) -> None:
    if moment == "inside the file":
        whole_files._write_new = _die(whole_files._write_new, lambda path, *_: path)
    else:
        state.os.replace = _die(os.replace)
    write_whole(path, "what comes after")


@pytest.mark.parametrize("moment", ["inside the file", "before it has its name"])
def test_a_text_killed_while_written_is_what_it_was_before(moment, tmp_path):
    """Catches a manifest or a report that a kill leaves cut: no audit could go on from it."""
    path = tmp_path / "text.json"
    write_whole(path, "what was there")
    assert lives(_text_and_die, path, moment) == -signal.SIGKILL
    assert path.read_text() == "what was there"
    write_whole(path, "what comes after")
    assert path.read_text() == "what comes after"


@pytest.mark.parametrize("content", [b"", b"no such file", None])
def test_a_damaged_student_says_so(content, tmp_path):
    """Catches a damaged file that ends the audit with a parser's words, or that counts as a student."""
    with AuditFolder(tmp_path, MANIFEST) as folder:
        folder.write("arm", "test", student())
        (path,) = (tmp_path / state.STUDENTS_NAME).iterdir()
        path.write_bytes(path.read_bytes()[:-3] if content is None else content)
        with pytest.raises(ValueError, match="is damaged.*Delete the file") as caught:
            folder.read("arm", "test", 3)
        assert str(path) in str(caught.value)
        path.unlink()
        assert not folder.has("arm", "test", 3)


def test_a_student_of_other_facts_is_damaged_too(tmp_path):
    """Catches a file without what makes it a student, which would be read as one."""
    with AuditFolder(tmp_path, MANIFEST) as folder:
        folder.write("arm", "test", student())
        (path,) = (tmp_path / state.STUDENTS_NAME).iterdir()
        state.save_file({"other": np.zeros(1)}, path)
        with pytest.raises(ValueError, match="is damaged"):
            folder.read("arm", "test", 3)


# One process at a time

HOLDER = """
import sys
from hf_cmim.audit.state import AuditFolder
with AuditFolder(sys.argv[1], {"plan, margin": 0.005}):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    """Catches a lock that only its own process sees, and one that outlives a killed process."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ValueError, match=r"Another audit is running in .*output_dir") as caught:
            AuditFolder(tmp_path, {"plan, margin": 0.005})
        assert str(tmp_path) in str(caught.value)
        other.kill()
    AuditFolder(tmp_path, {"plan, margin": 0.005}).close()


def test_the_other_processes_of_a_launch_follow(tmp_path):
    """Catches a lock that refuses the launch's own processes, or one of them that lets it go."""
    with AuditFolder(tmp_path, MANIFEST) as folder:
        with AuditFolder(tmp_path, {"anything": 1}, is_main=False) as follower:
            follower.write("arm", "test", student())
        assert same(folder.read("arm", "test", 3), student())
        with pytest.raises(ValueError, match="Another audit is running in"):
            AuditFolder(tmp_path, MANIFEST)


# The same audit


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"plan, margin": 0.01, "student": "a" * 64}, "plan, margin: 0.005 there, 0.01 now"),
        ({"plan, margin": 0.005}, f'student: "{"a" * 64}" there, null now'),
        ({**MANIFEST, "training, bf16": True}, "training, bf16: null there, true now"),
    ],
)
def test_another_manifest_is_refused_with_its_differences(now, named, tmp_path):
    """Catches a value that changed, went or came unnoticed, and a refusal that keeps the folder locked."""
    AuditFolder(tmp_path, MANIFEST).close()
    with pytest.raises(ValueError, match="belongs to another audit") as caught:
        AuditFolder(tmp_path, now)
    assert f"{named}. Its students" in str(caught.value)
    with AuditFolder(tmp_path, MANIFEST) as folder:
        assert not folder.has("arm", "test", 3)


class Stop(Exception):
    """Everything was examined, and the first student would be trained."""


def stop(*_: Any, **__: Any) -> None:
    raise Stop


def start(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Start an audit of the planted task, and stop it before its first student."""
    monkeypatch.setattr(audit, "TeacherAudit", stop)
    usual = {"transfer": (64, 1), "validation": (32, 2), "test": (32, 3)}
    sets = [changes.pop(name, sizes) for name, sizes in usual.items()]
    data = AuditData(*(Samples(*each) if isinstance(each, tuple) else each for each in sets))
    teachers = {"twin": changes.pop("twin", None), **changes.pop("controls", {})}
    twin, *controls = (None if share is None else PlantedTeacher(share) for share in teachers.values())
    teacher, width = PlantedTeacher(changes.pop("share", 0.25)), changes.pop("width", 24)
    planned = {name: changes.pop(name) for name in list(changes) if name in AuditPlan.__dataclass_fields__}
    plan = AuditPlan(**({"suite": "quick-v2", "looks": (2,)} | planned))
    args = DistillationConfig(**tiny.settings(folder, **changes))
    named_controls = dict(zip(list(teachers)[1:], controls, strict=True))
    started = audit.Audit(AuditModels(teacher, lambda: Student(width), twin, named_controls), data, args, plan)
    with pytest.raises(Stop):
        started.run()


CHANGES: dict[str, dict[str, Any]] = {
    "plan, margin": {"margin": 0.02},
    "plan, criterion": {"criterion": "paper"},
    "plan, suite": {"suite": "standard-v2"},
    "plan, screening_seeds": {"screening_seeds": 3},
    "training, learning_rate": {"learning_rate": 0.2},
    "training, num_train_epochs": {"num_train_epochs": 2},
    "training, per_device_train_batch_size": {"per_device_train_batch_size": 16},
    "training, lr_scheduler_type": {"lr_scheduler_type": "linear"},
    "training, bf16": {"bf16": True},
    "student": {"width": 8},
    "teacher": {"share": 0.5},
    "control, CE twin": {"twin": 0.5},
    "control, argmax": {"controls": {"argmax": 0.5}},
    "data, transfer set": {"transfer": (64, 7)},
    "data, validation set": {"validation": (32, 8)},
    "data, test set": {"test": (32, 9)},
}


def test_every_kind_of_change_is_named(tmp_path, monkeypatch):
    """Catches settings, weights or data that determine a student and may change under its name."""
    start(tmp_path, monkeypatch, twin=1.0, controls={"argmax": 0.9})
    for named, change in CHANGES.items():
        with pytest.raises(ValueError, match="belongs to another audit") as caught:
            start(tmp_path, monkeypatch, **({"twin": 1.0, "controls": {"argmax": 0.9}} | change))
        differences = str(caught.value).split("belongs to another audit: ")[1]
        assert differences.startswith(f"{named}: "), change
        assert differences.count(" there, ") == 1, (change, differences)


def test_a_manifest_that_was_cut_is_named(tmp_path, monkeypatch):
    """Catches a parser's words for a file that was cut, and an audit that begins anew over its students."""
    start(tmp_path, monkeypatch)
    path = tmp_path / MANIFEST_NAME
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"Expected the audit's .*manifest.json as JSON, got a text that is no JSON"):
        start(tmp_path, monkeypatch)


def test_a_label_and_a_feature_count_as_other_data(tmp_path, monkeypatch):
    """Catches fingerprints of the inputs alone, or of the labels alone, or of some samples."""
    samples = {name: Samples(64, 1) for name in ("same", "label", "feature")}
    samples["label"].labels[-1] = (samples["label"].labels[-1] + 1) % 6
    samples["feature"].features[-1, -1] += 1e-6
    start(tmp_path, monkeypatch, transfer=samples["same"])
    start(tmp_path, monkeypatch, transfer=Samples(64, 1))
    for name in ("label", "feature"):
        with pytest.raises(ValueError, match="belongs to another audit: data, transfer set"):
            start(tmp_path, monkeypatch, transfer=samples[name])


def test_what_does_not_change_a_student_may_change(tmp_path, monkeypatch):
    """Catches an audit that cannot be continued with more looks, other waves, or on another machine."""
    start(tmp_path, monkeypatch)
    changes: list[dict[str, Any]] = [
        {"looks": (2, 3)}, {"wave_size": 2}, {"dataloader_num_workers": 1}, {"per_device_eval_batch_size": 5},
        {"seed": 4},
    ]  # fmt: skip
    for change in changes:
        start(tmp_path, monkeypatch, **change)


def test_controls_may_come_and_go_but_not_change(tmp_path, monkeypatch):
    """Catches a control that nobody can add later, or one that is forgotten when it stays away once."""
    for change in ({}, {"twin": 0.9}, {"controls": {"argmax": 0.5}}, {"twin": 0.9, "controls": {"argmax": 0.5}}, {}):
        start(tmp_path, monkeypatch, **change)
    for named, change in (("CE twin", {"twin": 0.8}), ("argmax", {"controls": {"argmax": 0.6}})):
        with pytest.raises(ValueError, match=f"belongs to another audit: control, {named}: "):
            start(tmp_path, monkeypatch, **change)


# Sittings


def test_sittings_are_counted(tmp_path):
    """Catches a sitting that replaces the earlier ones, or that is told of before it is on disk."""
    for number in range(1, 4):
        with AuditFolder(tmp_path, MANIFEST) as folder:
            sittings = folder.begin_sitting({"number": number, "versions": {"torch": "2"}})
        assert sittings == [{"number": each, "versions": {"torch": "2"}} for each in range(1, number + 1)]
