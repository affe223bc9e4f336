"""Linear map: a matrix on log-probabilities that concentrates the answers of each class."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor
from torch.nn import functional

from hf_cmim.channels.base import FLOOR, finite_answers, keeping_predictions, precise
from hf_cmim.channels.fitted import AbstractFittedChannel, check_held_out_answers
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.information import cmi_curve
from hf_cmim.functional.selection import select_valid

TEMPERATURES = (1.0, 2.0, 4.0)
"""Temperatures of the CMI that the fit lowers; ours."""
ITERATIONS = 100
"""Largest number of iterations of the fit; ours."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class LinearMap(AbstractFittedChannel):
    """One matrix for all answers: softmax(A log p), where A was fitted to concentrate the answers of each class.

    The weights of the model stay as they are. The prediction stays as well: where the map would change it, the model's
    own answer passes unchanged, and tells all that it told before. Probabilities below FLOOR count as FLOOR.

    An attacker who knows the matrix undoes it as far as rounding allows, unless it is singular. The fit shrinks the
    directions in which the answers of a class differ, and the more so the larger its weight.

    Args:
        matrix: `(C, C)` matrix A; row c makes the new log-probability of class c, before normalising.

    Raises:
        HfCmimError: no finite square matrix.

    Source: Fang et al., "Towards Distillation-Resistant Large Language Models: An Information-Theoretic Perspective",
    arXiv 2602.03396, known to us by its abstract: a matrix on logits that minimises a loss inspired by the CMI. The
    loss, the temperatures and the fit for classifiers are ours.

    >>> import torch
    >>> channel = LinearMap(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    >>> channel(torch.tensor([[0.75, 0.25]]).log()).exp().mul(100).round().tolist()
    [[90.0, 10.0]]
    """

    matrix: Tensor
    file_name: ClassVar[str] = "linear_map.safetensors"

    def __post_init__(self) -> None:
        """Check the matrix, and keep a copy of it on the CPU in fp32."""
        matrix = self.matrix
        if not isinstance(matrix, Tensor) or matrix.ndim != 2 or len(matrix) != matrix.shape[1] or len(matrix) < 2:
            actual = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise HfCmimError(
                f"Expected a matrix (C, C) for at least 2 classes, got {actual}. Build it with LinearMap.fit."
            )
        if not matrix.is_floating_point() or not bool(matrix.isfinite().all()):
            raise HfCmimError(
                f"Expected finite floating-point numbers, got {matrix.dtype} with"
                f" {int((~matrix.isfinite()).sum())} entries that are not finite: answers would be nan. Build the"
                " matrix with LinearMap.fit."
            )
        self._keep_copy()

    @classmethod
    def fit(cls, log_probs: Tensor, labels: Tensor, *, weight: float) -> Self:
        """Return the map that fits a model's answers to held-out samples.

        It minimises NLL + weight * mean_T T^2 CMI_T over A from the identity on, for T = 1, 2, 4, by L-BFGS in float64
        on the CPU. The time grows with samples times C^2: a minute and more for 5,000 samples of 1,000 classes. The
        matrix has C^2 numbers, so give many more samples than ten per class.

        Args:
            log_probs: `(..., C)` log-probabilities of the model.
            labels: `(...)` classes in [0, C), or -100 to ignore.
            weight: weight of the CMI, at least 0; with 0 the map only fits the labels.

        Raises:
            HfCmimError: fewer than 2 samples, answers that are no distributions, labels out of range, or a negative
                weight.
        """
        if not 0 <= weight < math.inf:
            raise HfCmimError(
                f"Expected a weight at least 0 and finite, got {weight}: answers would spread instead of concentrate."
                " Use 1.0, say."
            )
        rows, targets = select_valid(log_probs.detach().cpu().double(), labels.cpu())
        check_held_out_answers(rows)
        return cls(_fitted(rows.clamp_min(math.log(FLOOR)), targets, weight))

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the mapped log-probabilities.

        Raises:
            HfCmimError: answers for another number of classes than the matrix has.
        """
        self._check_classes(log_probs)
        original = finite_answers(log_probs)
        logits = precise(original).clamp_min(math.log(FLOOR)) @ precise(self.matrix.to(original.device)).T
        return keeping_predictions(logits.log_softmax(dim=-1).float(), original.argmax(dim=-1), otherwise=original)


def _fitted(rows: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Return the fitted matrix `(C, C)` for float64 log-probabilities `(N, C)` and labels `(N,)`."""
    matrix = torch.eye(rows.shape[-1], dtype=rows.dtype).requires_grad_()
    squares = torch.tensor(TEMPERATURES, dtype=rows.dtype).square()
    optimizer = torch.optim.LBFGS([matrix], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = rows @ matrix.T
        spread = (squares * cmi_curve(logits, labels, TEMPERATURES)).mean()
        value = functional.cross_entropy(logits, labels) + weight * spread
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return matrix.detach()
