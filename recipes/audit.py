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
override it. The student is built below: change it. `hf-cmim audit` does the same for students of transformers,
without a file, and says with --dry-run what an audit would cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.hf_argparser import HfArg

import hf_cmim
from hf_cmim import Audit, AuditData, AuditModels, AuditPlan, DataArguments, DistillationConfig, HfCmimError
from hf_cmim.cli.audit_setup import student_batch
from hf_cmim.cli.report import write_pages
from hf_cmim.data.prepared import PreparedSamples
from hf_cmim.data.views import View
from hf_cmim.pages.terminal import audit_table
from hf_cmim.teachers import ModelTeacher

# Suits a small student trained from nothing. A verdict is about students trained like this.
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/audit", "num_train_epochs": 10, "learning_rate": 2e-3, "weight_decay": 0.01,
    "warmup_steps": 0.1, "per_device_train_batch_size": 100, "per_device_eval_batch_size": 500, "report_to": "none",
    "remove_unused_columns": False,
}  # fmt: skip


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `DistillationConfig`."""

    _argument_group_name = "recipe"

    teacher: str = HfArg(default="", help="The classifier: a folder or Hub id, with its image processor.")
    twin: str | None = HfArg(default=None, help="The same model trained with plain cross-entropy: it has to leak.")
    control: list[str] | None = field(default=None, metadata={"help": "More classifiers, each as NAME=PATH."})
    width: int = HfArg(default=16, help="Channels of the first layer of a student.")
    suite: str = HfArg(default="standard-v2", help="Which attacks are tried; quick-v2 has five, for a first look.")
    criterion: str = HfArg(default="teacher-free", help="teacher-free, paper, no-leak or beyond-labels.")
    margin_points: float = HfArg(default=0.5, help="Gain that counts as distilling, in points of test accuracy.")
    looks: list[int] | None = field(default=None, metadata={"help": "Seeds at which verdicts are tried; can grow."})
    screening_seeds: int = HfArg(default=2, help="Seeds of each setting on validation data.")
    final_seeds: int = HfArg(default=4, help="Further seeds of the strongest settings before one is chosen.")
    null_families: int = HfArg(default=6, help="Families whose label-only nulls are tuned with every setting.")
    diagnosed: int = HfArg(default=3, help="Attacks whose gains are accounted for.")


def parse_arguments(words: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Read a YAML file if the first word names one, then the flags, which override it."""
    kinds = (DataArguments, RecipeArguments, DistillationConfig)
    data, recipe, args = hf_cmim.script_arguments(kinds, __doc__, DEFAULTS, words=words)
    if not recipe.teacher:
        raise HfCmimError("Missing --teacher: an audit needs a classifier.")
    names = ("suite", "criterion", "screening_seeds", "final_seeds", "null_families", "diagnosed")
    settings = {name: getattr(recipe, name) for name in names}
    looks = {} if recipe.looks is None else {"looks": tuple(recipe.looks)}
    return data, recipe, args, AuditPlan(margin=recipe.margin_points / 100, **settings, **looks)


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


def open_classifier(path: str, view: View, device: torch.device) -> nn.Module:
    """Return a classifier that sees images in this view. The audit matches its classes by name."""
    if View.of(path, "image").settings() != view.settings():
        raise HfCmimError(f"All classifiers must see images alike, but {path} has another processor: audit it alone.")
    return ModelTeacher(path, device=device).model  # safetensors only, and no code of a repository


def main() -> None:
    """Audit one classifier, print the table and write the page."""
    data, recipe, args, plan = parse_arguments()
    hf_cmim.check_launch(args.world_size)
    transformers.logging.set_verbosity_error()
    with args.main_process_first(desc="opening the data"):
        rows = data.open("image")
    names, view = list(rows.classes.values()), View.of(recipe.teacher, "image")
    numbers = {value: number for number, value in enumerate(rows.classes)}
    # An audit asks the teacher about the images as they are: an augmented image is another query.
    columns = (rows.sample_column, rows.label_column)
    parts = [
        PreparedSamples(part, columns, numbers, {"student": view}, room=float("inf"))
        for part in (rows.train, rows.validation, rows.test)
    ]
    classifier = partial(open_classifier, view=view, device=args.device)
    models = AuditModels(
        classifier(recipe.teacher),
        partial(ConvNet, names, recipe.width),
        twin=None if recipe.twin is None else classifier(recipe.twin),
        controls={name: classifier(path) for name, _, path in (each.partition("=") for each in recipe.control or ())},
        student_name=f"convnet of width {recipe.width}",
    )
    Audit(models, AuditData(*parts, rows.names, collator=partial(student_batch, view=view)), args, plan).run()

    state = PartialState()
    if state.is_main_process:
        report = hf_cmim.AuditReport.read(args.output_dir)
        write_pages(report, Path(args.output_dir))
        print(f"\n{audit_table(report)}\nThe page is {args.output_dir}/audit.html; hf-cmim report compares audits.")
    state.wait_for_everyone()  # a process that leaves early can hang the others
    state.destroy_process_group()


if __name__ == "__main__":
    hf_cmim.run_script(main)
