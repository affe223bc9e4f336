"""Regression on the teacher's centred logits (logit MSE)."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, check_weight
from hf_cmim.functional.divergence import batch_mean, standardized


def logit_mse_loss(student_logits: Tensor, teacher_log_probs: Tensor, normalized: bool = False) -> Tensor:
    """Return the squared difference of the centred logits of each sample, averaged over classes.

    1/C sum_i (z~_s,i - z~_t,i)^2, with z~ = logits minus their mean. KD tends to half of this as T grows.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        normalized: True to divide the centred logits by their standard deviation, on both sides.

    Returns:
        Losses `(N,)` in squared logits, or dimensionless if normalized.

    Source: see `LogitMSE`.

    >>> import torch
    >>> logit_mse_loss(torch.tensor([[7.0, 5.0]]), torch.tensor([[-1.0, -7.0]])).item()
    4.0
    """
    if normalized:
        difference = standardized(student_logits) - standardized(teacher_log_probs)
    else:
        # Centring the difference once equals centring both sides.
        difference = student_logits - teacher_log_probs
        difference = difference - difference.mean(dim=-1, keepdim=True)
    return difference.square().mean(dim=-1)


class LogitMSE(AbstractAttack):
    """Regression of the student's centred logits on the teacher's.

    ce_weight CE(y) + mse_weight mean over samples and classes of (z~_s - z~_t)^2, with z~ = logits minus their mean.

    Args:
        mse_weight: weight of the regression, at least 0.
        normalized: True to divide each sample's logits by their standard deviation, on both sides. Ours, for teachers
            with tiny or huge logits.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: not known: no table of ours singles it out. By its formula a large logit scale of the teacher
    dominates it, unless normalized=True.

    Source: "Do deep nets really need to be deep?", NIPS 2014, arXiv 1312.6184; Kim et al., IJCAI 2021, arXiv
    2105.08919, which also averages over classes. Both compare raw logits. A black box reveals logits only up to a
    constant, so both sides are centred here. There is no temperature.
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
        """Return the component `mse`."""
        losses = logit_mse_loss(student_logits, teacher_log_probs, self.normalized)
        return {"mse": self.mse_weight * batch_mean(losses)}
