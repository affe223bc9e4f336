"""Put data sets on the Hub that are laid out as CIFAR-100 and AG News are; the digits are their contents."""

import sys

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits

WORDS = ("market", "match", "planet", "vote")


def images(pixels: np.ndarray, digits: np.ndarray) -> Dataset:
    """32x32 in colour, with the three columns of CIFAR-100: 100 fine and 20 coarse names, ten of which occur."""
    names = {"fine_label": [f"fine {n}" for n in range(100)], "coarse_label": [f"coarse {n}" for n in range(20)]}
    features = Features({"img": Image(), **{name: ClassLabel(names=each) for name, each in names.items()}})
    pictures = [
        PILImage.fromarray((15 * each.reshape(8, 8)).astype("uint8")).resize((32, 32)).convert("RGB")
        for each in pixels
    ]
    columns = {"img": pictures, "fine_label": digits.tolist(), "coarse_label": (digits // 2).tolist()}
    return Dataset.from_dict(columns, features=features)


def texts(pixels: np.ndarray, digits: np.ndarray) -> Dataset:
    """A word of the class among the image's numbers, with the two columns of AG News."""
    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])}
    )
    labels = (digits % 4).tolist()
    rows = [
        f"{' '.join(str(int(value)) for value in each[20:30])} {WORDS[label]}"
        for each, label in zip(pixels, labels, strict=True)
    ]
    return Dataset.from_dict({"text": rows, "label": labels}, features=features)


if __name__ == "__main__":
    build, repo_id = {"images": (images, "uoft-cs/cifar100"), "texts": (texts, "fancyzhx/ag_news")}[sys.argv[1]]
    pixels, digits = load_digits(return_X_y=True)
    parts = {"train": slice(0, 600), "test": slice(1200, 1500)}
    DatasetDict({name: build(pixels[part], digits[part]) for name, part in parts.items()}).push_to_hub(repo_id)
