"""Tasks of the study: real data cut into the parts that a teacher, an attacker and a judge need.

All parts but `test` come from the *training* split of each data set. Every sample is in one part only, except that the
attacker's first transfer set is a part of the teacher's training samples. `evidence/study.py`, which chooses, never
looks at `test`; `evidence/seeds.py`, which reports, does.
"""

import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, STUDENT_VOCABULARY = 8_000, 2_500
NOISE = 0.3
TESTED = 4_000
"""Number of samples of the test split, fewer where it has fewer."""


@dataclass
class Part:
    """Samples of one purpose.

    Attributes:
        inputs: what the teacher reads: `(N, channels, height, width)` pixels or `(N, length)` word numbers, 0 padding.
        features: what a student reads: `(N, D)` numbers, or the word numbers again.
        labels: `(N,)` labels as the owner of the samples has them; with noise where the task is noisy.
    """

    inputs: Tensor
    features: Tensor
    labels: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Part":
        """Return some of the samples."""
        return Part(self.inputs[rows], self.features[rows], self.labels[rows])


@dataclass
class Task:
    """A classification task.

    Attributes:
        train: samples of the teacher.
        own: samples that only the attacker has, with their labels.
        tune: held-out samples that a controlled weight may look at, with labels as noisy as the others.
        validation: samples that every choice is made on; their labels are clean.
        test: samples of the test split.
        transfer: number of the teacher's samples that the first attacker has: the first ones of `train`.
        build: function that makes an untrained teacher.
        epochs, batch_size, learning_rate: the teacher's training.
    """

    name: str
    num_classes: int
    train: Part
    own: Part
    tune: Part
    validation: Part
    test: Part
    transfer: int
    build: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    learning_rate: float


class BagOfWords(nn.Module):
    """Mean of word embeddings and a hidden layer, as the DeepAveragingNet of evidence/hardening.py, but smaller."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(VOCABULARY, 64, mode="mean", padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.classifier = nn.Sequential(
            nn.LayerNorm(64), nn.Dropout(0.5), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(128, num_classes),
        )  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        return self.classifier(self.embedding(inputs))


class ConvNet(nn.Module):
    """Three 3x3 convolutions with batch norm and a hidden layer, as that of evidence/hardening.py, but narrower."""

    def __init__(self, channels: int, width: int, size: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU()]
        self.features = nn.Sequential(*layers)
        side = size // 2 // 2 // 2
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * side * side, 96, bias=False), nn.BatchNorm1d(96),
            nn.ReLU(), nn.Dropout(dropout), nn.Linear(96, num_classes),
        )  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        return self.classifier(self.features(inputs))


def load_task(name: str, data: Path) -> Task:
    """Return the task NAME, or NAME_noisy for 30 % symmetric label noise in all parts but `validation`."""
    base = name.removesuffix("_noisy")
    task = {
        "digits": digits, "fashion_mnist": fashion_mnist, "emoji_images": emoji_images,
        "wordnet_lexnames": lambda data: texts(data / "wordnet_lexnames", 32, 12_000, 2_500, 8_000),
        "debian_sections": lambda data: texts(data / "debian_sections", 32, 10_000, 2_500, 5_000),
    }[base](data)  # fmt: skip
    task.name = name
    if base != name:
        for number, part in enumerate((task.train, task.own, task.tune)):
            part.labels = with_noise(part.labels, task.num_classes, number)
    return task


def with_noise(labels: Tensor, num_classes: int, seed: int) -> Tensor:
    """Return the labels with a share of them replaced by another class, each of the others alike."""
    generator = torch.Generator().manual_seed(seed)
    others = (labels + torch.randint(1, num_classes, labels.shape, generator=generator)) % num_classes
    return torch.where(torch.rand(labels.shape, generator=generator) < NOISE, others, labels)


def digits(_: Path) -> Task:
    """Scikit-learn digits: 1,797 images of 8x8; the test samples are the 450 that benchmarks test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    both = train_test_split(pixels, labels, test_size=450, random_state=0, stratify=labels)
    train, test = (digits_part(both[number], both[number + 2]) for number in (0, 1))
    return cut(
        "digits",
        shuffled_part(train),
        test,
        10,
        (500, 200, 150),
        200,
        lambda: ConvNet(1, 16, 8, 10, 0.2),
        40,
        32,
        2e-3,
    )


def digits_part(pixels: np.ndarray, labels: np.ndarray) -> Part:
    """Return scikit-learn's digits as samples, in [-1, 1]."""
    scaled = torch.tensor(pixels / 8 - 1, dtype=torch.float32)
    return Part(scaled.view(-1, 1, 8, 8), scaled, torch.tensor(labels))


def fashion_mnist(data: Path) -> Task:
    """Fashion-MNIST: grey images, brought from 28x28 to 14x14."""
    parts = []
    for split, rows in (("train", 22_000), ("test", TESTED)):
        table = parquet.read_table(data / "fashion_mnist" / f"{split}.parquet").slice(0, rows)
        pixels = images(table, "L", 14)
        parts.append(Part(pixels, pixels.flatten(1), torch.tensor(table["label"].to_pylist())))
    return cut(
        "fashion_mnist", *parts, 10, (8_000, 2_000, 1_000), 2_000, lambda: ConvNet(1, 12, 14, 10, 0.3), 10, 128, 3e-3
    )


def emoji_images(data: Path) -> Task:
    """Colour emoji at 16x16 in 21 classes; no two parts show the same emoji."""
    table = parquet.read_table(data / "emoji_images" / "train-00000-of-00001.parquet")
    test = parquet.read_table(data / "emoji_images" / "test-00000-of-00001.parquet").slice(0, TESTED)
    pixels, labels = images(table, "RGB", 16), torch.tensor(table["label"].to_pylist())
    test_pixels, test_labels = images(test, "RGB", 16), torch.tensor(test["label"].to_pylist())
    # The filters of the features are those of the training images.
    features = patch_features(torch.cat([pixels, test_pixels]), len(pixels))
    names, numbers = np.unique(table["emoji"].to_pylist(), return_inverse=True)
    # Whole emoji move together; the order of a part is random again.
    place = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))[torch.tensor(numbers)]
    order = torch.argsort(place, stable=True)
    every = Part(pixels, features[: len(pixels)], labels)[order]
    tested = Part(test_pixels, features[len(pixels) :], test_labels)
    sizes = 7_000, 2_500, 1_000
    task = cut("emoji_images", every, tested, 21, sizes, 2_500, lambda: ConvNet(3, 12, 16, 21, 0.4), 12, 128, 3e-3)
    task.train, task.validation = shuffled_part(task.train), shuffled_part(task.validation)
    return task


def texts(folder: Path, length: int, train: int, own: int, validation: int) -> Task:
    """Texts as numbers of their words; the vocabulary is that of the teacher's samples."""
    table = parquet.read_table(next(folder.glob("train*.parquet"))).slice(0, train + own + 1_000 + validation)
    test = parquet.read_table(next(folder.glob("test*.parquet"))).slice(0, TESTED)
    both = pyarrow.concat_tables([table.select(["text", "label"]), test.select(["text", "label"])])
    words = [re.findall(r"[a-z]+|[0-9]", text.lower())[:length] for text in both["text"].to_pylist()]
    counted = Counter(word for text in words[:train] for word in text)
    numbers = {word: number for number, (word, _) in enumerate(counted.most_common(VOCABULARY - 2), start=2)}
    inputs = torch.zeros(len(words), length, dtype=torch.long)
    for row, text in enumerate(words):
        inputs[row, : len(text)] = torch.tensor([numbers.get(word, 1) for word in text] or [1])
    labels = torch.tensor(both["label"].to_pylist())
    every = Part(inputs, torch.where(inputs < STUDENT_VOCABULARY, inputs, 1), labels)
    num_classes, first = int(labels.max()) + 1, len(table)
    parts, sizes = (every[slice(0, first)], every[slice(first, None)]), (train, own, 1_000)
    return cut(folder.name, *parts, num_classes, sizes, 2_500, lambda: BagOfWords(num_classes), 14, 128, 4e-3)


def cut(
    name: str, every: Part, test: Part, num_classes: int, sizes: tuple[int, int, int], transfer: int,
    build: Callable[[], nn.Module], epochs: int, batch_size: int, learning_rate: float,
) -> Task:  # fmt: skip
    """Return the task whose first samples are the teacher's, then the attacker's, then `tune`; the rest judges."""
    train, own, tune = sizes
    first, second = train + own, train + own + tune
    parts = every[slice(0, train)], every[slice(train, first)], every[slice(first, second)], every[slice(second, None)]
    return Task(name, num_classes, *parts, test, transfer, build, epochs, batch_size, learning_rate)


def shuffled_part(part: Part) -> Part:
    """Return the samples of a part in a random order that is always the same."""
    return part[torch.randperm(len(part.labels), generator=torch.Generator().manual_seed(0))]


def images(table: pyarrow.Table, mode: str, size: int) -> Tensor:
    """Return the pictures of a table as `(N, channels, size, size)` in [-1, 1]; transparent pixels are white."""
    pixels = []
    for cell in table["image"].to_pylist():
        picture = Image.open(io.BytesIO(cell["bytes"]))
        if mode == "RGB":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        picture = picture.convert(mode)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BOX)
        pixels.append(np.asarray(picture, dtype=np.float32))
    stacked = torch.from_numpy(np.stack(pixels)) / 127.5 - 1
    return stacked.unsqueeze(1) if mode == "L" else stacked.permute(0, 3, 1, 2).contiguous()


def patch_features(pixels: Tensor, first: int, filters: int = 32) -> Tensor:
    """Return pooled answers of random whitened patches of the first images, `(N, 8 filters)`.

    An attacker can compute them without labels.

    Source: Coates, Ng, Lee, AISTATS 2011, with random patches instead of k-means.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, first, (2_000,), generator=generator)
    patches = functional.unfold(pixels[rows], 6, stride=3).transpose(1, 2).flatten(0, 1)
    patches = patches[torch.randperm(len(patches), generator=generator)[:20_000]]
    patches = patches[patches.std(dim=1) > 0.1]
    mean = patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    whitening = vectors @ torch.diag((values + 0.01).rsqrt()) @ vectors.T
    chosen = functional.normalize((patches[:filters] - mean) @ whitening, dim=1)
    kernels = (chosen @ whitening).view(filters, pixels.shape[1], 6, 6)
    shift = (chosen @ whitening) @ mean
    pooled = []
    for batch in pixels.split(500):
        answers = functional.conv2d(batch, kernels, -shift, stride=2)
        both = torch.cat([(answers - 0.5).relu(), (-answers - 0.5).relu()], dim=1)
        pooled.append(functional.adaptive_avg_pool2d(both, 2).flatten(1))
    features = torch.cat(pooled)
    return (features - features[:first].mean(dim=0)) / (features[:first].std(dim=0) + 1e-3)
