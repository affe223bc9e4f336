# /// script
# dependencies = ["hf_cmim[plots]"]
# ///
"""Harden a text classifier against distillation: any checkpoint on any labelled texts, or a small new encoder.

    python recipes/text_classification.py recipes/configs/wordnet_offline.yaml --seed 0  # local data, 2 CPU cores
    accelerate launch recipes/text_classification.py recipes/configs/text_pretrained.yaml  # DistilBERT, for a GPU
    python recipes/text_classification.py --dataset_name FOLDER --model_name_or_path CHECKPOINT --objective ls

A first argument that ends in .yaml gives defaults; flags override it. A data set is what `datasets.load_dataset` opens
(a Hub id, a folder of parquet files) or one parquet, csv or json file. Without --model_name_or_path a byte-level BPE
tokenizer is trained on the training texts, and a small BERT on its tokens: no network is needed.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import platform
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import huggingface_hub
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    set_seed,
)

from hf_cmim import CMIMConfig, CMIMTrainer, HfCmimError, check_launch
from hf_cmim.data.rows import DataRows, DataSource, open_rows
from hf_cmim.positions import usable_positions

# Suits a small encoder trained from nothing.
DEFAULTS: dict[str, Any] = {
    "output_dir": "outputs/text_classification", "num_train_epochs": 4, "learning_rate": 2e-3, "weight_decay": 0.01,
    "warmup_steps": 0.1, "per_device_train_batch_size": 64, "per_device_eval_batch_size": 256,
    "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1, "logging_steps": 50,
}  # fmt: skip
FINE_TUNING = {"num_train_epochs": 3, "learning_rate": 3e-5}  # instead, where a checkpoint is given
SPECIAL_TOKENS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}  # bytes need no unknown token


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `CMIMConfig`."""

    _argument_group_name = "recipe"

    objective: Literal["cmim", "ls", "ce"] = field(
        default="cmim",
        metadata={
            "help": "cmim hardens; ls (label smoothing, 0.1 unless --label_smoothing_factor is given) and ce"
            " (cross-entropy) train what it is compared with, at cmi_weight 0."
        },
    )
    dataset_name: str = field(default="fancyzhx/ag_news", metadata={"help": "Hub id, folder or file."})
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a Hub data set with several."}
    )
    text_column: str | None = field(default=None, metadata={"help": "Unset: the one column of texts, or 'text'."})
    label_column: str | None = field(default=None, metadata={"help": "Unset: the one column of labels, or 'label'."})
    train_split: str = field(default="train", metadata={"help": "Split to train on, less the validation share."})
    test_split: str | None = field(
        default=None, metadata={"help": "Split used once, at the end. Unset: test, else held out too."}
    )
    validation_share: float = field(default=0.1, metadata={"help": "Share of training data held out for validation."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on at most this many."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate and test on at most this many."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Trained checkpoint; unset: a new BERT."})
    max_length: int = field(default=128, metadata={"help": "Tokens after which a text is cut."})
    vocabulary_size: int = field(default=8000, metadata={"help": "Tokens of a new BERT's tokenizer."})
    hidden_size: int = field(default=64, metadata={"help": "Width of a new BERT; its MLPs are 4 times as wide."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers of a new BERT."})
    num_attention_heads: int = field(default=4, metadata={"help": "Attention heads of a new BERT."})
    smoke: bool = field(default=False, metadata={"help": "256 samples and 4 steps: does everything fit together?"})


def parse_arguments(words: list[str]) -> tuple[RecipeArguments, CMIMConfig]:
    """Read a YAML file if the first word names one, then the flags, which override it."""
    formatters = (argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter)
    kinds = (RecipeArguments, CMIMConfig)
    parser = HfArgumentParser(kinds, description=__doc__, formatter_class=type("Formatter", formatters, {}))
    from_file = bool(words) and words[0].endswith((".yaml", ".yml"))
    settings = yaml.safe_load(Path(words.pop(0)).read_text(encoding="utf-8")) if from_file else {}
    if unknown := set(settings) - {each.name for kind in kinds for each in dataclasses.fields(kind)}:
        sys.exit(f"Expected settings that --help lists, got {sorted(unknown)}: nothing would read them.")
    parser.set_defaults(**(DEFAULTS | settings))
    if parser.parse_known_args(words)[0].model_name_or_path is not None:
        parser.set_defaults(**(FINE_TUNING | settings))
    recipe, args = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    if recipe.objective == "cmim" and not args.cmi_weight:
        sys.exit("Expected a cmi_weight above 0 for --objective cmim, got 0: that is plain training, --objective ce.")
    if recipe.objective == "ce" and args.label_smoothing_factor:
        sys.exit("Expected no label_smoothing_factor for --objective ce, got one: that is --objective ls.")
    if recipe.objective != "cmim":
        args.cmi_weight = 0.0
    if recipe.objective == "ls":
        args.label_smoothing_factor = args.label_smoothing_factor or 0.1
    if recipe.smoke:
        args.max_steps, args.logging_steps, args.dataloader_num_workers = 4, 1, 0
        args.per_device_train_batch_size = min(args.per_device_train_batch_size, 32)
        recipe.max_train_samples, recipe.max_eval_samples = 256, 128
    args.remove_unused_columns = False  # the transform reads columns that the model does not take
    return recipe, args


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
            f"Expected {name!r} on the Hub or as a local path, got: {error}. To run offline, give a folder of parquet"
            " files or a parquet file; without --model_name_or_path a small encoder is trained on it from scratch:\n\n"
            "    HF_HUB_OFFLINE=1 python recipes/text_classification.py recipes/configs/wordnet_offline.yaml"
            " --dataset_name PATH --text_column COLUMN --label_column COLUMN\n\n"
            "What this machine has downloaded before is found with HF_HUB_OFFLINE=1 alone."
        ) from error


def open_data(recipe: RecipeArguments) -> DataRows:
    """Return train, validation (held out from training) and test rows (not looked at before the end), with columns."""
    source = DataSource.of(
        recipe,
        dataset=recipe.dataset_name,
        test_share=recipe.validation_share,
        max_validation_samples=recipe.max_eval_samples,
        max_test_samples=recipe.max_eval_samples,
    )
    try:
        return load_or_explain(recipe.dataset_name, partial(open_rows, source, "text"))
    except HfCmimError as error:
        raise SystemExit(str(error)) from error


def to_inputs(rows: dict[str, list], tokenizer: Any, columns: tuple[str, str], numbers: dict, max_length: int) -> dict:
    """Turn rows into what the model takes; the collator pads each batch to its longest text."""
    tokens = tokenizer(rows[columns[0]], truncation=True, max_length=max_length)
    return {**tokens, "labels": [numbers[label] for label in rows[columns[1]]]}


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of lower-cased texts.

    Not WordPiece: its trainer breaks ties differently in every run (tokenizers#1794), so that two processes, or a run
    and its resumption, would disagree on the meaning of a token.
    """
    raw = Tokenizer(models.BPE())
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.ByteLevel()
    every = {"special_tokens": list(SPECIAL_TOKENS.values()), "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary_size, show_progress=False, **every))
    raw.decoder = decoders.ByteLevel()
    ends = [(token, raw.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=raw, **SPECIAL_TOKENS)


def build_model(recipe: RecipeArguments, names: list[str], texts: Iterable[str]) -> tuple[torch.nn.Module, Any]:
    """Return a checkpoint with a head for these classes, or a new BERT, and its tokenizer."""
    labels: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    if recipe.model_name_or_path is not None:
        # A head for another number of classes is begun anew.
        load = partial(AutoModelForSequenceClassification.from_pretrained, ignore_mismatched_sizes=True, **labels)
        loads = [partial(each, recipe.model_name_or_path) for each in (load, AutoTokenizer.from_pretrained)]
        model, tokenizer = (load_or_explain(recipe.model_name_or_path, each) for each in loads)
        if tokenizer.pad_token is None:  # as generative models come
            tokenizer.pad_token = tokenizer.eos_token
            model.config.pad_token_id = tokenizer.pad_token_id
        recipe.max_length = min(recipe.max_length, usable_positions(model) or recipe.max_length)
        return model, tokenizer
    tokenizer = train_tokenizer(texts, recipe.vocabulary_size)
    shape = {name: getattr(recipe, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    shape |= {"intermediate_size": 4 * recipe.hidden_size, "max_position_embeddings": recipe.max_length}
    config = BertConfig(**shape, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **labels)
    return BertForSequenceClassification(config), tokenizer


def write_report(trainer: CMIMTrainer, recipe: RecipeArguments, figures: dict[str, Any]) -> None:
    """Write results.json, and print what matters."""
    folder = Path(trainer.args.output_dir)
    packages = ("hf_cmim", "torch", "transformers", "datasets", "accelerate")
    figures |= {
        "num_processes": trainer.args.world_size,
        "device": torch.cuda.get_device_name() if trainer.args.device.type == "cuda" else f"{platform.machine()} CPU",
        "versions": {each.name: each.version for each in importlib.metadata.distributions() if each.name in packages},
        "date": time.strftime("%Y-%m-%d"),
        "recipe": dataclasses.asdict(recipe),
        "measurement": trainer.measurement.to_dict(),
    }
    (folder / "results.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    for name in ("accuracy", "nll", "ece", "cmi_sup", "within_total_ratio"):
        print(f"test {name:20} {figures['test'][f'test_{name}']:.4f}")
    print(f"The model, its card, certificate and results.json are in {folder}.")


def main() -> None:
    """Train one model, measure it and save it."""
    # ---- 1. Data ----
    recipe, args = parse_arguments(sys.argv[1:])
    check_launch(args.world_size)
    with args.main_process_first(desc="opening the data"):
        rows = open_data(recipe)
    names = list(rows.classes.values())
    numbers = {value: number for number, value in enumerate(rows.classes)}

    # ---- 2. Model ----
    set_seed(args.seed)
    model, tokenizer = build_model(recipe, names, rows.train[rows.sample_column])
    columns = (rows.sample_column, rows.label_column)
    settings = {"columns": columns, "numbers": numbers, "max_length": recipe.max_length}
    transform = partial(to_inputs, tokenizer=tokenizer, **settings)
    parts = {"train": rows.train, "validation": rows.validation, "test": rows.test}
    data = {name: part.with_transform(transform) for name, part in parts.items()}

    # ---- 3. Trainer ----
    trainer = CMIMTrainer(
        model, args, train_dataset=data["train"], eval_dataset=data["validation"], processing_class=tokenizer
    )

    # ---- 4. Train ----
    checkpoint = args.resume_from_checkpoint
    outcome = trainer.train(resume_from_checkpoint=True if str(checkpoint).lower() == "true" else checkpoint)
    trainer.save_model()

    # ---- 5. Report ----
    test = trainer.evaluate(data["test"], metric_key_prefix="test")
    figures = {
        "objective": recipe.objective,
        "seed": args.seed,
        "n": {name: len(split) for name, split in data.items()},
    }
    if trainer.is_world_process_zero():
        write_report(trainer, recipe, figures | {"train": outcome.metrics, "test": test})
    dataset = None if Path(recipe.dataset_name).exists() else recipe.dataset_name
    publish = trainer.push_to_hub if args.push_to_hub else trainer.create_model_card
    publish(dataset=dataset)  # with a certificate; `hf-cmim verify` checks it
    trainer.accelerator.wait_for_everyone()  # a process that leaves early can hang at its exit
    (trainer.model_wrapped,) = trainer.accelerator.free_memory(trainer.model_wrapped)  # or frees DDP after the group
    trainer.end()


if __name__ == "__main__":
    main()
