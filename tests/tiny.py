"""Tiny models and data for tests that train: built from configs, without a download."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_cmim import CMIMConfig, CMIMTrainer, DistillationConfig, DistillationTrainer

NUM_LABELS = 4
Dataset = list[dict[str, Any]]


def vit(seed: int = 0, dropout: float = 0.0, **settings: Any) -> ViTForImageClassification:
    set_seed(seed)
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            patch_size=4, hidden_dropout_prob=dropout,
            **({"num_labels": NUM_LABELS, "image_size": 8, "num_channels": 1} | settings),
        )
    )  # fmt: skip


def _bert_config(**settings: Any) -> BertConfig:
    return BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        **({"num_labels": NUM_LABELS} | settings),
    )  # fmt: skip


def bert(seed: int = 0, **settings: Any) -> BertForSequenceClassification:
    set_seed(seed)
    return BertForSequenceClassification(_bert_config(**settings))


def token_bert(seed: int = 0, **settings: Any) -> BertForTokenClassification:
    set_seed(seed)
    return BertForTokenClassification(_bert_config(**settings))


def convnext(seed: int = 0) -> ConvNextForImageClassification:
    """A head whose forward takes no loss arguments."""
    set_seed(seed)
    return ConvNextForImageClassification(
        ConvNextConfig(num_channels=1, patch_size=4, hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, image_size=8,
                       num_labels=NUM_LABELS)
    )  # fmt: skip


def images(size: int = 64, seed: int = 0, num_classes: int = NUM_LABELS, signal: float = 1.0) -> Dataset:
    """Noisy class means, so that training has something to learn; less of it with a weaker signal."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, 1, 8, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, num_classes, (size,), generator=generator)
    pixels = signal * means[labels] + torch.randn(size, 1, 8, 8, generator=generator)
    return [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, labels, strict=True)]


def sentences(size: int = 64, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 50, (size, 10), generator=generator)
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": int(row[0] % NUM_LABELS)} for row in ids
    ]


def tagged_sentences(size: int = 64, seed: int = 0) -> Dataset:
    """Token labels, with a number of ignored ones that differs from sentence to sentence."""
    rows = sentences(size, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for row in rows:
        labels = row["input_ids"] % NUM_LABELS
        labels[: int(torch.randint(0, 10, (), generator=generator))] = -100
        row["labels"] = labels
    return rows


def settings(output_dir: Path | str, **changes: Any) -> dict[str, Any]:
    """Arguments shared by plain and hardening runs: CPU, SGD, no clipping, nothing written or printed."""
    return {
        "output_dir": str(output_dir), "use_cpu": True, "report_to": "none", "disable_tqdm": True, "seed": 0,
        "save_strategy": "no", "logging_steps": 1, "per_device_train_batch_size": 8, "num_train_epochs": 1,
        "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
    } | changes  # fmt: skip


def cmim_trainer(model: torch.nn.Module, data: Dataset, output_dir: Path | str, **changes: Any) -> CMIMTrainer:
    """A hardening trainer with its weight on from the first step, unless changed."""
    others = {name: changes.pop(name) for name in ("eval_dataset", "callbacks", "compute_metrics", "compute_loss_func",
                                                   "data_collator") if name in changes}  # fmt: skip
    schedule = {"cmi_warmup": 0.0, "cmi_ramp": 0.0}
    config = CMIMConfig(**settings(output_dir, **(schedule | changes)))
    return CMIMTrainer(model=model, args=config, train_dataset=data, **others)


def plain_trainer(model: torch.nn.Module, data: Dataset, output_dir: Path | str, **changes: Any) -> Trainer:
    return Trainer(model=model, args=TrainingArguments(**settings(output_dir, **changes)), train_dataset=data)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def distillation_trainer(
    student: torch.nn.Module, data: Any, output_dir: Path | str, attack: Any, teacher: Any = None, **changes: Any
) -> DistillationTrainer:
    """A trainer of a student, with any of Trainer's own arguments among the changes."""
    others = {name: changes.pop(name) for name in ("eval_dataset", "data_collator", "teacher_collator", "callbacks",
                                                   "optimizers", "compute_loss_func") if name in changes}  # fmt: skip
    config = DistillationConfig(**settings(output_dir, **changes))
    return DistillationTrainer(student, config, train_dataset=data, teacher=teacher, attack=attack, **others)
