"""Teachers, students and samples of the audits of evidence/audits.py, on the tasks of evidence/study_tasks.py."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from study_tasks import STUDENT_VOCABULARY, Part, Task
from torch import Tensor, nn
from transformers import PretrainedConfig, Trainer, set_seed

from hf_cmim import CMIMConfig, CMIMTrainer, DefenseConfig, DefenseTrainer, HfCmimError, harden_within
from hf_cmim.defenses import AbstractDefense, MaximizedCMI, NastyTeacher, SquaredError

OBJECTIVES: dict[str, dict[str, Any]] = {
    "default": {},
    "CE": {"cmi_weight": 0.0},
    "LS": {"cmi_weight": 0.0, "label_smoothing_factor": 0.1},
    "variance ratio": {"temperatures": [64.0]},
}
"""Settings of `CMIMConfig` of each teacher."""
DEFENSES: dict[str, AbstractDefense] = {
    "nasty": NastyTeacher(), "squared error": SquaredError(), "maximised CMI": MaximizedCMI(),
}  # fmt: skip


BUDGETS = {"budget of half a point": 0.005, "budget of 1 point": 0.01, "budget of 2 points": 0.02}
"""Accuracy that a model may lose on validation samples, a fraction."""


class Classifier(nn.Module):
    """A network of the study as a model of `transformers.Trainer`."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_labels=task.num_classes)
        self.network = task.build()

    def forward(self, inputs: Tensor, labels: Any = None) -> dict[str, Tensor]:
        """Return logits."""
        return {"logits": self.network(inputs)}


class Student(nn.Module):
    """A perceptron of 48 hidden units on numbers, a mean of 12-dimensional embeddings and a linear layer on words."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_labels=task.num_classes)
        self.is_text = task.train.features.dtype == torch.long
        if self.is_text:
            self.body: nn.Module = nn.Embedding(STUDENT_VOCABULARY, 12)
            nn.init.normal_(self.body.weight, std=0.1)
        else:
            self.body = nn.Linear(task.train.features.shape[1], 48)
        self.head = nn.Linear(12 if self.is_text else 48, task.num_classes)

    def forward(self, features: Tensor, labels: Any = None) -> dict[str, Tensor]:
        """Return logits."""
        if not self.is_text:
            return {"logits": self.head(self.body(features).relu())}
        mask = (features > 0).unsqueeze(-1).to(self.head.weight.dtype)
        return {"logits": self.head((self.body(features) * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1))}


def rows(part: Part) -> list[dict[str, Any]]:
    """Return the samples of a part as Trainer reads them."""
    columns = zip(part.inputs, part.features, part.labels.tolist(), strict=True)
    return [{"inputs": inputs, "features": features, "labels": label} for inputs, features, label in columns]


def unseen(part: Part, *seen: Part) -> Part:
    """Return the samples whose features no other part has: a student cannot tell such texts apart."""
    known = {tuple(features.tolist()) for other in seen for features in other.features}
    return part[torch.tensor([tuple(features.tolist()) not in known for features in part.features])]


class View:
    """A collator of views of the samples: the teacher reads `inputs`, the student `features`."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return a batch."""
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in self.names}
        if "labels" in samples[0]:
            batch["labels"] = torch.tensor([sample["labels"] for sample in samples])
        return batch


def own_and_test(task: Task) -> tuple[Part, Part, Part, Part]:
    """Return both attackers' samples, validation samples and test samples, without those that a student knows."""
    transfer, own = task.train[slice(0, task.transfer)], task.own
    validation = unseen(task.validation, transfer, own)
    return transfer, own, validation, unseen(task.test, transfer, own, validation)


def training_settings(task: Task, seed: int, folder: Path) -> dict[str, Any]:
    """Return the settings that all trainings of teachers share."""
    return {
        "output_dir": str(folder), "seed": seed, "num_train_epochs": task.epochs,
        "learning_rate": task.learning_rate, "per_device_train_batch_size": task.batch_size, "warmup_steps": 0.1,
        "weight_decay": 0.01, "save_strategy": "no", "remove_unused_columns": False, "logging_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip


def trainer_of(task: Task, name: str, model: Classifier, seed: int, folder: Path) -> Trainer:
    """Return the trainer of a teacher; maximised CMI fine-tunes, gently, a copy of the cross-entropy model."""
    kept = training_settings(task, seed, folder / "training")
    data = {"data_collator": View("inputs"), "train_dataset": rows(task.train)}
    if name in OBJECTIVES:
        return CMIMTrainer(model, CMIMConfig(**kept, **OBJECTIVES[name]), **data)
    rival = DEFENSES[name]
    twin = teacher(task, "CE", seed, folder)
    if rival.needs_class_means:
        model.load_state_dict(twin.state_dict())
        kept |= {"learning_rate": task.learning_rate / 10, "num_train_epochs": task.epochs / 4}
    reference = twin if rival.needs_reference else None
    return DefenseTrainer(model, DefenseConfig(**kept), defense=rival, reference=reference, **data)


def teacher(task: Task, name: str, seed: int, folder: Path) -> Classifier:
    """Return a teacher, trained unless it is in its folder."""
    set_seed(seed)
    model = Classifier(task)
    path = folder / name.replace(" ", "-")
    if not (path / "model.safetensors").is_file():
        trainer = trainer_of(task, name, model, seed, folder)
        trainer.train()
        trainer.save_model(str(path))
    model.load_state_dict(load_file(path / "model.safetensors"))
    return model.eval()


def teacher_within(task: Task, budget: float, seed: int, folder: Path) -> Classifier:
    """Return the strongest model within an accuracy budget; the cross-entropy model if no hardened one is."""
    args = CMIMConfig(**training_settings(task, seed, folder / "search"), per_device_eval_batch_size=1_000)
    data = {"train_dataset": rows(task.train), "eval_dataset": rows(task.validation)}
    try:
        found = harden_within(
            lambda: Classifier(task), args, **data, accuracy_budget=budget, data_collator=View("inputs"), say=len
        )
    except HfCmimError:
        return teacher(task, "CE", seed, folder)
    model = Classifier(task)
    model.load_state_dict(load_file(Path(found.model) / "model.safetensors"))
    return model.eval()
