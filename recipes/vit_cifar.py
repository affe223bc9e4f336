# /// script
# dependencies = ["hf_cmim[plots]", "pillow"]
# ///
"""Harden a vision transformer against distillation: CIFAR-100 by default, any image classification data by flags.

    accelerate launch recipes/vit_cifar.py                                   # CIFAR-100, for a GPU
    python recipes/vit_cifar.py recipes/configs/fashion_mnist.yaml --seed 0  # local data, 2 CPU cores
    python recipes/vit_cifar.py --dataset_name FOLDER --model_name_or_path CHECKPOINT --objective ls

A first argument that ends in .yaml gives defaults; flags override it. A data set is what `datasets.load_dataset` opens
(a Hub id, a folder of parquet files, a folder of images in train/CLASS/) or one parquet, csv or json file.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import PIL.Image
import PIL.ImageOps
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, set_seed

from hf_cmim import (
    CMIMConfig,
    CMIMTrainer,
    DataArguments,
    ObjectiveArguments,
    check_launch,
    finish_training,
    run_script,
    script_arguments,
    train_and_save,
)
from hf_cmim.cli.audit_models import StudentBuilder
from hf_cmim.data.arguments import check_reachable
from hf_cmim.data.prepared import prepared_when_read
from hf_cmim.data.views import View

# The default run. recipes/configs/cifar100.yaml says the same, to start your own from.
DEFAULTS: dict[str, Any] = {
    "dataset_name": "uoft-cs/cifar100", "output_dir": "outputs/vit_cifar100", "num_train_epochs": 100,
    "learning_rate": 1e-3, "weight_decay": 0.05, "warmup_steps": 0.05, "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 128, "per_device_eval_batch_size": 256, "eval_strategy": "epoch",
    "save_strategy": "epoch", "save_total_limit": 1, "logging_steps": 50, "dataloader_num_workers": 4,
    "remove_unused_columns": False,  # the model does not take images, from which its inputs are made
}  # fmt: skip
FINE_TUNING = {"num_train_epochs": 5, "learning_rate": 5e-5}  # instead, where a checkpoint is given
LABEL_COLUMNS = {"uoft-cs/cifar100": "fine_label"}  # it has two


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `CMIMConfig`."""

    _argument_group_name = "recipe"

    model_name_or_path: str | None = field(default=None, metadata={"help": "Trained checkpoint; unset: a new ViT."})
    image_size: int = field(default=32, metadata={"help": "Side in pixels to which a new ViT's images are resized."})
    patch_size: int = field(default=4, metadata={"help": "Side of a new ViT's patches; divides the image's."})
    hidden_size: int = field(default=192, metadata={"help": "Width of a new ViT; its MLPs are 4 times as wide."})
    num_hidden_layers: int = field(default=9, metadata={"help": "Layers of a new ViT."})
    num_attention_heads: int = field(default=3, metadata={"help": "Attention heads of a new ViT."})
    augment: Literal["crop_flip", "crop", "none"] = field(
        default="crop_flip", metadata={"help": "Shift training images by up to 1/8 at random; mirror half of them."}
    )


def parse_arguments(
    words: Sequence[str] | None = None,
) -> tuple[DataArguments, ObjectiveArguments, RecipeArguments, CMIMConfig]:
    """Read a YAML file if the first word names one, then the flags, which override it."""
    kinds = (DataArguments, ObjectiveArguments, RecipeArguments, CMIMConfig)
    fine_tuning = ("model_name_or_path", FINE_TUNING)
    data, objective, recipe, args = script_arguments(kinds, __doc__, DEFAULTS, fine_tuning=fine_tuning, words=words)
    data.label_column = data.label_column or LABEL_COLUMNS.get(data.dataset_name)
    objective.apply_to(args)
    return data, objective, recipe, args


def augmented(image: PIL.Image.Image, flip: bool) -> PIL.Image.Image:
    """Shift the image by up to 1/8, then mirror it or not. Torch draws, whose state a checkpoint keeps."""
    image = image.convert("RGB")
    margin = max(1, round(min(image.size) / 8))
    left, top = torch.randint(0, 2 * margin + 1, (2,)).tolist()
    image = PIL.ImageOps.expand(image, margin).crop((left, top, left + image.width, top + image.height))
    return PIL.ImageOps.mirror(image) if flip and torch.rand(()) < 0.5 else image


def build_model(recipe: RecipeArguments, names: list[str]) -> tuple[torch.nn.Module, View]:
    """Return a new ViT, or a checkpoint with a head for these classes, and its view of images."""
    if recipe.model_name_or_path is not None:
        check_reachable(recipe.model_name_or_path, "--model_name_or_path")
        view = View.of(recipe.model_name_or_path, "image")
        return StudentBuilder(recipe.model_name_or_path, None, names, view, {})(), view
    config = ViTConfig(
        image_size=recipe.image_size,
        patch_size=recipe.patch_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=4 * recipe.hidden_size,
        num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    size = {"height": recipe.image_size, "width": recipe.image_size}
    processor = ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return ViTForImageClassification(config), View(processor, "image")


def main() -> None:
    """Train one model, measure it and save it."""
    data, objective, recipe, args = parse_arguments()
    check_launch(args.world_size)
    with args.main_process_first(desc="opening the data"):
        rows = data.open("image")

    set_seed(args.seed)
    model, view = build_model(recipe, list(rows.classes.values()))
    numbers = {value: model.config.label2id[name] for value, name in rows.classes.items()}
    prepare = partial(prepared_when_read, columns=(rows.sample_column, rows.label_column), numbers=numbers, view=view)
    change = None if recipe.augment == "none" else partial(augmented, flip=recipe.augment == "crop_flip")
    train, validation, test = prepare(rows.train, change=change), prepare(rows.validation), prepare(rows.test)

    trainer = CMIMTrainer(model, args, train_dataset=train, eval_dataset=validation, processing_class=view.processor)
    metrics = train_and_save(trainer)
    figures = trainer.evaluate(test, metric_key_prefix="test")
    results = {
        "objective": objective.objective,
        "n": {"train": len(train), "validation": len(validation), "test": len(test)},
        "train": metrics,
        "test": figures,
        "recipe": asdict(data) | asdict(recipe),
        "measurement": trainer.measurement.to_dict(),
    }
    shown = ("accuracy", "nll", "ece", "cmi_sup", "within_total_ratio")
    # The card comes with a certificate, which `hf-cmim verify` checks; --push_to_hub publishes all of it.
    finish_training(trainer, results, {f"test {name}": figures[f"test_{name}"] for name in shown}, data.dataset_name)


if __name__ == "__main__":
    run_script(main)
