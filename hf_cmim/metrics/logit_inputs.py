"""Shared parts of the metrics: conversion of the inputs from `evaluate`, and the description of a metric."""

import datasets
import evaluate
import torch
from torch import Tensor

from hf_cmim.errors import HfCmimError

CITATION = """\
@article{yang2025conditional,
  title   = {Conditional Mutual Information Constrained Deep Learning for Classification},
  author  = {Yang, En-Hui and Mohajer Hamidi, Shayan and Ye, Linfeng and Tan, Renhao and Yang, Beverly},
  journal = {IEEE Transactions on Neural Networks and Learning Systems},
  volume  = {36},
  number  = {8},
  pages   = {15436--15448},
  year    = {2025},
  note    = {arXiv:2309.09123}
}
"""

CONVENIENCE = """
This metric is a convenience: `evaluate` stores every logit as fp32 in an Arrow file and passes all of them as Python
lists. For large data stream batches of tensors through `hf_cmim.functional.ClusterStatistics`, which stores only sums.
"""

INPUTS = """
Args:
    predictions: list of rows of C raw logits (not probabilities), one row per sample, C at least 2.
    references: list of integer labels in [0, C), or -100 to ignore the sample.
    temperature: temperature of the outputs softmax(logits / temperature), above 0; 1.0 by default.
    correct_only: switch to count only samples whose largest logit is at their label; False by default.

Returns:
    {returns}

Raises:
    HfCmimError: rows of different lengths, labels out of range, or no sample that counts.

Examples:
    >>> from pathlib import Path
    >>> import evaluate
    >>> import hf_cmim
    >>> metric = evaluate.load(str(Path(hf_cmim.__file__).parent / "metrics" / "{name}"))
    >>> logits = [[2.0, 0.0], [0.0, 2.0], [0.0, 3.0], [0.0, 3.0]]
    >>> results = metric.compute(predictions=logits, references=[0, 0, 1, 1])
    >>> round(results["{name}"], 4)
    {example}
"""


def logit_metric_info(name: str, description: str, returns: str, example: float) -> evaluate.MetricInfo:
    """Return the card of a metric of logits and labels.

    Args:
        name: name of the metric and of its folder.
        description: description of the measured quantity.
        returns: description of the result of `compute`.
        example: value on the example of `INPUTS`, rounded to 4 digits.
    """
    return evaluate.MetricInfo(
        description=description + CONVENIENCE,
        citation=CITATION,
        inputs_description=INPUTS.format(name=name, returns=returns, example=example),
        features=datasets.Features(
            {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
        ),
        reference_urls=["https://arxiv.org/abs/2309.09123", "https://arxiv.org/abs/2507.00012"],
        license="Apache-2.0",
    )


def as_tensors(predictions: list[list[float]], references: list[int]) -> tuple[Tensor, Tensor]:
    """Return logits `(B, C)` in fp32 and labels `(B,)`.

    Raises:
        HfCmimError: rows of different lengths.
    """
    # torch's own error for ragged rows names neither the column nor the cause.
    lengths = {len(row) for row in predictions}
    if len(lengths) > 1:
        raise HfCmimError(
            f"Expected one logit per class in every row of predictions, got rows of {sorted(lengths)[:8]} logits: they"
            " come from heads of different sizes, or padding was cut off. Flatten token logits to one row per"
            " token."
        )
    return torch.tensor(predictions, dtype=torch.float32), torch.tensor(references)
