"""Partial Bayes: recover clean answers from a table of clean answers and their known perturbation."""

import torch
from torch import Tensor

from hf_cmim.attacks.answer_prior import Perturbation, isolated_randomness, perturbed_answers, plausible_answers
from hf_cmim.attacks.base import AbstractTransform, check_weight
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import softened_log_probs


def recovered_probs(seen: Tensor, perturbed: Tensor, clean: Tensor, tolerance: float) -> Tensor:
    """Recover each answer as the mean of the clean rows whose perturbed rows are near it.

    A row is near if its L1 distance is at most the tolerance. If no row is, the nearest rows count.

    Args:
        seen: `(N, C)` probabilities of the answers.
        perturbed: `(S, C)` probabilities of the table after the perturbation.
        clean: `(S, C)` probabilities of the table before the perturbation.
        tolerance: largest L1 distance of a near row, at least 0.

    >>> table = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    >>> recovered_probs(torch.tensor([[0.8, 0.2]]), table, table, 0.25).mul(10).round().tolist()
    [[8.0, 2.0]]
    """
    distances = torch.cdist(seen, perturbed, p=1)
    # The larger of tolerance and least distance admits at least one row.
    largest_distances = distances.amin(dim=-1, keepdim=True).clamp_min(tolerance)
    weights = (distances <= largest_distances).to(clean.dtype)
    return weights @ clean / weights.sum(dim=-1, keepdim=True)


class PartialBayes(AbstractTransform):
    """Replace each answer by the mean of the plausible clean answers that the perturbation turns into a similar one.

    A table of plausible clean answers and their perturbed versions is drawn once. An answer is compared with the rows
    that have the same top class. If the table has no such row, the answer is unchanged. The table takes 8 C bytes per
    row, and a look-up N samples / C comparisons. With many classes even the nearest row is far away, and a recovered
    answer can be worse than the original; `Restoration` scales better.

    Args:
        perturbation: function that the attacker knows or assumes was applied to the answers, such as a channel. It
            maps `(N, C)` log-probabilities to the same shape, on the CPU. Its `repr` should be valid code.
        samples: number of rows of the table, at least 1.
        tolerance: L1 distance of probabilities within which rows count as equal, at least 0.
        seed: seed of the table; the same seed gives the same table on a CPU.

    Raises:
        HfCmimError: a number is out of its range.

    Strength: not measured against a perturbed teacher here. It is made for a perturbation that the attacker knows,
    and undoes nothing that training put into the answers.

    Source: the partial-Bayes attack of Tang et al., ModelGuard, USENIX Security 2024. The look-up, L1 and tolerance
    .01 are those of its released code. The prior over clean answers (`plausible_answers`; there a Dirichlet
    distribution) and the smaller table (there 1,000,000 rows) are ours.
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
            raise HfCmimError(f"Expected at least 1 sample, got {samples}. The table would be empty.")
        self.perturbation = perturbation
        self.samples = samples
        self.tolerance = tolerance
        self.seed = seed
        self._sizes: list[int] = []
        self.register_buffer("_clean", torch.zeros(0, 0), persistent=False)
        self.register_buffer("_perturbed", torch.zeros(0, 0), persistent=False)

    def prepare(self, num_classes: int) -> None:
        """Draw the table. Checkpoints do not keep it, since the seed reproduces it."""
        with isolated_randomness(self.seed), torch.no_grad():
            clean = plausible_answers(self.samples, num_classes)
            perturbed = perturbed_answers(self.perturbation, clean)
        top_classes = clean.argmax(dim=-1)
        # Sorted by top class, the table splits into one block per class.
        order = top_classes.argsort(stable=True)
        self._sizes = top_classes.bincount(minlength=num_classes).tolist()
        self._clean = clean[order].exp().to(self.teacher_scale.device)
        self._perturbed = perturbed[order].exp().to(self.teacher_scale.device)

    @torch.no_grad()
    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the recovered answers; see `AbstractTransform.forward`. Waits for the device.

        Raises:
            HfCmimError: the number of classes differs from that of `prepare`.
        """
        if teacher_log_probs.shape[-1] != len(self._sizes):
            raise HfCmimError(
                f"Expected answers of {len(self._sizes)} classes, got {teacher_log_probs.shape[-1]}. The table is for"
                f" {len(self._sizes)} classes. Call prepare(num_classes) before training, as a trainer does."
            )
        recovered = softened_log_probs(teacher_log_probs, 1.0)
        top_classes = teacher_log_probs.argmax(dim=-1)
        blocks = zip(self._perturbed.split(self._sizes), self._clean.split(self._sizes), strict=True)
        for top_class, (perturbed, clean) in enumerate(blocks):
            rows = top_classes == top_class
            if len(clean) and rows.any():
                probs = recovered_probs(recovered[rows].float().exp(), perturbed, clean, self.tolerance)
                recovered[rows] = softened_log_probs(probs.log(), 1.0).to(recovered.dtype)
        return recovered
