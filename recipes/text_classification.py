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

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

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

# Suits a small encoder trained from nothing.
DEFAULTS: dict[str, Any] = {
    "dataset_name": "fancyzhx/ag_news", "output_dir": "outputs/text_classification", "num_train_epochs": 4,
    "learning_rate": 2e-3, "weight_decay": 0.01, "warmup_steps": 0.1, "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1,
    "logging_steps": 50, "remove_unused_columns": False,  # the model does not take texts, only their tokens
}  # fmt: skip
FINE_TUNING = {"num_train_epochs": 3, "learning_rate": 3e-5}  # instead, where a checkpoint is given
SPECIAL_TOKENS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}  # bytes need no unknown token


@dataclass
class RecipeArguments:
    """What this recipe adds to the settings of `CMIMConfig`."""

    _argument_group_name = "recipe"

    model_name_or_path: str | None = field(default=None, metadata={"help": "Trained checkpoint; unset: a new BERT."})
    max_length: int = field(default=128, metadata={"help": "Tokens after which a text is cut."})
    vocabulary_size: int = field(default=8000, metadata={"help": "Tokens of a new BERT's tokenizer."})
    hidden_size: int = field(default=64, metadata={"help": "Width of a new BERT; its MLPs are 4 times as wide."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers of a new BERT."})
    num_attention_heads: int = field(default=4, metadata={"help": "Attention heads of a new BERT."})


def parse_arguments(
    words: Sequence[str] | None = None,
) -> tuple[DataArguments, ObjectiveArguments, RecipeArguments, CMIMConfig]:
    """Read a YAML file if the first word names one, then the flags, which override it."""
    kinds = (DataArguments, ObjectiveArguments, RecipeArguments, CMIMConfig)
    fine_tuning = ("model_name_or_path", FINE_TUNING)
    data, objective, recipe, args = script_arguments(kinds, __doc__, DEFAULTS, fine_tuning=fine_tuning, words=words)
    objective.apply_to(args)
    return data, objective, recipe, args


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


def build_model(recipe: RecipeArguments, names: list[str], texts: Iterable[str]) -> tuple[torch.nn.Module, View]:
    """Return a checkpoint with a head for these classes, or a new BERT, and its view of texts."""
    if recipe.model_name_or_path is not None:
        check_reachable(recipe.model_name_or_path, "--model_name_or_path")
        view = View.of(recipe.model_name_or_path, "text").limited_to(recipe.max_length)
        builder = StudentBuilder(recipe.model_name_or_path, None, names, view, {})
        return builder(), builder.view.limited_to(recipe.max_length)
    tokenizer = train_tokenizer(texts, recipe.vocabulary_size)
    config = BertConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=recipe.max_length,
        hidden_size=recipe.hidden_size,
        intermediate_size=4 * recipe.hidden_size,
        num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=recipe.num_attention_heads,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    return BertForSequenceClassification(config), View(tokenizer, "text").limited_to(recipe.max_length)


def main() -> None:
    """Train one model, measure it and save it."""
    data, objective, recipe, args = parse_arguments()
    check_launch(args.world_size)
    with args.main_process_first(desc="opening the data"):
        rows = data.open("text")

    set_seed(args.seed)
    model, view = build_model(recipe, list(rows.classes.values()), rows.train[rows.sample_column])
    numbers = {value: model.config.label2id[name] for value, name in rows.classes.items()}
    columns = (rows.sample_column, rows.label_column)
    prepare = partial(prepared_when_read, columns=columns, numbers=numbers, view=view)
    train, validation, test = prepare(rows.train), prepare(rows.validation), prepare(rows.test)

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
