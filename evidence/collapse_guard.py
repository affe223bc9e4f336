"""Count the alarms of the collapse guard on twenty tasks, at weights that concentrate nothing, a little and too much.

    python evidence/collapse_guard.py --data_dir ../shared/data

Tasks: descriptions of software (27 classes), definitions of WordNet (40), Fashion-MNIST (10), emoji (21) and digits
(10), with classes as frequent as they are or geometrically rarer (down to a twentieth), and small models: a mean of
embeddings, with and without a hidden layer, or two convolutions. Of the two learning rates of the texts the lower one
leaves most classes unlearned, as cross-entropy alone does. Each task takes one of the four forms in turn.
A column says warnings at the weight of 1e-6, of 1 with the default schedule, and of `--strong` from the first step on,
each with the accuracy on the training data; and how many classes that cross-entropy learns (recall above 0.25) the
strong weight leaves below 0.05. The first column should be 0, the last but one should not where the last is not.
"""

import argparse
import itertools
import logging
import tempfile
import zlib
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import transformers
from datasets import load_dataset
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import PretrainedConfig, set_seed

from hf_cmim import CMIMConfig, CMIMTrainer

WORDS, LONGEST = 6000, 24
FORMS: dict[str, dict[str, Any]] = {
    "scaled": {},
    "share": {"cmi_form": "share"},
    "correct": {"cmi_correct_only": True},
    "plain": {"cmi_form": "plain"},
}
FOLDERS = {"software": "debian_sections", "wordnet": "wordnet_lexnames", "fashion": "fashion_mnist",
           "emoji": "emoji_images"}  # fmt: skip
SIDES = {"fashion": (14, "L"), "emoji": (24, "RGB")}
MODELS = [("software", 0, 5e-3), ("software", 32, 1e-3), ("software", 32, 5e-3), ("wordnet", 0, 5e-3),
          ("wordnet", 32, 1e-3), ("wordnet", 32, 5e-3), ("fashion", 0, 5e-4), ("fashion", 0, 2e-3), ("emoji", 0, 1e-3),
          ("digits", 32, 2e-3)]  # fmt: skip


class Classifier(nn.Module):
    """A mean of embeddings for words, convolutions for pictures, a hidden layer for digits."""

    def __init__(self, name: str, classes: int, hidden: int) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_labels=classes)
        if name in SIDES:
            channels = len(SIDES[name][1])
            first, second = nn.Conv2d(channels, 12, 3, 2, 1), nn.Conv2d(12, 24, 3, 2, 1)
            layers = [first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
            width = 96
        else:
            layers, width = ([], 64) if name == "digits" else ([nn.EmbeddingBag(WORDS, 32, padding_idx=0)], 32)
            layers += [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
        self.layers = nn.Sequential(*layers, nn.Linear(hidden or width, classes))

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the logits."""
        return {"logits": self.layers(samples)}


@lru_cache
def data_set(name: str, data_dir: str) -> tuple[Tensor, Tensor]:
    """Return samples and labels."""
    if name == "digits":
        digits = load_digits()
        return torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    rows = load_dataset(f"{data_dir}/{FOLDERS[name]}", split="train").shuffle(seed=0)
    rows = rows.select(range(6000 if name in SIDES else 12000))
    if name in SIDES:
        side, mode = SIDES[name]
        pictures = [np.asarray(picture.resize((side, side)).convert(mode)) for picture in rows["image"]]
        samples = torch.tensor(np.stack(pictures)).float().reshape(len(rows), side, side, -1).permute(0, 3, 1, 2)
        return samples / 127.5 - 1, torch.tensor(rows["label"])
    samples = torch.zeros(len(rows), LONGEST, dtype=torch.long)
    for number, text in enumerate(rows["text"]):
        words = [1 + zlib.crc32(word.encode()) % (WORDS - 1) for word in text.lower().split()[:LONGEST]]
        samples[number, : len(words)] = torch.tensor(words)
    return samples, torch.tensor(rows["label"])


def rarer(samples: Tensor, labels: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Keep fewer and fewer samples of each class, in a random order of the classes, down to a twentieth."""
    classes = int(labels.max()) + 1
    kept = []
    for rank, label in enumerate(np.random.default_rng(seed).permutation(classes)):
        positions = torch.nonzero(labels == int(label)).flatten()
        kept.append(positions[: max(8, int(len(positions) * 0.05 ** (rank / (classes - 1))))])
    chosen = torch.cat(kept).sort().values
    return samples[chosen], labels[chosen]


@dataclass(frozen=True)
class Outcome:
    """How a training ended: warnings, accuracy and the recall of each class on the training data."""

    warnings: int
    accuracy: float
    recalls: Tensor


def trained(task: tuple[str, int, float], samples: Tensor, labels: Tensor, steps: int, **settings: Any) -> Outcome:
    """Train one model."""
    name, hidden, learning_rate = task
    set_seed(0)
    classes = int(labels.max()) + 1
    model = Classifier(name, classes, hidden)
    with tempfile.TemporaryDirectory() as folder:
        args = CMIMConfig(
            folder, max_steps=steps, per_device_train_batch_size=32, learning_rate=learning_rate, use_cpu=True,
            report_to="none", disable_tqdm=True, logging_strategy="no", save_strategy="no",
            remove_unused_columns=False, **settings,
        )  # fmt: skip
        trainer = CMIMTrainer(
            model, args, train_dataset=list(range(len(labels))),  # type: ignore[arg-type]
            data_collator=lambda rows: {"samples": samples[rows], "labels": labels[rows]},
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    with torch.no_grad():
        hits = (torch.cat([model(part)["logits"] for part in samples.split(2000)]).argmax(dim=1) == labels).float()
    recalls = torch.stack([hits[labels == label].mean() for label in range(classes)])
    warnings = sum("collapsed_pairs" in entry for entry in trainer.state.log_history)
    return Outcome(warnings, hits.mean().item(), recalls)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--strong", type=float, default=5.0, help="weight from the first step on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.getLogger("hf_cmim").setLevel(logging.ERROR)
    print("| task | form | CE | 1e-6 | 1 | strong | classes taken |")
    print("|---" * 7 + "|")
    for number, (task, is_rarer) in enumerate(itertools.product(MODELS, (False, True))):
        form = list(FORMS)[(number + number // 4) % 4]
        samples, labels = data_set(task[0], options.data_dir)
        if is_rarer:
            samples, labels = rarer(samples, labels)
        train = partial(trained, task, samples, labels, options.steps)
        plain = train(cmi_weight=0.0)
        weak, default = (train(cmi_weight=weight, **FORMS[form]) for weight in (1e-6, 1.0))
        # The share needs a warm-up: from the first step on it is refused.
        warmup = 0.05 if form == "share" else 0.0
        from_the_first = {"cmi_warmup": warmup, "cmi_ramp": 0.0, "cmi_weight": options.strong}
        strong = train(**FORMS[form], **from_the_first)
        taken = int(((plain.recalls >= 0.25) & (strong.recalls < 0.05)).sum())
        cells = [f"{outcome.warnings} ({outcome.accuracy:.3f})" for outcome in (weak, default, strong)]
        title = f"{task[0]} {task[1]} {task[2]:g}" + (" rarer" if is_rarer else "")
        print(f"| {title} | {form} | {plain.accuracy:.3f} | {' | '.join(cells)} | {taken} |", flush=True)


if __name__ == "__main__":
    main()
