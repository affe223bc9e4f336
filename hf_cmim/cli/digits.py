"""Data and student of the demo: scikit-learn's digits, and a perceptron that trains in seconds on a CPU."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

Samples = list[dict[str, Any]]


def load_splits() -> tuple[Samples, Samples, Samples]:
    """Return 1,078 training, 269 validation and 450 test images, 8x8 in [-1, 1], stratified as in the demo recipe.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("The digits need scikit-learn: pip install 'hf_cmim[demo]'.") from error
    pixels, labels = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8) * 2 - 1
    remaining, test = train_test_split(np.arange(len(labels)), test_size=450, random_state=0, stratify=labels)
    train, validation = train_test_split(remaining, test_size=269, random_state=0, stratify=labels[remaining])

    def samples(positions: Any) -> Samples:
        return [{"pixel_values": images[position], "labels": int(labels[position])} for position in positions]

    return samples(train), samples(validation), samples(test)


class Perceptron(nn.Module):
    """A perceptron with one hidden layer of 32 units."""

    def __init__(self) -> None:
        super().__init__()
        names = {digit: str(digit) for digit in range(10)}
        self.config = PretrainedConfig(id2label=names, label2id={name: digit for digit, name in names.items()})
        self.hidden = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return logits `(B, 10)` of images `(B, 1, 8, 8)`."""
        return {"logits": self.head(self.hidden(pixel_values.flatten(1)).relu())}
