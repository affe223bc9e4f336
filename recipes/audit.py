# /// script
# dependencies = ["hf_cmim[plots]", "pillow"]
# ///
"""Audit an image classifier: can a student learn from its answers what it could not learn without them?

    python recipes/vit_cifar.py recipes/configs/fashion_mnist.yaml --output_dir outputs/cmim
    python recipes/vit_cifar.py recipes/configs/fashion_mnist.yaml --objective ce --output_dir outputs/ce
    python recipes/audit.py recipes/configs/audit_fashion_mnist.yaml  # local data, CPU; goes on after a kill
    accelerate launch recipes/audit.py recipes/configs/audit_fashion_mnist.yaml --teacher CHECKPOINT --twin CHECKPOINT

The first two train the classifier and its twin, which differs in the objective alone; the audit has to find that the
twin leaks, or its verdict on the other says nothing. A first argument that ends in .yaml gives defaults, and flags
override it. The students are built below: change them. `hf-cmim audit` does the same for students of transformers,
without a file, and says with --dry-run what an audit would cost.
"""

import argparse
import sys
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, PretrainedConfig, ViTConfig
from transformers.hf_argparser import HfArg, HfArgumentParser

from hf_cmim import (
    Audit,
    AuditData,
    AuditModels,
    AuditPlan,
    AuditReport,
    DistillationConfig,
    HfCmimError,
    check_launch,
)
from hf_cmim.data.rows import DataRows, DataSource, open_rows
from hf_cmim.pages.html import audit_page
from hf_cmim.pages.markdown import audit_markdown
from hf_cmim.pages.terminal import audit_table
from hf_cmim.teachers import ModelTeacher

# Suits a small student trained from nothing. A verdict is about students trained like this.
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/audit", "num_train_epochs": 10, "learning_rate": 2e-3, "weight_decay": 0.01,
    "warmup_steps": 0.1, "per_device_train_batch_size": 100, "per_device_eval_batch_size": 500, "report_to": "none",
}  # fmt: skip
Samples = list[dict[str, Any]]


# ------------------------------------------------------------------------------------------------------ 1. Arguments


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `DistillationConfig`."""

    _argument_group_name = "recipe"

    teacher: str = HfArg(default="", help="The classifier: a folder or Hub id, with its image processor.")
    twin: str | None = HfArg(default=None, help="The same model trained with plain cross-entropy: it has to leak.")
    control: list[str] | None = field(default=None, metadata={"help": "More classifiers, each as NAME=PATH."})
    dataset_name: str = HfArg(default="", help="Hub id, folder or file, as datasets.load_dataset opens it.")
    train_split: str = HfArg(default="train", help="What the attacker asks about, less the validation share.")
    test_split: str | None = HfArg(default=None, help="What the verdict is about; unset: test.")
    validation_share: float = HfArg(default=0.1, help="Share of the train split held out; settings are chosen on it.")
    max_transfer_samples: int | None = HfArg(default=None, help="Ask about at most this many.")
    rest_as_test: bool = HfArg(default=False, help="Add what is left of the train split to the test set.")
    max_test_samples: int | None = HfArg(default=None, help="Test on at most this many.")
    student: str = HfArg(default="convnet", help="Who learns from the answers: convnet or vit, both below.")
    width: int = HfArg(default=16, help="Channels of the convnet's first layer, or a quarter of the ViT's width.")
    suite: str = HfArg(default="standard-v2", help="Which attacks are tried; quick-v2 has five, for a first look.")
    criterion: str = HfArg(default="teacher-free", help="teacher-free, paper, no-leak or beyond-labels.")
    margin_points: float = HfArg(default=0.5, help="Gain that counts as distilling, in points of test accuracy.")
    looks: list[int] | None = field(default=None, metadata={"help": "Seeds at which verdicts are tried; can grow."})
    screening_seeds: int = HfArg(default=2, help="Seeds of each setting on validation data.")
    final_seeds: int = HfArg(default=4, help="Further seeds of the strongest settings before one is chosen.")
    null_families: int = HfArg(default=6, help="Attacks whose label-only nulls are tuned.")
    diagnosed: int = HfArg(default=3, help="Attacks whose gains are accounted for.")


def parse_arguments(words: list[str]) -> tuple[RecipeArguments, DistillationConfig, AuditPlan]:
    """Read a YAML file if the first word names one, then the flags, which override it."""
    formatters = (argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter)
    kinds = (RecipeArguments, DistillationConfig)
    parser = HfArgumentParser(kinds, description=__doc__, formatter_class=type("_", formatters, {}))
    given = yaml.safe_load(Path(words.pop(0)).read_bytes()) if words and words[0].endswith((".yaml", ".yml")) else {}
    if unknown := set(given) - {each.name for kind in kinds for each in fields(kind)}:
        sys.exit(f"Expected settings that --help lists, got {sorted(unknown)}: nothing would read them.")
    parser.set_defaults(**(DEFAULTS | given))
    recipe, args = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    if not recipe.teacher or not recipe.dataset_name:
        sys.exit("Expected --teacher and --dataset_name: an audit needs a classifier and labelled images.")
    if recipe.student not in STUDENTS:
        sys.exit(f"Expected --student among {', '.join(STUDENTS)}, got {recipe.student!r}: nobody would learn.")
    looks = {} if recipe.looks is None else {"looks": tuple(recipe.looks)}
    names = ("suite", "criterion", "screening_seeds", "final_seeds", "null_families", "diagnosed")
    settings = {name: getattr(recipe, name) for name in names}
    return recipe, args, AuditPlan(margin=recipe.margin_points / 100, **settings, **looks)


# ----------------------------------------------------------------------------------------------------------- 2. Data


def open_data(recipe: RecipeArguments) -> DataRows:
    """Return what the attacker asks about, what settings are chosen on, and what the verdict is about.

    The rows held out are those that vit_cifar.py holds out for the same share, and the first of the rest are those it
    trains on: no model of it has seen the validation and the test set.
    """
    source = DataSource.of(
        recipe, dataset=recipe.dataset_name, max_train_samples=recipe.max_transfer_samples, train_name="transfer"
    )
    try:
        return open_rows(source, "image")
    except HfCmimError as error:
        raise SystemExit(str(error)) from error


def prepare(rows: Dataset, columns: tuple[str, str], numbers: dict[Any, int], processor: Any) -> Samples:
    """Return tensors as the teacher's processor makes them, all in memory; grey images become RGB.

    To augment, return a data set that does so in `__getitem__`: an audit makes it repeatable, and asks the teacher
    about every view. An augmented image is another query.
    """
    samples: Samples = []
    for start in range(0, len(rows), 256):
        batch = rows[start : start + 256]
        pixels = processor([image.convert("RGB") for image in batch[columns[0]]], return_tensors="pt")["pixel_values"]
        labels = [numbers[label] for label in batch[columns[1]]]
        samples += [{"pixel_values": p, "labels": n} for p, n in zip(pixels, labels, strict=True)]
    return samples


# -------------------------------------------------------------------------------------------------------- 3. Students


class ConvNet(nn.Module):
    """Three convolutions and a global average, as a transformers model would look from outside.

    The configuration names the classes; hidden states are there for attacks that listen to layers of the student.
    """

    def __init__(self, names: list[str], width: int) -> None:
        super().__init__()
        self.config = PretrainedConfig(id2label=dict(enumerate(names)))
        channels = (3, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in pairwise(channels)
        )
        self.head = nn.Linear(channels[-1], len(names))

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, output_hidden_states: bool = False
    ) -> dict[str, Any]:
        """Return logits, and feature maps where they are asked for."""
        hidden_states = [pixel_values]
        for layer in self.layers:
            hidden_states.append(layer(hidden_states[-1]))
        logits = self.head(hidden_states[-1].mean(dim=(2, 3)))
        return {"logits": logits, **({"hidden_states": tuple(hidden_states)} if output_hidden_states else {})}


def vit(names: list[str], width: int, size: list[int]) -> nn.Module:
    """Return a new ViT of four layers with patches of a seventh of the image."""
    config = ViTConfig(
        hidden_size=4 * width, num_hidden_layers=4, num_attention_heads=4, intermediate_size=16 * width,
        image_size=size, patch_size=[max(1, side // 7) for side in size],
        id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    return AutoModelForImageClassification.from_config(config)


STUDENTS = {"convnet": lambda names, width, size: ConvNet(names, width), "vit": vit}


# ------------------------------------------------------------------------------------------------------------ 4. Audit


def open_classifier(path: str, processor: Any, device: torch.device) -> nn.Module:
    """Return a classifier that sees images through this processor. The audit matches its classes by name."""
    if repr(AutoImageProcessor.from_pretrained(path)) != repr(processor):
        sys.exit(f"Expected all classifiers to see images alike, got another processor in {path}. Audit it by itself.")
    return ModelTeacher(path, device=device).model  # safetensors alone, and no code of a repository


def write_report(folder: Path) -> None:
    """Write page and model card's section beside audit.json, and print the table."""
    report = AuditReport.read(folder)
    (folder / "audit.html").write_text(audit_page(report), encoding="utf-8")
    (folder / "audit.md").write_text(audit_markdown(report), encoding="utf-8")
    print(f"\n{audit_table(report)}\nThe page is {folder / 'audit.html'}; hf-cmim report compares audits.")


def main() -> None:
    """Audit one classifier, print the table and write the page."""
    recipe, args, plan = parse_arguments(sys.argv[1:])
    check_launch(args.world_size)
    transformers.logging.set_verbosity_error()
    with args.main_process_first(desc="opening the data"):
        rows = open_data(recipe)
    columns, names = (rows.sample_column, rows.label_column), list(rows.classes.values())
    numbers = {value: number for number, value in enumerate(rows.classes)}
    processor = AutoImageProcessor.from_pretrained(recipe.teacher)
    parts = (rows.train, rows.validation, rows.test)
    transfer, validation, test = (prepare(part, columns, numbers, processor) for part in parts)

    classifier = partial(open_classifier, processor=processor, device=args.device)
    size = list(transfer[0]["pixel_values"].shape[-2:])
    models = AuditModels(
        classifier(recipe.teacher),
        partial(STUDENTS[recipe.student], names, recipe.width, size),
        twin=None if recipe.twin is None else classifier(recipe.twin),
        controls={name: classifier(path) for name, _, path in (each.partition("=") for each in recipe.control or ())},
        student_name=f"{recipe.student} of width {recipe.width}",
    )
    Audit(models, AuditData(transfer, validation, test, rows.names), args, plan).run()

    # ---- 5. Report ----
    state = PartialState()
    if state.is_main_process:
        write_report(Path(args.output_dir))
    state.wait_for_everyone()  # a process that leaves early can hang the others
    state.destroy_process_group()


if __name__ == "__main__":
    main()
