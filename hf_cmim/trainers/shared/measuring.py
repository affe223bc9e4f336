"""Base class of trainers of classifiers that measure accuracy, calibration and the CMI in evaluation."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from hf_cmim.hub.certificate import Evaluation
from hf_cmim.measurement import Measurement
from hf_cmim.trainers.shared.components import ComponentTrainer
from hf_cmim.trainers.shared.evaluation import EvaluationAccumulator
from hf_cmim.trainers.shared.records import dataset_name, weights_version


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
