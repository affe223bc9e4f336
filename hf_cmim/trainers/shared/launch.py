"""Checks for launches that would not train as requested."""

import os
from itertools import pairwise
from pathlib import Path

import psutil
import yaml
from accelerate.commands.config.config_args import default_config_file

from hf_cmim.errors import HfCmimError

WORKING_COMMANDS = (
    "On CPU use `torchrun --nproc_per_node N script.py --use_cpu`, or `accelerate launch --multi_gpu --num_processes N"
    " --num_machines 1 --mixed_precision no --dynamo_backend no script.py --use_cpu`; `hf-cmim audit` has"
    " --processes N instead."
)


def check_launch(num_processes: int) -> None:
    """Refuse to train if fewer processes work together than were requested.

    On a machine without GPUs this happens silently in two ways. `accelerate launch --cpu --num_processes 2` starts one
    process. Two workers launched without `use_cpu=True` train two models and write both into the same folder.

    Args:
        num_processes: number of processes that work together, `TrainingArguments.world_size`.

    Raises:
        HfCmimError: the launch requested more processes.
    """
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    if workers > num_processes:
        raise HfCmimError(
            f"Expected {workers} processes working together (WORLD_SIZE), got {num_processes}: each worker would train"
            f" a model of its own and write it to the same folder. Pass use_cpu=True. {WORKING_COMMANDS}"
        )
    requested = _requested_from_accelerate(psutil.Process().parent())
    if requested > num_processes:
        raise HfCmimError(
            f"Expected {requested} processes, as requested from accelerate launch, got {num_processes}: on CPU"
            f" accelerate starts only one, and the total batch would be smaller than planned. {WORKING_COMMANDS}"
        )


def check_no_deepspeed(*, is_enabled: bool) -> None:
    """Refuse DeepSpeed, whose engine divides losses and steps the optimizer by itself.

    Our trainers are not tested with it: on two CPU processes even a plain `Trainer` with ZeRO-2 did not finish four
    steps in 400 seconds.

    Raises:
        HfCmimError: DeepSpeed is enabled.
    """
    if is_enabled:
        raise HfCmimError(
            "DeepSpeed is enabled, and hf_cmim has never been tested with it: gradients could be scaled wrongly, and"
            " nothing would show it. Train without args.deepspeed (torchrun, DDP), or shard with FSDP:"
            " args.fsdp='full_shard'."
        )


def _requested_from_accelerate(parent: psutil.Process | None) -> int:
    """Return the number of processes in the command line or the config file of `accelerate launch`; 1 without it."""
    try:
        words = parent.cmdline() if parent is not None else []
    except psutil.Error:
        return 1
    # `accelerate launch`, `accelerate-launch`, `python -m accelerate.commands.launch`
    launcher = " ".join(Path(word).name for word in words[:4])
    if "accelerate" not in launcher or "launch" not in launcher:
        return 1
    # Options come as two words (`--num_processes 2`) or as one (`--num_processes=2`).
    joined_words = [word.split("=", 1) for word in words if "=" in word]
    options = dict(pairwise(words)) | dict(joined_words)
    number = options.get("--num_processes") or options.get("--num-processes")
    config_file = options.get("--config_file") or options.get("--config-file")
    config_file = config_file or default_config_file
    if number is None and Path(config_file).is_file():
        number = (yaml.safe_load(Path(config_file).read_text()) or {}).get("num_processes")
    return int(number or 1)
