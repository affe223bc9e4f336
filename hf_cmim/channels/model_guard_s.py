"""ModelGuard-S: answers rounded to the nearest of a few stored answers of the predicted class."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from hf_cmim.channels.base import finite_answers, floored_log_probs, keeping_predictions, precise
from hf_cmim.channels.fitted import AbstractFittedChannel, check_distributions, check_held_out_answers
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.selection import select_valid


@final
@dataclass(frozen=True, eq=False, repr=False)
class ModelGuardS(AbstractFittedChannel):
    """A few stored answers per predicted class: each answer becomes the first stored one that is near enough.

    An answer p that predicts class c becomes the first stored answer of class c within an L1 distance of `epsilon`, or
    the nearest one if none is. The prediction stays. A class without a stored answer passes unchanged.

    It cannot be inverted: all answers near one stored answer become the same. An attacker learns which stored answer
    is near, and with it the stored answers themselves.

    Args:
        centroids: `(K, C)` stored answers in order, each for the class of its largest probability. Each row sums to 1.
        epsilon: L1 distance within which a stored answer is near enough, in [0, 2].

    Raises:
        HfCmimError: a table that holds no distributions, or an epsilon outside [0, 2].

    Source: Tang et al., "ModelGuard: Information-Theoretic Defense Against Model Extraction Attacks", USENIX Security
    2024, the ordered quantiser of its released code; epsilon 1.0 is that of its scripts. There the quantiser goes on
    storing answers while it serves, so that no answer moves further than epsilon. Here it stores held-out answers only
    and then stays as it is, as the code does with `frozen`: an audit needs the same answer to the same question, in
    any order. So an answer unlike all held-out ones can move further than epsilon.

    >>> import torch
    >>> channel = ModelGuardS.fit(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), epsilon=0.5)
    >>> channel(torch.tensor([[0.7, 0.3], [0.4, 0.6]]).log()).exp().mul(100).round().tolist()
    [[90.0, 10.0], [20.0, 80.0]]
    """

    centroids: Tensor
    epsilon: float = 1.0
    file_name: ClassVar[str] = "model_guard_s.safetensors"

    def __post_init__(self) -> None:
        """Check the table and the distance, and keep a copy of the table on the CPU in fp32."""
        if not 0 <= self.epsilon <= 2:
            raise HfCmimError(
                f"Expected an epsilon in [0, 2], got {self.epsilon}: two distributions are at most 2 apart in L1. The"
                " default is 1.0."
            )
        check_distributions(self.centroids, "(K, C)", "ModelGuardS.fit")
        self._keep_copy()

    @classmethod
    def fit(cls, log_probs: Tensor, labels: Tensor | None = None, *, epsilon: float = 1.0) -> Self:
        """Return the channel that stores a model's answers to held-out samples, one after the other.

        An answer is stored if no stored answer of its class is within epsilon. The order of the samples matters.

        Args:
            log_probs: `(..., C)` log-probabilities of the model.
            labels: `(...)` classes, of which only -100 counts: such samples are ignored.
            epsilon: L1 distance within which a stored answer is near enough, in [0, 2].

        Raises:
            HfCmimError: fewer than 2 samples, answers that are no distributions, or an epsilon outside [0, 2].
        """
        classes = log_probs.argmax(dim=-1) if labels is None else labels
        rows, _ = select_valid(log_probs.detach().cpu().double(), classes.cpu())
        check_held_out_answers(rows)
        # In fp32, as they are stored: each stored answer is then within epsilon of itself.
        answers, predictions = rows.exp().float(), rows.argmax(dim=-1)
        stored = [
            row for label in predictions.unique().tolist() for row in _stored(answers[predictions == label], epsilon)
        ]
        return cls(torch.stack(stored), epsilon)

    @cached_property
    def log_probs(self) -> Tensor:
        """Table as the answers that are given, `(K, C)` fp32 log-probabilities; a probability of 0 counts as FLOOR."""
        return floored_log_probs(self.centroids.double())

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Return the stored answer near each answer.

        Raises:
            HfCmimError: answers for another number of classes than the table has.
        """
        self._check_classes(log_probs)
        original = finite_answers(log_probs)
        probs, predictions = precise(original).exp(), original.argmax(dim=-1)
        centroids, log_probs = precise(self.centroids.to(original.device)), self.log_probs.to(original.device)
        classes = centroids.argmax(dim=-1)
        answers = original.clone()
        for label in predictions.unique().tolist():
            rows, stored = predictions == label, classes == label
            if stored.any():
                answers[rows] = log_probs[stored][_first_near(probs[rows], centroids[stored], self.epsilon)]
        return keeping_predictions(answers, predictions, otherwise=original)


def _stored(answers: Tensor, epsilon: float) -> list[Tensor]:
    """Return the answers `(N, C)` that are stored if they come one after the other."""
    stored = []
    while len(answers):
        stored.append(answers[0])
        distances = (answers.double() - answers[0].double()).abs().sum(dim=-1)
        # The next stored answer is the first that no earlier one is near.
        answers = answers[distances > epsilon]
    return stored


def _first_near(probs: Tensor, centroids: Tensor, epsilon: float) -> Tensor:
    """Return the position of the first centroid within epsilon of each row, `(N,)`, or of the nearest."""
    distances = torch.cdist(probs, centroids, p=1)
    positions = torch.arange(len(centroids), device=probs.device)
    first = torch.where(distances <= epsilon, positions, len(centroids)).amin(dim=-1)
    return torch.where(first < len(centroids), first, distances.argmin(dim=-1))
