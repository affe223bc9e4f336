# /// script
# dependencies = ["hf_cmim", "pillow"]
# ///
"""Attack an image or text classifier: a student learns from the answers of any checkpoint, by any attack.

    python recipes/distill.py --list-attacks
    python recipes/distill.py recipes/configs/distill_fashion_mnist.yaml --seed 0  # local data, 2 CPU cores
    accelerate launch recipes/distill.py --teacher CHECKPOINT --dataset_name DATA --attack 'dkd:{"beta": 2.0}' dot

A first argument that ends in .yaml gives defaults; flags override it. Attack and channel are NAME or 'NAME:{JSON}',
in single quotes. Inside, {"relative": 1.0} is a temperature in units of the teacher's logit scale.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from accelerate.utils import gather_object
from transformers.hf_argparser import HfArg

import hf_cmim
from hf_cmim import DataArguments, DistillationConfig, DistillationTrainer, HfCmimError
from hf_cmim.cli.audit_channel import opened_channel
from hf_cmim.cli.audit_models import StudentBuilder, loaded_config
from hf_cmim.cli.named_parts import attack_lines, attack_of
from hf_cmim.data.prepared import batch_of_rows
from hf_cmim.data.rows import DataRows
from hf_cmim.data.views import View, kind_of_type
from hf_cmim.positions import usable_positions
from hf_cmim.teachers import ModelTeacher, QueryLedger, cache_answers, match_classes

# Suits a small student trained from nothing. Each model's own collator chooses what it sees of a row.
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/distill", "num_train_epochs": 20, "learning_rate": 1e-3, "weight_decay": 0.05,
    "warmup_steps": 0.1, "per_device_train_batch_size": 64, "logging_steps": 50, "remove_unused_columns": False,
    "per_device_eval_batch_size": 256, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1,
}  # fmt: skip
CONFIGS = Path(__file__).parent / "configs"
SHOWN = ("accuracy", "teacher_accuracy", "agreement", "teacher_kl")
FINE_TUNING = {"num_train_epochs": 5, "learning_rate": 5e-5}  # instead, where the student is a checkpoint


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `DistillationConfig`."""

    _argument_group_name = "recipe"

    teacher: str | None = HfArg(default=None, help="Folder or Hub id; needed unless the attack asks nobody.")
    class_names: list[str] | None = field(default=None, metadata={"help": "The teacher's, if its config has none."})
    attack: list[str] = field(default_factory=lambda: ["kd"], metadata={"help": "Loss, transforms and protocols."})
    list_attacks: bool = HfArg(default=False, help="Print every part with its default settings, and exit.")
    channel: str | None = HfArg(default=None, help="Change of all answers, as for hf-cmim audit: class-answers, ...")
    cache_folder: str | None = HfArg(default=None, help="Ask about each sample once, and keep the answers here.")
    transfer_fraction: float = HfArg(default=1.0, help="Share of the training data that is asked about.")
    unlabelled: bool = HfArg(default=False, help="Learn from the answers only, without true labels.")
    max_length: int = HfArg(default=128, help="Tokens after which a text is cut.")
    student_name_or_path: str | None = HfArg(default=None, help="Checkpoint that the student starts from.")
    student_config: str | None = HfArg(default=None, help="Of a new student; unset: a small ViT or BERT.")


def parse_arguments(words: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Read a YAML file if the first word names one, then the flags, which override it, and build the attack."""
    kinds, fine_tuning = (DataArguments, RecipeArguments, DistillationConfig), ("student_name_or_path", FINE_TUNING)
    data, recipe, args = hf_cmim.script_arguments(kinds, __doc__, DEFAULTS, fine_tuning=fine_tuning, words=words)
    if recipe.list_attacks:
        sys.exit(print(*attack_lines(), sep="\n"))
    attack = attack_of(recipe.attack)
    asks, prepares = attack.needs_teacher, recipe.teacher or recipe.student_name_or_path
    if recipe.teacher is None if asks or recipe.cache_folder else recipe.unlabelled or prepares is None:
        raise HfCmimError("Give --teacher, or an attack that asks nobody with true labels and --student_name_or_path.")
    if recipe.cache_folder is not None and attack.query_protocol is not None:
        raise HfCmimError(f"--cache_folder has no answers to the changed queries of {attack.query_protocol!r}.")
    return data, recipe, args, attack


def open_teacher(recipe: RecipeArguments, rows: DataRows, kind: str, device: Any) -> tuple[ModelTeacher, View]:
    """Return the teacher behind its channel, and its view of samples."""
    teacher = ModelTeacher(recipe.teacher, class_names=recipe.class_names, device=device)
    match_classes(teacher.class_names, list(rows.classes.values()))  # says what differs before anything is asked
    view = View.of(recipe.teacher, kind).limited_to(recipe.max_length).limited_to(usable_positions(teacher.model))
    channel = None if recipe.channel is None else opened_channel(recipe.channel, teacher, rows, view)
    return ModelTeacher(teacher.model, class_names=recipe.class_names, channel=channel), view


def build_student(recipe: RecipeArguments, rows: DataRows, view: View) -> tuple[Any, View]:
    """Return a checkpoint with a head for these classes, or a new model, and its view of samples."""
    path = recipe.student_name_or_path
    config = None if path else recipe.student_config or str(CONFIGS / f"student_{view.kind}.json")
    sample = view.prepare(rows.train[:1][rows.sample_column])[0]
    builder = StudentBuilder(path, config, list(rows.classes.values()), view, sample)
    return builder(), builder.view.limited_to(recipe.max_length)


def main() -> None:
    """Attack one teacher with one student, measure the student and save it."""
    data, recipe, args, attack = parse_arguments()
    hf_cmim.check_launch(args.world_size)
    path = recipe.teacher or recipe.student_name_or_path
    kind = kind_of_type(loaded_config(path, "--teacher" if recipe.teacher else "--student_name_or_path").model_type)
    with args.main_process_first(desc="opening the data"):
        rows = data.open(kind)
    if recipe.teacher is None:
        teacher, their_view = None, View.of(path, kind).limited_to(recipe.max_length)
    else:
        teacher, their_view = open_teacher(recipe, rows, kind, args.device)

    transformers.set_seed(args.seed)
    student, view = build_student(recipe, rows, their_view)
    numbers = {value: student.config.label2id[name] for value, name in rows.classes.items()}
    collate = partial(batch_of_rows, columns=(rows.sample_column, rows.label_column), numbers=numbers)
    transfer = hf_cmim.Fraction(rows.train, recipe.transfer_fraction)
    transfer = hf_cmim.Unlabelled(transfer, label_names=[rows.label_column]) if recipe.unlabelled else transfer

    own, theirs = partial(collate, view=view), partial(collate, view=their_view)
    answers, ledger = teacher, QueryLedger(args.query_budget)
    if recipe.cache_folder is not None:
        ledger.check_plan(len(transfer), len(transfer))
        how = {"collator": theirs, "batch_size": args.per_device_eval_batch_size, "ledger": ledger}
        answers = cache_answers(teacher, transfer, recipe.cache_folder, **how)
    settings = {"attack": attack, "processing_class": view.processor, "eval_dataset": rows.validation}
    settings["teacher_collator"] = None if view.settings() == their_view.settings() else theirs
    attacker = partial(DistillationTrainer, student, args, own, **settings)
    trainer = attacker(train_dataset=transfer, teacher=answers)
    metrics = hf_cmim.train_and_save(trainer)

    # Stored answers know no test sample, so the teacher itself is asked; nobody learns from these answers.
    judge = trainer if answers is teacher else attacker(teacher=teacher)
    test = judge.evaluate(rows.test, metric_key_prefix="test")
    queries = trainer.query_report()["queries"]
    queries["asked"] += sum(gather_object([ledger.num_asked]))
    results = {
        "attack": repr(attack),
        "teacher": None if teacher is None else teacher.record() | {"name_or_path": recipe.teacher},
        "n": {"train": len(transfer), "test": len(rows.test)},
        "queries": queries,
        "recipe": asdict(data) | asdict(recipe),
        "train": metrics,
        "test": test,
    }
    shown = {f"test {name}": test[f"test_{name}"] for name in SHOWN if f"test_{name}" in test}
    hf_cmim.finish_training(trainer, results, {"queries paid": queries["paid"]} | shown)  # its card says: a knockoff


if __name__ == "__main__":
    hf_cmim.run_script(main)
