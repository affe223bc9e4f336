"""Streamlined distillation (SKD): divergences of samples, and directions within the batch."""

import math

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.attacks.kd import kd_loss
from hf_cmim.attacks.relations import centred_logits, unit_vectors
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean


def gram_distances(student_logits: Tensor, teacher_log_probs: Tensor, tikhonov: float) -> Tensor:
    """Return the Mahalanobis norm of each row of D = (G_s - G_t) / C.

    sqrt(D_i (S + tikhonov I)^-1 D_i'), where S is the covariance of the N rows of D (divided by N - 1) and G_ij the
    cosine of the centred logits of samples i and j.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        tikhonov: constant added to the diagonal of the covariance, > 0.

    Returns:
        Norms `(N,)`, dimensionless; scaling the logits of a sample changes nothing. A norm below 1e-6 counts as 0,
        without a gradient: a norm has no slope at 0.

    Source: see `SKD`.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> gram_distances(logits, 3 * logits + 1, 0.1).tolist()
    [0.0, 0.0, 0.0]
    """
    num_samples, num_classes = student_logits.shape
    student = unit_vectors(centred_logits(student_logits))
    teacher = unit_vectors(centred_logits(teacher_log_probs))
    differences = (student @ student.T - teacher @ teacher.T) / num_classes
    centred = differences - differences.sum(dim=0) / max(num_samples, 1)
    covariance = centred.T @ centred / max(num_samples - 1, 1)
    identity = torch.eye(num_samples, dtype=centred.dtype, device=centred.device)
    # With S + tikhonov I = L L', the norm of row D_i is |L^-1 D_i'|.
    factor = torch.linalg.cholesky(covariance + tikhonov * identity)
    whitened = torch.linalg.solve_triangular(factor, differences.T, upper=False)
    squares = whitened.square().sum(dim=0)
    is_zero = squares < 1e-12
    # The inner `where` keeps the infinite slope of the square root at 0 out of the backward pass.
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squares).sqrt())


class SKD(AbstractAttack):
    """Knowledge distillation plus a comparison of the directions of a batch's outputs.

    ce_weight CE(y) + kd_weight T^2 KL(teacher at T || student at T) + gram_weight mean Mahalanobis norm. The last term
    (`gram_distances`) compares the samples of one batch. Each micro-batch on each process is compared within itself
    and nothing is gathered; losses are averaged by number of samples. Time grows as N^3.

    Args:
        temperature: temperature T of the divergence, > 0, or `Relative`; the Gram matrices have none.
        kd_weight: weight of the divergence, at least 0.
        gram_weight: weight of the Mahalanobis norms, at least 0.
        tikhonov: constant added to the diagonal of the covariance, > 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: not known: no table of ours singles it out. No scale of the teacher's logits misleads its Gram term.

    Source: Jeong et al., "Streamlined Knowledge Distillation", CVPR 2026, of which we read the released code and a
    summary. The defaults, T^2 and the division of D by C are the code's; the summary does not divide by C, which gives
    norms about C times larger. The code also multiplies both means by the mean of a median mask, about .5; the summary
    does not mention it, and there are no masks here. Centring the logits is ours: a black box reveals them only up to
    a constant.
    """

    batch_level = True
    smallest_batch = 2
    needs_every_class = True

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        kd_weight: float = 0.5,
        gram_weight: float = 0.5,
        tikhonov: float = 0.1,
        ce_weight: float = 0.5,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_weight("kd_weight", kd_weight)
        check_weight("gram_weight", gram_weight)
        if not 1e-6 <= tikhonov < math.inf:
            raise HfCmimError(
                f"Expected tikhonov of at least 1e-6 and finite, got {tikhonov}. A covariance estimated from N samples"
                " has no inverse in N dimensions. The source uses .1."
            )
        self.temperature = temperature
        self.kd_weight = kd_weight
        self.gram_weight = gram_weight
        self.tikhonov = tikhonov

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `kd` and `gram`."""
        divergences = kd_loss(student_logits, teacher_log_probs, self.resolved(self.temperature))
        distances = gram_distances(student_logits, teacher_log_probs, self.tikhonov)
        return {"kd": self.kd_weight * batch_mean(divergences), "gram": self.gram_weight * batch_mean(distances)}
