"""The pool: the same students as one by one, and nothing that one student does reaches another."""

from typing import Any

import pytest
import tiny
import torch
from transformers import set_seed

from hf_cmim import DistillationConfig, Relative
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.ctkd import CTKD
from hf_cmim.attacks.dot import DOT
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.markov_kd import MarkovKD
from hf_cmim.attacks.mixup_queries import MixupQueries
from hf_cmim.attacks.skeptical import Skeptical
from hf_cmim.attacks.teacher_free import CrossEntropy, LabelSmoothing
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.audit.engine.probe import bytes_of_student
from hf_cmim.audit.engine.stack import StudentStack
from hf_cmim.channels import ClassAnswers
from hf_cmim.teachers import ChannelTeacher, FunctionTeacher
from hf_cmim.teachers.model import ModelTeacher
from hf_cmim.teachers.nulls import LabelOnlyTeacher
from hf_cmim.trainers.distillation.transfer_data import Repeatable

ATTACKS = {
    "ce": CrossEntropy(), "ls": LabelSmoothing(), "kd": KD(), "relative": KD(temperature=Relative(1.0)),
    "ctkd": CTKD(), "markov": Composition(KD(), MarkovKD()), "mixup": Composition(KD(), MixupQueries()),
    "skeptical": Composition(KD(), Skeptical()), "dot": Composition(KD(), DOT()), "null": KD(temperature=2.0),
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw, accumulation, clipping, warm-up": {
        "optim": "adamw_torch", "learning_rate": 3e-3, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.2, "weight_decay": 0.1, "num_train_epochs": 2,
    },
    "bf16, steps": {"bf16": True, "max_steps": 7, "dataloader_drop_last": True},
}  # fmt: skip


class Augmented(torch.utils.data.Dataset):
    """Noisy images: another view each time, from torch's global generator."""

    def __init__(self, samples: tiny.Dataset) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> dict[str, Any]:
        sample = self.samples[position]
        return sample | {"pixel_values": sample["pixel_values"] + 0.3 * torch.randn(1, 8, 8)}


def student() -> torch.nn.Module:
    """A student with dropout, initialised from the seed set before."""
    seed = torch.initial_seed()
    return tiny.vit(seed=seed % 2**32, dropout=0.1)


def teachers() -> dict[str, Any]:
    live = ModelTeacher(tiny.vit(seed=50).eval())
    null = LabelOnlyTeacher(tiny.NUM_LABELS, confidence=0.7, temperature=2.0)
    return {"ce": None, "ls": None, "null": null} | {
        name: live for name in ATTACKS if name not in ("ce", "ls", "null")
    }


def arms(names: list[str]) -> list[PooledArm]:
    answering = teachers()
    return [PooledArm(name, Composition.of(ATTACKS[name]), answering[name]) for name in names]


def pool(folder: Any, samples: Any, **changes: Any) -> StudentPool:
    return StudentPool(student, DistillationConfig(**tiny.settings(folder, **changes)), samples)


def alone(arm: PooledArm, samples: Any, folder: Any, seed: int, **changes: Any) -> dict[str, torch.Tensor]:
    set_seed(seed)
    trainer = tiny.distillation_trainer(
        student(), Repeatable(samples, seed), folder, arm.attack, arm.teacher, **(changes | {"seed": seed})
    )
    trainer.train()
    return tiny.weights(trainer.model)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_pooled_student_is_the_student_trained_alone(settings, tmp_path):
    """Catches a step of Trainer that is left out or in another order, and a random state that is shared."""
    samples, changes = Augmented(tiny.images(44)), SETTINGS[settings]
    names = [name for name in ATTACKS if not (name == "dot" and changes.get("bf16"))]
    together = pool(tmp_path, samples, **changes).train(arms(names), seed=3)
    for arm, pooled in zip(arms(names), together, strict=True):
        expected = alone(arm, samples, tmp_path, 3, **changes)
        assert tiny.largest_difference(expected, tiny.weights(pooled.model)) == 0, arm.name


@pytest.mark.parametrize("stacked", [False, True])
def test_pooled_students_behind_class_answers_are_those_of_the_labels(stacked, tmp_path):
    """Catches an answer that reaches a student around the channel, in lockstep or in a stack."""
    model = tiny.vit(seed=50).eval()
    channel = ClassAnswers(0.1 + 0.6 * torch.eye(tiny.NUM_LABELS))
    names = tuple(f"LABEL_{number}" for number in range(tiny.NUM_LABELS))

    def rows_of_labels(inputs: Any) -> torch.Tensor:
        with torch.no_grad():
            return channel.log_probs[model(**inputs).logits.argmax(-1)]

    behind, labelled = (
        StudentPool(lambda: tiny.vit(seed=torch.initial_seed()), args, tiny.images(44), stacked=stacked).train(
            [PooledArm(name, Composition.of(ATTACKS[name]), teacher) for name in ("kd", "skeptical")], seed=3
        )
        for args in [DistillationConfig(**tiny.settings(tmp_path))]
        for teacher in (
            ChannelTeacher(ModelTeacher(model), channel),
            FunctionTeacher(rows_of_labels, class_names=names),
        )
    )
    for first, second in zip(behind, labelled, strict=True):
        assert tiny.largest_difference(tiny.weights(first.model), tiny.weights(second.model)) == 0


STACKED = ["ce", "ls", "kd", "relative", "null", "mixup", "ctkd"]


@pytest.mark.parametrize("settings", ["sgd", "adamw, accumulation, clipping, warm-up", "bf16, steps"])
def test_a_stacked_student_is_the_student_trained_alone_up_to_rounding(settings, tmp_path, monkeypatch):
    """Catches gradients, clipping or schedules that mix students, and weights that never come back from the stack."""
    stacks: list[int] = []
    end = StudentStack.end
    monkeypatch.setattr(StudentStack, "end", lambda self: (stacks.append(len(self.students)), end(self)))
    samples, changes = Augmented(tiny.images(44)), SETTINGS[settings]
    args = DistillationConfig(**tiny.settings(tmp_path, **changes))
    stacked, lone = (
        StudentPool(lambda: tiny.vit(seed=torch.initial_seed()), args, samples, stacked=stacked)
        .train(arms(STACKED), seed=3)
        for stacked in (True, False)
    )  # fmt: skip
    assert stacks == [5], "mixup and CTKD learn alone, all others in one stack"
    tolerance = 5e-3 if changes.get("bf16") else 2e-5
    for name, first, second in zip(STACKED, stacked, lone, strict=True):
        assert tiny.largest_difference(tiny.weights(first.model), tiny.weights(second.model)) < tolerance, name
        assert first.num_steps == second.num_steps
        assert not first.has_diverged
    assert tiny.largest_difference(tiny.weights(stacked[0].model), tiny.weights(stacked[2].model)) > 5 * tolerance


def test_memory_of_a_student_is_measured(tmp_path):
    """Catches waves sized by weights alone: a batch twice as large keeps twice as much."""
    samples = tiny.images(32)
    small, large = (
        bytes_of_student(pool(tmp_path, samples, per_device_train_batch_size=size, per_device_eval_batch_size=32))
        for size in (8, 16)
    )
    model = tiny.vit()
    assert small[0] == large[0] == 4 * sum(value.numel() for value in model.state_dict().values())
    images_and_classes = 4 * 8 * (64 + tiny.NUM_LABELS)
    assert small[1] > images_and_classes
    assert large[1] == pytest.approx(2 * small[1], rel=0.2)
