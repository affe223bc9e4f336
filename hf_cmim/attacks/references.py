"""Arms without a teacher: what an attack has to beat, with every setting among which validation data choose."""

from hf_cmim.attacks.composition import Composition
from hf_cmim.attacks.kd import KD
from hf_cmim.attacks.mixup_queries import MixupQueries
from hf_cmim.attacks.teacher_free import CrossEntropy, LabelSmoothing, TeacherFreeKD

CROSS_ENTROPY = "CE"
LABEL_SMOOTHING = "LS"
SELF_DISTILLATION = "self-distillation"
SMOOTHINGS = (0.05, 0.1, 0.2, 0.3, 0.4)


def reference_settings() -> dict[str, tuple[Composition, ...]]:
    """Return every setting of every family; only self-distillation learns from anybody, a student of its own kind."""
    return {
        CROSS_ENTROPY: (Composition(CrossEntropy()),),
        LABEL_SMOOTHING: tuple(Composition(LabelSmoothing(smoothing=each)) for each in SMOOTHINGS),
        "mixup": tuple(Composition(CrossEntropy(), MixupQueries(alpha=each)) for each in (0.2, 1.0)),
        "teacher-free KD": tuple(Composition(TeacherFreeKD(temperature=each)) for each in (1.0, 20.0)),
        SELF_DISTILLATION: tuple(Composition(KD(temperature=each)) for each in (2.0, 4.0)),
    }
