"""The conditional mutual information of a classifier's outputs given the label, for `evaluate.load`."""

import evaluate

from hf_cmim.functional import conditional_mutual_information
from hf_cmim.metrics.logit_inputs import as_tensors, logit_metric_info

DESCRIPTION = """\
The conditional mutual information (CMI) I(X; Y^ | Y) between a classifier's input and its predicted label given the
true one, in nats: how far the outputs softmax(logits / T) of the samples of one class spread around their mean, as the
mean Kullback-Leibler divergence from it. 0 means that the output depends on the label alone; at most log C.

The value at one temperature says little, because scaling the logits only shifts the curve over temperatures: compare
models by the largest value over a wide range of temperatures relative to their logits' scale. On few samples per class
(n of them) it understates the CMI of the distribution by about (n - 1) / n.
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
