"""Preparation of an attack before training: heads on the student, and a survey of the teacher's answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_cmim.attacks.composition import Composition
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import model_logits
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.trainers.distillation.transfer_data import TEACHER_VIEW
from hf_cmim.trainers.shared.components import unchanged_random_states

if TYPE_CHECKING:
    from hf_cmim.trainers.distillation.distillation_trainer import DistillationTrainer


def _ordered_loader(trainer: "DistillationTrainer") -> DataLoader[Any]:
    """Return a loader of the whole transfer set in order, the same on every process."""
    dataset: Any = trainer.train_dataset
    return DataLoader(dataset, batch_size=trainer.args.per_device_eval_batch_size, collate_fn=trainer.data_collator)


def count_classes(
    trainer: "DistillationTrainer", student_names: Sequence[str] | None, teacher: AbstractTeacher | None
) -> int:
    """Return the number of classes: from the student's config, the teacher, or the student's first logits.

    Raises:
        HfCmimError: the student has no config, and there is neither a teacher nor a train_dataset.
    """
    if student_names is not None:
        return len(student_names)
    if teacher is not None:
        return teacher.num_classes
    if trainer.train_dataset is None:
        raise HfCmimError(
            "The number of classes is unknown: the student has no config, and there is neither a teacher nor a"
            " train_dataset. Give one of them, or student.config = transformers.PreTrainedConfig(num_labels=...)."
        )
    with unchanged_random_states(trainer.args.device):
        student = trainer.accelerator.unwrap_model(trainer.model)
        return int(model_logits(_evaluated(student, first_inputs(trainer))).shape[-1])


def first_inputs(trainer: "DistillationTrainer") -> dict[str, Any]:
    """Return the student's inputs of the first samples of the transfer set, on its device."""
    batch = trainer._prepare_inputs(next(iter(_ordered_loader(trainer))))
    return {name: value for name, value in batch.items() if name not in ("labels", INDEX_NAME, TEACHER_VIEW)}


@torch.no_grad()
def _evaluated(student: nn.Module, inputs: Mapping[str, Any], **output_flags: bool) -> Any:
    """Return a student's outputs in evaluation mode."""
    was_training = student.training
    student.eval()
    outputs = student(**inputs, **output_flags)
    student.train(was_training)
    return outputs


@torch.no_grad()
def attach_heads(
    attack: Composition, student: nn.Module, inputs: Callable[[], Mapping[str, Any]], device: torch.device
) -> None:
    """Build the heads of the student's protocol for the hidden states of the first samples.

    Args:
        attack: attack; nothing happens if it has no such protocol.
        student: model that gets the heads.
        inputs: function that returns the student's inputs of the first samples.
        device: device whose random states stay unchanged.
    """
    if attack.student_protocol is None:
        return
    with unchanged_random_states(device):
        outputs = _evaluated(student, inputs(), output_hidden_states=True)
    # Apart from the first, so that new heads do not depend on how the samples were loaded.
    with unchanged_random_states(device):
        attack.student_protocol.attach(student, outputs["hidden_states"], model_logits(outputs).shape[-1])


@torch.no_grad()
def survey_teacher(trainer: "DistillationTrainer") -> None:
    """Show the attack the teacher's answers to the whole transfer set, in order.

    All answers are in memory during the survey. Random states are restored: the survey does not change the training
    that follows.
    """
    answers: list[tuple[Tensor, Tensor]] = []
    with unchanged_random_states(trainer.args.device):
        for batch in tqdm(_ordered_loader(trainer), desc="Survey", leave=False, disable=trainer.args.disable_tqdm):
            inputs = dict(trainer._prepare_inputs(batch))
            labels, index = inputs.pop("labels", None), inputs.pop(INDEX_NAME)
            view = inputs.pop(TEACHER_VIEW, inputs)
            # Every process surveys all answers, so all reach the same state. Only one process pays for them.
            log_probs = trainer.queries.answers(view, labels, index, paid=trainer.is_world_process_zero())
            # Without labels the teacher's most probable class is the label.
            labels = log_probs.argmax(dim=-1) if labels is None else labels
            labels, log_probs = labels.flatten(), log_probs.flatten(0, -2)
            valid = labels != IGNORE_INDEX
            answers.append((log_probs[valid], labels[valid]))
    trainer.attack.survey(answers)
