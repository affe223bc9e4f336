"""Logit standardization: any attack on z-scores instead of logits."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, Relative, Temperature
from hf_cmim.attacks.kd import KD
from hf_cmim.errors import HfCmimError
from hf_cmim.functional.divergence import standardized


class LogitStandardization(AbstractAttack):
    """The distillation terms of `base` on (z - mean) / std of each sample, on both sides; cross-entropy on raw logits.

    Whatever scale a defense gives to the teacher's logits is gone, and so is what its confidence tells.

    Args:
        base: the attack to standardise, with temperatures in units of the standardised logits; KD with T = 2,
            ce_weight .1 and kd_weight 9 where None.

    Raises:
        HfCmimError: a temperature of `base` is `Relative`, or `base` is an arm without a teacher.

    Source: Sun et al., CVPR 2024, arXiv 2403.01427, with its standard deviation (unbiased, plus 1e-7); the default
    base is the released setting for most pairs on CIFAR-100, others use T 3 to 4 and weights 6 to 18. The factor T^2
    is the base's own.

    >>> LogitStandardization().base
    KD(temperature=2.0, ce_weight=0.1, kd_weight=9.0)
    """

    needs_every_class = True

    def __init__(self, *, base: AbstractAttack | None = None) -> None:
        base = KD(temperature=2.0, ce_weight=0.1, kd_weight=9.0) if base is None else base
        if not base.needs_teacher:
            raise HfCmimError(
                f"Expected a base that reads answers, got {base!r}: labels would be learned on standardised logits,"
                " and nothing of the teacher. Use the arm itself."
            )
        settings = base.settings().items()
        relative = [
            name for name, value in settings for each in (value if isinstance(value, tuple) else (value,))
            if isinstance(each, Relative)
        ]  # fmt: skip
        if relative:
            raise HfCmimError(
                f"Expected a base whose temperatures are numbers, got {base!r} with a Relative {relative[0]}: a"
                " standardised teacher has logits of scale 1 by construction, and the surveyed scale is another"
                " one. Give the factor itself as a number."
            )
        super().__init__(base.ce_weight)
        self.base = base
        self.batch_level = base.batch_level
        self.smallest_batch = base.smallest_batch
        self.learning_rate_factor = base.learning_rate_factor

    @property
    def nominal_temperature(self) -> Temperature:
        """The temperature of the base, in units of the standardised logits."""
        return self.base.nominal_temperature

    def prepare(self, num_classes: int) -> None:
        """Prepare the base."""
        self.base.prepare(num_classes)

    @property
    def needs_survey(self) -> bool:
        """Whether the base needs one."""
        return self.base.needs_survey

    def survey(self, teacher_log_probs: Tensor, labels: Tensor) -> None:
        """Show the base a batch of the answers as it will get them, standardised."""
        self.base.survey(standardized(teacher_log_probs), labels)

    def settle(self) -> None:
        """End the survey of the base."""
        self.base.settle()

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return the components of the base."""
        return self.base.distillation(standardized(student_logits), standardized(teacher_log_probs), labels, progress)
