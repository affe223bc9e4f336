"""Knowledge distillation with more weight on samples whose answers say more beyond the label."""

import torch
from torch import Tensor

from hf_cmim.attacks.base import (
    AbstractAttack,
    Temperature,
    check_fraction,
    check_positive,
    check_temperature,
    check_weight,
)
from hf_cmim.attacks.class_means import ClassMeans, ClassMeansSurvey
from hf_cmim.attacks.kd import kd_loss
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs

SMALLEST_MEAN = 1e-12
"""Mean information, in nats, at or below which all answers count as equally informative: it is rounding. Ours."""
FLOOR = 1e-300
"""Smallest probability of a class mean; it keeps the logarithm finite."""


def value_weights(values: Tensor, mean_value: Tensor, emphasis: float) -> Tensor:
    """Return 1 + emphasis (v / mean - 1) of each sample; the weights have mean 1 if `mean_value` is the values' mean.

    Args:
        values: `(N,)` values of samples, at least 0.
        mean_value: 0-d mean value over all samples that are learned from. At most 1e-12 counts as no difference: all
            weights are then 1.
        emphasis: share of the weights that is proportional to the values, in [0, 1]. 0 weighs all samples by 1.

    Source: ours; see `BeyondLabelKD`.

    >>> value_weights(torch.tensor([0.0, 1.0, 5.0]), torch.tensor(2.0), 0.5).tolist()
    [0.5, 0.75, 1.75]
    """
    ratios = torch.where(mean_value > SMALLEST_MEAN, values / mean_value.clamp_min(SMALLEST_MEAN), 1.0)
    return 1 + emphasis * (ratios - 1)


class BeyondLabelKD(ClassMeansSurvey, AbstractAttack):
    """Distillation that listens most to the samples whose answers say most beyond the label.

    A defended teacher says little about most samples. This attacker finds the few others and gives them more weight.

    ce_weight CE(y) + kd_weight T^2 mean of w KL(teacher at T || student at T). With v = KL(answer || mean answer of
    its class), both at the temperature `measured_at`, w = 1 + emphasis (v / mean of v - 1). The mean of v is the CMI
    of the answers, surveyed before training, so that the weights have mean 1 over the transfer set. A teacher without
    CMI leaves plain KD.

    Args:
        temperature: temperature T, > 0, or `Relative`.
        emphasis: share of the weights that is proportional to v, in [0, 1]; 0 is `KD`.
        measured_at: temperature, a number > 0, at which v is measured.
        ce_weight: weight of the cross-entropy on the labels, at least 0.
        kd_weight: weight of the distillation term, at least 0.

    Strength: not known: it is newer than our tables. By its formula it is strong where a few answers say much more
    than the others.

    Source: ours. "The Distillation Game", arXiv 2605.22737 (known to us from its abstract), has an adaptive student
    that reweights valuable samples exponentially, for language models. Weights linear in the value are the best
    response to the same game if the reweighting is bounded in chi-squared distance instead of KL. The value and the
    defaults are ours; T, .1 and .9 are those of `KD`.
    """

    mean_information: Tensor
    _information_sums: Tensor

    def __init__(
        self,
        *,
        temperature: Temperature = 4.0,
        emphasis: float = 0.5,
        measured_at: float = 4.0,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
    ) -> None:
        super().__init__(ce_weight)
        check_temperature(temperature)
        check_fraction("emphasis", emphasis)
        check_positive(measured_at, "measured_at")
        check_weight("kd_weight", kd_weight)
        self.temperature = temperature
        self.emphasis = emphasis
        self.measured_at = measured_at
        self.kd_weight = kd_weight
        self.class_means = ClassMeans()
        self.register_buffer("mean_information", torch.zeros((), dtype=torch.float64))
        # Sum of p log p over all answers and classes, until `settle` turns it into the mean information.
        self.register_buffer("_information_sums", torch.zeros((), dtype=torch.float64), persistent=False)

    @property
    def needs_survey(self) -> bool:
        """True if the weights differ, or the temperature is relative."""
        return self.emphasis > 0 or super().needs_survey

    def averaged(self, teacher_log_probs: Tensor) -> Tensor:
        """Return probabilities at `measured_at`, `(N, C)` float64."""
        return softened_log_probs(teacher_log_probs.double(), self.measured_at).exp()

    @torch.no_grad()
    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Add a batch of answers to the class means and to the mean information; see `AttackPart.survey`."""
        super().survey(teacher_log_probs, labels)
        log_probs = softened_log_probs(teacher_log_probs.double(), self.measured_at)
        self._information_sums += (log_probs.exp() * log_probs).sum()

    @torch.no_grad()
    def settle(self) -> None:
        """End the survey: compute the class means, and the mean information as their entropy minus the answers'."""
        super().settle()
        counts, means = self.class_means.counts, self.class_means.means
        of_means = (counts * (means * means.clamp_min(FLOOR).log()).sum(dim=-1)).sum()
        self.mean_information.copy_((self._information_sums - of_means) / counts.sum().clamp_min(1))
        self._information_sums.zero_()

    def _information(self, teacher_log_probs: Tensor, labels: Tensor) -> Tensor:
        """Return the information of each answer beyond its label, `(N,)` float64, in nats."""
        log_probs = softened_log_probs(teacher_log_probs.double(), self.measured_at)
        means = self.class_means.of(labels, otherwise=log_probs.exp())
        return kl_divergence(log_probs, means.clamp_min(FLOOR).log()).clamp_min(0)

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the component `kd`.

        Raises:
            HfCmimError: the answers were not surveyed.
        """
        losses = kd_loss(student_logits, teacher_log_probs, self.resolved(self.temperature))
        if self.emphasis:
            values = self._information(teacher_log_probs, labels)
            losses = losses * value_weights(values, self.mean_information, self.emphasis).to(losses.dtype)
        return {"kd": self.kd_weight * batch_mean(losses)}
