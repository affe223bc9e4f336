"""One question for many students, and never another student's answer."""

from typing import Any

import tiny
import torch
from planted import CLASSES, Samples, Student
from torch import Tensor

from hf_cmim import DistillationConfig, Relative
from hf_cmim.attacks import DKD, KD, Composition, CrossEntropy, MixupQueries, PerturbedQueries
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.audit.engine.shared_answers import SharedAnswers
from hf_cmim.teachers.base import AbstractTeacher

SIZE, BATCH = 28, 8
BATCHES = 4
"""3 of 8 samples and one of 4."""


class Recorder(AbstractTeacher):
    """Answers with a fixed function of the features, and remembers what it was asked.

    Args:
        wants: "labels" or "index" where it is such a teacher.
    """

    def __init__(self, wants: str = "") -> None:
        super().__init__(CLASSES, None)
        self.wants_labels, self.wants_index = wants == "labels", wants == "index"
        self.asked: list[Tensor] = []

    def _answer(self, inputs: Any, labels: Tensor | None) -> Tensor:
        self.asked.append(inputs["features"].clone())
        return inputs["features"][:, :CLASSES].log_softmax(-1)

    def _identity(self) -> str:
        return "recorder"


def question(seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"features": torch.randn(BATCH, 16, generator=generator)}, torch.arange(BATCH) % CLASSES


def test_the_same_question_is_asked_once():
    """Catches a teacher asked again for each student, where inputs come in another mapping."""
    shared, teacher = SharedAnswers(), Recorder()
    inputs, labels = question()
    answers = [shared.ask(teacher, dict(inputs), labels) for _ in range(5)]
    assert len(teacher.asked) == 1
    assert all(answer is answers[0] for answer in answers)
    assert torch.equal(answers[0], inputs["features"][:, :CLASSES].log_softmax(-1))
    assert shared.num_asked == BATCH


def test_another_question_is_never_answered_with_this_one():
    """Catches answers known by shape, by value at one moment, by labels, or by inputs alone; or another teacher's."""
    shared, teacher, other = SharedAnswers(), Recorder(), Recorder()
    inputs, labels = question()
    first = shared.ask(teacher, inputs, labels)
    mixed = {"features": inputs["features"] * 0.5}
    assert torch.equal(shared.ask(teacher, mixed, labels), mixed["features"][:, :CLASSES].log_softmax(-1))
    assert len(teacher.asked) == 2
    others = [({"features": inputs["features"].clone()}, labels), (inputs, labels.clone()), (inputs, None),
              (inputs | {"more": labels}, labels)]  # fmt: skip
    for number, each in enumerate(others):
        shared.ask(teacher, *each)
        assert len(teacher.asked) == 3 + number
    shared.ask(other, inputs, labels)
    assert len(other.asked) == 1
    assert shared.ask(teacher, inputs, labels) is first
    assert shared.num_asked == BATCH * 7


def test_forgotten_questions_are_asked_anew():
    """Catches answers kept beyond their batch: memory grows, and a random teacher would look steady."""
    shared, teacher = SharedAnswers(), Recorder()
    inputs, labels = question()
    shared.ask(teacher, inputs, labels)
    shared.forget()
    shared.ask(teacher, inputs, labels)
    assert len(teacher.asked) == 2
    assert shared.num_asked == 2 * BATCH


def test_nulls_and_stored_answers_are_nobody_who_was_asked():
    """Catches costs of what no attacker sends anywhere."""
    shared = SharedAnswers()
    inputs, labels = question()
    shared.ask(Recorder("labels"), inputs, labels)
    shared.ask(Recorder("index"), inputs | {"sample_index": labels}, labels)
    assert shared.num_asked == 0


# In the pool


def trained(folder: Any, attacks: list[Any], teacher: Any, **changes: Any) -> tuple[StudentPool, list[Any]]:
    collator, stacked = changes.pop("teacher_collator", None), changes.pop("stacked", False)
    args = DistillationConfig(**tiny.settings(folder, **changes))
    pool = StudentPool(Student, args, Samples(SIZE, 1), teacher_collator=collator, stacked=stacked)
    arms = [PooledArm(str(number), Composition.of(attack), teacher) for number, attack in enumerate(attacks)]
    return pool, pool.train([*arms, PooledArm("ce", Composition(CrossEntropy()), None)], seed=3)


def test_students_in_lockstep_ask_once_a_batch(tmp_path):
    """Catches a question for each student, a survey for each, and a micro-batch that is asked twice."""
    for count, changes in ((1, {}), (4, {}), (4, {"num_train_epochs": 2, "gradient_accumulation_steps": 2})):
        teacher = Recorder()
        attacks = [KD(), DKD(), KD(temperature=2.0), KD(temperature=Relative(1.0))][:count]
        pool, students = trained(tmp_path, attacks, teacher, **changes)
        passes = changes.get("num_train_epochs", 1) + (count == 4)  # one more for the survey
        assert len(teacher.asked) == BATCHES * passes
        assert pool.shared.num_asked == SIZE * passes
        paid = [student.queries.ledger.num_paid for student in students]
        assert paid == [SIZE * (passes - (count == 4))] * min(count, 3) + [SIZE * passes] * (count == 4) + [0]


def test_stacked_students_share_answers_that_are_stored_once(tmp_path):
    """Catches a live teacher asked in every epoch, and an attacker who pays less because the audit stores answers."""
    teacher = Recorder()
    attacks = [KD(), DKD(), KD(temperature=Relative(1.0))]
    pool, students = trained(tmp_path, attacks, teacher, stacked=True, num_train_epochs=3)
    first_batch = 8  # asked twice, to see whether answers change
    assert pool.shared.num_asked == sum(map(len, teacher.asked)) == SIZE + first_batch
    assert [student.queries.ledger.num_paid for student in students] == [3 * SIZE, 3 * SIZE, 4 * SIZE, 0]
    _, lockstep = trained(tmp_path, attacks, Recorder(), num_train_epochs=3)
    for stored, live in zip(students, lockstep, strict=True):
        assert tiny.largest_difference(tiny.weights(stored.model), tiny.weights(live.model)) < 2e-5


def test_a_null_does_not_load_the_transfer_set_to_store_its_answers(tmp_path):
    """Catches a pass over the whole transfer set for each of the many nulls of an audit."""
    for wants in ("labels", "index"):
        null = Recorder(wants)
        pool, _ = trained(tmp_path, [KD(), DKD()], null, stacked=True)
        assert [len(asked) for asked in null.asked] == [8, 8, 8, 4], "each training batch once"
        # Once the whole set is kept for another reason, its answers cost nothing and are stored.
        list(pool.batches.ordered(pool.transfer_set))
        stored = Recorder(wants)
        pool.train([PooledArm(str(number), Composition(KD()), stored) for number in range(2)], seed=4)
        assert sum(map(len, stored.asked)) == SIZE + 8, "the first batch twice, to see whether answers change"


class Undecided(Recorder):
    """Answers differently each time."""

    def _answer(self, inputs: Any, labels: Tensor | None) -> Tensor:
        shift = 0.1 * len(self.asked) * torch.arange(CLASSES)
        return (super()._answer(inputs, labels) + shift).log_softmax(-1)


def test_answers_that_change_are_asked_for_each_time(tmp_path):
    """Catches a random teacher that stored answers make look like a certain one."""
    teacher = Undecided()
    trained(tmp_path, [KD(), DKD()], teacher, stacked=True, num_train_epochs=2)
    assert len(teacher.asked) == 2 * BATCHES + 2, "two to find out"


def test_a_students_own_query_is_asked_live_beside_stored_answers(tmp_path):
    """Catches a mixture answered with the stored answer of the sample it was made from."""
    teacher = Recorder()
    trained(tmp_path, [KD(), Composition(KD(), MixupQueries())], teacher, stacked=True, num_train_epochs=2)
    plain = Samples(SIZE, 1).features
    own = [asked for asked in teacher.asked if not any((asked[0] == row).all() for row in plain)]
    assert len(own) == 2 * BATCHES


def test_a_view_of_the_teachers_own_is_shared_too(tmp_path):
    """Catches a view that is collated, moved or wrapped anew for each student."""
    teacher = Recorder()

    def seen_by_teacher(samples: list[Any]) -> dict[str, Tensor]:
        return {"features": torch.stack([sample["features"] for sample in samples]) + 1}

    trained(tmp_path, [KD(), DKD()], teacher, teacher_collator=seen_by_teacher)
    assert len(teacher.asked) == BATCHES
    features = Samples(SIZE, 1).features
    assert torch.equal(torch.cat(teacher.asked).sort(dim=0).values, (features + 1).sort(dim=0).values)


def test_a_students_own_query_is_its_own(tmp_path):
    """Catches a mixture answered with the plain sample's answer, or with another student's mixture."""
    mixing = [Composition(KD(), MixupQueries()), Composition(DKD(), MixupQueries(alpha=0.2)),
              Composition(KD(), PerturbedQueries(scale=0.5))]  # fmt: skip
    teacher = Recorder()
    _, together = trained(tmp_path, [KD(), *mixing, DKD()], teacher)
    assert len(teacher.asked) == BATCHES * (1 + len(mixing))
    assert len({tuple(each.flatten().tolist()) for each in teacher.asked}) == len(teacher.asked)
    for number, attack in enumerate(mixing, start=1):
        _, (alone, _) = trained(tmp_path, [attack], Recorder())
        assert tiny.largest_difference(tiny.weights(alone.model), tiny.weights(together[number].model)) == 0
