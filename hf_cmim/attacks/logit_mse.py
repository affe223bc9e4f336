"""Regression on the teacher's centred logits."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, check_weight
from hf_cmim.functional.divergence import batch_mean, standardized


def logit_mse_loss(student_logits: Tensor, teacher_log_probs: Tensor, normalized: bool = False) -> Tensor:
    """Return the mean over classes of the squared difference of centred logits, of each sample.

    1/C sum_i (z~_s,i - z~_t,i)^2, z~ = logits less their mean; KD tends to half of it as T grows.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        normalized: whether to divide the centred logits of both by their standard deviation.

    Returns:
        `(N,)` in squared logits (dimensionless where normalized).

    Source: see `LogitMSE`.

    >>> import torch
    >>> logit_mse_loss(torch.tensor([[7.0, 5.0]]), torch.tensor([[-1.0, -7.0]])).item()
    4.0
    """
    if normalized:
        difference = standardized(student_logits) - standardized(teacher_log_probs)
    else:
        difference = student_logits - teacher_log_probs
        difference = difference - difference.mean(dim=-1, keepdim=True)
    return difference.square().mean(dim=-1)


class LogitMSE(AbstractAttack):
    """ce_weight CE(y) + mse_weight mean over samples and classes of (z~_s - z~_t)^2.

    Args:
        mse_weight: weight of the regression, at least 0.
        normalized: whether each sample's logits are divided by their standard deviation, on both sides; ours, against
            teachers whose logits are tiny or huge.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Source: "Do deep nets really need to be deep?", NIPS 2014, arXiv 1312.6184; Kim et al., IJCAI 2021, arXiv
    2105.08919, whose mean over classes this keeps.
    Both compare raw logits; a black box tells them only up to a constant, so both sides are centred. There is no
    temperature.
    """

    needs_every_class = True

    def __init__(self, *, mse_weight: float = 1.0, normalized: bool = False, ce_weight: float = 1.0) -> None:
        super().__init__(ce_weight)
        check_weight("mse_weight", mse_weight)
        self.mse_weight = mse_weight
        self.normalized = normalized

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return `mse`."""
        losses = logit_mse_loss(student_logits, teacher_log_probs, self.normalized)
        return {"mse": self.mse_weight * batch_mean(losses)}
