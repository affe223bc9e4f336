"""Multi-level logit distillation: samples, classes and the batch at several temperatures."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Relative, Temperature, check_temperature, check_weight
from hf_cmim.attacks.kd import kd_loss
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean, softened_log_probs


def uncertain_half(confidences: Tensor) -> Tensor:
    """Return which of `(K,)` confidences are at most their median: the less confident half, and whatever ties."""
    # torch takes the lower of two middle values; between them there is nothing that `<=` could tell apart.
    return confidences <= confidences.median() if len(confidences) else confidences.bool()


def mlkd_losses(
    student_logits: Tensor, teacher_log_probs: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masked losses of samples, of classes, and of samples against the batch, at one temperature.

    With P = softmax(z / T), `(N, C)`: T^2 KL(P_t,i || P_s,i) for sample i, sum_d ((P_t' P_t - P_s' P_s)_cd)^2 for
    class c, and sum_j ((P_t P_t' - P_s P_s')_ij)^2 for sample i. Samples count where the teacher's top probability is
    at most the batch's median, classes where the teacher's mass in the batch is at most the median over classes, both
    at T = 1; all others are 0.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        temperature: T > 0; a number or a 0-d tensor.

    Returns:
        `(N,)` in nats, `(C,)` and `(N,)`. The second grows with N, as the source's.

    Source: see `MLKD`.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.6, 0.4]]).log()
    >>> _, _, batch = mlkd_losses(student, teacher, 1.0)
    >>> f"{batch.item():.4f} {(0.52 - 0.5) ** 2:.4f}"  # one sample: (|p_t|^2 - |p_s|^2)^2
    '0.0004 0.0004'
    """
    answers = softened_log_probs(teacher_log_probs, 1.0)
    samples = uncertain_half(answers.max(dim=-1).values)
    classes = uncertain_half(answers.exp().sum(dim=0))
    student = softened_log_probs(student_logits, temperature).exp()
    teacher = softened_log_probs(teacher_log_probs, temperature).exp()
    of_classes = (teacher.T @ teacher - student.T @ student).square().sum(dim=-1)
    of_batch = (teacher @ teacher.T - student @ student.T).square().sum(dim=-1)
    instances = kd_loss(student_logits, teacher_log_probs, temperature)
    return samples * instances, classes * of_classes, samples * of_batch


class MLKD(AbstractAttack):
    """ce_weight CE(y) + sum over T of kd_weight instances + class_weight classes + batch_weight batch.

    The three are the means over samples, classes and samples of what `mlkd_losses` gives at T. They count the half of
    the samples, and of the classes, of which the teacher is least sure; the means are over all.

    Classes and batch compare the samples of a batch: each micro-batch on each process is compared within itself, and
    the losses are averaged by numbers of samples; nothing is gathered. The term of the classes grows with the batch.

    Args:
        temperatures: each above 0, or `Relative`; at least one.
        ce_weight: weight of the cross-entropy on the labels, at least 0.
        kd_weight: weight of the samples' divergences, at least 0.
        class_weight: weight of the correlation of classes, at least 0.
        batch_weight: weight of the correlation of samples, at least 0.

    Raises:
        HfCmimError: no temperature, or one that is not above 0.

    Source: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023, and its released code: defaults (one weight,
    .9, for all three levels), both masks, the divisions by N, C and N, and T^2 on the divergences alone. Two things
    differ. That code averages a loss before it multiplies by the mask, so that its masks only halve the loss; here
    each sample and each class has its own. And it learns from a weak and a strong view of each input, which is a
    matter of the queries and not of this loss; its masks stand on the weak view's terms and both views' batch term.
    With masks of their own, samples of which the teacher is sure are left to the cross-entropy alone: on digits, where
    it is sure of most, the default weights cost 7 points, and ce_weight 1 with kd_weight .1 none.
    """

    batch_level = True

    def __init__(
        self,
        *,
        temperatures: Sequence[Temperature] = (2.0, 3.0, 4.0, 5.0, 6.0),
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        class_weight: float = 0.9,
        batch_weight: float = 0.9,
    ) -> None:
        super().__init__(ce_weight)
        if not temperatures:
            raise HfCmimError(
                "Expected at least one temperature, got none: nothing would be distilled. Give KD's, (4.0,)."
            )
        for temperature in temperatures:
            check_temperature(temperature)
        for name, weight in (("kd_weight", kd_weight), ("class_weight", class_weight), ("batch_weight", batch_weight)):
            check_weight(name, weight)
        self.temperatures = tuple(temperatures)
        self.kd_weight = kd_weight
        self.class_weight = class_weight
        self.batch_weight = batch_weight

    @property
    def nominal_temperature(self) -> Temperature:
        """The middle one of the temperatures, in the order given."""
        return self.temperatures[len(self.temperatures) // 2]

    @property
    def needs_survey(self) -> bool:
        """Whether one of the temperatures is relative to the teacher's scale."""
        return any(isinstance(temperature, Relative) for temperature in self.temperatures)

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return `kd`, `class_correlation` and `batch_correlation`."""
        levels = [
            torch.stack([batch_mean(losses) for losses in mlkd_losses(student_logits, teacher_log_probs, temperature)])
            for temperature in map(self.resolved, self.temperatures)
        ]
        instances, classes, batch = torch.stack(levels).sum(dim=0)
        return {
            "kd": self.kd_weight * instances,
            "class_correlation": self.class_weight * classes,
            "batch_correlation": self.batch_weight * batch,
        }
