"""Losses of stacked students: one call gives each student the gradient that it would get alone, bit for bit."""

from typing import Any

import pytest
import torch
from planted import CLASSES, Samples, Student
from torch import Tensor

from hf_cmim import DistillationConfig, Relative
from hf_cmim.attacks import DKD, KD, RKD, Averager, Composition, CrossEntropy, LabelSmoothing
from hf_cmim.attacks.protocols import Query
from hf_cmim.attacks.suites import OPT_IN, STANDARD_V2
from hf_cmim.audit.audited_teacher import StoredAnswers
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.audit.engine.stacked_losses import LossGroup, _loss_key, grouped_by_loss
from hf_cmim.audit.engine.student import PooledStudent

SIZE = 24
TEACHER = 3.0 * torch.randn(SIZE, CLASSES, generator=torch.Generator().manual_seed(7))
LABELS = torch.arange(SIZE) % CLASSES
STACKABLE = [entry.attack for entry in (*STANDARD_V2.entries, *OPT_IN) if not entry.attack.has_protocols]
GROUPED = {repr(attack): attack for attack in STACKABLE if _loss_key(attack)}

ROUNDING = ("WKD(", "MLKD(", "PKT(", "SKD(", "SP(")
"""Losses that round differently in larger calls, because of their matrix products."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> StudentPool:
    args = DistillationConfig(str(tmp_path_factory.mktemp("pool")), report_to="none", use_cpu=True)
    return StudentPool(Student, args, Samples(SIZE, 1), stacked=True)


def students(pool: StudentPool, attacks: list[Any]) -> list[PooledStudent]:
    """Students whose teachers differ: the answers of one are shifted against those of the next."""
    made = []
    for number, attack in enumerate(attacks):
        teacher = StoredAnswers(TEACHER.roll(number, dims=0).log_softmax(-1), hides_classes=False)
        student = pool.student(PooledArm(str(number), Composition.of(attack), teacher), number)
        if student.attack.needs_survey:
            student.attack.survey([(TEACHER.log_softmax(-1), LABELS)])
        made.append(student)
    return made


def gradients(groups: list[LossGroup], members: list[PooledStudent], num_items: int | None) -> dict[int, Tensor]:
    """Gradient by the logits of each student, by its place among the members; one label in five is -100."""
    labels = LABELS.clone()
    labels[::5] = -100
    index = torch.arange(SIZE)
    result = {}
    for group in groups:
        numbers = [members.index(student) for student in group.students]
        logits = torch.stack([_logits(number) for number in numbers]).requires_grad_()
        group.loss(logits, Query({}, {"features": index}, labels), index, num_items).backward()
        assert logits.grad is not None
        result |= dict(zip(numbers, logits.grad, strict=True))
    return result


def _logits(number: int) -> Tensor:
    return 4.0 * torch.randn(SIZE, CLASSES, generator=torch.Generator().manual_seed(100 + number))


@pytest.mark.parametrize("attack", GROUPED)
@pytest.mark.parametrize("num_items", [None, 37])
def test_a_students_gradient_has_the_same_bits_in_a_group_and_alone(attack, num_items, pool):
    """Catches a mean over the wrong number of samples, answers of another teacher, and bits that depend on company."""
    members = students(pool, [GROUPED[attack]] * 7)
    groups = grouped_by_loss(members, LABELS)
    expected = [4, 2, 1] if len(groups) == 3 else [1] * 7
    assert len(groups) == 3 or any(name in attack for name in ROUNDING)
    assert [len(group.students) for group in groups] == expected
    together = gradients(groups, members, num_items)
    alone = gradients([LossGroup([student]) for student in members], members, num_items)
    for number in range(7):
        assert torch.equal(together[number], alone[number])
    assert together[0].abs().sum() > 0


def test_most_of_a_suite_is_grouped():
    """Catches a key that is never shared, or never given: nothing would be grouped, and the test above be empty."""
    assert len(GROUPED) > 60
    assert any("DIST(" in name for name in GROUPED)
    assert not any("RKD(" in name or "Averager" in name for name in GROUPED)


def test_other_losses_get_calls_of_their_own(pool):
    """Catches a transform, a loss that is slower together or another setting in one group, and unlike surveys."""
    attacks = [KD(), RKD(), KD(), RKD(), KD(temperature=2.0), Composition(KD(), Averager()),
               Composition(KD(), Averager()), CrossEntropy(), CrossEntropy(), LabelSmoothing(), DKD()]  # fmt: skip
    members = students(pool, attacks)
    found = [[member.attack for member in group.students] for group in grouped_by_loss(members, LABELS)]
    assert sorted(len(group) for group in found) == [1, 1, 1, 1, 1, 1, 1, 2, 2]
    relative = students(pool, [KD(temperature=Relative(1.0))] * 2)
    assert len(grouped_by_loss(relative, LABELS)) == 1
    relative[1].attack.loss.teacher_scale.mul_(1.5)
    assert len(grouped_by_loss(relative, LABELS)) == 2
