"""Records of a training, for the certificate of the weights that it saves."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer

from hf_cmim.attacks.composition import Composition
from hf_cmim.defenses.base import AbstractDefense
from hf_cmim.hardening.spec import ObjectiveSpec
from hf_cmim.hub.card_metadata import HUB_ID
from hf_cmim.hub.certificate import DEFENSE_TRAINER, Training
from hf_cmim.private_paths import public_record, public_text
from hf_cmim.teachers.base import AbstractTeacher
from hf_cmim.trainers.hardening.cmim_config import CMIMConfig

HARDENING_SETTINGS = (
    "cmi_weight",
    "cmi_warmup",
    "cmi_ramp",
    "cmi_follow_calibration",
    "centroid_prefill",
)
SETTINGS = (
    "learning_rate",
    "optim",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "label_smoothing_factor",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
)


def hardening_record(trainer: Trainer, spec: ObjectiveSpec, args: CMIMConfig, final_weight: float) -> Training:
    """Return the record of a hardening; the model counts as hardened after it has reached the full weight."""
    steps, planned = trainer.state.global_step, max(trainer.state.max_steps, 1)
    settings = {name: getattr(args, name) for name in HARDENING_SETTINGS} | {"final_cmi_weight": final_weight}
    return _public(
        trainer="CMIMTrainer",
        objective=repr(spec),
        settings={**settings, **_settings(trainer)},
        base_model=base_model_of(trainer.model),
        dataset=dataset_name(trainer.train_dataset),
        is_hardened=args.cmi_weight > 0 and 0 < steps >= args.ramp_end * planned,
        is_knockoff=False,
    )


def defense_record(trainer: Trainer, defense: AbstractDefense, reference: AbstractTeacher | None) -> Training:
    """Return the record of a classifier trained with the loss of a defence: CMIM did not harden it."""
    settings: dict[str, Any] = {
        "purpose": "positive control, meant to leak more" if defense.is_control else "defence",
        "source": defense.source,
        "reference": None if reference is None else reference.fingerprint(),
    }
    return _public(
        trainer=DEFENSE_TRAINER,
        objective=repr(defense),
        settings={**settings, **_settings(trainer)},
        base_model=base_model_of(trainer.model),
        dataset=dataset_name(trainer.train_dataset),
        is_hardened=False,
        is_knockoff=False,
    )


def attack_record(trainer: Trainer, attack: Composition, teacher: AbstractTeacher | None) -> Training:
    """Return the record of a student, which is no knockoff without a teacher. No process waits for another."""
    teacher_record = None
    if teacher is not None:
        facts = teacher.record()
        teacher_record = {name: facts[name] for name in ("teacher", "fingerprint", "channel")}
    return _public(
        trainer="DistillationTrainer",
        objective=repr(attack),
        settings={"taught by": teacher_record, **_settings(trainer)},
        base_model=base_model_of(trainer.model),
        dataset=dataset_name(trainer.train_dataset),
        is_hardened=False,
        is_knockoff=teacher is not None,
    )


def _public(**facts: Any) -> Training:
    """Return the record with the paths of this machine shortened, because certificate and card publish it."""
    training: Training = public_record(Training(**facts))
    return training


def _settings(trainer: Trainer) -> dict[str, Any]:
    args = trainer.args
    values = {name: getattr(args, name) for name in SETTINGS}
    return {
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "batch size": args.train_batch_size * args.gradient_accumulation_steps * max(args.world_size, 1),
        # Some settings are enums, which JSON does not know.
        **{name: getattr(value, "value", value) for name, value in values.items()},
    }


def base_model_of(model: Any) -> str:
    """Return the Hub id from which a model was loaded, or "" for a new model or a folder."""
    config = getattr(model, "config", None)
    name = str(getattr(config, "_name_or_path", "") or "")
    is_hub_id = "/" in name and HUB_ID.fullmatch(name) and not Path(name).exists()
    return name if is_hub_id else ""


def weights_version(model: Any) -> int:
    """Return a number that changes with every write to a weight of this process's model, or -1 for no module."""
    if not isinstance(model, nn.Module):
        return -1
    # torch counts the in-place writes to each tensor.
    return sum(int(parameter._version) for parameter in model.parameters())


def dataset_name(dataset: Any) -> str:
    """Return the name of a data set and its split, or "" for a data set without a name."""
    # Our wrappers and torch's hold the user's data set.
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    info = getattr(dataset, "info", None)
    name = str(getattr(info, "dataset_name", None) or "")
    split = getattr(dataset, "split", None)
    return public_text(f"{name}: {split}" if name and split is not None else name)
