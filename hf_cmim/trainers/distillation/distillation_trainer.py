"""The distillation trainer: any attack trains a student from the answers of a black-box teacher."""

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hf_cmim.attacks.base import AttackPart
from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.protocols import Query
from hf_cmim.class_names import class_names_of
from hf_cmim.functional.divergence import IGNORE_INDEX, summed_cross_entropy
from hf_cmim.functional.inputs import model_logits
from hf_cmim.hub.certificate import Training
from hf_cmim.teachers.base import INDEX_NAME, AbstractTeacher
from hf_cmim.trainers.distillation.attack_optimizer import attack_optimizer
from hf_cmim.trainers.distillation.attack_setup import attach_heads, count_classes, first_inputs, survey_teacher
from hf_cmim.trainers.distillation.attack_state import load_attack_state, save_attack_state, write_report
from hf_cmim.trainers.distillation.distillation_checks import (
    as_teacher,
    check_attack,
    check_distillation_arguments,
    check_workers,
    planned_epochs,
)
from hf_cmim.trainers.distillation.distillation_config import DistillationConfig
from hf_cmim.trainers.distillation.student_evaluation import StudentEvaluation, write_correctness
from hf_cmim.trainers.distillation.student_step import StudentStep, read_batch
from hf_cmim.trainers.distillation.teacher_queries import TeacherQueries
from hf_cmim.trainers.distillation.transfer_data import (
    TEACHER_VIEW,
    Collator,
    DistillationCollator,
    EpochTeller,
    IndexedDataset,
)
from hf_cmim.trainers.shared.components import ComponentTrainer
from hf_cmim.trainers.shared.heads import check_is_classifier
from hf_cmim.trainers.shared.launch import check_launch
from hf_cmim.trainers.shared.records import attack_record
from hf_cmim.trainers.shared.validation import check_head


class DistillationTrainer(ComponentTrainer):
    """A `Trainer` for a student, with an attack's loss in place of the cross-entropy.

    `train_dataset` is the transfer set: the samples that the attacker asks about and learns from. If it has no labels
    (`Unlabelled`, or data without them), the teacher's most probable class is the label. Logs gain the components of
    the loss, which add up to it. Evaluation gains accuracy; if the teacher can answer evaluation samples, also
    `agreement`, `teacher_accuracy` and `teacher_kl`, KL(teacher || student) in nats.

    Args:
        model: student, or None with `model_init`.
        args: settings of the training and of the attacker.
        trainer_arguments: further positional arguments of `transformers.Trainer`, in its order.
        teacher: black box; a `PreTrainedModel` or a path is wrapped in `ModelTeacher`; None for an attack without a
            teacher.
        attack: loss, transform, protocol, `Composition`, or a name of `hf_cmim.attacks.ATTACKS` such as "dkd"; it is
            copied, so that the same object can be used again.
        teacher_collator: collator of the teacher's own view of the same samples (another size, normalisation or
            tokenizer); None if teacher and student get the same inputs.
        keywords: further keyword arguments of `transformers.Trainer`.

    Attributes:
        attack: composition in training, with its own parameters; every `train()` starts it anew.
        queries: teacher with the ledger of all its trainings, because a budget belongs to one attacker.
        correctness: `(N,)` bool, True for each sample of the last evaluation that was classified correctly, in the
            order of the data set, or None.

    Raises:
        HfCmimError: a student, teacher, attack, budget or launch that do not fit together, before any query.

    Source: ours; each attack names its own.
    """

    args: DistillationConfig
    # Trainer's own annotation hides that the optimizer is None at first.
    optimizer: Any

    def __init__(
        self,
        model: nn.Module | None = None,
        args: DistillationConfig | None = None,
        *trainer_arguments: Any,
        teacher: AbstractTeacher | nn.Module | str | None = None,
        attack: AttackPart | Composition | str,
        teacher_collator: Collator | None = None,
        **keywords: Any,
    ) -> None:
        args = DistillationConfig(output_dir="tmp_trainer") if args is None else args
        check_distillation_arguments(args, keywords)
        if model is not None:
            check_is_classifier(model)
        super().__init__(model, args, *trainer_arguments, **keywords)
        check_launch(self.args.world_size)
        student = self.accelerator.unwrap_model(self.model)
        check_head(student, self.label_names, None)
        self.correctness: Tensor | None = None
        self._evaluation: StudentEvaluation | None = None
        self._attack_step_is_over = True
        self._set_signature_columns_if_needed()
        columns = self._signature_columns if self.args.remove_unused_columns else None
        teacher = as_teacher(teacher)
        teacher_columns = (teacher.input_names or ()) if teacher is not None else ()
        self.data_collator = DistillationCollator(self.data_collator, teacher_collator, columns, teacher_columns)
        names = class_names_of(student)
        num_classes = count_classes(self, names, teacher)
        queries = TeacherQueries(teacher, names, num_classes, self.args.query_budget)
        self.student_step = StudentStep(copy.deepcopy(Composition.of(attack)), queries)
        self.attack.prepare(num_classes)
        # A copy before any training: every later train() starts from it.
        self._prepared_attack = copy.deepcopy(self.attack)
        self._attack_is_new = True
        self.attack.to(self.args.device)
        self.add_callback(EpochTeller())
        self._optimizer_is_given = self.optimizer is not None
        self._take_transfer_set()

    @property
    def attack(self) -> Composition:
        """Composition in training, with its own parameters; every `train()` starts it anew."""
        return self.student_step.attack

    @property
    def queries(self) -> TeacherQueries:
        """Teacher with the ledger of all trainings of this trainer."""
        return self.student_step.queries

    def _take_transfer_set(self) -> None:
        """Number the samples of a new transfer set, and check the plan with it."""
        if self.train_dataset is None or isinstance(self.train_dataset, IndexedDataset):
            return
        check_workers(self.args, self.train_dataset)
        self.train_dataset = IndexedDataset(self.train_dataset)
        self._check_plan(given_optimizer=self._optimizer_is_given)

    def _check_plan(self, *, given_optimizer: bool) -> None:
        """Refuse a transfer set that the attack cannot use, the teacher cannot answer, or the budget cannot pay."""
        size = len(cast(IndexedDataset, self.train_dataset))
        check_attack(self.attack, self.args, size, given_optimizer=given_optimizer)
        self.queries.check(self.attack, size, planned_epochs(self.args, size))

    def _start_attack(self, *, is_resumed: bool) -> None:
        """Reset the attack to its state at construction, and check the plan of this training.

        The ledger is not reset: two trainings, or the trials of a search, each pay for their queries.
        """
        if self._attack_is_new:
            self._attack_is_new = False
            return
        self.student_step.attack = copy.deepcopy(self._prepared_attack).to(self.args.device)
        if self.attack.owns_training:
            # The optimizer still holds the parameters of the previous attack.
            self.optimizer, self.lr_scheduler = None, None
        # A resumed run takes its ledger from the checkpoint instead.
        if not is_resumed:
            self._check_plan(given_optimizer=False)

    # Data: the collator chooses columns, because the teacher may need columns that the student does not take.

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        return dataset

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        return data_collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the sampler for the user's data set."""
        # A sampler by length reads a column that the wrapper with the positions does not have.
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        return super()._get_train_sampler(dataset.dataset if isinstance(dataset, IndexedDataset) else dataset)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count valid labels, or samples if the transfer set has no labels."""
        # Positions are never -100, so each sample counts as one label.
        if batch_samples and "labels" not in batch_samples[0] and INDEX_NAME in batch_samples[0]:
            batch_samples = [{"labels": batch[INDEX_NAME]} for batch in batch_samples]
        return super()._get_num_items_in_batch(batch_samples, device)

    # Loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the attack's loss in training, the cross-entropy on the labels in evaluation."""
        query, index = read_batch(inputs, self.queries.num_classes)
        if model.training:
            loss, outputs = self._training_loss(model, query, index, num_items_in_batch)
        else:
            loss, outputs = self._evaluation_loss(model, query)
        return (loss, outputs if isinstance(outputs, dict) else (loss, *outputs)) if return_outputs else loss

    def _training_loss(
        self, model: nn.Module, query: Query, index: Tensor | None, num_items: Tensor | int | None
    ) -> tuple[Tensor, Any]:
        if isinstance(num_items, Tensor):
            # Trainer repeats the count for each replica of nn.DataParallel.
            num_items = num_items.flatten()[0]
        progress = self.state.global_step / max(self.state.max_steps, 1)
        loss = self.student_step.loss(model, query, index, num_items, progress=progress, scale=self.loss_scale)
        self.record_components(loss.components)
        self.student_step.collect_gradients(loss, model)
        return loss.total, loss.outputs

    def _evaluation_loss(self, model: nn.Module, query: Query) -> tuple[Tensor, Any]:
        outputs = model(**query.student_inputs)
        logits, labels = model_logits(outputs), query.labels
        # prediction_step computes no loss without labels.
        assert labels is not None
        log_probs = None
        if self.args.compare_with_teacher and self.queries.can_answer_any_sample:
            log_probs = self.queries.answers(query.teacher_inputs, labels, None, paid=False)
            log_probs, _ = self.gather_samples(log_probs, labels)
        logits, labels = self.gather_samples(logits, labels)
        if self._evaluation is not None:
            self._evaluation.update(logits, labels, log_probs)
        count = (labels != IGNORE_INDEX).sum().clamp_min(1)
        return summed_cross_entropy(logits.flatten(0, -2), labels.flatten()) / count, outputs

    # Steps

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Train on one micro-batch; after the last one of a step average the attack's gradients over processes."""
        # Trainer zeroes the gradients of the model, not those of the attack.
        if self._attack_step_is_over:
            self.student_step.begin()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._attack_step_is_over = self.accelerator.sync_gradients
        if self._attack_step_is_over:
            self._finish_gradients()
        return loss

    def _finish_gradients(self) -> None:
        protocol = self.attack.optimizer_protocol
        # Data-parallel training averages the gradients of the model, not those of the attack.
        if self.num_processes > 1:
            for parameter in self.attack.parameters():
                if parameter.grad is not None:
                    parameter.grad.copy_(self.accelerator.reduce(parameter.grad, reduction="mean"))
            for gradient in ({} if protocol is None else protocol.task_gradients).values():
                gradient.copy_(self.accelerator.reduce(gradient, reduction="mean"))
        self.student_step.finish()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer of the student and, at the attack's rates, of the attack's own parameters."""
        if self.optimizer is not None:
            return cast(torch.optim.Optimizer, self.optimizer)
        trained: Any = self.model if model is None else model
        student = self.accelerator.unwrap_model(self.model)
        attach_heads(self.attack, student, partial(first_inputs, self), self.args.device)
        optimizer = attack_optimizer(
            self.attack,
            trained,
            learning_rate=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            decayed_names=self.get_decay_parameter_names(trained),
            new_optimizer=super().create_optimizer,
        )
        self.optimizer = optimizer
        return optimizer

    # Evaluation

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **keywords: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Predict as `Trainer` does; without labels only the student is asked."""
        if inputs.get("labels") is None:
            inputs = {name: value for name, value in inputs.items() if name not in (INDEX_NAME, TEACHER_VIEW)}
        prediction: Any = super().prediction_step(model, inputs, *arguments, **keywords)
        return cast(tuple[Tensor | None, Tensor | None, Tensor | None], prediction)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer` does, adding accuracy and, if the teacher can be asked, agreement with it."""
        self._evaluation = StudentEvaluation()
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            metrics = self._evaluation.compute()
            correctness = self._evaluation.correctness
        finally:
            self._evaluation = None
        if metrics and output.metrics is not None:
            prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
            exact_loss = {f"{metric_key_prefix}_loss": metrics["loss"]}
            # A metric that the user computes keeps its name and value; only the loss is replaced by the exact one.
            output.metrics.update(prefixed | output.metrics | exact_loss)
            self.correctness = torch.cat(correctness)
            if self.args.save_correctness and self.args.should_save:
                write_correctness(Path(str(self.args.output_dir)), metric_key_prefix, self.correctness)
        return output

    # Checkpoints and results

    def training_record(self) -> Training:
        """Return the record of this training: the attack, its teacher and every setting that determined it."""
        return attack_record(self, self.attack, self.queries.teacher)

    def train(self, *arguments: Any, **keywords: Any) -> TrainOutput:
        """Train, and write attack, teacher and queries to distillation.json in output_dir.

        A transfer set that was set after construction is numbered and checked first.
        """
        self._take_transfer_set()
        result = super().train(*arguments, **keywords)
        # Before the condition: merging the ledgers needs every process.
        report = self.query_report()
        if self.args.should_save:
            write_report(Path(str(self.args.output_dir)), report)
        return result

    def _inner_training_loop(self, *arguments: Any, **keywords: Any) -> TrainOutput:
        is_resumed = keywords.get("resume_from_checkpoint") is not None
        self._start_attack(is_resumed=is_resumed)
        if self.attack.needs_survey and not is_resumed:
            survey_teacher(self)
        result: TrainOutput = super()._inner_training_loop(*arguments, **keywords)
        return result

    def query_report(self) -> dict[str, Any]:
        """Return attack, teacher and queries of all processes, ready for JSON."""
        teacher = self.queries.teacher
        record: Mapping[str, Any] = {"teacher": None} if teacher is None else teacher.record()
        return {"attack": repr(self.attack), **record, "queries": self.queries.merged_ledger().to_dict()}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        ledger = self.queries.merged_ledger()
        if self.args.should_save:
            save_attack_state(Path(output_dir), self.attack, self.queries.teacher, ledger)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            teacher, budget = self.queries.teacher, self.args.query_budget
            ledger = load_attack_state(Path(checkpoint), self.attack, teacher, budget)
            # It is the ledger of all processes, so only one process takes it over: merging adds them up.
            if self.is_world_process_zero():
                self.queries.ledger = ledger


BlackBoxDistillationTrainer = DistillationTrainer
"""The same class by a name that is unmistakable beside TRL's `DistillationTrainer`, which is for language models."""
