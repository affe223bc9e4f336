"""A whole audit: killed, continued, spread over processes, refused."""

import random
import signal
import sys
from pathlib import Path

import pytest
from two_processes import on_two_processes

sys.path.insert(0, str(Path(__file__).parent))
import os
import threading

import planted
import tiny
import torch
from audit_job import SUITE, audit, without_circumstances
from trainers.killing import lives

from hf_cmim import Composition, DistillationConfig
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.mixup_queries import MixupQueries
from hf_cmim.attacks.perturbed_queries import PerturbedQueries
from hf_cmim.attacks.skeptical import Skeptical
from hf_cmim.attacks.suites import Suite, SuiteEntry
from hf_cmim.audit.audit import Audit
from hf_cmim.audit.inputs import TWIN, AuditData, AuditModels
from hf_cmim.audit.plan import AuditPlan
from hf_cmim.audit.state import STUDENTS_NAME, AuditFolder
from hf_cmim.report import AuditReport


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, AuditReport]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, audit(folder)


def students(folder: Path) -> dict[str, int]:
    """Finished students, with the moment each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / STUDENTS_NAME).glob("*.safetensors")}


def test_the_report_on_disk_is_the_report(uninterrupted):
    """Catches a field that JSON loses, and students that nobody asked for."""
    folder, report = uninterrupted
    assert AuditReport.read(folder) == report
    assert report.costs.students == len(students(folder))
    assert report.power is not None
    assert report.accounting


def test_the_same_audit_again_trains_nothing_and_says_the_same(uninterrupted):
    """Catches a finished student that is trained again, and a report that depends on when it was written."""
    folder, report = uninterrupted
    before = students(folder)
    again = audit(folder)
    assert students(folder) == before
    assert without_circumstances(again) == without_circumstances(report)
    assert again.sittings == AuditReport.read(folder).sittings > 1


def test_more_looks_continue_an_audit(uninterrupted, tmp_path):
    """Catches a continued audit that differs from one that was planned so, and one that starts anew."""
    audit(tmp_path, looks=(2,))
    first = students(tmp_path)
    continued = audit(tmp_path)
    assert first.items() <= students(tmp_path).items()
    assert without_circumstances(continued) == without_circumstances(uninterrupted[1])


def test_another_audit_in_the_folder_is_refused(uninterrupted):
    """Catches students of other data among these."""
    with pytest.raises(ValueError, match="data, transfer set"):
        audit(uninterrupted[0], seed_of_data=4)


def die_later(folder: Path, writes: int, seconds: float, inside: bool) -> None:
    """Audit until so many students were written, and die a moment later, or inside the write of the next."""
    write = AuditFolder.write
    left = writes

    def counted(self, *args):
        nonlocal left
        if left == 0 and inside:
            import hf_cmim.audit.state as state

            state.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # all is there but its name
        write(self, *args)
        left -= 1
        if left == 0 and not inside:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    AuditFolder.write = counted
    audit(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_again_and_again_the_verdicts_are_the_same(seed, uninterrupted, tmp_path):
    """Catches a result that depends on where an audit was interrupted, and a finished student trained twice."""
    moments = random.Random(seed)
    codes, before = [], {}
    while (not codes or codes[-1] != 0) and len(codes) < 12:
        codes.append(
            lives(die_later, tmp_path, moments.randint(1, 12), moments.uniform(0, 0.2), moments.random() < 0.5)
        )
        assert before.items() <= students(tmp_path).items()
        before = students(tmp_path)
    if codes[-1] != 0:
        assert lives(audit, tmp_path) == 0
    assert codes[0] == -signal.SIGKILL
    assert without_circumstances(AuditReport.read(tmp_path)) == without_circumstances(uninterrupted[1])


@pytest.mark.slow
def test_two_processes_give_the_same_report(uninterrupted, tmp_path):
    """Catches students that depend on the process, a process that waits for ever, and work that is done twice."""
    result = on_two_processes(Path(__file__).with_name("audit_job.py"), tmp_path, {})
    assert result["report"] == without_circumstances(uninterrupted[1])
    assert students(tmp_path).keys() == students(uninterrupted[0]).keys()


def test_texts_are_audited_without_what_needs_images(tmp_path):
    """Catches an audit of texts that stops at a mixture of token numbers, and one that hides what it left out."""
    suite = Suite("texts", (
        SuiteEntry("kd", Composition(KD())), SuiteEntry("function-matching", Composition(KD(), MixupQueries())),
        SuiteEntry("perturbed", Composition(KD(), PerturbedQueries())),
        SuiteEntry("skeptical", Composition(KD(), Skeptical())),
    ))  # fmt: skip
    args = DistillationConfig(**tiny.settings(tmp_path, per_device_train_batch_size=8))
    data = AuditData(tiny.sentences(16), tiny.sentences(16, seed=2), tiny.sentences(32, seed=3))
    plan = AuditPlan(suite=suite, screening_seeds=1, looks=(2,), reference_multiple=1, null_families=0, diagnosed=0)
    models = AuditModels(tiny.bert(5).eval(), lambda: tiny.bert(torch.initial_seed()))
    report = Audit(models, data, args, plan).run()
    (left_out,) = [check.sentence for check in report.checks if check.name == "attacks left out"]
    assert all(name in left_out for name in ("mixup", "function-matching", "perturbed"))
    assert {arm.family for arm in report.arms if arm.role == "knockoff"} == {"kd", "skeptical"}


def test_students_with_a_view_of_their_own(tmp_path):
    """Catches self-distillation that asks a student about the teacher's view."""

    def narrow(samples):
        return {"features": torch.stack([each["features"][:8] for each in samples]),
                "labels": torch.stack([each["labels"] for each in samples])}  # fmt: skip

    def whole(samples):
        return {"features": torch.stack([each["features"] for each in samples])}

    class Narrow(planted.Student):
        def forward(self, features, labels=None):
            return super().forward(torch.nn.functional.pad(features, (0, 8)))

    args = DistillationConfig(**tiny.settings(tmp_path, per_device_train_batch_size=20))
    sets = (planted.Samples(40, 1), planted.Samples(40, 3), planted.Samples(100, 2))
    data = AuditData(*sets, collator=narrow, teacher_collator=whole)
    plan = AuditPlan(suite=SUITE, screening_seeds=1, looks=(2,), reference_multiple=1, null_families=0, diagnosed=0)
    report = Audit(AuditModels(planted.PlantedTeacher(0.5), Narrow), data, args, plan).run()
    (left_out,) = [check.sentence for check in report.checks if check.name == "attacks left out"]
    assert "self-distillation" in left_out
    assert {arm.family for arm in report.arms if arm.role == "knockoff"} == {"kd", "ctkd"}


def test_a_control_cannot_take_the_place_of_the_twin(tmp_path):
    """Catches a control that silently replaces the teacher whose name it bears."""
    with pytest.raises(ValueError, match="Controls are named .*CE twin"):
        AuditModels(None, None, controls={TWIN: None})
