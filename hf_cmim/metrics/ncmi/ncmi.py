"""The normalized conditional mutual information of a classifier's outputs, for `evaluate.load`."""

import evaluate

from hf_cmim.functional import normalized_cmi
from hf_cmim.metrics.logit_inputs import as_tensors, logit_metric_info

DESCRIPTION = """\
The normalized conditional mutual information (NCMI) of a classifier is the CMI I(X; Y^ | Y), the spread of the outputs
softmax(logits / T) of one class, divided by the separation Gamma. Gamma is the mean cross-entropy between the outputs
of two samples of different classes (counted as 0 for pairs of one class). The NCMI is dimensionless and at least 0.
Lower is better: concentrated classes, far apart. At least two classes must occur.
"""


class NCMI(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Conditional mutual information of the outputs given the label, divided by their separation."""

    def _info(self) -> evaluate.MetricInfo:
        returns = '{"ncmi": the NCMI, a dimensionless float of at least 0}'
        return logit_metric_info("ncmi", DESCRIPTION, returns, example=0.245)

    def _compute(
        self,
        predictions: list[list[float]],
        references: list[int],
        temperature: float = 1.0,
        correct_only: bool = False,
    ) -> dict[str, float]:
        logits, labels = as_tensors(predictions, references)
        return {"ncmi": normalized_cmi(logits, labels, temperature, correct_only=correct_only).item()}
