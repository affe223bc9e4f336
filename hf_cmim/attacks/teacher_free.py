"""The arms without a teacher that an attack has to beat. They take answers like any attack, and never read them."""

from torch import Tensor

from hf_cmim.attacks.base import AbstractAttack, check_fraction, check_positive, check_weight
from hf_cmim.functional.divergence import batch_mean, kl_divergence, softened_log_probs, summed_cross_entropy


class CrossEntropy(AbstractAttack):
    """CE(y), the student that nobody teaches.

    Source: ours, the usual training.

    >>> CrossEntropy().needs_teacher
    False
    """

    needs_teacher = False

    def __init__(self) -> None:
        super().__init__(ce_weight=1.0)

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return nothing: `ce` is all there is."""
        return {}


class LabelSmoothing(AbstractAttack):
    """Cross-entropy on (1 - smoothing) of the label and `smoothing` spread over all classes, the LS student.

    Args:
        smoothing: share of the target spread evenly over all C classes, the label's included, in [0, 1].

    Source: Szegedy et al., arXiv 1512.00567; .1 is theirs, and the definition is torch's.
    """

    needs_teacher = False

    def __init__(self, *, smoothing: float = 0.1) -> None:
        super().__init__(ce_weight=0.0)
        check_fraction("smoothing", smoothing)
        self.smoothing = smoothing

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return `ce`, smoothed."""
        total = summed_cross_entropy(student_logits, labels, label_smoothing=self.smoothing)
        return {"ce": total / max(len(labels), 1)}


def virtual_teacher(logits: Tensor, labels: Tensor, confidence: float, temperature: float) -> Tensor:
    """Return log softmax(u / T), u = `confidence` on the label and the rest spread evenly over the other classes.

    The probabilities u themselves are divided by T, not their logarithms: at T = 20 the result is all but uniform.

    Args:
        logits: `(N, C)`, of which only shape, type and device matter.
        labels: `(N,)` integers in [0, C).
        confidence: probability of the label, in [0, 1].
        temperature: T > 0.

    Returns:
        `(N, C)` log-probabilities, in the type of the logits.

    Source: see `TeacherFreeKD`.

    >>> import torch
    >>> round(virtual_teacher(torch.zeros(1, 3), torch.tensor([1]), 0.99, 20.0)[0, 1].exp().item(), 4)
    0.3444
    """
    probs = logits.new_full(logits.shape, (1 - confidence) / (logits.shape[-1] - 1))
    return softened_log_probs(probs.scatter(-1, labels.unsqueeze(-1), confidence), temperature)


class TeacherFreeKD(AbstractAttack):
    """ce_weight CE(y) + kd_weight KL(softmax(u / T) || student), u a virtual teacher made by hand (Tf-KD_reg).

    At the default temperature its target is nearly uniform, so with weights .9 and .1 it is nearly `LabelSmoothing`
    with .1: count the two as one arm. A lower temperature sets it apart.

    Args:
        temperature: T by which the probabilities u are divided, > 0.
        confidence: probability u of the label, in [0, 1].
        kd_weight: weight of the divergence, at least 0.
        ce_weight: weight of the cross-entropy on the labels, at least 0.

    Source: Yuan et al., CVPR 2020, arXiv 1909.11723, as its released code has it: the student is not softened, and
    there is no factor T^2. The paper's equation 9 (seen quoted) softens the student as well. The defaults are the
    released ones for ResNet-18 on CIFAR-100, whose multiplier of 100 undoes a mean over 100 classes; those for
    MobileNetV2 (T 40, weights .05 and .95, multiplier 1) come to a kd_weight of .0095 here.
    """

    needs_teacher = False

    def __init__(
        self,
        *,
        temperature: float = 20.0,
        confidence: float = 0.99,
        kd_weight: float = 0.1,
        ce_weight: float = 0.9,
    ) -> None:
        super().__init__(ce_weight)
        check_positive(temperature)
        check_fraction("confidence", confidence)
        check_weight("kd_weight", kd_weight)
        self.temperature = temperature
        self.confidence = confidence
        self.kd_weight = kd_weight

    def distillation(
        self, student_logits: Tensor, teacher_log_probs: Tensor, labels: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Return `kd`."""
        target = virtual_teacher(student_logits, labels, self.confidence, self.temperature)
        losses = kl_divergence(target, softened_log_probs(student_logits, 1.0))
        return {"kd": self.kd_weight * batch_mean(losses)}
