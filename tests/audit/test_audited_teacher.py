"""The audited teacher: what it is worth, whether it answers the same twice, and who answers which student."""

import math
from pathlib import Path
from typing import Any

import pytest
import reference
import scipy.stats
import tiny
import torch
from planted import CLASSES, FEATURES, RandomTeacher, Samples, Student
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hf_cmim import DistillationConfig
from hf_cmim.attacks import KD, TTM, Composition, CrossEntropy, Knockoff, MixupQueries
from hf_cmim.audit.arms import Arm
from hf_cmim.audit.audited_teacher import ASKED_TWICE, AuditedTeacher, StoredAnswers, _losses
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.audit.examined_inputs import ExaminedInputs
from hf_cmim.audit.inputs import AuditData, AuditModels
from hf_cmim.channels import TopK
from hf_cmim.teachers.function import FunctionTeacher
from hf_cmim.teachers.table import TableTeacher

NAMES = [f"class {number}" for number in range(CLASSES)]
ORDER = [3, 0, 5, 1, 4, 2]
"""The student's classes in the order of the teacher's answers."""
WEIGHTS = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(5))
TRANSFER, VALIDATION, TEST = Samples(64, 1), Samples(30, 2), Samples(50, 3)
TEST.labels[7] = TEST.labels[20] = TRANSFER.labels[11] = -100


def truth(features: Tensor) -> Tensor:
    """What the teacher answers, in the student's order of classes."""
    return (features @ WEIGHTS).log_softmax(-1)


class Asked:
    """The teacher's function, which counts its calls; every second answer may be another."""

    def __init__(self, drift: float = 0.0) -> None:
        self.drift = drift
        self.samples = 0
        self.calls = 0

    def __call__(self, inputs: Any) -> Tensor:
        features = inputs["features"]
        self.calls += 1
        self.samples += len(features)
        probs = truth(features)[..., ORDER].exp()
        if self.calls % 2 == 0:
            probs = (1 - self.drift) * probs + self.drift / CLASSES
        return probs.log()


def teacher(asked: Any = None, **settings: Any) -> FunctionTeacher:
    return FunctionTeacher(asked or Asked(), class_names=[NAMES[each] for each in ORDER], version="1", **settings)


def student() -> nn.Module:
    model = Student()
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: number for number, name in enumerate(NAMES)}
    return model


def audited(folder: Path, who: Any, transfer: Any = TRANSFER, **changes: Any) -> AuditedTeacher:
    build, collator = changes.pop("build", student), changes.pop("data_collator", None)
    pool = StudentPool(build, DistillationConfig(**tiny.settings(folder, **changes)), transfer, collator)
    return AuditedTeacher(who, "the teacher", pool, AuditData(transfer, VALIDATION, TEST))


def labelled(samples: Samples) -> tuple[Tensor, Tensor]:
    """True answers and labels of the samples that count."""
    valid = samples.labels != -100
    return truth(samples.features)[valid], samples.labels[valid]


# What it is worth


def test_what_it_is_worth_on_the_test_data(tmp_path):
    """Catches figures of other data, of other classes, of samples that do not count, or under each other's name."""
    who = teacher()
    found = audited(tmp_path, who)
    log_probs, labels = labelled(TEST)
    assert torch.equal(found.test_predictions, log_probs.argmax(-1))
    facts, rows, numbers = found.facts(), log_probs.double().tolist(), labels.tolist()
    assert facts.accuracy == pytest.approx(reference.accuracy(rows, numbers))
    assert facts.top5_accuracy == pytest.approx(reference.accuracy(rows, numbers, top=5))
    assert facts.accuracy < facts.top5_accuracy < 1
    assert facts.nll == pytest.approx(reference.nll(rows, numbers), rel=1e-5)
    assert facts.ece == pytest.approx(reference.ece(rows, numbers), rel=1e-4)
    assert facts.aurc == pytest.approx(reference.aurc(rows, numbers), rel=1e-5)
    assert facts.within_total_ratio == pytest.approx(reference.within_total_ratio(rows, numbers), rel=1e-4)
    assert 1.0 in dict(facts.curve)
    for temperature, cmi in facts.curve[::6]:
        assert cmi == pytest.approx(reference.cmi(rows, numbers, temperature), rel=1e-3, abs=1e-7)
    calibration = found.measurement.calibration
    assert (facts.nll_calibrated, facts.ece_calibrated) == (calibration.nll_calibrated, calibration.ece_calibrated)
    assert (facts.name, facts.path, facts.fingerprint) == ("the teacher", "", who.fingerprint())
    valid, true = labelled(VALIDATION)
    assert found.validation_accuracy == pytest.approx((valid.argmax(-1) == true).double().mean().item())


def test_membership_is_told_from_the_losses_on_transfer_and_test_samples(tmp_path):
    """Catches losses of other labels, of samples that do not count, of swapped sets; and asking twice."""
    asked = Asked()
    found = audited(tmp_path, teacher(asked))
    auc = found.membership_of_transfer_set()
    losses = [
        -log_probs.gather(1, labels.unsqueeze(1)).squeeze(1).numpy()
        for log_probs, labels in (labelled(TRANSFER), labelled(TEST))
    ]
    statistic = scipy.stats.mannwhitneyu(losses[1], losses[0]).statistic
    assert auc.estimate == pytest.approx(statistic / (len(losses[0]) * len(losses[1])), abs=2e-3)  # ties in fp32
    assert auc.lower < auc.estimate < auc.upper
    asked.samples = 0
    assert len(found.answers) > 1
    assert found.facts().membership_auc is None  # nobody said that it was trained on the transfer set
    assert len(found.test_predictions) == len(labelled(TEST)[1])
    assert asked.samples == 0


def test_membership_of_tokens_is_that_of_whole_samples():
    """Catches tokens counted as samples, padding counted as a small loss, and samples without any label."""
    log_probs = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.1, 0.9], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]]).log()
    labels = torch.tensor([[0, 0], [-100, 1], [-100, -100]])
    assert _losses(log_probs, labels).tolist() == pytest.approx(
        [-(math.log(0.5) + math.log(0.25)) / 2, -math.log(0.8)]
    )


def test_its_answers_are_those_to_valid_samples_in_the_students_order(tmp_path):
    """Catches answers in the teacher's own order of classes, shuffled, or of samples that have no label."""
    log_probs, labels = (torch.cat(parts) for parts in zip(*audited(tmp_path, teacher()).answers, strict=True))
    expected, true = labelled(TRANSFER)
    assert torch.allclose(log_probs, expected, atol=1e-6)
    assert torch.equal(labels, true)


def test_a_model_is_named_by_its_path(tmp_path):
    """Catches a report that cannot be repeated, for it does not say whose model it is about."""
    model = tiny.vit(3).eval()
    model.save_pretrained(tmp_path / "saved")
    images = AuditData(tiny.images(16), tiny.images(8), tiny.images(8))
    pool = StudentPool(lambda: tiny.vit(1), DistillationConfig(**tiny.settings(tmp_path)), images.transfer)
    paths = [AuditedTeacher(who, "it", pool, images).path for who in (model, str(tmp_path / "saved"))]
    assert paths == ["", "…/saved"]


# Asking twice


def test_a_steady_teacher_is_steady(tmp_path):
    """Catches a steady teacher flagged, and more questions than the sample of batches that is meant."""
    asked = Asked()
    assert audited(tmp_path, teacher(asked), per_device_eval_batch_size=3).asked_twice == 0
    assert asked.samples == 2 * ASKED_TWICE * 3


def test_how_much_answers_change(tmp_path):
    """Catches a second look at kept answers, a mean for the largest, and a difference of logs for probabilities."""
    found = audited(tmp_path, teacher(Asked(drift=0.1)), per_device_eval_batch_size=16)
    probs = truth(TRANSFER.features).exp()
    assert found.asked_twice == pytest.approx(float(0.1 * (probs - 1 / CLASSES).abs().max()), rel=1e-4)


def test_a_random_teacher_is_found_out(tmp_path):
    """Catches a teacher that answers anew each time and passes for one that can be audited."""
    assert audited(tmp_path, RandomTeacher()).asked_twice > 0.1


@pytest.mark.parametrize("who", [None, TableTeacher(torch.zeros(64, CLASSES).log_softmax(-1), class_names=NAMES)],
                         ids=["nobody", "table"])  # fmt: skip
def test_who_cannot_be_asked_about_other_samples_is_refused(who, tmp_path):
    """Catches a table's row 0 taken for the answer to test sample 0."""
    with pytest.raises(ValueError, match="answers any sample live, not"):
        audited(tmp_path, who)


# Stored answers


def test_stored_answers_are_the_live_ones(tmp_path):
    """Catches answers stored in another order of samples or classes, or for valid samples alone: positions shift."""
    stored = audited(tmp_path, teacher()).stored
    assert stored is not None
    positions = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    answers = stored({"features": torch.zeros(64, FEATURES), "sample_index": positions})
    assert torch.allclose(answers, truth(TRANSFER.features[positions]), atol=1e-6)


def test_students_of_stored_answers_are_those_of_the_teacher(tmp_path):
    """Catches stored answers that reach another sample than the one that was asked about."""
    who = teacher()
    found = audited(tmp_path, who, num_train_epochs=2)
    arm = Arm("kd", "knockoff", Composition(KD()), "teacher")
    answering = found.answering(arm)
    assert answering is found.stored
    students = found.pool.train([PooledArm("stored", arm.attack, answering), PooledArm("live", arm.attack, who)], 3)
    assert tiny.largest_difference(*(tiny.weights(each.model) for each in students)) < 1e-5
    assert [each.queries.ledger.num_paid for each in students] == [64, 2 * 64]


class Noisy(Samples):
    """Other features at each look."""

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        sample = super().__getitem__(position)
        return sample | {"features": sample["features"] + 0.1 * torch.randn(FEATURES)}


def test_what_changes_is_not_stored(tmp_path):
    """Catches the answers to epoch 0's views given to those of every other epoch."""
    who = teacher()
    found = audited(tmp_path, who, Noisy(64, 1))
    assert found.stored is None
    assert found.answering(Arm("kd", "knockoff", Composition(KD()), "teacher")) is who


class Tagged(Samples):
    """Texts of 1 to 4 tokens, a label for each."""

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        sample = super().__getitem__(position)
        length = position % 4 + 1
        features = sample["features"] * torch.arange(1, length + 1).unsqueeze(-1)
        return {"features": features, "labels": sample["labels"].repeat(length)}


def padded(samples: list[Any]) -> dict[str, Tensor]:
    return {
        "features": pad_sequence([each["features"] for each in samples], batch_first=True),
        "labels": pad_sequence([each["labels"] for each in samples], batch_first=True, padding_value=-100),
    }


@pytest.mark.parametrize("size", [64, 3])
def test_answers_to_labelled_tokens_are_never_stored(size, tmp_path):
    """Catches answers to a text padded to one length given to the same text padded to another."""
    transfer = Tagged(64, 1)
    found = audited(tmp_path, teacher(), transfer, data_collator=padded, per_device_eval_batch_size=size)
    log_probs, labels = (torch.cat(parts) for parts in zip(*found.answers, strict=True))
    assert torch.equal(labels, torch.cat([sample["labels"] for sample in transfer]))
    assert torch.allclose(log_probs, truth(torch.cat([sample["features"] for sample in transfer])), atol=1e-5)
    assert found.stored is None


def test_stored_answers_hide_what_the_teacher_hides(tmp_path):
    """Catches attacks tried on made-up numbers because a table of answers cannot tell that some are hidden."""
    for channel, hides in ((None, False), (TopK(k=2), True)):
        stored = audited(tmp_path, teacher(channel=channel)).stored
        assert isinstance(stored, StoredAnswers)
        assert stored.hides_classes is hides


# Who answers


def softened(log_probs: Tensor, temperature: float) -> Tensor:
    return (log_probs / temperature).softmax(-1)


def test_who_answers_which_arm(tmp_path):
    """Catches a null that knows the teacher, a knockoff that does not, and a query answered from a table."""
    who = teacher()
    found = audited(tmp_path, who)
    arm = Arm("kd", "knockoff", Composition(KD(temperature=2.0)), "teacher")
    mixed = Arm("mixup", "knockoff", Composition(KD(), MixupQueries()), "teacher")
    assert found.answering(arm) is found.stored
    assert found.answering(mixed) is who
    assert found.answering(mixed.diagnostics(0.9)[0]).teacher is who
    assert found.answering(Arm("CE", "reference", Composition(CrossEntropy()), "nobody")) is None
    assert found.answering(Arm("self", "reference", Composition(KD()), "self")) is None


def test_the_label_null_says_the_label(tmp_path):
    """Catches a null at another temperature than its attack's, or one that names the teacher's label."""
    found = audited(tmp_path, teacher())
    labels = torch.tensor([1, 4, 0])
    for attack, temperature in ((KD(temperature=2.0), 2.0), (TTM(gamma=0.5), 2.0), (Knockoff(), 1.0)):
        null = Arm("kd", "knockoff", Composition(attack), "teacher").null(0.7)
        probs = softened(found.answering(null)({"features": TEST.features[:3]}, labels), temperature)
        expected = torch.full((3, CLASSES), 0.3 / (CLASSES - 1)).scatter(1, labels.unsqueeze(1), 0.7)
        assert torch.allclose(probs, expected, atol=1e-6)


def test_the_argmax_null_says_the_teachers_label(tmp_path):
    """Catches a null of the true label, of the teacher's own order of classes, or of another sample."""
    found = audited(tmp_path, teacher())
    argmax, _ = Arm("kd", "knockoff", Composition(KD(temperature=2.0)), "teacher").diagnostics(0.7)
    positions = torch.tensor([5, 60, 11, 0])
    inputs = {"features": TRANSFER.features[positions], "sample_index": positions}
    probs = softened(found.answering(argmax)(inputs, TRANSFER.labels[positions]), 2.0)
    named = truth(TRANSFER.features[positions]).argmax(-1)
    expected = torch.full((4, CLASSES), 0.3 / (CLASSES - 1)).scatter(1, named.unsqueeze(1), 0.7)
    assert torch.allclose(probs, expected, atol=1e-6)


def test_the_centroid_null_says_the_mean_of_the_class(tmp_path):
    """Catches means of probabilities, over samples without a label, or of classes in the teacher's order."""
    found = audited(tmp_path, teacher())
    _, centroid = Arm("kd", "knockoff", Composition(KD()), "teacher").diagnostics(0.7)
    log_probs, labels = labelled(TRANSFER)
    expected = torch.stack([log_probs[labels == each].double().mean(0) for each in range(CLASSES)]).log_softmax(-1)
    answers = found.answering(centroid)({"features": torch.zeros(CLASSES, FEATURES)}, torch.arange(CLASSES))
    assert torch.allclose(answers.double(), expected, atol=1e-5)
    again = found.answering(centroid)({"features": torch.ones(2, FEATURES)}, torch.tensor([4, 4]))
    assert torch.equal(again[0], again[1])


class OfItsOwnGenerator(Samples):
    """Features with noise from a generator that no seed outside reaches."""

    def __getitem__(self, position: int) -> Any:
        generator = self.__dict__.setdefault("generator", torch.Generator().manual_seed(0))
        sample = super().__getitem__(position)
        return sample | {"features": sample["features"] + torch.randn(FEATURES, generator=generator)}


def test_what_the_data_do_is_not_blamed_on_the_teacher(tmp_path):
    """Catches a teacher that is asked about two views of a sample, and said to change its answers."""
    assert audited(tmp_path, teacher(), OfItsOwnGenerator(16, 1)).asked_twice == 0


def test_data_that_no_seed_repeats_are_refused_before_anything_is_trained(tmp_path):
    """Catches hours of students that nobody can repeat."""
    found = audited(tmp_path, teacher())
    data = AuditData(TRANSFER, VALIDATION, OfItsOwnGenerator(16, 1))
    with pytest.raises(ValueError, match="The test set gives a sample differently each time it is read"):
        ExaminedInputs.examine(found.pool, data, AuditModels(teacher(), Student))
