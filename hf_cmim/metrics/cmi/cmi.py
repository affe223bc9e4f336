"""The conditional mutual information of a classifier's outputs given the label, for `evaluate.load`."""

import evaluate

from hf_cmim.functional import conditional_mutual_information
from hf_cmim.metrics.logit_inputs import as_tensors, logit_metric_info

DESCRIPTION = """\
The conditional mutual information (CMI) measures how far the outputs softmax(logits / T) of one class spread around
their mean, as the mean Kullback-Leibler divergence from it, in nats. It is I(X; Y^ | Y), between a classifier's input
and its predicted label given the true one. 0 means that the output depends only on the label; the largest value is
log C.

Do not compare models at one temperature, because scaling the logits only shifts the curve over temperatures. Compare
the largest value over a wide range of temperatures relative to the scale of their logits. With few samples per class,
n, the metric understates the CMI of the distribution by a factor of about (n - 1) / n.
"""


class CMI(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Conditional mutual information of the outputs given the label, nats."""

    def _info(self) -> evaluate.MetricInfo:
        returns = '{"cmi": the CMI in nats, a float between 0 and log C}'
        return logit_metric_info("cmi", DESCRIPTION, returns, example=0.1639)

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[int],
        temperature: float = 1.0,
        correct_only: bool = False,
    ) -> dict[str, float]:
        logits, labels = as_tensors(predictions, references)
        value = conditional_mutual_information(logits, labels, temperature, correct_only=correct_only)
        return {"cmi": value.item()}
