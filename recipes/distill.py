# /// script
# dependencies = ["hf_cmim", "pillow"]
# ///
"""Attack an image or text classifier: a student learns from the answers of any checkpoint, by any attack.

    python recipes/distill.py --list-attacks
    python recipes/distill.py recipes/configs/distill_fashion_mnist.yaml --seed 0  # local data, 2 CPU cores
    accelerate launch recipes/distill.py --teacher CHECKPOINT --dataset_name DATA --attack 'dkd:{"beta": 2.0}' dot

A first argument that ends in .yaml gives defaults; flags override it. Attack and channel are NAME or, in single
quotes, 'NAME:{JSON settings}'; inside, {"relative": 1.0} is a temperature in units of the teacher's logit scale, and
{NAME: {settings}} another part. A data set is what `datasets.load_dataset` opens, or one parquet, csv or json file.
"""

import argparse
import difflib
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from importlib.metadata import version
from inspect import getdoc, signature
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from accelerate.utils import gather_object
from transformers.hf_argparser import HfArg, HfArgumentParser

from hf_cmim import (
    Composition,
    DistillationConfig,
    DistillationTrainer,
    Fraction,
    HfCmimError,
    Relative,
    Unlabelled,
    check_launch,
)
from hf_cmim.attacks import ATTACKS
from hf_cmim.channels import Argmax, ReverseSigmoid, Rounded, Sharpened, TopK
from hf_cmim.class_names import class_names_of
from hf_cmim.data.rows import DataRows, DataSource, open_rows
from hf_cmim.data.views import kind_of_type
from hf_cmim.positions import usable_positions
from hf_cmim.teachers import ModelTeacher, QueryLedger, cache_answers, match_classes

# Suits a small student trained from nothing. Each model's own collator chooses what it sees of a row.
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/distill", "num_train_epochs": 20, "learning_rate": 1e-3, "weight_decay": 0.05,
    "warmup_steps": 0.1, "per_device_train_batch_size": 64, "logging_steps": 50, "remove_unused_columns": False,
    "per_device_eval_batch_size": 256, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1,
}  # fmt: skip
FINE_TUNING = {"num_train_epochs": 5, "learning_rate": 5e-5}  # instead, where the student is a checkpoint
CHANNELS = {"argmax": Argmax, "reverse-sigmoid": ReverseSigmoid, "rounded": Rounded, "sharpened": Sharpened,
            "top-k": TopK}  # fmt: skip
PARTS: dict[str, Any] = ATTACKS | CHANNELS
PACKAGES = ("hf_cmim", "torch", "transformers", "datasets", "accelerate")
HEADS = {"image": "ForImageClassification", "text": "ForSequenceClassification"}


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `DistillationConfig`."""

    _argument_group_name = "recipe"

    teacher: str | None = HfArg(default=None, help="Folder or Hub id; needed unless the attack asks nobody.")
    class_names: list[str] | None = field(default=None, metadata={"help": "The teacher's, if its config has none."})
    attack: list[str] = field(default_factory=lambda: ["kd"], metadata={"help": "Loss, transforms and protocols."})
    list_attacks: bool = HfArg(default=False, help="Print every part with its default settings, and exit.")
    channel: str | None = HfArg(default=None, help=f"What answers pass through first: {', '.join(CHANNELS)}.")
    cache_folder: str | None = HfArg(default=None, help="Ask about each sample once, and keep the answers here.")
    transfer_fraction: float = HfArg(default=1.0, help="Share of the training data that is asked about.")
    unlabelled: bool = HfArg(default=False, help="Learn from the answers alone, without true labels.")
    dataset_name: str = HfArg(default="", help="Hub id, folder or file.")
    image_column: str | None = HfArg(default=None, help="Unset: the one column of images, or 'image'.")
    text_column: str | None = HfArg(default=None, help="Unset: the one column of texts, or 'text'.")
    label_column: str | None = HfArg(default=None, help="Unset: the one column of class labels, or 'label'.")
    train_split: str = HfArg(default="train", help="Split to ask about, less the validation share.")
    test_split: str | None = HfArg(default=None, help="Used at the end; unset: test, or a share held out.")
    validation_share: float = HfArg(default=0.1, help="Share of training data held out for validation.")
    max_train_samples: int | None = HfArg(default=None, help="Ask about at most this many.")
    max_eval_samples: int | None = HfArg(default=None, help="Validate and test on at most this many.")
    max_length: int = HfArg(default=128, help="Tokens after which a text is cut.")
    student_name_or_path: str | None = HfArg(default=None, help="Checkpoint; unset: a new ViT or BERT.")
    image_size: int | None = HfArg(default=None, help="Side in pixels of a new ViT's images; unset: as the teacher's.")
    patch_size: int = HfArg(default=4, help="Side of a new ViT's patches; divides the image's.")
    hidden_size: int = HfArg(default=64, help="Width of a new student; its MLPs are 4 times as wide.")
    num_hidden_layers: int = HfArg(default=4, help="Layers of a new student.")
    num_attention_heads: int = HfArg(default=4, help="Attention heads of a new student.")
    smoke: bool = HfArg(default=False, help="256 samples and 4 steps: does everything fit together?")


def parse_arguments(words: list[str]) -> tuple[RecipeArguments, DistillationConfig, Composition]:
    """Read a YAML file if the first word names one, then the flags, which override it, and build the attack."""
    formatters = (argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter)
    kinds = (RecipeArguments, DistillationConfig)
    parser = HfArgumentParser(kinds, description=__doc__, formatter_class=type("_", formatters, {}))
    given = yaml.safe_load(Path(words.pop(0)).read_bytes()) if words and words[0].endswith((".yaml", ".yml")) else {}
    if unknown := set(given) - {each.name for kind in kinds for each in fields(kind)}:
        sys.exit(f"Expected settings that --help lists, got {sorted(unknown)}: nothing would read them.")
    parser.set_defaults(**(DEFAULTS | given))
    if parser.parse_known_args(words)[0].student_name_or_path is not None:
        parser.set_defaults(**(FINE_TUNING | given))
    recipe, args = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    if recipe.list_attacks:
        for name, part in ATTACKS.items():
            settings = [str(each.replace(annotation=each.empty)) for each in signature(part).parameters.values()]
            print(f"{name:22} {getdoc(part).splitlines()[0]}\n{'':22} {', '.join(settings) or 'no settings'}")
        sys.exit()
    if recipe.smoke:
        args.max_steps, args.logging_steps, args.dataloader_num_workers = 4, 1, 0
        args.per_device_train_batch_size = min(args.per_device_train_batch_size, 32)
        recipe.max_train_samples, recipe.max_eval_samples = 256, 128
    words = [recipe.attack] if isinstance(recipe.attack, str) else recipe.attack  # a file may name one alone
    attack = Composition(*(build_part(word, ATTACKS, "--attack") for word in words))
    asks, prepares = attack.needs_teacher, recipe.teacher or recipe.student_name_or_path
    if recipe.teacher is None if asks or recipe.cache_folder else recipe.unlabelled or prepares is None:
        sys.exit("Expected --teacher, or an attack that asks nobody with true labels and --student_name_or_path.")
    if recipe.cache_folder is not None and attack.query_protocol is not None:
        sys.exit(f"Expected no --cache_folder beside {attack.query_protocol!r}: stored answers know no such queries.")
    return recipe, args, attack


def meant(values: dict[str, Any]) -> Any:
    """Return what an object in JSON settings stands for: a relative temperature, a part, or itself."""
    name = next(iter(values), "")
    return Relative(values[name]) if name == "relative" else PARTS[name](**values[name]) if name in PARTS else values


def build_part(given: str, names: dict[str, Any], flag: str) -> Any:
    """Build what NAME or NAME:{JSON settings} says."""
    name, _, written = str(given).partition(":")
    if name not in names:
        near = difflib.get_close_matches(name, names, cutoff=0.4) or list(names)
        sys.exit(f"Expected a known {flag}, got {name!r}: nothing has this name. Nearest: {', '.join(near)}.")
    try:
        return PARTS[name](**json.loads(written or "{}", object_hook=meant))
    except (TypeError, ValueError) as error:
        form = f"""{flag} '{name}:{{"setting": value}}' in single quotes, settings {signature(PARTS[name])}"""
        raise SystemExit(f"Expected {form}, got {given!r}: {error}") from error


def open_data(recipe: RecipeArguments, kind: str) -> DataRows:
    """Return train, validation (held out from training) and test rows (not looked at before the end), with columns."""
    source = DataSource.of(
        recipe,
        dataset=recipe.dataset_name,
        test_share=recipe.validation_share,
        max_validation_samples=recipe.max_eval_samples,
        max_test_samples=recipe.max_eval_samples,
    )
    try:
        return open_rows(source, kind)
    except HfCmimError as error:
        raise SystemExit(str(error)) from error


def open_processor(recipe: RecipeArguments, path: str, config: Any, kind: str) -> Any:
    """Return a checkpoint's image processor, or its tokenizer, which cuts texts to what the model can read."""
    if kind == "image":
        return transformers.AutoImageProcessor.from_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    with torch.device("meta"):  # takes no memory
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    positions = usable_positions(model) or recipe.max_length
    tokenizer.model_max_length = min(recipe.max_length, tokenizer.model_max_length, positions)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # generative models come without
    config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def build_student(recipe: RecipeArguments, names: list[str], kind: str, processor: Any, sample: Any) -> tuple:
    """Return a checkpoint with a head for these classes, or a new ViT or BERT, and its processor or tokenizer."""
    path, auto = recipe.student_name_or_path, getattr(transformers, f"AutoModel{HEADS[kind]}")
    shape = {name: getattr(recipe, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    shape["intermediate_size"] = 4 * recipe.hidden_size
    if path is not None:
        config = transformers.AutoConfig.from_pretrained(path)
        own = list(class_names_of(config) or ())
        names = own if sorted(own) == sorted(names) else names  # the order in which its head was trained
        processor = open_processor(recipe, path, config, kind)
    elif kind == "text":
        config = transformers.BertConfig(**shape, vocab_size=len(processor), pad_token_id=processor.pad_token_id)
        config.max_position_embeddings = processor.model_max_length
    else:
        if recipe.image_size is not None:
            size = {"height": recipe.image_size, "width": recipe.image_size}
            processor = transformers.ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        size = list(processor(sample.convert("RGB"), return_tensors="pt")["pixel_values"].shape[-2:])
        config = transformers.ViTConfig(**shape, image_size=size, patch_size=recipe.patch_size)
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}
    load = partial(auto.from_pretrained, path, config=config, ignore_mismatched_sizes=True)  # begins other heads anew
    return auto.from_config(config) if path is None else load(), processor


def batch_of(rows: list[dict[str, Any]], processor: Any, columns: tuple[str, str], numbers: dict) -> dict[str, Any]:
    """Collate rows for one model. Grey images become RGB, so that one processor serves every model."""
    samples = [row[columns[0]] if isinstance(row[columns[0]], str) else row[columns[0]].convert("RGB") for row in rows]
    how = {"truncation": True, "padding": True} if isinstance(samples[0], str) else {}
    batch = dict(processor(samples, return_tensors="pt", **how))
    if columns[1] in rows[0]:  # not where the attacker has no labels
        batch["labels"] = torch.tensor([numbers[row[columns[1]]] for row in rows])
    return batch


def write_report(trainer: DistillationTrainer, figures: dict[str, Any]) -> None:
    """Write results.json, and print what matters."""
    args, queries = trainer.args, figures["queries"]
    figures |= {"seed": args.seed, "num_processes": args.world_size}
    figures |= {
        "attack": repr(trainer.attack),
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else f"{platform.machine()} CPU",
        "versions": {name: version(name) for name in PACKAGES},
        "date": time.strftime("%Y-%m-%d"),
    }
    Path(args.output_dir, "results.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    print(f"{figures['attack']}\nqueries: {queries['paid']} paid, {queries['asked']} asked")
    for name in ("accuracy", "teacher_accuracy", "agreement", "teacher_kl"):
        if (value := figures["test"].get(f"test_{name}")) is not None:
            print(f"test {name:20} {value:.4f}")
    print(f"The student, its card and its results.json are in {args.output_dir}.")


def main() -> None:
    """Attack one teacher with one student, measure the student and save it."""
    # ---- 1. Data ----
    recipe, args, attack = parse_arguments(sys.argv[1:])
    channel = None if recipe.channel is None else build_part(recipe.channel, CHANNELS, "--channel")
    check_launch(args.world_size)
    path = recipe.teacher or recipe.student_name_or_path
    kind = kind_of_type(transformers.AutoConfig.from_pretrained(path).model_type)
    with args.main_process_first(desc="opening the data"):
        rows = open_data(recipe, kind)
    train, validation, test, classes = rows.train, rows.validation, rows.test, rows.classes

    # ---- 2. Teacher ----
    teacher = theirs = None
    if recipe.teacher is not None:
        teacher = ModelTeacher(recipe.teacher, class_names=recipe.class_names, channel=channel, device=args.device)
        match_classes(teacher.class_names, list(classes.values()))  # says what differs before anything is asked
        theirs = open_processor(recipe, recipe.teacher, teacher.model.config, kind)

    # ---- 3. Student ----
    transformers.set_seed(args.seed)
    columns = rows.sample_column, rows.label_column
    student, processor = build_student(recipe, list(classes.values()), kind, theirs, train[0][columns[0]])
    numbers = {value: student.config.label2id[name] for value, name in classes.items()}
    view, their_view = (partial(batch_of, processor=p, columns=columns, numbers=numbers) for p in (processor, theirs))
    transfer = Fraction(train, recipe.transfer_fraction)
    transfer = Unlabelled(transfer, label_names=[rows.label_column]) if recipe.unlabelled else transfer

    # ---- 4. Trainer ----
    answers, ledger = teacher, QueryLedger(args.query_budget)
    if recipe.cache_folder is not None:
        ledger.check_plan(len(transfer), len(transfer))
        how = {"collator": their_view, "batch_size": args.per_device_eval_batch_size, "ledger": ledger}
        answers = cache_answers(teacher, transfer, recipe.cache_folder, **how)
    other = None if theirs is None or repr(processor) == repr(theirs) else their_view
    settings = {"attack": attack, "processing_class": processor, "teacher_collator": other, "eval_dataset": validation}
    trainer = DistillationTrainer(student, args, view, transfer, teacher=answers, **settings)

    # ---- 5. Train ----
    checkpoint = args.resume_from_checkpoint
    outcome = trainer.train(resume_from_checkpoint=True if str(checkpoint).lower() == "true" else checkpoint)
    trainer.save_model()

    # ---- 6. Report ----
    # Stored answers know no test sample, so the teacher itself is asked; nobody learns from these answers.
    judge = trainer if answers is teacher else DistillationTrainer(student, args, view, teacher=teacher, **settings)
    figures = {"recipe": asdict(recipe), "train": outcome.metrics, "n": {"train": len(transfer), "test": len(test)}}
    figures["test"] = judge.evaluate(test, metric_key_prefix="test")
    figures["teacher"] = None if teacher is None else teacher.record() | {"name_or_path": recipe.teacher}
    figures["queries"] = trainer.query_report()["queries"]
    figures["queries"]["asked"] += sum(gather_object([ledger.num_asked]))
    if trainer.is_world_process_zero():
        write_report(trainer, figures)
    (trainer.push_to_hub if args.push_to_hub else trainer.create_model_card)()  # it says that this is a knockoff
    trainer.accelerator.wait_for_everyone()  # a process that leaves early can hang at its exit
    (trainer.model_wrapped,) = trainer.accelerator.free_memory(trainer.model_wrapped)  # or frees DDP after the group
    trainer.end()


if __name__ == "__main__":
    main()
