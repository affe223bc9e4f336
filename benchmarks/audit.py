"""Time training many students in the audit's pool over training them one by one: same students, whole trainings.

    python benchmarks/audit.py                                   # 8 students, live ViT teacher, digits
    python benchmarks/audit.py --students 1 2 4 8 16 --rounds 3  # growth with their number
    python benchmarks/audit.py --student bag --students 16       # small students, against a plain stacked loop
    python benchmarks/audit.py --student perceptron --students 16

ViT students: each round trains them four times, in an order that changes: in the pool, stacked and in mere lockstep,
one by one with `DistillationTrainer`, and one by one with the 15-line `Trainer` of the transformers documentation. The
teacher answers live every time.

Bags and perceptrons: each round trains them in the pool, stacked, and in the plain loop of plain_students.py, the
least that the same training could cost. Inputs are random, because only time is measured.

The machine's speed drifts, so only ratios inside a round count.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from distillation_step import DocumentedTrainer
from plain_students import Settings, train_bags, train_perceptrons
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn
from tqdm.auto import tqdm
from transformers import PretrainedConfig, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from hf_cmim import Composition, DistillationConfig, DistillationTrainer
from hf_cmim.attacks import KD
from hf_cmim.audit.engine.pool import StudentPool
from hf_cmim.audit.engine.pooled import PooledArm
from hf_cmim.teachers import ModelTeacher

sys.path.append(str(Path(__file__).parents[1] / "evidence"))
from audit_teachers import LinearBag, Perceptron  # the students of published audits

NUM_SAMPLES = 1280
VOCABULARY = 8_000


def vit(width: int, layers: int) -> ViTForImageClassification:
    """A ViT for 8 x 8 digits."""
    return ViTForImageClassification(
        ViTConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=2 * width,
                  image_size=8, patch_size=2, num_channels=1, num_labels=10)
    )  # fmt: skip


def digits() -> list[dict[str, Any]]:
    """The first digits of scikit-learn."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return [
        {"pixel_values": image, "labels": int(label)}
        for image, label in list(zip(images, data.target, strict=True))[:NUM_SAMPLES]
    ]


def contenders(options: argparse.Namespace, folder: str) -> dict[str, Callable[[int], None]]:
    """What trains that many students, by name."""
    samples = digits()
    set_seed(0)
    teacher = vit(options.teacher_width, options.teacher_layers).eval()
    common: dict[str, Any] = {
        "report_to": "none", "use_cpu": not torch.cuda.is_available(), "disable_tqdm": True, "logging_strategy": "no",
        "save_strategy": "no", "per_device_train_batch_size": options.batch_size, "num_train_epochs": options.epochs,
    }  # fmt: skip
    args = DistillationConfig(folder, **common)
    attack = Composition(KD(temperature=5.0, ce_weight=0.5, kd_weight=0.5))

    def student() -> ViTForImageClassification:
        return vit(options.width, options.layers)

    def pooled(count: int, stacked: bool = True) -> None:
        pool = StudentPool(student, args, samples, stacked=stacked)
        answering = ModelTeacher(teacher, device=args.device)
        pool.train([PooledArm(f"kd {number}", attack, answering) for number in range(count)], seed=0)

    def one_by_one(count: int) -> None:
        for _ in range(count):
            set_seed(0)
            DistillationTrainer(student(), args, train_dataset=samples, teacher=teacher, attack=attack).train()

    def documented(count: int) -> None:
        for _ in range(count):
            set_seed(0)
            DocumentedTrainer(teacher, student(), TrainingArguments(folder, **common), train_dataset=samples).train()

    return {"stacked": pooled, "lockstep": partial(pooled, stacked=False),
            "DistillationTrainer one by one": one_by_one, "documented Trainer one by one": documented}  # fmt: skip


class Bags(nn.Module):
    """A teacher of token counts: the mean of embeddings and one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_labels=40)
        self.embedding = nn.Embedding(VOCABULARY, 64)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 40)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: Any = None) -> dict[str, Any]:
        """Return logits."""
        mask = attention_mask.unsqueeze(-1).float()
        mean = (self.embedding(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
        return {"logits": self.head(self.hidden(mean).relu())}


def random_samples(kind: str) -> list[dict[str, Any]]:
    """5,000 texts of 6 to 24 tokens and 40 classes, or as many images of 28 x 28 pixels and 10 classes."""
    generator = torch.Generator().manual_seed(0)
    if kind == "perceptron":
        images = torch.randn(5_000, 1, 28, 28, generator=generator)
        return [{"pixel_values": image, "labels": number % 10} for number, image in enumerate(images)]
    lengths = torch.randint(6, 25, (5_000, 1), generator=generator)
    masks = (torch.arange(24) < lengths).long()
    tokens = torch.randint(1, VOCABULARY, masks.shape, generator=generator) * masks
    return [
        {"input_ids": row, "attention_mask": mask, "labels": number % 40}
        for number, (row, mask) in enumerate(zip(tokens, masks, strict=True))
    ]


def small_contenders(options: argparse.Namespace, folder: str) -> dict[str, Callable[[int], None]]:
    """The pool and the plain loop, by name."""
    samples = random_samples(options.student)
    build, train_plainly = {"bag": (LinearBag, train_bags), "perceptron": (Perceptron, train_perceptrons)}[
        options.student
    ]
    set_seed(0)
    teacher = (Bags() if options.student == "bag" else Perceptron()).eval()
    settings = Settings(options.epochs, 100, learning_rate=1e-2, temperature=4.0, vocabulary=VOCABULARY)
    args = DistillationConfig(
        folder, report_to="none", use_cpu=not torch.cuda.is_available(), disable_tqdm=True, logging_strategy="no",
        save_strategy="no", per_device_train_batch_size=settings.batch_size, num_train_epochs=settings.epochs,
        per_device_eval_batch_size=1_000, learning_rate=settings.learning_rate,
    )  # fmt: skip
    attack = Composition(KD(temperature=settings.temperature))

    def pooled(count: int) -> None:
        pool = StudentPool(build, args, samples, stacked=True)
        answering = ModelTeacher(teacher, device=args.device)
        pool.train([PooledArm(f"kd {number}", attack, answering) for number in range(count)], seed=0)

    def plain(count: int) -> None:
        inputs = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0] if name != "labels"}
        labels = torch.tensor([sample["labels"] for sample in samples])
        with torch.no_grad():
            answers = teacher(**inputs)["logits"]
        train_plainly(count, inputs, answers, labels, settings)

    return {"stacked": pooled, "plain loop": plain}


def seconds_of(train: Callable[[int], None], count: int) -> float:
    """Seconds: of the processor on a CPU, which other processes of the machine hardly change; wall time on a GPU."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    train(count)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    """Print students a minute, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=("vit", "bag", "perceptron"), default="vit", help="kind of student")
    parser.add_argument("--students", type=int, nargs="+", default=[8], help="how many at once")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--width", type=int, default=32, help="hidden size of a student")
    parser.add_argument("--layers", type=int, default=2, help="layers of a student")
    parser.add_argument("--teacher_width", type=int, default=96)
    parser.add_argument("--teacher_layers", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        trains = (contenders if options.student == "vit" else small_contenders)(options, folder)
        names = list(trains)
        for train in trains.values():
            train(1)  # everything that happens once
        for count in options.students:
            seconds = []
            for number in tqdm(range(options.rounds), desc=f"{count} students"):
                order = names[number % len(names) :] + names[: number % len(names)]
                timed = {name: seconds_of(trains[name], count) for name in order}
                seconds.append([timed[name] for name in names])
            report(np.array(seconds), names, count, num_ours=2 if options.student == "vit" else 1)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU, one thread"
    print(f"{vars(options)}\n{device}, torch {torch.__version__}, transformers {transformers.__version__},"
          f" {time.strftime('%Y-%m-%d')}")  # fmt: skip


def report(seconds: np.ndarray, names: list[str], count: int, num_ours: int) -> None:
    """Print a line for each pair: how many times faster the first, median of rounds, and students a minute of both."""
    rates = 60 * count / np.median(seconds, axis=0)
    for ours, theirs in product(range(num_ours), range(num_ours, len(names))):
        ratios = seconds[:, theirs] / seconds[:, ours]
        interval = ""
        if len(ratios) > 2:
            found = stats.bootstrap((ratios,), np.median, rng=0).confidence_interval
            interval = f" [{found.low:.2f}, {found.high:.2f}]"
        print(f"{count} students, {names[ours]} over {names[theirs]}: {np.median(ratios):.2f}x{interval},"
              f" n = {len(ratios)}; {rates[ours]:.0f} and {rates[theirs]:.0f} students a minute")  # fmt: skip


if __name__ == "__main__":
    main()
