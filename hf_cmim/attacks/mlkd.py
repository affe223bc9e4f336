"""Multi-level logit distillation (MLKD): samples, classes and the batch, at several temperatures."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Relative, Temperature, check_temperature, check_weight
from hf_cmim.attacks.kd import kd_loss
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import batch_mean, softened_log_probs, standardized


def uncertain_half(confidences: Tensor) -> Tensor:
    """Return a mask of the `(K,)` confidences that are at most their median: the less confident half and ties."""
    # torch's median is the lower of two middle values. Any value between the two gives the same mask.
    return confidences <= confidences.median() if len(confidences) else confidences.bool()


def mlkd_losses(
    student_logits: Tensor,
    teacher_log_probs: Tensor,
    temperature: float | Tensor,
    *,
    is_standardized: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masked losses of samples, of classes, and of samples against the batch, at one temperature.

    With P = softmax(z / T), `(N, C)`, they are T^2 KL(P_t,i || P_s,i) for sample i, sum_d ((P_t' P_t - P_s' P_s)_cd)^2
    for class c, and sum_j ((P_t P_t' - P_s P_s')_ij)^2 for sample i. A sample counts if the teacher's top probability
    is at most the batch's median. A class counts if the teacher's total probability in the batch is at most the median
    over classes. Both masks are computed at T = 1; masked losses are 0.

    Args:
        student_logits: `(N, C)` raw logits.
        teacher_log_probs: `(N, C)` log-probabilities; any constant added to a row changes nothing.
        temperature: temperature T > 0; a number or a 0-d tensor.
        is_standardized: True to compute the divergences of samples, and only these, from standardised logits.

    Returns:
        Losses `(N,)` in nats, `(C,)` and `(N,)`. As in the source, the second grows with N.

    Source: see `MLKD`.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.6, 0.4]]).log()
    >>> _, _, batch = mlkd_losses(student, teacher, 1.0)
    >>> f"{batch.item():.4f} {(0.52 - 0.5) ** 2:.4f}"  # one sample: (|p_t|^2 - |p_s|^2)^2
    '0.0004 0.0004'
    """
    answers = softened_log_probs(teacher_log_probs, 1.0)
    sample_mask = uncertain_half(answers.max(dim=-1).values)
    class_mask = uncertain_half(answers.exp().sum(dim=0))
    student = softened_log_probs(student_logits, temperature).exp()
    teacher = softened_log_probs(teacher_log_probs, temperature).exp()
    if is_standardized:
        sample_losses = kd_loss(standardized(student_logits), standardized(teacher_log_probs), temperature)
    else:
        sample_losses = kd_loss(student_logits, teacher_log_probs, temperature)
    class_losses = (teacher.T @ teacher - student.T @ student).square().sum(dim=-1)
    batch_losses = (teacher @ teacher.T - student @ student.T).square().sum(dim=-1)
    return sample_mask * sample_losses, class_mask * class_losses, sample_mask * batch_losses


class MLKD(AbstractAttack):
    """Distillation on samples, classes and the batch at once, at several temperatures.

    ce_weight CE(y) + sum over T of kd_weight samples + class_weight classes + batch_weight batch. The three terms are
    the means of the three losses of `mlkd_losses` at T. Only the half of the samples (and of the classes) of which the
    teacher is least certain counts, but the means are over all.

    The terms of classes and batch compare the samples of one batch. Each micro-batch on each process is compared
    within itself and nothing is gathered; losses are averaged by number of samples. The term of the classes grows with
    the batch.

    Args:
        temperatures: temperatures, at least one, each above 0 or `Relative`.
        ce_weight: weight of the cross-entropy on the labels, at least 0.
        kd_weight: weight of the samples' divergences, at least 0.
        class_weight: weight of the correlation of classes, at least 0.
        batch_weight: weight of the correlation of samples, at least 0.

    Raises:
        HfCmimError: there is no temperature, or one is not above 0.

    Strength: digits: weak, because the teacher is certain of most samples. Its authors report it above KD and DKD
    for most pairs of models on CIFAR-100, with a second view of each image.

    Source: Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023, and its released code: the defaults (one
    weight, .9, for all three levels), both masks, the divisions by N, C and N, and T^2 only on the divergences. Two
    things differ. The code averages a loss before it multiplies by the mask, so its masks only halve the loss; here
    the mask applies to each sample and class. The code also learns from a weak and a strong view of each input, which
    is the task of a query protocol here; its masks apply to the weak view's terms and to both views' batch term. It
    computes a class and a batch term of the strong view and never adds them.
    With masks per sample, samples of which the teacher is certain learn only from the cross-entropy. On digits, where
    the teacher is certain of most samples, the default weights cost 7 points; ce_weight 1 with kd_weight .1 cost none.
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
                "Expected at least one temperature, got none. The student would learn nothing from the teacher. Give"
                " for instance (4.0,)."
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
        """Middle element of the temperatures, in the given order."""
        return self.temperatures[len(self.temperatures) // 2]

    @property
    def needs_survey(self) -> bool:
        """True if a temperature is relative to the teacher's logit scale."""
        return any(isinstance(temperature, Relative) for temperature in self.temperatures)

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components `kd`, `class_correlation` and `batch_correlation`."""
        return self._components(student_logits, teacher_log_probs, is_standardized=False)

    def standardized_distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the same components; only the divergences of samples are those of standardised logits."""
        return self._components(student_logits, teacher_log_probs, is_standardized=True)

    def _components(
        self, student_logits: Tensor, teacher_log_probs: Tensor, *, is_standardized: bool
    ) -> dict[str, Tensor]:
        losses_by_temperature = []
        for temperature in map(self.resolved, self.temperatures):
            losses = mlkd_losses(student_logits, teacher_log_probs, temperature, is_standardized=is_standardized)
            losses_by_temperature.append(torch.stack([batch_mean(level) for level in losses]))
        sample_loss, class_loss, batch_loss = torch.stack(losses_by_temperature).sum(dim=0)
        return {
            "kd": self.kd_weight * sample_loss,
            "class_correlation": self.class_weight * class_loss,
            "batch_correlation": self.batch_weight * batch_loss,
        }
