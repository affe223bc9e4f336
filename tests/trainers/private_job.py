"""Train, audit, certify and push from the working directory: a project in somebody's home folder."""

import json
import sys
from pathlib import Path

import numpy as np
import tiny
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from trainers.adapters import image_adapter
from trainers.publishing_job import SETTINGS
from trainers.tiny_tokenizers import BUILDERS
from transformers import AutoTokenizer, ViTForImageClassification, ViTImageProcessorPil

from hf_cmim import CMIMConfig, CMIMTrainer, DistillationConfig
from hf_cmim.attacks import KD
from hf_cmim.cli.main import main

NAMES = ["red", "green", "blue"]
SIZE = {"height": 8, "width": 8}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 4}
PUSHES = {"push_to_hub": True, "hub_token": "hf_owner", "save_strategy": "steps", "save_steps": 2}


def write_colours(folder):
    """Write small pictures of three colours as parquet."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    for split, size in (("train", 90), ("test", 640)):
        labels = generator.integers(0, 3, size).tolist()
        pixels = generator.integers(0, 150, (size, 8, 8, 3), dtype=np.uint8)
        pixels[np.arange(size), :, :, labels] += 90
        rows = {"image": [PILImage.fromarray(each) for each in pixels], "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


def train_from_a_folder(project):
    """Harden a model that was loaded from a folder, with its processor, and push at every save."""
    model = tiny.vit(num_labels=3, num_channels=3)
    model.config.id2label, model.config.label2id = dict(enumerate(NAMES)), {name: n for n, name in enumerate(NAMES)}
    model.save_pretrained(project / "base")
    ViTImageProcessorPil(size=SIZE).save_pretrained(project / "base")
    model = ViTForImageClassification.from_pretrained(project / "base")
    rows = [
        {"pixel_values": torch.randn(3, 8, 8), "labels": number % 3} for number in range(32)
    ]  # any pictures will do
    args = CMIMConfig(
        str(project / "outputs" / "cmim"), **SETTINGS, **PUSHES, hub_strategy="every_save", hub_model_id="owner/model",
        run_name=str(project / "run"), eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    processor = ViTImageProcessorPil.from_pretrained(project / "base")
    trainer = CMIMTrainer(model, args, train_dataset=rows, eval_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.push_to_hub(dataset=str(project / "data" / "colours"))
    return Path(str(args.output_dir))


def audit_and_push(project, folder):
    """Audit the model by absolute paths, bind the audit to it, and push it with the command line."""
    student = project / "student.json"
    student.write_text(json.dumps({"model_type": "vit", **SHAPE}), encoding="utf-8")
    settings = {
        "suite": "quick-v2", "looks": [2], "screening-seeds": 1, "null-families": 0, "diagnosed": 0,
        "training": {"max_steps": 4, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False},
        "teacher": str(folder), "twin": str(project / "base"), "dataset": str(project / "data" / "colours"),
        "student-config": str(student),
    }  # fmt: skip
    config = project / "audit.yaml"
    config.write_text(json.dumps(settings), encoding="utf-8")
    audit = project / "outputs" / "audit"
    words = ["audit", str(config), "--output-dir", str(audit)]
    sys.argv = [str(project / "bin" / "hf-cmim"), *words]
    assert main(words) == 0
    assert main(["certify", str(folder), "--audit", str(audit)]) == 0
    assert main(["push", str(folder), "owner/model"]) == 0


def push_a_student_and_an_adapter(project, teacher):
    """Push what the sibling trainer makes, of texts and of an adapter."""
    (project / "vocabulary").mkdir()
    BUILDERS["RoCBertTokenizer"](project / "vocabulary").save_pretrained(project / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(project / "tokenizer")
    tiny.bert(1).save_pretrained(project / "teacher")
    args = DistillationConfig(str(project / "outputs" / "student"), **SETTINGS, **PUSHES, hub_model_id="owner/student")
    student = tiny.DistillationTrainer(
        tiny.bert(), args, train_dataset=tiny.sentences(32), teacher=str(project / "teacher"), attack=KD(),
        processing_class=tokenizer,
    )  # fmt: skip
    student.train()
    student.push_to_hub()
    args = CMIMConfig(str(project / "outputs" / "adapter"), **SETTINGS, **PUSHES, hub_model_id="owner/adapter")
    trainer = CMIMTrainer(image_adapter(), args, train_dataset=tiny.images(32))
    trainer.train()
    trainer.push_to_hub()


if __name__ == "__main__":
    here = Path.cwd()
    write_colours(here / "data" / "colours")
    model = train_from_a_folder(here)
    audit_and_push(here, model)
    push_a_student_and_an_adapter(here, model)
