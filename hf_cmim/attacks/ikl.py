"""Improved Kullback-Leibler divergence (IKL): pairwise logit differences and a soft cross-entropy."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.attacks.knockoff import soft_cross_entropy
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def weighted_difference_loss(student_logits: Tensor, teacher_log_probs: Tensor, weights: Tensor) -> Tensor:
    """Return 1/4 sum_ij w_i w_j ((t_i - t_j) - (s_i - s_j))^2 of each sample, for weights w that sum to 1.

    t and s are the logits. With d = t - s, the bracket is d_i - d_j. Since w sums to 1, the sum over pairs is twice
    the variance of d under w. The loss is therefore 1/2 sum_i w_i (d_i - sum_j w_j d_j)^2, computed without a tensor
    `(N, C, C)`. For equal weights it is half the plain variance of d over the classes.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        weights: `(N, C)` weights w, at least 0; each row sums to 1.

    Returns:
        `(N,)` in squared logits.

    Source: see `IKL`; the reduction is ours.

    >>> import torch
    >>> student, teacher, weights = torch.tensor([[5.0, 9.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    >>> weighted_difference_loss(student, teacher, weights).item()  # 2/4 1/4 4^2
    2.0
    """
    # A constant added to all logits of a sample cancels with the mean.
    difference = teacher_log_probs - student_logits
    mean = (weights * difference).sum(dim=-1, keepdim=True)
    return (weights * (difference - mean).square()).sum(dim=-1) / 2


class IKL(AbstractAttack):
    """Distillation with separate weights for the two terms into which the gradient of KL decouples.

    ce_weight CE(y) + alpha 1/4 sum_ij w_ij (D^t_ij - D^s_ij)^2 + beta soft cross-entropy at T. Here D_ij = z_i - z_j,
    and w is the outer product of softmax(z_t / T_w) with itself. At T = T_w = 1, the gradient of each term is one of
    the two terms of KL's gradient.

    Args:
        temperature: temperature T of the soft cross-entropy, > 0, or `Relative`.
        weight_temperature: T_w, > 0, or `Relative`; high means nearly equal weights.
        alpha: weight of the squared differences, at least 0.
        beta: weight of the soft cross-entropy, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: not known: no table of ours singles it out.

    Source: Cui et al., NeurIPS 2024, arXiv 2305.13948. alpha and beta have the paper's meaning (recalled), which the
    released code swaps. All defaults are that code's; its settings for CIFAR-100 are T 4, differences weighted 4, 8 or
    12, the soft cross-entropy 1, 3 or 4, and a warm-up of 20 epochs. The warm-up is left out here, and
    `GKL` takes the weights from class-wise mean answers. As in the code, no term has a factor T^2.
    """

    needs_every_class = True

    def __init__(
        self,
        *,
        temperature: Temperature = 1.0,
        weight_temperature: Temperature = 100.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_temperature(weight_temperature, "weight_temperature")
        check_weight("alpha", alpha)
        check_weight("beta", beta)
        self.temperature = temperature
        self.weight_temperature = weight_temperature
        self.alpha = alpha
        self.beta = beta

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `mse` and `soft_ce`."""
        temperature = self.resolved(self.temperature)
        weights = softened_log_probs(teacher_log_probs, self.resolved(self.weight_temperature)).exp()
        differences = weighted_difference_loss(student_logits, teacher_log_probs, weights)
        cross_entropy = soft_cross_entropy(
            softened_log_probs(teacher_log_probs, temperature), softened_log_probs(student_logits, temperature)
        )
        return {"mse": self.alpha * batch_mean(differences), "soft_ce": self.beta * batch_mean(cross_entropy)}
