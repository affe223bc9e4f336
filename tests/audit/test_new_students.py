"""A student that is not new makes every arm of an audit alike."""

import copy
import itertools

import pytest
import tiny
from torch import nn

from hf_cmim import DistillationConfig
from hf_cmim.audit.audit import Audit
from hf_cmim.audit.engine.new_students import NewStudents
from hf_cmim.audit.inputs import AuditData, AuditModels
from hf_cmim.errors import HfCmimError

REFUSED = "Build the model inside build_student"


@pytest.mark.parametrize("start", [Audit.run, Audit.preview])
def test_one_and_the_same_student_is_refused_before_anything_is_trained(start, tmp_path):
    """Catches one model that all arms train in turn: each then has the accuracies of the last."""
    student = tiny.vit(1)
    args = DistillationConfig(**tiny.settings(tmp_path))
    data = AuditData(tiny.images(16, 1), tiny.images(16, 2), tiny.images(640, 3))
    with pytest.raises(HfCmimError, match=REFUSED):
        start(Audit(AuditModels(tiny.vit(5).eval(), lambda: student), data, args))
    assert not (tmp_path / "manifest.json").exists()


def test_students_in_turn_and_shared_bodies_are_refused():
    """Catches a check of two students in a row alone, and one that sees whole models alone."""
    turns = NewStudents(itertools.cycle([tiny.vit(1), tiny.vit(2)]).__next__)
    turns(), turns()
    with pytest.raises(HfCmimError, match=REFUSED):
        turns()
    body = nn.Linear(4, 4)
    shared = NewStudents(lambda: nn.Sequential(body, nn.Linear(4, 2)))
    first = shared()
    with pytest.raises(HfCmimError, match=r"shares 2 of its 4 trained weight tensors"):
        shared()
    del first


def test_copies_and_frozen_bodies_are_new_students():
    """Catches a refusal of students that start alike, or share what no student trains."""
    model = tiny.vit(1)
    copies = NewStudents(lambda: copy.deepcopy(model))
    assert copies() is not copies()
    body = nn.Linear(4, 4).requires_grad_(False)
    frozen = NewStudents(lambda: nn.Sequential(body, nn.Linear(4, 2)))
    assert frozen() is not frozen()


def test_what_is_no_model_is_refused():
    """Catches a class given where a call was meant."""
    with pytest.raises(HfCmimError, match=r"returned type instead of a torch\.nn\.Module"):
        NewStudents(lambda: nn.Linear)()
