# /// script
# dependencies = ["hf_cmim[plots]", "pillow"]
# ///
"""Compare defences against distillation on your own model, data and student: one audit, one table, one picture.

    python recipes/compare_defences.py recipes/configs/compare_defences.yaml  # Fashion-MNIST on a CPU

Defences that train are trained in OUTPUT_DIR/models/NAME, unless they are there: delete a folder to train it again.
Defences on the way out are channels around the cross-entropy model. One audit then attacks all of them under the same
seeds; it goes on after a kill. A first argument that ends in .yaml gives defaults, and flags override it.
"""

import dataclasses
import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from transformers import Trainer, set_seed
from transformers.hf_argparser import HfArg

import hf_cmim
from hf_cmim import CMIMConfig, CMIMTrainer, DataArguments, DefenseTrainer, HfCmimError
from hf_cmim.cli.audit_flags import AuditFlags, SplitFlags
from hf_cmim.cli.audit_setup import AuditSetup, student_batch
from hf_cmim.cli.flags import read_flags
from hf_cmim.cli.harden_flags import HardenFlags
from hf_cmim.cli.harden_setup import HardenSetup
from hf_cmim.cli.report import write_pages
from hf_cmim.defenses import AbstractDefense, MaximizedCMI, NastyTeacher, SquaredError
from hf_cmim.pages.terminal import audit_table
from hf_cmim.report import CERTIFICATE_NAME, AuditReport
from hf_cmim.teachers.model import load_classifier
from hf_cmim.trainers.defending.defense_config import DefenseConfig
from hf_cmim.whole_files import write_whole

DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/compare_defences", "num_train_epochs": 10, "learning_rate": 2e-3, "weight_decay": 0.01,
    "warmup_steps": 0.1, "per_device_train_batch_size": 100, "per_device_eval_batch_size": 1000, "report_to": "none",
    "save_strategy": "no", "remove_unused_columns": False,
}  # fmt: skip
# Settings of `CMIMConfig`. The audit is of cmim; ce is its positive control, and the reference of some rivals.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "cmim": {},
    "ce": {"cmi_weight": 0.0},
    "label-smoothing": {"cmi_weight": 0.0, "label_smoothing_factor": 0.1},
    "variance-ratio": {"temperatures": [64.0]},  # so hot, the CMI is the variance within classes
}
RIVALS: dict[str, AbstractDefense] = {
    "nasty-teacher": NastyTeacher(), "squared-error": SquaredError(), "maximized-cmi": MaximizedCMI(),
}  # fmt: skip
CHANNELS = [
    "argmax", "class-answers", 'top-k:{"k": 3}', 'rounded:{"decimals": 1}', 'sharpened:{"scale": 4}',
    "reverse-sigmoid", "model-guard-w", "model-guard-s",
]  # fmt: skip
PASSING = ("output_dir", "logging", "disable_tqdm", "report_to", "run_name", "push_to_hub", "hub_", "dataloader_")
"""Beginnings of the names of settings that leave models as they are."""


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `CMIMConfig`."""

    _argument_group_name = "recipe"

    model: str = HfArg(default="", help="Configuration of new models (.json), or a checkpoint to start from.")
    audit: str = HfArg(default="", help="YAML file of hf-cmim audit with student and plan.")
    trained: list[str] = field(
        default_factory=lambda: [*OBJECTIVES, *RIVALS], metadata={"help": "Defences to train, cmim and ce among them."}
    )
    channels: list[str] = field(
        default_factory=CHANNELS.copy, metadata={"help": "Channels around ce, as of hf-cmim audit --defence."}
    )


def parse_arguments(words: Sequence[str] | None = None) -> tuple[DataArguments, RecipeArguments, CMIMConfig]:
    """Read a YAML file if the first word names one, then the flags, which override it."""
    kinds = (DataArguments, RecipeArguments, CMIMConfig)
    data, recipe, args = hf_cmim.script_arguments(kinds, __doc__, DEFAULTS, words=words)
    known = [*OBJECTIVES, *RIVALS]
    if not {"cmim", "ce"} <= {*recipe.trained} <= {*known}:
        raise HfCmimError(
            f"Expected --trained with cmim, ce and any of {', '.join(known[2:])}, got {', '.join(recipe.trained)}: the"
            " audit is of cmim, and ce is its positive control."
        )
    return data, recipe, args


def opened(data: DataArguments, recipe: RecipeArguments, args: CMIMConfig) -> HardenSetup:
    """Return the builder of models and the prepared data."""
    source, known = data.source(), {each.name for each in fields(HardenFlags)}
    given = {each.name: getattr(source, each.name) for each in fields(source) if each.name in known}
    training = [("use_cpu", str(args.use_cpu)), ("disable_tqdm", str(args.disable_tqdm))]
    return HardenSetup.of(
        HardenFlags(**given, model=recipe.model, training=training, output_dir=args.output_dir, quiet=True)
    )


def settings(kind: type[Any], args: CMIMConfig, **changes: Any) -> Any:
    """Return the settings of one training, as those of the trainer's kind."""
    return kind(**{each.name: getattr(args, each.name) for each in fields(kind) if each.init} | changes)


def trainer_of(name: str, args: CMIMConfig, folder: Path, setup: HardenSetup) -> Trainer:
    """Return the trainer of a new model with a defence."""
    view, output_dir = setup.builder.view, str(folder / name)
    set_seed(args.seed)
    parts: dict[str, Any] = {
        "train_dataset": setup.train, "eval_dataset": setup.validation, "processing_class": view.processor,
        "data_collator": partial(student_batch, view=view),
    }  # fmt: skip
    if name in OBJECTIVES:
        chosen = settings(CMIMConfig, args, output_dir=output_dir, **OBJECTIVES[name])
        return CMIMTrainer(setup.builder(), chosen, **parts)
    chosen, rival, twin = settings(DefenseConfig, args, output_dir=output_dir), RIVALS[name], str(folder / "ce")
    model = setup.builder()
    if (
        rival.needs_class_means
    ):  # those of a trained model, which is fine-tuned: gently, for the means stay as they are
        model = load_classifier(twin)
        chosen.learning_rate, chosen.num_train_epochs = args.learning_rate / 10, args.num_train_epochs / 4
    return DefenseTrainer(model, chosen, defense=rival, reference=twin if rival.needs_reference else None, **parts)


def check_same_settings(folder: Path, data: DataArguments, recipe: RecipeArguments, args: CMIMConfig) -> None:
    """Refuse to go on with models that were trained with other settings, and remember the settings of new ones."""
    chosen = {"model": recipe.model} | dataclasses.asdict(data)
    chosen |= {name: value for name, value in args.to_dict().items() if not name.startswith(PASSING)}
    wanted, path = json.loads(json.dumps(chosen, default=str)), folder / "settings.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(wanted, indent=1))
    known = json.loads(path.read_text(encoding="utf-8"))
    changed = [
        f"{name} {known.get(name)!r}, now {value!r}" for name, value in wanted.items() if known.get(name) != value
    ]
    if changed:
        raise HfCmimError(
            f"The models in {folder} were trained with {'; '.join(changed)}: the audit would compare different"
            f" trainings, not defences. Choose another --output_dir, or delete {folder}."
        )


def audit_flags(
    plan: AuditFlags, data: DataArguments, recipe: RecipeArguments, folder: Path, num_train: int
) -> AuditFlags:
    """Return the flags of the audit: those of its file, with the trained models and their data."""
    source, transfer = data.source(), plan.max_transfer_samples or num_train
    return dataclasses.replace(
        plan,
        **{each.name: getattr(source, each.name) for each in fields(SplitFlags)},
        teacher=str(folder / "models/cmim"),
        twin=str(folder / "models/ce"),
        control=[(name, str(folder / "models" / name)) for name in recipe.trained if name not in ("cmim", "ce")],
        defence=recipe.channels,
        attacker=plan.attacker or ["training"],  # it asks about samples that the models were trained on
        max_transfer_samples=min(transfer, num_train),
        output_dir=str(folder / "audit"),
    )


def main() -> None:
    """Train what is missing, audit everything, print the table and write the page."""
    data, recipe, args = parse_arguments()
    plan = read_flags(Namespace(config=recipe.audit), AuditFlags)
    folder = Path(str(args.output_dir)) / "models"
    check_same_settings(folder, data, recipe, args)
    setup = opened(data, recipe, args)
    for name in sorted(recipe.trained, key=lambda name: name in RIVALS):  # ce before those who refer to it
        if not (folder / name / CERTIFICATE_NAME).is_file():
            hf_cmim.train_and_save(trainer_of(name, args, folder, setup))
    audit = AuditSetup.of(audit_flags(plan, data, recipe, Path(str(args.output_dir)), len(setup.train)))
    audit.run()
    if audit.is_main:
        report = AuditReport.read(audit.folder)
        write_pages(report, audit.folder)
        print(f"\n{audit_table(report)}\nThe page is {audit.folder}/audit.html.")
    audit.leave()


if __name__ == "__main__":
    hf_cmim.run_script(main)
