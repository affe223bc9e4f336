"""Parts that training scripts share: flags after a YAML file, the objective, training, results and a clean end."""

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

import torch
from transformers import HfArgumentParser, Trainer, TrainingArguments

from hf_cmim.cli.flags import yaml_settings
from hf_cmim.cli.words import nearest
from hf_cmim.data.arguments import DataArguments
from hf_cmim.environment import describe_environment
from hf_cmim.errors import HfCmimError
from hf_cmim.trainers.hardening.cmim_config import CMIMConfig

SMOOTHING = 0.1
"""Label smoothing of `--objective ls` without `--label_smoothing_factor`."""
SMOKE = {"max_steps": 4, "logging_steps": 1, "dataloader_num_workers": 0}
"""Settings of a run with `--smoke`."""
SMOKE_BATCH_SIZE = 32


def script_arguments(
    kinds: Sequence[Any],
    description: str | None,
    defaults: Mapping[str, Any],
    *,
    fine_tuning: tuple[str, Mapping[str, Any]] | None = None,
    words: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """Return one instance of each dataclass, read from a YAML file if the first word names one, then from flags.

    Flags override the file, and the file overrides `defaults`.

    Args:
        kinds: dataclasses whose fields are the flags, as for `transformers.HfArgumentParser`.
        description: text that `--help` shows, usually `__doc__`.
        defaults: default values by flag, in place of those of the dataclasses.
        fine_tuning: name of the flag of a checkpoint, and defaults for scripts that start from one.
        words: words of the command line; None for those of this process.

    Raises:
        HfCmimError: a file that cannot be read, or with a setting that no flag has.
    """
    words = list(sys.argv[1:] if words is None else words)
    formatters = (argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter)
    parser = HfArgumentParser(kinds, description=description, formatter_class=type("Formatter", formatters, {}))
    from_file = bool(words) and words[0].endswith((".yaml", ".yml"))
    names = [each.name for kind in kinds for each in dataclasses.fields(kind)]
    settings = _settings(Path(words.pop(0)), names) if from_file else {}
    parser.set_defaults(**{**defaults, **settings})
    if fine_tuning is not None and getattr(parser.parse_known_args(words)[0], fine_tuning[0]) is not None:
        parser.set_defaults(**{**fine_tuning[1], **settings})
    parsed = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    if any(isinstance(each, DataArguments) and each.smoke for each in parsed):
        for args in parsed:
            if isinstance(args, TrainingArguments):
                for name, value in SMOKE.items():
                    setattr(args, name, value)
                args.per_device_train_batch_size = min(args.per_device_train_batch_size, SMOKE_BATCH_SIZE)
    return tuple(parsed)


def _settings(path: Path, names: Sequence[str]) -> dict[str, Any]:
    settings = yaml_settings(path)
    for name in settings:
        if name not in names:
            raise HfCmimError(f"Unknown setting {name!r} in {path}: it would have no effect. {nearest(name, names)}")
    return settings


@final
@dataclass
class ObjectiveArguments:
    """The flag of the objective: hardening, or one of the two objectives that it is compared with."""

    _argument_group_name = "objective"

    objective: Literal["cmim", "ls", "ce"] = field(
        default="cmim",
        metadata={"help": f"cmim hardens; ls (label smoothing, {SMOOTHING} if unset) and ce train a comparison."},
    )

    def apply_to(self, args: CMIMConfig) -> None:
        """Set the weight of the CMI and the label smoothing of the objective.

        Raises:
            HfCmimError: settings that make it another objective.
        """
        if self.objective == "cmim" and not args.cmi_weight:
            raise HfCmimError(
                "--objective cmim with --cmi_weight 0 is plain training. Give a weight above 0, or --objective ce."
            )
        if self.objective == "ce" and args.label_smoothing_factor:
            raise HfCmimError(
                f"--objective ce with --label_smoothing_factor {args.label_smoothing_factor:g} is label smoothing."
                " Leave the factor out, or give --objective ls."
            )
        if self.objective != "cmim":
            args.cmi_weight = 0.0
        if self.objective == "ls":
            args.label_smoothing_factor = args.label_smoothing_factor or SMOOTHING


def train_and_save(trainer: Trainer) -> dict[str, float]:
    """Train, save the model and return the metrics; `--resume_from_checkpoint true` continues the last checkpoint."""
    checkpoint = trainer.args.resume_from_checkpoint
    outcome = trainer.train(resume_from_checkpoint=True if str(checkpoint).lower() == "true" else checkpoint)
    trainer.save_model()
    return dict(outcome.metrics)


def finish_training(
    trainer: Trainer, results: Mapping[str, Any], shown: Mapping[str, float], dataset_name: str | None = None
) -> None:
    """Write results.json, print some figures, write the model's card or publish it, and end all processes together.

    Args:
        trainer: trainer that has saved its model.
        results: results for the file, beside seed, device, versions and date.
        shown: figures to print, by name.
        dataset_name: Hub id or path of the data; an id is named in the card.
    """
    args = trainer.args
    folder = Path(str(args.output_dir))
    if trainer.is_world_process_zero():
        environment = describe_environment()
        environment["versions"]["datasets"] = version("datasets")
        environment["device"] = (
            torch.cuda.get_device_name() if args.device.type == "cuda" else f"{platform.machine()} CPU"
        )
        written = {"seed": args.seed, "num_processes": environment.pop("processes"), **environment, **results}
        (folder / "results.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
        for name, value in shown.items():
            print(f"{name:25} {value:.4f}")
        print(f"The model, its card and results.json are in {folder}.")
    on_hub = None if dataset_name is None or Path(dataset_name).exists() else dataset_name
    if args.push_to_hub:
        trainer.push_to_hub(dataset=on_hub)
    else:
        trainer.create_model_card(dataset=on_hub)
    trainer.accelerator.wait_for_everyone()  # a process that leaves early can hang at its exit
    # Frees DDP before its group of processes.
    (trainer.model_wrapped,) = trainer.accelerator.free_memory(trainer.model_wrapped)
    trainer.end()


def run_script(main: Callable[[], None]) -> None:
    """Run a script; an `HfCmimError` ends it with its message, any other error with a traceback."""
    try:
        main()
    except HfCmimError as error:
        sys.exit(str(error))
