"""Distillation from a stronger teacher (DIST): correlation with the answers instead of equality."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Temperature, check_temperature, check_weight
from hf_cmim.functional.divergence import batch_mean, pearson_correlation, softened_log_probs


def dist_losses(
    student_logits: Tensor, teacher_log_probs: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return T^2 (1 - correlation) between softmax(z_s / T) and softmax(z_t / T), for each row and each column.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        temperature: temperature T > 0; a number or a 0-d tensor.

    Returns:
        Losses `(N,)` of the rows and `(C,)` of the columns, in [0, 2] T^2. A constant row or column counts as T^2.

    Source: see `DIST`.

    >>> import torch
    >>> student = torch.tensor([[0.1, 0.2, 0.7], [0.4, 0.3, 0.3]]).log()
    >>> rows, columns = dist_losses(student, (student.exp() * 0.5 + 1 / 6).log(), 1.0)  # a Y + b correlates with Y
    >>> [round(value, 4) + 0.0 for value in (*rows.tolist(), *columns.tolist())]
    [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    student = softened_log_probs(student_logits, temperature).exp()
    teacher = softened_log_probs(teacher_log_probs, temperature).exp()
    squared = temperature**2
    rows = 1 - pearson_correlation(student, teacher)
    # Without samples the columns have no mean; a sum over nothing is 0 and keeps the gradient's path.
    if not len(student):
        return squared * rows, student.sum(dim=0)
    return squared * rows, squared * (1 - pearson_correlation(student.T, teacher.T))


class DIST(AbstractAttack):
    """Distillation that maximises the correlation between the student's and the teacher's probabilities.

    ce_weight CE(y) + dist_weight T^2 [beta mean_rows (1 - correlation) + gamma mean_columns (1 - correlation)]. A row
    holds the classes of one sample, a column the samples of one class, both of softmax(z / T).

    The columns compare the samples of one batch. Each micro-batch on each process is compared within itself and
    nothing is gathered; losses are averaged by number of samples. Larger batches give less noisy correlations.

    If the student's outputs do not vary at all (a head that starts at 0), the gradient is as large as the norm of the
    teacher's row divided by 1e-8. Clip gradients, as `Trainer` does.

    Args:
        temperature: temperature T, > 0, or `Relative`.
        beta: weight of the rows (the source's inter-class relation), at least 0.
        gamma: weight of the columns (the source's intra-class relation), at least 0.
        dist_weight: common weight of rows and columns, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Strength: Fashion-MNIST: the strongest attack on most hardened teachers, because it correlates answers over a
    batch. About .4 points of its gain there came from the form of its loss, not from the teacher.

    Source: Huang et al., NeurIPS 2022, arXiv 2205.10536. The defaults are the released ones for ImageNet (T = 4 for
    CIFAR-100). The factor T^2 is the source's, and so is the constant 1e-8 that is added to the product of two norms.
    It weakens the columns of a confident teacher: by 9 % at a margin of 15 logits and 100 classes.
    """

    batch_level = True
    smallest_batch = 2

    def __init__(
        self,
        *,
        temperature: Temperature = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        dist_weight: float = 2.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        for name, weight in (("beta", beta), ("gamma", gamma), ("dist_weight", dist_weight)):
            check_weight(name, weight)
        self.temperature = temperature
        self.beta = beta
        self.gamma = gamma
        self.dist_weight = dist_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `row` and `column`."""
        rows, columns = dist_losses(student_logits, teacher_log_probs, self.resolved(self.temperature))
        return {
            "row": self.dist_weight * self.beta * batch_mean(rows),
            "column": self.dist_weight * self.gamma * batch_mean(columns),
        }
