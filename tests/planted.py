"""A task whose truth is known: labels drawn from a known posterior, teachers that give away a known share of it."""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from hf_cmim.functional.divergence import softened_log_probs
from hf_cmim.teachers.base import AbstractTeacher

CLASSES, FEATURES = 6, 16


def _network() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(FEATURES, 32, generator=generator) / 2
    return first, torch.randn(32, CLASSES, generator=generator) / 2


def posterior(features: Tensor) -> Tensor:
    """What is true: `(N, C)` probabilities of the labels."""
    first, second = _network()
    return 0.9 * (2.0 * torch.tanh(features @ first) @ second).softmax(-1) + 0.1 / CLASSES


class Samples(torch.utils.data.Dataset):
    """Features and labels drawn from the posterior."""

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.features = torch.randn(size, FEATURES, generator=generator)
        self.labels = torch.multinomial(posterior(self.features), 1, generator=generator).flatten()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {"features": self.features[position], "labels": self.labels[position]}

    def __getitems__(self, positions: list[int]) -> list[dict[str, Tensor]]:
        return [self[position] for position in positions]


class Student(nn.Module):
    """One hidden layer."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_labels=CLASSES)
        self.hidden = nn.Linear(FEATURES, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.head(self.hidden(features).relu())}


def _noise(features: Tensor, classes: int) -> Tensor:
    """`(N, classes)` numbers that look random and are the same for the same sample: its digits that nobody learns."""
    mixing = torch.randn(FEATURES, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.sin(1e5 * features.double() @ mixing).float()


class PlantedTeacher(AbstractTeacher):
    """The label's one-hot with noise that knows nothing else, and a share of the true posterior."""

    wants_labels = True

    def __init__(self, share: float) -> None:
        super().__init__(CLASSES, None)
        self.share = share

    def _answer(self, inputs, labels):
        features = inputs["features"]
        logits = 3.0 * torch.nn.functional.one_hot(labels, CLASSES) + 0.5 * _noise(features, CLASSES)
        probs = (1 - self.share) * logits.softmax(-1) + self.share * posterior(features)
        return softened_log_probs(probs.log(), 1.0)

    def _identity(self) -> str:
        return str(self.share)


class LabelTeacher(AbstractTeacher):
    """Names the most probable class, which the noisy labels of the task often are not, and tells nothing else.

    Its confidence is noise that knows nothing.
    """

    def __init__(self) -> None:
        super().__init__(CLASSES, None)

    def _answer(self, inputs, labels):
        features = inputs["features"]
        logits = 3.0 * torch.nn.functional.one_hot(posterior(features).argmax(-1), CLASSES)
        return softened_log_probs(logits + 0.5 * _noise(features, CLASSES), 1.0)

    def _identity(self) -> str:
        return "label"


class RandomTeacher(AbstractTeacher):
    """Answers at random, anew each time."""

    def __init__(self) -> None:
        super().__init__(CLASSES, None)

    def _answer(self, inputs, labels):
        return torch.randn(len(inputs["features"]), CLASSES).log_softmax(-1)

    def _identity(self) -> str:
        return "random"
