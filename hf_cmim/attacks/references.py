"""References that an attack must beat, with all settings among which validation data choose."""

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.mixup_queries import MixupQueries
from hf_cmim.attacks.teacher_free import CrossEntropy, LabelSmoothing, TeacherFreeKD

CROSS_ENTROPY = "CE"
LABEL_SMOOTHING = "LS"
SELF_DISTILLATION = "self-distillation"
SMOOTHINGS = (0.05, 0.1, 0.2, 0.3, 0.4)


def reference_settings() -> dict[str, tuple[Composition, ...]]:
    """Return the settings of each family of references, by the family's name."""
    return {
        CROSS_ENTROPY: (Composition(CrossEntropy()),),
        LABEL_SMOOTHING: tuple(Composition(LabelSmoothing(smoothing=smoothing)) for smoothing in SMOOTHINGS),
        "mixup": tuple(Composition(CrossEntropy(), MixupQueries(alpha=alpha)) for alpha in (0.2, 1.0)),
        "teacher-free KD": tuple(Composition(TeacherFreeKD(temperature=t)) for t in (1.0, 20.0)),
        # KD from a student trained with cross-entropy, never from the audited teacher.
        SELF_DISTILLATION: tuple(Composition(KD(temperature=t)) for t in (2.0, 4.0)),
    }
