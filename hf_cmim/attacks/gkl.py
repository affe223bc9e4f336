"""Generalised Kullback-Leibler divergence (GKL): `IKL` with the weights of a class instead of those of a sample."""

from torch import Tensor

from hf_cmim.attacks.base import (
    AbstractAttack,
    Temperature,
    check_fraction,
    check_positive,
    check_temperature,
    check_weight,
    linear_warmup,
)
from hf_cmim.attacks.class_means import ClassMeans, ClassMeansSurvey
from hf_cmim.attacks.ikl import weighted_difference_loss
from hf_cmim.attacks.knockoff import soft_cross_entropy
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def class_weighted_loss(
    student_logits: Tensor, teacher_log_probs: Tensor, class_means: Tensor, gamma: float
) -> Tensor:
    """Return the squared differences of logits in each sample, weighted by the mean answer of its class.

    With w = m^gamma and D_ij = z_i - z_j, the mean of the result over the samples is 1/4 times the sum over samples
    and i, j of w_i w_j (D^t_ij - D^s_ij)^2, divided by the sum over samples and i, j of w_i w_j. A class whose mean
    answer is flat has larger weights, and so its samples count more.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        class_means: `(N, C)` float64 probabilities m: the mean answer of each sample's class.
        gamma: exponent, in [0, 1]; 0 weighs all pairs of classes by the same.

    Returns:
        `(N,)` in squared logits. A value depends on the other samples of the batch unless gamma is 0.

    Source: see `GKL`; the reduction to a variance is ours.

    >>> import torch
    >>> student, teacher = torch.tensor([[5.0, 9.0], [0.0, 2.0]]), torch.zeros(2, 2)
    >>> class_weighted_loss(student, teacher, torch.full((2, 2), 0.5), 0.5).tolist()  # 2/4 1/4 4^2 and 2/4 1/4 2^2
    [2.0, 0.5]
    """
    powers = class_means.pow(gamma)
    # At least 1, as gamma is at most 1: no division by 0.
    sums = powers.sum(dim=-1, keepdim=True)
    differences = weighted_difference_loss(student_logits, teacher_log_probs, (powers / sums).to(student_logits.dtype))
    pair_weights = sums.squeeze(-1).square()
    return differences * (pair_weights / pair_weights.mean()).to(student_logits.dtype)


class GKL(ClassMeansSurvey, AbstractAttack):
    """Distillation of logit differences, weighted by mean answers of classes, with a soft cross-entropy.

    The weights of `IKL` come from single answers, and a sure answer gives nearly all weight to one class. Here they
    come from the mean answer of the label's class, and a power below 1 makes them flatter.

    ce_weight CE(y) + alpha sum 1/4 w_i w_j (D^t_ij - D^s_ij)^2 / sum w_i w_j + beta soft cross-entropy at T. Both sums
    are over the batch and all pairs of classes, D_ij = z_i - z_j, and w = m^gamma. m is the mean of softmax(z_t / T_m)
    over the surveyed samples of the class. The last two terms are multiplied by a warm-up from 0 to 1.

    Args:
        temperature: temperature T of the soft cross-entropy, > 0, or `Relative`.
        measured_at: temperature T_m, a number > 0, at which the class means are taken.
        gamma: exponent, in [0, 1]; 0 weighs all pairs of classes by the same.
        alpha: weight of the squared differences, at least 0.
        beta: weight of the soft cross-entropy, at least 0.
        warmup: fraction of training over which both terms rise linearly from 0, in [0, 1].
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Raises:
        HfCmimError: a number is out of its range; or, at the first loss, the answers were not surveyed.

    Strength: not known: it is newer than our tables. By its formula it is strong where unlikely classes tell
    something, because the differences of their logits count nearly as much as all others.

    Source: Cui et al., arXiv 2503.08038, known to us from its abstract and from the released code jiequancui/DKL (its
    part DKLv2). The defaults are those of that code for ResNet32x4 and ResNet8x4 on CIFAR-100, with the warm-up of 20
    of 240 epochs as a fraction; others have differences weighted 4 to 20 and gamma 0 to .3, for ImageNet .5 or 1 and
    .5 or .6. alpha and beta have the meaning of `IKL`, which the code swaps. As there, no term has a factor T^2. In
    the code the class means are those of the epoch before, and equal in the first epoch; here a survey gives them
    before training. The code can also take the weights from single answers; this is left out, as it is nearly `IKL`
    with a weight temperature of T_m / gamma.
    """

    batch_level = True
    needs_every_class = True

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        measured_at: float = 4.0,
        gamma: float = 0.05,
        alpha: float = 16.0,
        beta: float = 1.0,
        warmup: float = 20 / 240,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_positive(measured_at, "measured_at")
        check_fraction("gamma", gamma)
        check_weight("alpha", alpha)
        check_weight("beta", beta)
        check_fraction("warmup", warmup)
        self.temperature = temperature
        self.measured_at = measured_at
        self.gamma = gamma
        self.alpha = alpha
        self.beta = beta
        self.warmup = warmup
        self.class_means = ClassMeans()

    @property
    def needs_survey(self) -> bool:
        """True: the weights come from a survey."""
        return True

    def averaged(self, teacher_log_probs: Tensor) -> Tensor:
        """Return probabilities at `measured_at`, `(N, C)` float64."""
        return softened_log_probs(teacher_log_probs.double(), self.measured_at).exp()

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `mse` and `soft_ce`."""
        temperature = self.resolved(self.temperature)
        # The class of a sample may be missing in the survey; its own answer then stands for the mean.
        class_means = self.class_means.of(labels, otherwise=self.averaged(teacher_log_probs))
        differences = class_weighted_loss(student_logits, teacher_log_probs, class_means, self.gamma)
        cross_entropy = soft_cross_entropy(
            softened_log_probs(teacher_log_probs, temperature), softened_log_probs(student_logits, temperature)
        )
        scale = linear_warmup(progress, self.warmup)
        return {
            "mse": self.alpha * scale * batch_mean(differences),
            "soft_ce": self.beta * scale * batch_mean(cross_entropy),
        }
