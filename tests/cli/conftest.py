"""Small images with their teacher and a student's configuration, as files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, set_seed

COLOURS = ("red", "green", "blue")
ORDER = ("blue", "red", "green")  # of the teacher's logits
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 4}
TRAIN, TEST = 300, 640


def picture(label: int, generator: np.random.Generator) -> PILImage.Image:
    pixels = generator.integers(0, 150, size=(12, 12, 3), dtype=np.uint8)
    pixels[..., label] += 12
    return PILImage.fromarray(pixels)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder with train.parquet and test.parquet."""
    folder = tmp_path_factory.mktemp("cli") / "colours"
    folder.mkdir()
    generator = np.random.default_rng(0)
    features = Features({"image": Image(), "label": ClassLabel(names=list(COLOURS))})
    for split, size in (("train", TRAIN), ("test", TEST)):
        labels = generator.integers(0, 3, size).tolist()
        rows = {"image": [picture(label, generator) for label in labels], "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def teacher(data, tmp_path_factory) -> Path:
    """A small ViT, trained on the train split, with its classes in another order than the data's."""
    folder = tmp_path_factory.mktemp("cli") / "teacher"
    processor = ViTImageProcessorPil(size={"height": 12, "width": 12}, image_mean=[0.3] * 3, image_std=[0.2] * 3)
    rows = Dataset.from_parquet(str(data / "train.parquet"))
    pixels = processor(list(rows["image"]), return_tensors="pt")["pixel_values"]
    labels = torch.tensor([ORDER.index(COLOURS[label]) for label in rows["label"]])
    set_seed(0)
    names = {"id2label": dict(enumerate(ORDER)), "label2id": {name: number for number, name in enumerate(ORDER)}}
    model = ViTForImageClassification(ViTConfig(**SHAPE, image_size=12, **names))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, labels).backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def student_config(tmp_path_factory) -> Path:
    """A ViT's shape, without classes and without the size of its images."""
    path = tmp_path_factory.mktemp("cli") / "student.json"
    path.write_text(json.dumps({"model_type": "vit", **SHAPE}))
    return path


def read_audit_flags(*words):
    """Read the words of `hf-cmim audit`, the first of which may be a file."""
    import argparse

    from hf_cmim.cli.audit import add_arguments
    from hf_cmim.cli.audit_flags import AuditFlags
    from hf_cmim.cli.flags import read_flags

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_flags(parser.parse_args(list(map(str, words))), AuditFlags)


@pytest.fixture
def audit_options():
    return read_audit_flags
