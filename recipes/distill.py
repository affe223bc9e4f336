# /// script
# dependencies = ["hf_cmim", "pillow"]
# ///
"""Attack an image or text classifier: a student learns from the answers of any checkpoint, by any attack.

    python recipes/distill.py --list-attacks
    python recipes/distill.py recipes/configs/distill_fashion_mnist.yaml --seed 0  # local data, 2 CPU cores
    accelerate launch recipes/distill.py --teacher CHECKPOINT --dataset_name DATA --attack 'dkd:{"beta": 2.0}' dot

A first argument that ends in .yaml gives defaults; flags override it. An attack or a channel is NAME or
'NAME:{JSON settings}', in single quotes; {"temperature": {"relative": 1.0}} is in units of the teacher's logit scale.
A data set is what `datasets.load_dataset` opens (a Hub id, a folder of parquet files, a folder of images in
train/CLASS/) or one parquet, csv or json file. Its training split is what the attacker asks about, its classes are
matched with the teacher's by name. The student is a checkpoint or a new, small ViT or BERT.
"""

import argparse
import dataclasses
import difflib
import importlib.metadata
import inspect
import json
import platform
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import huggingface_hub
import PIL.Image
import PIL.ImageOps
import torch
import transformers
import yaml
from accelerate.utils import gather_object
from datasets import ClassLabel, Dataset, Image, load_dataset
from transformers import BertConfig, DataCollatorWithPadding, DefaultDataCollator, HfArgumentParser, ViTConfig
from transformers import ViTImageProcessorPil, set_seed

from hf_cmim import Composition, DistillationConfig, DistillationTrainer, Fraction, Relative, Unlabelled, check_launch
from hf_cmim.attacks import ATTACKS
from hf_cmim.functional.channels import Argmax, ReverseSigmoid, Rounded, Sharpened, TopK
from hf_cmim.teachers import ModelTeacher, QueryLedger, cache_answers, match_classes

# Suits a small student trained from nothing.
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/distill", "num_train_epochs": 20, "learning_rate": 1e-3, "weight_decay": 0.05,
    "warmup_steps": 0.1, "lr_scheduler_type": "cosine", "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1,
    "logging_steps": 50,
}  # fmt: skip
FINE_TUNING = {"num_train_epochs": 5, "learning_rate": 5e-5}  # instead, where the student is a checkpoint
FILE_FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}
CHANNELS: dict[str, Callable[..., Any]] = {
    "argmax": Argmax, "reverse-sigmoid": ReverseSigmoid, "rounded": Rounded, "sharpened": Sharpened, "top-k": TopK,
}  # fmt: skip
HEADS = {"image": "ForImageClassification", "text": "ForSequenceClassification"}
TEACHER_VIEW = "teacher_view"


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `DistillationConfig`."""

    _argument_group_name = "recipe"

    teacher: str | None = field(default=None, metadata={"help": "Folder or Hub id. Unset: an attack that needs none."})
    teacher_class_names: list[str] | None = field(
        default=None, metadata={"help": "Names in the order of the teacher's logits, where its config has none."}
    )
    attack: list[str] = field(
        default_factory=lambda: ["kd"], metadata={"help": "Parts composed: a loss, answer transforms, protocols."}
    )
    list_attacks: bool = field(default=False, metadata={"help": "Print every part with its defaults, and exit."})
    channel: str | None = field(
        default=None, metadata={"help": f"What answers pass through, as 'top-k:{{\"k\": 3}}': {', '.join(CHANNELS)}."}
    )
    cache_folder: str | None = field(
        default=None, metadata={"help": "Ask each sample once and keep the answers here; needs --augment none."}
    )
    transfer_fraction: float = field(default=1.0, metadata={"help": "Share of the training data that is asked."})
    unlabelled: bool = field(default=False, metadata={"help": "Learn from the answers alone, without true labels."})
    dataset_name: str | None = field(default=None, metadata={"help": "Hub id, folder or file."})
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub data set with several."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Unset: the one column of images."})
    text_column: str | None = field(default=None, metadata={"help": "Unset: the one column of texts, or 'text'."})
    label_column: str | None = field(default=None, metadata={"help": "Unset: the one column of labels, or 'label'."})
    train_split: str = field(default="train", metadata={"help": "Split to ask about, less the validation share."})
    test_split: str | None = field(
        default=None, metadata={"help": "Split used once, at the end. Unset: test or validation, else held out too."}
    )
    validation_share: float = field(default=0.1, metadata={"help": "Share of training data held out for validation."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Ask about at most this many."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate and test on at most this many."})
    student_name_or_path: str | None = field(default=None, metadata={"help": "Checkpoint; unset: a new ViT or BERT."})
    image_size: int | None = field(
        default=None, metadata={"help": "Side in pixels of what a new ViT sees; unset: what the teacher sees."}
    )
    patch_size: int = field(default=4, metadata={"help": "Side of a new ViT's patches; divides the image's."})
    max_length: int = field(default=128, metadata={"help": "Tokens after which a text is cut."})
    hidden_size: int = field(default=64, metadata={"help": "Width of a new student; its MLPs are 4 times as wide."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers of a new student."})
    num_attention_heads: int = field(default=4, metadata={"help": "Attention heads of a new student."})
    augment: Literal["crop_flip", "crop", "none"] = field(
        default="none", metadata={"help": "Shift images by up to 1/8, mirror half of them; each view is paid anew."}
    )
    smoke: bool = field(default=False, metadata={"help": "256 samples and 4 steps: does everything fit together?"})


def parse_arguments(words: list[str]) -> tuple[RecipeArguments, DistillationConfig]:
    """Read a YAML file if the first word names one, then the flags, which override it."""
    formatters = (argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter)
    kinds = (RecipeArguments, DistillationConfig)
    parser = HfArgumentParser(kinds, description=__doc__, formatter_class=type("Formatter", formatters, {}))
    from_file = bool(words) and words[0].endswith((".yaml", ".yml"))
    settings = yaml.safe_load(Path(words.pop(0)).read_text(encoding="utf-8")) if from_file else {}
    if unknown := set(settings) - {each.name for kind in kinds for each in dataclasses.fields(kind)}:
        sys.exit(f"Expected settings that --help lists, got {sorted(unknown)}: nothing would read them.")
    parser.set_defaults(**(DEFAULTS | settings))
    if parser.parse_known_args(words)[0].student_name_or_path is not None:
        parser.set_defaults(**(FINE_TUNING | settings))
    recipe, args = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    if recipe.list_attacks:
        list_attacks()
    if recipe.smoke:
        args.max_steps, args.logging_steps, args.dataloader_num_workers = 4, 1, 0
        args.per_device_train_batch_size = min(args.per_device_train_batch_size, 32)
        recipe.max_train_samples, recipe.max_eval_samples = 256, 128
    return recipe, args


def list_attacks() -> None:
    """Print name, description and default settings of every part, and exit."""
    for name, part in ATTACKS.items():
        defaults = {each.name: each.default for each in inspect.signature(part).parameters.values()}
        print(f"{name:22} {inspect.getdoc(part).splitlines()[0]}\n{'':22} {json.dumps(defaults)}")
    sys.exit()


def build_part(given: Any, kinds: Mapping[str, Callable[..., Any]], flag: str) -> Any:
    """Build what NAME, NAME:{JSON settings} or, in a YAML file, {NAME: settings} says."""
    name, settings = next(iter(given.items())) if isinstance(given, dict) and len(given) == 1 else (str(given), {})
    if isinstance(given, str):
        name, _, written = given.partition(":")
        try:
            settings = json.loads(written or "{}")
        except json.JSONDecodeError as error:
            example = f"""{flag} '{name}:{{"temperature": 2.0}}'"""
            sys.exit(f"Expected {flag} NAME:{{JSON}}, got {given!r} ({error}). Shells eat bare quotes: {example}.")
    near = difflib.get_close_matches(name, kinds, n=3, cutoff=0.4)
    if name not in kinds:
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(kinds)}."
        sys.exit(f"Expected a known {flag}, got {name!r}: nothing has this name. {hint}")
    known = list(inspect.signature(kinds[name]).parameters)
    if not isinstance(settings, dict) or (unknown := sorted(set(settings) - set(known))):
        got = unknown if isinstance(settings, dict) else settings
        sys.exit(f"Expected settings of {flag} {name} among {known}, got {got}: nothing would read them.")
    try:
        return kinds[name](**{key: meant(value) for key, value in settings.items()})
    except (TypeError, ValueError) as error:
        raise SystemExit(f"{flag} {name}: {error}") from error


def meant(value: Any) -> Any:
    """Return a setting as a part takes it: {"relative": F} is a temperature, {NAME: settings} another attack."""
    if isinstance(value, list):
        return [meant(each) for each in value]
    if isinstance(value, dict):
        return Relative(value["relative"]) if set(value) == {"relative"} else build_part(value, ATTACKS, "--attack")
    return value


def compose(recipe: RecipeArguments) -> Composition:
    """Return the attack, refused where what it needs is missing: before anything is loaded, or asked and paid."""
    given = [recipe.attack] if isinstance(recipe.attack, str | dict) else recipe.attack
    try:
        attack = Composition(*(build_part(each, ATTACKS, "--attack") for each in given))
    except ValueError as error:
        raise SystemExit(f"--attack: {error}") from error
    if recipe.dataset_name is None:
        sys.exit("Expected --dataset_name, got none: there is nothing to ask about.")
    if recipe.teacher is None and (attack.needs_teacher or recipe.unlabelled or recipe.cache_folder):
        sys.exit(f"Expected --teacher for {attack!r}, got none: nobody would answer. Give a folder or a Hub id.")
    if recipe.cache_folder and attack.query_protocol is not None:
        sys.exit(
            f"Expected no --cache_folder beside {attack.query_protocol!r}, got {recipe.cache_folder}: it asks about"
            " inputs that no stored answer knows, and needs a teacher that answers live. Leave --cache_folder out."
        )
    return attack


def load_or_explain(name: str, load: Callable[[], Any]) -> Any:
    """Load from the Hub or a path. Where the Hub is out of reach say so at once: its clients retry for a minute."""
    hub, proxies = urlsplit(huggingface_hub.constants.ENDPOINT), urllib.request.getproxies()
    # Offline the cache answers at once, and only a proxy knows what is behind it.
    unasked = huggingface_hub.constants.HF_HUB_OFFLINE or hub.scheme in proxies or "all" in proxies
    try:
        if not unasked and not Path(name).exists():
            port = hub.port or (80 if hub.scheme == "http" else 443)
            socket.create_connection((hub.hostname, port), timeout=5).close()
        return load()
    except OSError as error:
        raise SystemExit(
            f"Expected {name!r} on the Hub or as a local path, got: {error}. To run offline, give local folders:\n\n"
            "    HF_HUB_OFFLINE=1 python recipes/distill.py --teacher FOLDER --dataset_name FOLDER\n\n"
            "What this machine has downloaded before is found with HF_HUB_OFFLINE=1 alone."
        ) from error


def open_splits(recipe: RecipeArguments) -> dict[str, Dataset]:
    """Return train, validation (held out from training) and test (not looked at before the end)."""
    path = Path(recipe.dataset_name)
    source = (FILE_FORMATS[path.suffix], None, None, str(path)) if path.is_file() else (str(path), recipe.dataset_config)
    data = load_or_explain(recipe.dataset_name, partial(load_dataset, *source))
    test_split = recipe.test_split or next((name for name in ("test", "validation") if name in data), None)
    for flag, name in (("--train_split", recipe.train_split), ("--test_split", test_split)):
        if name is not None and name not in data:
            sys.exit(f"Expected {flag} to be one of {list(data)} in {recipe.dataset_name}, got {name!r}.")
    train = data[recipe.train_split]
    hold_out = partial(Dataset.train_test_split, test_size=recipe.validation_share, seed=0)  # for every --seed
    train, validation = hold_out(train).values()
    train, test = (train, data[test_split].shuffle(seed=0)) if test_split else hold_out(train).values()
    splits, rest = {"train": train, "validation": validation, "test": test}, recipe.max_eval_samples
    limits = {"train": recipe.max_train_samples, "validation": rest, "test": rest}
    return {name: split.select(range(min(limits[name] or len(split), len(split)))) for name, split in splits.items()}
