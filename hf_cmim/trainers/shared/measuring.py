"""Base class of trainers of classifiers on labels: outputs of a labelled batch, a measurement in evaluation."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from hf_cmim.class_names import class_names_of
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import IGNORE_INDEX
from hf_cmim.functional.inputs import check_label_range, flatten_samples, model_logits
from hf_cmim.hub.certificate import Evaluation
from hf_cmim.measurement import Measurement
from hf_cmim.trainers.shared.components import ComponentTrainer
from hf_cmim.trainers.shared.evaluation import EvaluationAccumulator
from hf_cmim.trainers.shared.records import dataset_name, weights_version
from hf_cmim.trainers.shared.validation import check_are_logits, check_width


class MeasuringTrainer(ComponentTrainer):
    """Abstract trainer whose evaluation measures accuracy, calibration and the CMI curve of a classifier.

    Attributes:
        measurement: measurement of the last evaluation, or None.
    """

    measurement: Measurement | None = None
    _evaluation: EvaluationAccumulator | None = None
    _measured: tuple[str, int] | None = None

    @property
    @abstractmethod
    def measured_temperatures(self) -> Sequence[float]:
        """Temperatures at which evaluation reports the CMI."""

    @abstractmethod
    def loss_metrics(self, components: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of the loss, without prefix.

        Args:
            components: means over all valid labels of the components that evaluation added up.
        """

    # Batches

    def labelled_outputs(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Any, Tensor, Tensor]:
        """Return a model's outputs for a batch, their logits and the labels, after checking that shapes agree.

        Raises:
            HfCmimError: no labels, no logits, or shapes that do not fit.
        """
        inputs = dict(inputs)
        labels = inputs.pop("labels", None)
        if labels is None:
            raise HfCmimError(
                f"Expected 'labels' in every batch, got only {sorted(inputs)}: without labels there is no class to"
                " learn. Name the label column 'label' or 'labels', and check that remove_unused_columns keeps it."
            )
        # Without labels: a model would compute its own loss from them.
        outputs = model(**inputs)
        logits = model_logits(outputs)
        flatten_samples(logits, labels)
        return outputs, logits, labels

    def check_batch(self, logits: Tensor, labels: Tensor, *, is_first: bool) -> None:
        """Check what only a batch shows: the range of the labels, and of the first batch also the outputs.

        Raises:
            HfCmimError: labels out of range, probabilities in the place of logits, or a width that contradicts the
                model's configuration.
        """
        # The check waits for the device: on a GPU only the first batch pays for it.
        if labels.device.type == "cpu" or is_first:
            check_label_range(labels, logits.shape[-1])
        if is_first:
            check_are_logits(logits)
            names = class_names_of(self.model)
            check_width(logits, None if names is None else len(names))

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer` does, adding accuracy, calibration and the CMI curve to the metrics."""
        self._evaluation = EvaluationAccumulator(self.measured_temperatures)
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            result = self._evaluation.compute()
        finally:
            self._evaluation = None
        if result is not None and output.metrics is not None:
            self.measurement, metrics, components = result
            metrics |= self.loss_metrics(components)
            self._measured = (dataset_name(dataloader.dataset), weights_version(self.model))
            prefixed = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
            exact_loss = {key: value for key, value in prefixed.items() if key == f"{metric_key_prefix}_loss"}
            # A metric that the user computes keeps its name and value; only the loss is replaced by the exact one.
            output.metrics.update(prefixed | output.metrics | exact_loss)
        return output

    def evaluation_record(self) -> Evaluation | None:
        """Return the last measurement, if it is of the weights as they are now."""
        if self.measurement is None or self._measured is None or self._measured[1] != weights_version(self.model):
            return None
        return Evaluation(self._measured[0], self.measurement)


def number_of_items(num_items: Tensor | int | None, labels: Tensor) -> Tensor | int:
    """Return the number of valid labels of an optimizer step, by which losses are divided; at least 1.

    Args:
        num_items: number that `Trainer` counted, or None for that of this batch.
        labels: `(...)` labels of this batch.
    """
    if num_items is None:
        return (labels != IGNORE_INDEX).sum().clamp_min(1)
    # Trainer repeats the count for each replica of nn.DataParallel.
    return num_items.flatten()[0] if isinstance(num_items, Tensor) and num_items.ndim else num_items
