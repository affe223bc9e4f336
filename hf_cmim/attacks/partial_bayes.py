"""Recovery from a table: the mean of the clean answers that a known perturbation turns into what was seen."""

import torch
from torch import Tensor

from hf_cmim.attacks.answer_prior import Perturbation, own_randomness, perturbed_answers, plausible_answers
from hf_cmim.attacks.base import AbstractTransform, check_weight
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import softened_log_probs


def recovered_probs(seen: Tensor, perturbed: Tensor, clean: Tensor, tolerance: float) -> Tensor:
    """Return for each answer the mean of the clean rows whose perturbed rows are near.

    Near is an L1 distance of at most the tolerance, or of the nearest row where none is that near.

    Args:
        seen: `(N, C)` probabilities as they arrived.
        perturbed: `(S, C)` probabilities of the table as they would arrive.
        clean: `(S, C)` the same before the perturbation.
        tolerance: L1 distance, at least 0.

    >>> table = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    >>> recovered_probs(torch.tensor([[0.8, 0.2]]), table, table, 0.25).mul(10).round().tolist()
    [[8.0, 2.0]]
    """
    distances = torch.cdist(seen, perturbed, p=1)
    is_near = distances <= distances.amin(dim=-1, keepdim=True).clamp_min(tolerance)
    weights = is_near.to(clean.dtype)
    return weights @ clean / weights.sum(dim=-1, keepdim=True)


class PartialBayes(AbstractTransform):
    """Replace each answer by the mean of the plausible clean answers that the perturbation turns into nearly it.

    A table of plausible clean answers and of what the perturbation makes of them is drawn once. An answer is looked up
    among the rows with the same top class; a class that no row has at the top keeps its answers. The table takes
    8 C bytes a sample, and a look-up N samples / C comparisons. In many classes the nearest of the drawn rows is far,
    and what comes back can be worse than what was seen; `Restoration` scales better.

    Args:
        perturbation: what the attacker knows or assumes that answers went through: `(N, C)` log-probabilities to
            `(N, C)` log-probabilities on the CPU, such as a channel. Its `repr` should give it back.
        samples: rows of the table, at least 1.
        tolerance: L1 distance of probabilities within which rows count as the same, at least 0.
        seed: of the table; the same seed gives the same table on a CPU.

    Raises:
        HfCmimError: a number out of its range.

    Source: the partial-Bayes attack of Tang et al., ModelGuard, USENIX Security 2024, as its released code has it: the
    look-up, L1, tolerance .01. The prior over clean answers is ours (`plausible_answers`; there a Dirichlet
    distribution), and so is the smaller table (there 1,000,000).
    """

    restores_classes = True
    _clean: Tensor
    _perturbed: Tensor

    def __init__(
        self, *, perturbation: Perturbation, samples: int = 100_000, tolerance: float = 0.01, seed: int = 0
    ) -> None:
        super().__init__()
        check_weight("tolerance", tolerance)
        if samples < 1:
            raise HfCmimError(f"Expected at least 1 sample, got {samples}: there would be nothing to look up.")
        self.perturbation = perturbation
        self.samples = samples
        self.tolerance = tolerance
        self.seed = seed
        self._sizes: list[int] = []
        self.register_buffer("_clean", torch.zeros(0, 0), persistent=False)
        self.register_buffer("_perturbed", torch.zeros(0, 0), persistent=False)

    def prepare(self, num_classes: int) -> None:
        """Draw the table; it is drawn again instead of kept in a checkpoint."""
        with own_randomness(self.seed), torch.no_grad():
            clean = plausible_answers(self.samples, num_classes)
            perturbed = perturbed_answers(self.perturbation, clean)
        tops = clean.argmax(dim=-1)
        order = tops.argsort(stable=True)
        self._sizes = tops.bincount(minlength=num_classes).tolist()
        self._clean = clean[order].exp().to(self.teacher_scale.device)
        self._perturbed = perturbed[order].exp().to(self.teacher_scale.device)

    @torch.no_grad()
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the recovered answers; see `AbstractTransform.forward`. Waits for the device.

        Raises:
            HfCmimError: another number of classes than prepared for.
        """
        if teacher_log_probs.shape[-1] != len(self._sizes):
            raise HfCmimError(
                f"Expected answers of {len(self._sizes)} classes, got {teacher_log_probs.shape[-1]}: there is no table"
                " for them. Call prepare(num_classes) before training, as a trainer does."
            )
        recovered = softened_log_probs(teacher_log_probs, 1.0)
        tops = teacher_log_probs.argmax(dim=-1)
        table = zip(self._perturbed.split(self._sizes), self._clean.split(self._sizes), strict=True)
        for top, (perturbed, clean) in enumerate(table):
            rows = tops == top
            if len(clean) and rows.any():
                probs = recovered_probs(recovered[rows].float().exp(), perturbed, clean, self.tolerance)
                recovered[rows] = softened_log_probs(probs.log(), 1.0).to(recovered.dtype)
        return recovered
