"""Compare what training objectives do to a classifier, over paired seeds on real data.

    python evidence/hardening.py digits --arms ce ls cmim variance --seeds 20 --split test
    python evidence/hardening.py fashion_mnist --data_dir ../shared/data/fashion_mnist --seeds 5 --split test

Arms of one seed share initialisation and data order. Every finished run is a line of the output file; a run found
there is not repeated. The table gives mean and standard deviation over seeds, and for accuracy the paired difference
to the first arm with its 95 % t interval. The last epoch counts; `--split validation` (part of the training data) is
for choosing settings, `--split test` for reporting.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from transformers import (
    DataCollatorWithPadding,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_cmim import CMIMConfig, CMIMTrainer

ARMS: dict[str, dict[str, Any]] = {
    "ce": {"cmi_weight": 0.0},
    "ls": {"cmi_weight": 0.0, "label_smoothing_factor": 0.1},
    "cmim": {},
    "t1": {"temperatures": [1.0]},
    # For large T, T^2 CMI_T is the within-class variance of the centred logits over 2 C, scaled or not.
    "variance": {"temperatures": [64.0], "cmi_form": "plain"},
    "variance_ratio": {"temperatures": [64.0]},
}
COLUMNS = ("accuracy", "nll", "ece", "nll_calibrated", "ece_calibrated", "aurc", "cmi_sup", "ncmi")
TRAIN_COLUMNS = ("cmi_T4", "within_total_ratio")


@dataclass
class Task:
    """A data set with the model and the schedule that suit it."""

    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    test: list[dict[str, Any]]
    build_model: Callable[[], torch.nn.Module]
    schedule: dict[str, Any]
    collator: Any = None


class ConvNet(PreTrainedModel):
    """Three 3x3 convolutions, a hidden layer and batch norm, 165,000 weights.

    Pooling comes before ReLU, with which it commutes, because that is faster.
    """

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig(num_labels=10))
        layers: list[torch.nn.Module] = []
        for inputs, outputs in ((1, 24), (24, 48), (48, 96)):
            layers += [
                torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                torch.nn.MaxPool2d(2),
                torch.nn.BatchNorm2d(outputs),
                torch.nn.ReLU(),
            ]
        self.features = torch.nn.Sequential(*layers)
        self.classifier = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Dropout(0.3), torch.nn.Linear(864, 128, bias=False),
            torch.nn.BatchNorm1d(128), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(128, 10),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the logits; the trainer computes the loss."""
        features = self.features(pixel_values.contiguous(memory_format=torch.channels_last))
        return {"logits": self.classifier(features)}


class DeepAveragingNet(PreTrainedModel):
    """Mean of token embeddings and a hidden layer, 1,068,000 weights (Iyyer et al., ACL 2015)."""

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig(num_labels=40))
        self.embedding = torch.nn.Embedding(8_000, 128)
        torch.nn.init.normal_(self.embedding.weight, std=0.1)
        self.classifier = torch.nn.Sequential(
            torch.nn.LayerNorm(128), torch.nn.Dropout(0.5), torch.nn.Linear(128, 256), torch.nn.ReLU(),
            torch.nn.Dropout(0.5), torch.nn.Linear(256, 40),
        )  # fmt: skip

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the logits; the trainer computes the loss."""
        mask = attention_mask.unsqueeze(-1).float()
        mean = (self.embedding(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
        return {"logits": self.classifier(mean)}


def _images(pixels: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    tensors = torch.as_tensor((pixels - 0.5) / 0.5, dtype=torch.float32).unsqueeze(1)
    return [{"pixel_values": image, "labels": int(label)} for image, label in zip(tensors, labels, strict=True)]


def digits(_: str) -> Task:
    """Scikit-learn digits, 1,078 / 269 / 450 images of 8x8, and a ViT of 136,000 weights."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, 8, 8) / 16
    rest, test_pixels, rest_labels, test_labels = train_test_split(
        pixels, labels, test_size=450, random_state=0, stratify=labels
    )
    train, validation, train_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=269, random_state=0, stratify=rest_labels
    )

    def build() -> torch.nn.Module:
        return ViTForImageClassification(
            ViTConfig(
                hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, image_size=8,
                patch_size=4, num_channels=1, num_labels=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )
        )  # fmt: skip

    schedule = {"num_train_epochs": 30, "learning_rate": 1e-3, "per_device_train_batch_size": 64}
    return Task(
        _images(train, train_labels), _images(validation, validation_labels), _images(test_pixels, test_labels),
        build, schedule,
    )  # fmt: skip


def fashion_mnist_samples(data_dir: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the 60,000 training images in the one order that every split is cut from, and the 10,000 test images."""
    from datasets import load_dataset

    data = load_dataset(data_dir).with_format("numpy")
    train, test = data["train"].shuffle(seed=0)[:], data["test"][:]
    return _images(train["image"] / 255, train["label"]), _images(test["image"] / 255, test["label"])


def fashion_mnist(data_dir: str) -> Task:
    """Fashion-MNIST, 20,000 / 10,000 / 10,000 images of 28x28, and a small convnet."""
    train, test = fashion_mnist_samples(data_dir)
    schedule = {
        "num_train_epochs": 8, "learning_rate": 3e-3, "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": 128,
    }  # fmt: skip
    return Task(train[:20_000], train[20_000:30_000], test, ConvNet, schedule)


def wordnet_samples(data_dir: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]], DataCollatorWithPadding]:
    """Return the 85,559 training and 9,508 test texts in their own order, and what pads them.

    The tokenizer knows the first 20,000 alone. Byte-level BPE, because training a WordPiece tokenizer is not
    deterministic: runs could not be compared.
    """
    from datasets import load_dataset
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    data = load_dataset(data_dir)
    raw = Tokenizer(models.BPE())
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.ByteLevel()
    every = {
        "special_tokens": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(),
    }
    known = data["train"].select(range(20_000))["text"]
    raw.train_from_iterator(known, trainers.BpeTrainer(vocab_size=8_000, show_progress=False, **every))
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )

    def texts(part: Any) -> list[dict[str, Any]]:
        encoded = tokenizer(list(part["text"]), truncation=True, max_length=32, return_token_type_ids=False)
        return [
            {"input_ids": ids, "labels": label} for ids, label in zip(encoded["input_ids"], part["label"], strict=True)
        ]

    return texts(data["train"]), texts(data["test"]), DataCollatorWithPadding(tokenizer)


def wordnet(data_dir: str) -> Task:
    """WordNet glosses, 20,000 / 10,000 / 9,508 texts of 40 classes, and a deep averaging network."""
    train, test, collator = wordnet_samples(data_dir)
    schedule = {"num_train_epochs": 12, "learning_rate": 3e-3, "per_device_train_batch_size": 128}
    return Task(train[:20_000], train[75_000:85_000], test, DeepAveragingNet, schedule, collator)


TASKS = {"digits": digits, "fashion_mnist": fashion_mnist, "wordnet": wordnet}


def arm_settings(arm: str) -> dict[str, Any]:
    """Return what `CMIMConfig` takes for an arm, NAME or NAME:{JSON}."""
    name, _, overrides = arm.partition(":")
    if name not in ARMS:
        raise SystemExit(f"Expected an arm of {', '.join(ARMS)}, got {name!r}: nobody says how it is trained.")
    return ARMS[name] | (json.loads(overrides) if overrides else {})


def run(task: Task, settings: dict[str, Any], seed: int, split: str) -> dict[str, float]:
    """Train one model and return its figures on the split and, prefixed `train_`, on the training data."""
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        config = CMIMConfig(
            output_dir=folder, seed=seed, warmup_steps=0.1, weight_decay=0.01, per_device_eval_batch_size=512,
            save_strategy="no", logging_strategy="no", disable_tqdm=True, report_to="none",
            use_cpu=not torch.cuda.is_available(), **(task.schedule | settings),
        )  # fmt: skip
        trainer = CMIMTrainer(task.build_model(), config, task.collator, task.train, task.validation)
        started = time.perf_counter()
        trainer.train()
        figures = {"train_seconds": time.perf_counter() - started}
        for prefix, dataset in (("", getattr(task, split)), ("train_", task.train)):
            measured = trainer.evaluate(dataset)
            figures |= {
                prefix + name.removeprefix("eval_"): value
                for name, value in measured.items()
                if not name.endswith(("_runtime", "_per_second", "epoch"))
            }
            figures[f"{prefix}cmi_T4"] = trainer.measurement.cmi_at(4.0)  # for arms that do not train at it too
    return figures


def report(rows: list[dict[str, Any]], arms: list[str]) -> None:
    """Print mean +- sd of every column, and the paired accuracy difference to the first arm."""
    by_arm = {arm: {row["seed"]: row for row in rows if row["arm"] == arm} for arm in arms}
    seeds = sorted(set.intersection(*(set(runs) for runs in by_arm.values())))
    columns = [*COLUMNS, *(f"train_{name}" for name in TRAIN_COLUMNS)]
    print("| arm |", " | ".join(columns), "| accuracy - first arm, points [95 %] |")
    print("|---" * (len(columns) + 2) + "|")
    first = np.array([by_arm[arms[0]][seed]["accuracy"] for seed in seeds])
    for arm in arms:
        values = {name: np.array([by_arm[arm][seed][name] for seed in seeds]) for name in columns}
        cells = [f"{value.mean():.4g} ± {value.std(ddof=1):.2g}" for value in values.values()]
        gain = 100 * (values["accuracy"] - first)
        half = stats.t.ppf(0.975, len(seeds) - 1) * gain.std(ddof=1) / len(seeds) ** 0.5
        interval = f"{gain.mean():+.2f} [{gain.mean() - half:+.2f}, {gain.mean() + half:+.2f}]"
        print(f"| {arm} | {' | '.join(cells)} | {interval} |")
    print(f"n = {len(seeds)} paired seeds; torch {torch.__version__}, transformers {transformers.__version__},"
          f" {platform.machine()} CPU, {time.strftime('%Y-%m-%d')}")  # fmt: skip


def main() -> None:
    """Run every missing (arm, seed) and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data_dir", default="", help="folder that datasets.load_dataset opens (not for digits)")
    parser.add_argument("--arms", nargs="+", default=["ce", "ls", "cmim", "variance"],
                        help=f"of {', '.join(ARMS)}; NAME:{{JSON}} overrides settings, for instance"
                             ' cmim:{"cmi_weight":2.5}')  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="number of paired seeds")
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/hardening.jsonl"), help="finished runs, a line each"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.output.open()] if options.output.is_file() else []
    rows = [row for row in rows if (row["task"], row["split"]) == (options.task, options.split)]
    task = None
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for arm in options.arms:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                continue
            settings = arm_settings(arm)
            task = task or TASKS[options.task](options.data_dir)
            row = {"task": options.task, "split": options.split, "arm": arm, "seed": seed}
            row |= run(task, settings, seed, options.split)
            rows.append(row)
            with options.output.open("a") as file:
                file.write(json.dumps(row) + "\n")
    report(rows, options.arms)


if __name__ == "__main__":
    main()
