"""Passes replayed as graphs: the same students, and eager passes where a graph would not do.

On a CPU `recorded_graphs` stands in for CUDA's; the marked test runs the real ones.
"""

import logging
from typing import Any

import pytest
import recorded_graphs
import tiny
import torch
from torch import nn
from transformers import PreTrainedConfig

from hf_cmim import DistillationConfig
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.ctkd import CTKD
from hf_cmim.attacks.dot import DOT
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.mixup_queries import MixupQueries
from hf_cmim.attacks.suites import STANDARD_V2
from hf_cmim.attacks.teacher_free import CrossEntropy
from hf_cmim.audit.arms import with_numbers
from hf_cmim.audit.engine import graphs, pool
from hf_cmim.audit.engine.graphs import ReplayedForward
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.teachers.model import ModelTeacher

ATTACKS = {"ce": CrossEntropy(), "kd": KD(), "ctkd": CTKD(), "mixup": Composition(KD(), MixupQueries()),
           "dot": Composition(KD(), DOT())}  # fmt: skip


@pytest.fixture
def recorded(monkeypatch):
    """Let a CPU record; return of every attempt whether it came to something."""
    monkeypatch.setattr(pool, "has_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "waiting_refused", recorded_graphs.waiting_refused)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorded_graphs.make_graphed_callables)
    return attempts(monkeypatch)


def attempts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    found: list[bool] = []
    record = ReplayedForward.record

    def noted(self: ReplayedForward, *others: Any) -> bool:
        found.append(record(self, *others))
        return found[-1]

    monkeypatch.setattr(ReplayedForward, "record", noted)
    return found


class Normalised(nn.Module):
    """A student whose buffers change in training, and that draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PreTrainedConfig(num_labels=tiny.NUM_LABELS)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, tiny.NUM_LABELS)

    def forward(self, pixel_values: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.body(pixel_values))}


class Waiting(Normalised):
    """A student that looks at a number."""

    def forward(self, pixel_values: torch.Tensor, labels: Any = None) -> dict[str, torch.Tensor]:
        return super().forward(pixel_values * (2 if pixel_values.mean() > 0 else 1))


def vit() -> nn.Module:
    return tiny.vit(seed=torch.initial_seed() % 2**32)


def vit_with_dropout() -> nn.Module:
    return tiny.vit(seed=torch.initial_seed() % 2**32, dropout=0.1)


def trained(folder: Any, student: Any, attacks: dict[str, Any], samples: Any, **changes: Any) -> Any:
    """Train a wave of students; the last batch of an epoch is a smaller one."""
    settings = tiny.settings(folder, **({"per_device_train_batch_size": 8, "num_train_epochs": 2} | changes))
    stacked = settings.pop("stacked", True)
    teacher = ModelTeacher(tiny.vit(seed=50).eval())
    arms = [PooledArm(name, Composition.of(each), teacher) for name, each in attacks.items()]
    return StudentPool(student, DistillationConfig(**settings), samples, stacked=stacked).train(arms, seed=3)


@pytest.mark.parametrize(
    ("student", "changes", "count"),
    [
        (vit, {}, 2), (vit, {"bf16": True}, 2), (vit, {"stacked": False}, 3), (vit_with_dropout, {}, 3),
        (Normalised, {}, 3), (Normalised, {"bf16": True, "max_grad_norm": 0.5, "optim": "adamw_torch"}, 3),
    ],
)  # fmt: skip
def test_replayed_students_end_as_eager_ones(student, changes, count, recorded, tmp_path, monkeypatch):
    """Catches inputs of another batch, gradients added up twice, and buffers or random numbers used up by recording.

    All students of a stack are one recording; a mixture of queries and two gradients a step are never recorded.
    """
    samples = tiny.images(44)
    replayed = trained(tmp_path, student, ATTACKS, samples, **changes)
    assert (recorded.count(True), recorded.count(False)) == (count, 2)
    monkeypatch.setattr(pool, "has_graphs", lambda device: False)
    for first, second in zip(replayed, trained(tmp_path, student, ATTACKS, samples, **changes), strict=True):
        assert tiny.largest_difference(tiny.weights(first.model), tiny.weights(second.model)) == 0
    assert len(recorded) == count + 2


def test_a_callers_batch_is_left_alone(recorded):
    """Catches a batch that becomes the memory of the recording, where others are written."""
    layer, batch, other = nn.Linear(3, 2), torch.ones(4, 3), torch.zeros(4, 3)
    passes = ReplayedForward(lambda inputs: layer(inputs["values"]), list(layer.parameters()), [])
    assert passes.record({"values": batch}, None)
    torch.testing.assert_close(passes({"values": other}), layer(other), rtol=0, atol=0)
    assert batch.eq(1).all()


def test_micro_batches_are_not_replayed(recorded, tmp_path):
    """Catches a gradient whose memory the next micro-batch's pass writes to."""
    trained(tmp_path, vit, ATTACKS, tiny.images(44), gradient_accumulation_steps=2)
    assert not any(recorded)


def test_a_student_that_cannot_be_recorded_learns_eagerly(recorded, tmp_path, monkeypatch, caplog):
    """Catches an audit that fails where a graph does, and a reason that nobody is told."""
    monkeypatch.setattr(graphs.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger=graphs.logger.name):
        students = trained(tmp_path, Waiting, ATTACKS, tiny.images(24))
    assert not any(recorded)
    assert "they cannot be recorded (operation not permitted" in caplog.text
    assert "the attack changes the passes themselves" in caplog.text
    monkeypatch.setattr(pool, "has_graphs", lambda device: False)
    for first, second in zip(students, trained(tmp_path, Waiting, ATTACKS, tiny.images(24)), strict=True):
        assert tiny.largest_difference(tiny.weights(first.model), tiny.weights(second.model)) == 0


def test_a_graph_that_answers_for_another_batch_is_not_used(recorded, tmp_path, monkeypatch, caplog):
    """Catches a recording that is trusted unseen."""

    def stale(function: Any, samples: Any, **_: Any) -> Any:
        kept = [each.clone() for each in samples if not each.requires_grad]
        return lambda *given: function(*kept, *given[len(kept) :])

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", stale)
    monkeypatch.setattr(graphs.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger=graphs.logger.name):
        students = trained(tmp_path, vit, {"ce": CrossEntropy()}, tiny.images(24))
    assert "replayed they would differ" in caplog.text
    monkeypatch.setattr(pool, "has_graphs", lambda device: False)
    (eager,) = trained(tmp_path, vit, {"ce": CrossEntropy()}, tiny.images(24))
    assert tiny.largest_difference(tiny.weights(students[0].model), tiny.weights(eager.model)) == 0


def test_every_loss_of_the_suite_takes_replayed_logits(recorded, tmp_path, monkeypatch):
    """Catches an attack that keeps logits beyond its step, where the next pass writes."""
    samples, teacher = tiny.images(44), ModelTeacher(tiny.vit(seed=50).eval())
    batch = torch.stack([samples[position]["pixel_values"] for position in range(44)])
    labels = torch.tensor([samples[position]["labels"] for position in range(44)])
    answers = [(teacher({"pixel_values": batch}, labels), labels)]
    first = {entry.family: entry for entry in reversed(STANDARD_V2.entries)}
    attacks = {family: with_numbers(entry.attack, answers) for family, entry in first.items()}
    attacks = {family: attack for family, attack in attacks.items() if not attack.has_protocols}
    assert len(attacks) > 20
    replayed = trained(tmp_path, vit, attacks, samples, num_train_epochs=1)
    assert all(recorded)
    monkeypatch.setattr(pool, "has_graphs", lambda device: False)
    for first_student, second in zip(
        replayed, trained(tmp_path, vit, attacks, samples, num_train_epochs=1), strict=True
    ):
        assert tiny.largest_difference(tiny.weights(first_student.model), tiny.weights(second.model)) == 0


def test_a_recording_that_breaks_the_generator_says_how_to_go_on(recorded, tmp_path, monkeypatch):
    """Catches an audit that goes on until the first dropout, and then fails with torch's words."""

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    (student,) = trained(tmp_path, vit, {"ce": CrossEntropy()}, tiny.images(24))
    assert recorded == [False]
    assert student.num_steps == 6
    monkeypatch.setattr(torch.Tensor, "uniform_", fail)
    with pytest.raises(RuntimeError, match="Start again with HF_CMIM_CUDA_GRAPHS=0"):
        ReplayedForward(lambda inputs: inputs["values"], [torch.ones(2, requires_grad=True)], []).record(
            {"values": torch.ones(2, requires_grad=True)}, None
        )


def test_graphs_can_be_left_out(monkeypatch):
    """Catches a GPU whose graphs fail and nothing to be done about it."""
    gpu = torch.device("cuda")
    assert graphs.has_graphs(gpu)
    monkeypatch.setenv("HF_CMIM_CUDA_GRAPHS", "0")
    assert not graphs.has_graphs(gpu)
    assert not graphs.has_graphs(torch.device("cpu"))


@pytest.mark.gpu  # on CPU: the tests above
@pytest.mark.parametrize("student", [vit, vit_with_dropout, Normalised])
def test_students_replayed_on_a_gpu_end_as_eager_ones(student, tmp_path, monkeypatch):
    """Catches what only the real graphs do: memory that passes share, random numbers, kernels of another choice."""
    samples, changes = tiny.images(44), {"use_cpu": False}
    made = attempts(monkeypatch)
    replayed = trained(tmp_path, student, ATTACKS, samples, **changes)
    assert any(made)
    monkeypatch.setattr(pool, "has_graphs", lambda device: False)
    for first, second in zip(replayed, trained(tmp_path, student, ATTACKS, samples, **changes), strict=True):
        assert tiny.largest_difference(tiny.weights(first.model), tiny.weights(second.model)) < 1e-4
