"""Hardening within an accuracy budget: the strongest model whose accuracy the user can afford."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.trainers.hardening.budget_report import ROUNDING, Hardened, TrainedModel
from hf_cmim.trainers.hardening.cmim_config import CMIMConfig
from hf_cmim.trainers.hardening.cmim_trainer import CMIMTrainer
from hf_cmim.trainers.hardening.hardening_summary import SummaryPrinter
from hf_cmim.trainers.hardening.search_folder import SearchFolder
from hf_cmim.trainers.shared.checkpoints import last_complete_checkpoint


@dataclass(frozen=True)
class Rung:
    """One hardening that is tried.

    Attributes:
        form: form of the CMI, `cmi_form`.
        weight: weight of the CMI, `cmi_weight`.
        correct_only: switch for the CMI of correctly classified samples alone, `cmi_correct_only`.
        from_twin: True to go on from the twin's weights, False to train from the start.
    """

    form: str
    weight: float
    correct_only: bool = False
    from_twin: bool = False

    @property
    def name(self) -> str:
        """Name of the model's folder."""
        return f"{self.form}-{self.weight:g}"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of `CMIMConfig`."""
        form = {"cmi_form": self.form, "cmi_weight": self.weight, "cmi_correct_only": self.correct_only}
        # A trained model has centroids already, and has learned its classes.
        return form | ({"cmi_warmup": 0.0, "centroid_prefill": True} if self.from_twin else {})


LADDER = (
    Rung("share", 32.0, correct_only=True, from_twin=True),
    Rung("share", 16.0, correct_only=True, from_twin=True),
    Rung("share", 8.0, correct_only=True, from_twin=True),
    Rung("scaled", 4.0),
    Rung("scaled", 1.0),
)
"""The hardenings that `harden_within` tries, from strong to weak. The share keeps most back on images. On texts it
costs more, also because a model that has learned its samples by heart loses accuracy when it is trained on. There the
default form, trained from the start, costs nothing (docs/evidence/several-teachers.md)."""
TWIN = "twin"
"""Name of the folder of the model that is trained with plain cross-entropy."""
SEARCHED = ("cmi_weight", "cmi_warmup", "centroid_prefill", "cmi_form", "cmi_correct_only", "logit_scale")
"""Settings that the ladder chooses."""


def harden_within(
    model_init: Callable[[], nn.Module],
    args: CMIMConfig,
    train_dataset: Any,
    eval_dataset: Any,
    accuracy_budget: float = 0.0,
    *,
    say: Callable[[str], None] = print,
    **trainer_arguments: Any,
) -> Hardened:
    """Train the strongest hardened model that costs no more accuracy than a budget.

    First the twin is trained with plain cross-entropy. Then hardened models are trained, the strongest first; if that
    one costs too much, a bisection of `LADDER` finds the strongest that does not. All are compared on `eval_dataset`.
    Those with the share start from the twin's weights, so that they are trained twice as long as it.

    Each model has its own folder in `args.output_dir`, with a record that is written last: after a kill, or with
    another budget, the same call continues and trains no finished model again.

    The measured accuracies decide. They are of one training each and of the samples of `eval_dataset`: the result
    gives the standard error of each difference, and says if the budget is smaller than that.

    Args:
        model_init: function that returns a new model: with random weights, or a pretrained one. It is called after the
            seed was set.
        args: settings of each training; the settings of the objective are left at their defaults.
        train_dataset: data to train on.
        eval_dataset: labelled validation data, which no model is trained on.
        accuracy_budget: largest loss of accuracy against the twin, a fraction; 0.005 is half a point.
        say: function that shows a line of progress.
        trainer_arguments: further keyword arguments of `CMIMTrainer`, for instance `data_collator` and
            `processing_class`.

    Returns:
        The paths of the hardened model and its twin, and a record of each model that was tried.

    Raises:
        HfCmimError: settings that the ladder would override, a folder of other settings, or no hardened model within
            the budget.

    Source: ours.
    """
    _check(args, accuracy_budget)
    folder = SearchFolder(Path(str(args.output_dir)))
    folder.open(args, len(train_dataset), len(eval_dataset))
    search = _Search(model_init, args, (train_dataset, eval_dataset), trainer_arguments, folder, say)
    twin = search.trained(None)
    tried: dict[int, TrainedModel] = {}

    def is_within(position: int) -> bool:
        tried[position] = search.trained(LADDER[position])
        return tried[position].points_below(twin) <= 100 * accuracy_budget + ROUNDING

    chosen = strongest_within(len(LADDER), is_within)
    models = tuple(tried[position] for position in sorted(tried))
    name = None if chosen is None else tried[chosen].name
    result = Hardened(folder.folder, name, accuracy_budget, twin, models)
    _check_found(result)
    return result


def strongest_within(count: int, is_within: Callable[[int], bool]) -> int | None:
    """Return the first of `count` rungs that is within the budget, or None, asking about few of them.

    The first rung is tried alone, because it often costs nothing. The others are bisected, which assumes that a weaker
    rung costs no more than a stronger one.

    >>> strongest_within(6, lambda position: position >= 2)
    2
    """
    if is_within(0):
        return 0
    outside, within = 0, count
    while within - outside > 1:
        middle = (outside + within) // 2
        if is_within(middle):
            within = middle
        else:
            outside = middle
    return within if within < count else None


def _check(args: CMIMConfig, accuracy_budget: float) -> None:
    if not 0 <= accuracy_budget < 1:
        raise HfCmimError(
            f"Expected an accuracy_budget in [0, 1), a fraction, got {accuracy_budget}: half a point is 0.005."
        )
    defaults = CMIMConfig(output_dir=str(args.output_dir), use_cpu=args.use_cpu)
    changed = [name for name in SEARCHED if getattr(args, name) != getattr(defaults, name)]
    if changed:
        raise HfCmimError(
            f"Expected {', '.join(changed)} at the default, got"
            f" {', '.join(str(getattr(args, name)) for name in changed)}: harden_within chooses the objective itself."
            " Remove the setting, or train this objective with CMIMTrainer."
        )


def _check_found(result: Hardened) -> None:
    if result.name is None:
        least = min(model.points_below(result.twin_record) for model in result.tried)
        raise HfCmimError(
            f"{result}\nNo hardened model is within the budget of {100 * result.accuracy_budget:g} points, so there is"
            f" none to publish. Allow {least:.2f} points (no model is trained again), train longer, or use more"
            f" training data. The models are in {result.folder}."
        )


@dataclass(frozen=True)
class _Search:
    """Trainings of one search.

    Attributes:
        model_init: function that returns a new model.
        args: settings that all trainings share.
        data: training and validation data.
        trainer_arguments: further keyword arguments of `CMIMTrainer`.
        folder: folder of the models and their records.
        say: function that shows a line of progress.
    """

    model_init: Callable[[], nn.Module]
    args: CMIMConfig
    data: tuple[Any, Any]
    trainer_arguments: dict[str, Any]
    folder: SearchFolder
    say: Callable[[str], None]

    def trained(self, rung: Rung | None) -> TrainedModel:
        """Return the record of a model, trained unless it is finished; None is the twin."""
        name = TWIN if rung is None else rung.name
        record = self.folder.record(name)
        if record is not None:
            self.say(f"{record.title}: trained before, accuracy {record.accuracy:.2%}")
            return record
        set_seed(self.args.seed)
        train_dataset, eval_dataset = self.data
        trainer = CMIMTrainer(
            self.model_init(),
            self._settings(name, rung),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **self.trainer_arguments,
        )
        trainer.remove_callback(SummaryPrinter)  # its next step is for a single model
        checkpoint, _ = last_complete_checkpoint(Path(str(trainer.args.output_dir)))
        if checkpoint is None and rung is not None and rung.from_twin:
            trainer._load_from_checkpoint(str(self.folder.folder / TWIN))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        record = self._saved(trainer, name)
        self.say(f"{record.title}: accuracy {record.accuracy:.2%}")
        return record

    def _saved(self, trainer: CMIMTrainer, name: str) -> TrainedModel:
        """Measure and save a model; its record comes last."""
        output = trainer.predict(self.data[1])
        trainer.save_model(str(self.folder.folder / name))
        assert trainer.measurement is not None
        record = TrainedModel.of(
            name, trainer.args.cmi_form, trainer.args.cmi_weight, trainer.measurement, _is_correct(output)
        )
        if trainer.is_world_process_zero():
            self.folder.write(record)
        trainer.accelerator.wait_for_everyone()
        return record

    def _settings(self, name: str, rung: Rung | None) -> CMIMConfig:
        # A shallow copy shares the device, which is set up once per process.
        settings = copy.copy(self.args)
        changes = {"cmi_weight": 0.0} if rung is None else rung.settings
        for setting, value in changes.items():
            setattr(settings, setting, value)
        settings.output_dir = str(self.folder.folder / "training" / name)
        settings.check_ranges()
        return settings


def _is_correct(output: Any) -> Sequence[bool]:
    """Return True for each labelled sample that is classified correctly."""
    logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    labels = torch.as_tensor(output.label_ids)
    is_correct = torch.as_tensor(logits).argmax(dim=-1) == labels
    values: list[bool] = is_correct[labels != IGNORE_INDEX].tolist()
    return values
