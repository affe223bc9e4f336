"""Model, data and settings of `hf-cmim harden`, opened and checked before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, final

import psutil
import torch
import transformers

from hf_cmim.cli.audit_models import StudentBuilder, loaded_config, settings_of
from hf_cmim.cli.audit_setup import MEMORY_SHARE, student_batch
from hf_cmim.cli.folders import check_model_folder
from hf_cmim.cli.harden_flags import HardenFlags
from hf_cmim.cli.training import DEFAULTS, FINE_TUNING, parsed_settings
from hf_cmim.data.prepared import PreparedSamples
from hf_cmim.data.rows import DataRows, DataSource, open_rows
from hf_cmim.data.views import View, kind_of_type
from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.hardening.budget_report import Hardened
from hf_cmim.trainers.hardening.cmim_config import CMIMConfig
from hf_cmim.trainers.hardening.harden_within import SEARCHED, harden_within
from hf_cmim.trainers.shared.launch import check_launch

OUTPUT_DIR = "outputs/hardened"
TEST_SHARE = 0.1
"""Share of the training rows that is held out for testing if the data have no test split."""
KEPT = {"save_strategy": "epoch", "save_total_limit": 1}
"""Settings with which a killed training continues within its model, too."""
CHOSEN = {
    "output_dir": "Give --output-dir.",
    "remove_unused_columns": "Choose columns with --image-column, --text-column, --audio-column and --label-column.",
    **dict.fromkeys(SEARCHED, "The command chooses the objective by --accuracy-budget."),
}
"""Settings that the command chooses itself, with the remedy for an error."""


def hardened_source(flags: HardenFlags) -> DataSource:
    """Return the data given by flags, whose train split a model is trained on."""
    return DataSource.of(flags, test_share=TEST_SHARE if flags.test_share is None else flags.test_share)


@final
@dataclass(frozen=True)
class HardenSetup:
    """The arguments of `harden_within`.

    Attributes:
        args: settings of each training.
        builder: builder of models.
        rows: opened data.
        train: prepared training samples.
        validation: prepared validation samples.
        accuracy_budget: largest loss of accuracy, a fraction.
    """

    args: CMIMConfig
    builder: StudentBuilder
    rows: DataRows
    train: PreparedSamples
    validation: PreparedSamples
    accuracy_budget: float

    @classmethod
    def of(cls, flags: HardenFlags) -> Self:
        """Open and check model, data and settings given by flags, cheap checks first.

        Raises:
            HfCmimError: flags, a model or data that cannot be used.
        """
        _check_given(flags)
        assert flags.model is not None  # _check_given has refused its lack
        is_config = Path(flags.model).suffix == ".json"
        defaults = DEFAULTS | ({} if is_config else FINE_TUNING) | KEPT
        defaults |= {"dataloader_pin_memory": torch.accelerator.is_available()}  # without one, each loader would warn
        folder = flags.output_dir or OUTPUT_DIR
        args = parsed_settings(CMIMConfig, flags.training, defaults | {"output_dir": folder}, CHOSEN)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        check_launch(args.world_size)
        if not is_config:
            check_model_folder(flags.model, "--model")
        with args.main_process_first(desc="opening model and data"):
            kind = _kind_of(flags.model)
            rows = open_rows(hardened_source(flags), kind)
            view = _view(flags.model, flags.processor, kind, rows)
        names = list(rows.classes.values())
        sample = view.prepare(rows.train[:1][rows.sample_column])[0]
        model, config = (None, flags.model) if is_config else (flags.model, None)
        builder = StudentBuilder(model, config, names, view, sample)
        builder.check(builder.view.prepare(rows.train[:1][rows.sample_column])[0])
        numbers = {value: builder.config.label2id[name] for value, name in rows.classes.items()}
        train, validation = (
            _prepared(rows, part, "" if flags.quiet else name, numbers, builder.view) for part, name in _parts(rows)
        )
        return cls(args, builder, rows, train, validation, (flags.accuracy_budget or 0.0) / 100)

    def run(self, say: Any) -> Hardened:
        """Search for the strongest model within the budget."""
        return harden_within(
            self.builder,
            self.args,
            self.train,
            self.validation,
            self.accuracy_budget,
            say=say,
            data_collator=partial(student_batch, view=self.builder.view),
            processing_class=self.builder.view.processor,
        )


def _check_given(flags: HardenFlags) -> None:
    missing = [flag for flag in ("model", "dataset") if getattr(flags, flag) is None]
    if missing:
        raise HfCmimError(
            f"Missing {' and '.join(f'--{flag}' for flag in missing)}: hardening needs a model and labelled data."
            " hf-cmim harden --help shows complete commands."
        )
    points = flags.accuracy_budget
    if points is not None and not 0 <= points < 100:
        raise HfCmimError(
            f"Expected --accuracy-budget in points of validation accuracy, from 0 to less than 100, got {points:g}:"
            " half a point is 0.5."
        )


def _kind_of(path: str) -> str:
    """Return the kind of a model's input by its configuration."""
    if Path(path).suffix == ".json":
        return kind_of_type(settings_of(Path(path))[0])
    return kind_of_type(loaded_config(path, "--model").model_type)


def _view(model: str, processor: str | None, kind: str, rows: DataRows) -> View:
    """Return the view of a processor: of --processor, beside the model, or new for images."""
    if processor is not None:
        return View.of(processor, kind)
    if Path(model).suffix != ".json":
        return View.of(model, kind)
    if kind != "image":
        needed = "a tokenizer" if kind == "text" else "a feature extractor"
        raise HfCmimError(
            f"Expected --processor with {needed} beside the configuration {model}, got none: a"
            " configuration does not say how samples are read. Give a folder or Hub id of one."
        )
    size = settings_of(Path(model))[1].get("image_size")
    if size is None:
        width, height = rows.train[0][rows.sample_column].size
        size = (height, width)
    if not isinstance(size, int) and len(size) != 2:
        raise HfCmimError(
            f"Expected image_size in {model} as one number or as height and width, got {size!r}: it is unclear to"
            " which size images are brought. Change it, or leave it out to keep the size of the data."
        )
    height, width = (size, size) if isinstance(size, int) else size
    processor_of = transformers.ViTImageProcessorPil
    return View(
        processor_of(size={"height": height, "width": width}, image_mean=[0.5] * 3, image_std=[0.5] * 3), "image"
    )


def _parts(rows: DataRows) -> list[tuple[Any, str]]:
    return [(rows.train, "training set"), (rows.validation, "validation set")]


def _prepared(rows: DataRows, part: Any, name: str, numbers: Mapping[Any, int], view: View) -> PreparedSamples:
    room = MEMORY_SHARE * psutil.virtual_memory().available * len(part) / (len(rows.train) + len(rows.validation))
    columns = (rows.sample_column, rows.label_column)
    return PreparedSamples(part, columns, numbers, {"student": view}, room=room, name=name)
