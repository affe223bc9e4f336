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


def option(default: Any, text: str) -> Any:
    """Return a setting with its help text."""
    return field(default_factory=lambda: default, metadata={"help": text})


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `DistillationConfig`."""

    _argument_group_name = "recipe"

    teacher: str | None = option(None, "Folder or Hub id; needed unless the attack asks nobody.")
    teacher_class_names: list[str] | None = option(None, "Classes in the order of its logits, if its config has none.")
    attack: list[str] = option(["kd"], "Parts to compose: a loss, answer transforms, protocols.")
    list_attacks: bool = option(False, "Print every part with its defaults, and exit.")
    channel: str | None = option(None, f"What answers pass through first: {', '.join(CHANNELS)}.")
    cache_folder: str | None = option(None, "Ask each sample once and keep the answers here; not with --augment.")
    transfer_fraction: float = option(1.0, "Share of the training data that is asked about.")
    unlabelled: bool = option(False, "Learn from the answers alone, without true labels.")
    dataset_name: str | None = option(None, "Hub id, folder or file.")
    dataset_config: str | None = option(None, "Configuration of a Hub data set with several.")
    image_column: str | None = option(None, "Unset: the one column of images.")
    text_column: str | None = option(None, "Unset: the one column of texts, or 'text'.")
    label_column: str | None = option(None, "Unset: the one column of labels, or 'label'.")
    train_split: str = option("train", "Split to ask about, less the validation share.")
    test_split: str | None = option(None, "Used once, at the end; unset: test or validation, else held out too.")
    validation_share: float = option(0.1, "Share of training data held out for validation.")
    max_train_samples: int | None = option(None, "Ask about at most this many.")
    max_eval_samples: int | None = option(None, "Validate and test on at most this many.")
    augment: Literal["crop_flip", "crop", "none"] = option("none", "Shift images by up to 1/8, mirror half of them.")
    max_length: int = option(128, "Tokens after which a text is cut.")
    student_name_or_path: str | None = option(None, "Checkpoint; unset: a new ViT, or BERT with the teacher's tokens.")
    image_size: int | None = option(None, "Side in pixels of what a new ViT sees; unset: what the teacher sees.")
    patch_size: int = option(4, "Side of a new ViT's patches; divides the image's.")
    hidden_size: int = option(64, "Width of a new student; its MLPs are 4 times as wide.")
    num_hidden_layers: int = option(4, "Layers of a new student.")
    num_attention_heads: int = option(4, "Attention heads of a new student.")
    smoke: bool = option(False, "256 samples and 4 steps: does everything fit together?")


def parse_arguments(words: list[str]) -> tuple[RecipeArguments, DistillationConfig]:
    """Read a YAML file if the first word names one, then the flags, which override it."""
    formatters = (argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter)
    kinds = (RecipeArguments, DistillationConfig)
    parser = transformers.HfArgumentParser(kinds, description=__doc__, formatter_class=type("", formatters, {}))
    from_file = bool(words) and words[0].endswith((".yaml", ".yml"))
    settings = yaml.safe_load(Path(words.pop(0)).read_text(encoding="utf-8")) if from_file else {}
    if unknown := set(settings) - {each.name for kind in kinds for each in dataclasses.fields(kind)}:
        sys.exit(f"Expected settings that --help lists, got {sorted(unknown)}: nothing would read them.")
    parser.set_defaults(**(DEFAULTS | settings))
    if parser.parse_known_args(words)[0].student_name_or_path is not None:
        parser.set_defaults(**(FINE_TUNING | settings))
    recipe, args = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    if recipe.smoke:
        args.max_steps, args.logging_steps, args.dataloader_num_workers = 4, 1, 0
        args.per_device_train_batch_size = min(args.per_device_train_batch_size, 32)
        recipe.max_train_samples, recipe.max_eval_samples = 256, 128
    return recipe, args


def list_attacks() -> None:
    """Print name, description and default settings of every part."""
    for name, part in ATTACKS.items():
        defaults = {each.name: each.default for each in inspect.signature(part).parameters.values()}
        print(f"{name:22} {inspect.getdoc(part).splitlines()[0]}\n{'':22} {json.dumps(defaults)}")


def build_part(given: Any, kinds: Mapping[str, Callable[..., Any]], flag: str) -> Any:
    """Build what NAME, NAME:{JSON settings} or, in a YAML file, {NAME: settings} says."""
    try:
        if isinstance(given, dict):
            [(name, settings)] = given.items()
        else:
            name, _, written = given.partition(":")
            settings = json.loads(written or "{}")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=3, cutoff=0.4) or list(kinds)
            sys.exit(f"Expected a known {flag}, got {name!r}: nothing has this name. Nearest: {', '.join(near)}.")
        known = list(inspect.signature(kinds[name]).parameters)
        if unknown := sorted(set(settings) - set(known)):
            sys.exit(f"Expected settings of {flag} {name} among {known}, got {unknown}: nothing would read them.")
        return kinds[name](**{key: meant(value) for key, value in settings.items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise SystemExit(
            f"Expected {flag} as NAME or, in single quotes, 'NAME:{{\"setting\": value}}', got {given!r}: {error}"
        ) from error


def meant(value: Any) -> Any:
    """Return a setting as a part takes it: {"relative": F} is a temperature, {NAME: settings} another attack."""
    if isinstance(value, list):
        return [meant(each) for each in value]
    if isinstance(value, dict):
        return Relative(value["relative"]) if set(value) == {"relative"} else build_part(value, ATTACKS, "--attack")
    return value


def compose(recipe: RecipeArguments) -> Composition:
    """Return the attack, refused where what it needs is missing: before anything is loaded, or asked and paid."""
    try:
        parts = [recipe.attack] if isinstance(recipe.attack, str | dict) else recipe.attack  # as YAML may say
        attack = Composition(*(build_part(each, ATTACKS, "--attack") for each in parts))
    except ValueError as error:
        raise SystemExit(f"--attack: {error}") from error
    if recipe.teacher is None and (attack.needs_teacher or recipe.unlabelled or recipe.cache_folder):
        sys.exit(f"Expected --teacher for {attack!r}, got none: nobody would answer. Give a folder or a Hub id.")
    if recipe.cache_folder is not None and attack.query_protocol is not None:
        sys.exit(
            f"Expected no --cache_folder beside {attack.query_protocol!r}, got {recipe.cache_folder}: it asks about"
            " inputs that no stored answer knows, so the teacher must answer live. Leave --cache_folder out."
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


def find_column(kind: str, asked: str | None, candidates: list[str], columns: list[str]) -> str:
    """Return the column asked for, or the only candidate."""
    found = [name for name in ([asked] if asked is not None else candidates) if name in columns]
    if len(found) != 1:
        sys.exit(
            f"Expected one {kind} column, got {found or 'none'} among {columns}: a wrong one would be another task"
            f" than you mean. Choose with --{kind}_column NAME."
        )
    return found[0]


def read_classes(splits: dict[str, Dataset], column: str) -> dict[Any, str]:
    """Return the name of the class that each value in the label column stands for."""
    feature = splits["train"].features[column]
    found = {value for split in splits.values() for value in split.select_columns(column).unique(column)}
    names = dict(enumerate(feature.names)) if isinstance(feature, ClassLabel) else {}
    names = names or {value: str(value) for value in sorted(found - {None})}
    if unknown := found - set(names):
        sys.exit(f"Expected labels of {len(names)} classes in column {column!r}, got also {unknown}: rows without a"
                 " label, as public test splits often have? Choose another --test_split.")  # fmt: skip
    return names


def open_processor(recipe: RecipeArguments, path: str, config: Any, kind: str) -> Any:
    """Return a checkpoint's image processor, or its tokenizer, which cuts texts to what the model can read."""
    auto = transformers.AutoImageProcessor if kind == "image" else transformers.AutoTokenizer
    processor = load_or_explain(path, partial(auto.from_pretrained, path))
    if kind == "text":
        positions = getattr(config, "max_position_embeddings", None) or recipe.max_length
        processor.model_max_length = min(recipe.max_length, processor.model_max_length, positions)
        processor.pad_token = processor.pad_token or processor.eos_token  # generative models come without
    return processor


def open_teacher(recipe: RecipeArguments, names: list[str], device: Any) -> tuple[ModelTeacher, Any, str]:
    """Return the teacher behind its channel, its image processor or tokenizer, and which of the two it is."""
    channel = None if recipe.channel is None else build_part(recipe.channel, CHANNELS, "--channel")
    load = partial(ModelTeacher, class_names=recipe.teacher_class_names, channel=channel, device=device)
    teacher = load_or_explain(recipe.teacher, partial(load, recipe.teacher))
    match_classes(teacher.class_names, names)  # says now which names differ, before anything is asked
    architecture = type(teacher.model).__name__
    kind = next((kind for kind, head in HEADS.items() if architecture.endswith(head)), None)
    if kind is None:
        sys.exit(f"Expected a classifier of images or texts, got {architecture}: this recipe prepares no other inputs.")
    return teacher, open_processor(recipe, recipe.teacher, teacher.model.config, kind), kind


def build_student(recipe: RecipeArguments, names: list[str], kind: str, processor: Any, sample: Any) -> tuple:
    """Return a checkpoint with a head for these classes, or a new ViT or BERT, and its processor or tokenizer."""
    path = recipe.student_name_or_path
    if path is not None:
        config = load_or_explain(path, partial(transformers.AutoConfig.from_pretrained, path))
        own = [name for _, name in sorted(config.id2label.items())]
        names = own if sorted(own) == sorted(names) else names  # the order in which its head was trained
    labels: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    if path is not None:
        # A head for other classes is begun anew.
        config.update(labels)
        auto = getattr(transformers, f"AutoModel{HEADS[kind]}")
        load = partial(auto.from_pretrained, path, config=config, ignore_mismatched_sizes=True)
        model, processor = load_or_explain(path, load), open_processor(recipe, path, config, kind)
        if kind == "text" and config.pad_token_id is None:
            model.config.pad_token_id = processor.pad_token_id
        return model, processor
    if processor is None and (kind == "text" or recipe.image_size is None):
        sys.exit("Expected --teacher, --student_name_or_path or, for images, --image_size, got none: what the student"
                 " sees would be anyone's guess. Give the teacher to compare with, even if nobody asks it.")  # fmt: skip
    shape = {name: getattr(recipe, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    shape |= {"intermediate_size": 4 * recipe.hidden_size, **labels}
    if kind == "text":
        vocabulary = {"vocab_size": len(processor), "pad_token_id": processor.pad_token_id}
        config = transformers.BertConfig(**shape, **vocabulary, max_position_embeddings=processor.model_max_length)
        return transformers.BertForSequenceClassification(config), processor
    if recipe.image_size is not None:
        size = {"height": recipe.image_size, "width": recipe.image_size}
        processor = transformers.ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    size = list(encoded(processor, [sample])["pixel_values"].shape[-2:])
    config = transformers.ViTConfig(**shape, image_size=size, patch_size=recipe.patch_size)
    return transformers.ViTForImageClassification(config), processor


def encoded(processor: Any, samples: list[Any]) -> dict[str, Any]:
    """Return what a model takes of texts or images. Grey images become RGB, so that one processor serves every model."""
    if isinstance(samples[0], str):
        return dict(processor(samples, truncation=True))
    return dict(processor([image.convert("RGB") for image in samples], return_tensors="pt"))


def to_inputs(rows: dict[str, list], processors: tuple, columns: tuple[str, str], numbers: dict, augment: str) -> dict:
    """Turn rows into what the student takes, and into what the teacher sees of the same samples where that differs."""
    samples = rows[columns[0]]
    if augment != "none":
        samples = [augmented(image, flip=augment == "crop_flip") for image in samples]
    views = [encoded(processor, samples) for processor in dict.fromkeys(processors)]
    own = [[dict(zip(view, sample, strict=True)) for sample in zip(*view.values(), strict=True)] for view in views[1:]]
    return views[0] | {"labels": [numbers[label] for label in rows[columns[1]]]} | dict.fromkeys([TEACHER_VIEW], *own)
