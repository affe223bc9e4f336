"""The settings of a pool's students: what they can share, and what each has of its own."""

import copy

from hf_cmim.trainers.distillation_config import DistillationConfig

UNPOOLED = {
    "auto_find_batch_size": False, "gradient_checkpointing": False, "neftune_noise_alpha": None, "deepspeed": None,
    "fsdp": None, "load_best_model_at_end": False, "group_by_length": False, "max_grad_value": None,
}  # fmt: skip
"""Settings of Trainer that the pool has no step for, with the values at which they do nothing."""


def pooled_arguments(args: DistillationConfig, seed: int) -> DistillationConfig:
    """Return the settings of one student: the same but for its seed, silent, and of one process."""
    own = copy.copy(args)
    own.seed, own.data_seed = seed, None
    own.report_to, own.disable_tqdm = [], True
    own.average_tokens_across_devices = False  # no other process knows this student
    own._n_gpu = min(own.n_gpu, 1)
    return own


def check_can_be_pooled(args: DistillationConfig) -> None:
    """Raise a `ValueError` if settings ask for what only a whole Trainer does."""
    asked = {
        name: getattr(args, name)
        for name, idle in UNPOOLED.items()
        if hasattr(args, name) and getattr(args, name) not in (idle, [], {})
    }
    schedules = {"reduce_lr_on_plateau", "greedy"}
    if str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)) in schedules:
        asked["lr_scheduler_type"] = args.lr_scheduler_type
    if args.train_sampling_strategy != "random":
        asked["train_sampling_strategy"] = args.train_sampling_strategy
    if asked:
        raise ValueError(
            f"Expected settings that students in lockstep can share, got {asked}: they would be ignored, and the"
            " students would not be those that DistillationTrainer trains. Leave them out."
        )
