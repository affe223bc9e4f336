"""Markov distillation: answers pass through learned maps between classes, trained together with the student."""

import math

import torch
from torch import Tensor, nn

from hf_cmim.attacks.base import AbstractTransform, Temperature, check_temperature, check_weight
from hf_cmim.attacks.kd import kd_loss
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def markov_log_probs(log_probs: Tensor, scales: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return log(p M) of each sample, with M = softmax over each row of s I + A B'.

    Args:
        log_probs: `(N, C)` log p.
        scales: `(N,)` s; for large s, M becomes the identity.
        left: `(N, C, n)` A.
        right: `(N, C, n)` B.

    Returns:
        Normalised log-probabilities `(N, C)`. Memory grows as N C^2.

    Source: see `MarkovKD`.

    >>> log_probs = torch.tensor([[0.9, 0.1]]).log()
    >>> markov_log_probs(log_probs, torch.zeros(1), torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)).exp().tolist()
    [[0.5, 0.5]]
    """
    identity = torch.eye(log_probs.shape[-1], dtype=left.dtype, device=left.device)
    log_rows = softened_log_probs(scales.reshape(-1, 1, 1) * identity + left @ right.mT, 1.0)
    # The matrix product p M in logs, which cannot underflow.
    return (log_probs.unsqueeze(-1) + log_rows).logsumexp(dim=-2)


class MarkovKD(AbstractTransform):
    """Pass each answer through a learned map between classes, one map per class.

    The softened answer becomes p~ = softmax(log p / T) M_y, with M_y = softmax over each row of s_y I + A_y B_y'. The
    transformed answers, softened by T, are exactly p~: KD at the same T learns p~. The maps learn from
    T^2 KL(p~ || student at T) with the student fixed. They have `C (1 + 2 C rank)` parameters in all.

    Args:
        temperature: temperature T of the loss that follows, above 0, or `Relative`.
        rank: columns of A and B, at least 1.
        diagonal: initial weight of a class's own column in M, in (0, 1); near 1, answers pass unchanged.
        learning_rate_factor: learning rate of the maps divided by the student's, at least 0.

    Raises:
        HfCmimError: a number is out of its range.

    Strength: its authors report students up to 3.57 points above label smoothing on CIFAR-10 (read in a summary of
    the paper). No table of ours singles it out.

    Source: Yang and Ye, ECCV 2024 (paper 12478), known to us from a description and the first author's public script.
    The script has T = 4, rank 3 (CIFAR) and 5 (TinyImageNet), T^2, and Adam at 1/100 of the learning rate .1 of a
    student trained by SGD. (With an Adam student, a factor nearer to 1 gives steps of the same size.) It normalises
    the columns of M, so that p~ need not sum to 1, and applies softmax(p~ / T) again, which makes p~ almost uniform.
    Here rows are normalised, and p~ is the target. The initial maps are ours: A small and random, the same in every
    run, B = 0, and the diagonal.
    """

    scales: Tensor
    left: Tensor
    right: Tensor

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        rank: int = 3,
        diagonal: float = 0.9,
        learning_rate_factor: float = 0.01,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        check_weight("learning_rate_factor", learning_rate_factor)
        if rank < 1:
            raise HfCmimError(
                f"Expected rank of at least 1, got {rank}. The maps could only mix classes evenly. The source uses 3."
            )
        if not 0 < diagonal < 1:
            raise HfCmimError(
                f"Expected diagonal in (0, 1), got {diagonal}. At 0 the answers are lost, and at 1 the maps have no"
                " gradient. The default is .9."
            )
        self.temperature = temperature
        self.rank = rank
        self.diagonal = diagonal
        self.learning_rate_factor = learning_rate_factor
        self.prepare(0)

    def prepare(self, num_classes: int) -> None:
        """Build the maps, all with the same initial scale."""
        # With A B' = 0, this scale gives a softmax of `diagonal` on the diagonal.
        num_other_classes = max(num_classes - 1, 1)
        scale = math.log(self.diagonal * num_other_classes / (1 - self.diagonal))
        shape = (num_classes, num_classes, self.rank)
        left = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / math.sqrt(self.rank)
        device = self.teacher_scale.device
        self.scales = nn.Parameter(torch.full((num_classes,), scale, device=device))
        self.left = nn.Parameter(left.to(device))
        self.right = nn.Parameter(torch.zeros(shape, device=device))

    def forward(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the mapped answers; see `AbstractTransform.forward`.

        Raises:
            HfCmimError: the number of classes differs from that of `prepare`.
        """
        if teacher_log_probs.shape[-1] != len(self.scales):
            raise HfCmimError(
                f"Expected answers of {len(self.scales)} classes, got {teacher_log_probs.shape[-1]}. The maps are for"
                f" {len(self.scales)} classes. Call prepare(num_classes) before training, as a trainer does."
            )
        temperature = self.resolved(self.temperature)
        softened = softened_log_probs(teacher_log_probs.detach(), temperature)
        mapped = markov_log_probs(softened, self.scales[labels], self.left[labels], self.right[labels])
        # Undo the softening: the loss divides by T again.
        return softened_log_probs(mapped, 1 / temperature)

    def own_components(self, transformed_log_probs: Tensor, student_logits: Tensor) -> dict[str, Tensor]:
        """Return the component `markov`, T^2 KL(p~ || student at T), which trains the maps."""
        losses = kd_loss(student_logits.detach(), transformed_log_probs, self.resolved(self.temperature))
        return {"markov": batch_mean(losses)}
