"""Which answer of the teacher belongs to which class of the student."""

from collections.abc import Sequence

from hf_cmim.class_names import are_default_names, check_names_differ
from hf_cmim.errors import HfCmimError


def match_classes(teacher_names: Sequence[str] | None, student_names: Sequence[str]) -> list[int] | None:
    """Return the columns of the teacher's answers in the student's order, or None where the orders are equal.

    Names are compared letter by letter; nothing is guessed from positions. The names a config
    invents (LABEL_0, LABEL_1, ...) match the same names on the other side only.

    Args:
        teacher_names: classes in the order of the teacher's answers; None if it speaks in the numbers of the labels.
        student_names: classes in the order of the student's logits.

    Returns:
        Indices such that `answers[..., indices]` is in the student's order, or None for the identity.

    Raises:
        HfCmimError: the names are not the same set.

    >>> match_classes(("cat", "dog"), ("dog", "cat"))
    [1, 0]
    """
    if teacher_names is None or tuple(teacher_names) == tuple(student_names):
        return None
    if len(teacher_names) != len(student_names):
        raise HfCmimError(
            f"Expected as many classes of the teacher as of the student, got {len(teacher_names)} and"
            f" {len(student_names)}: their answers cannot be compared. {_difference(teacher_names, student_names)}"
            " Give both the same classes."
        )
    for side, names, others in (("teacher", teacher_names, student_names), ("student", student_names, teacher_names)):
        if are_default_names(names) and not are_default_names(others):
            raise HfCmimError(
                f"Expected class names on both sides, got only defaults ({names[0]}, {names[1]}, ...) from the {side}:"
                " nothing says which of its classes is which, and a wrong order teaches the wrong classes. Set"
                " id2label and label2id in its config, or give class_names."
            )
    if set(teacher_names) != set(student_names):
        raise HfCmimError(
            f"Expected the same class names on both sides, got different ones."
            f" {_difference(teacher_names, student_names)} Rename them in one config (id2label and label2id), or give"
            " class_names."
        )
    check_names_differ(student_names)
    return [list(teacher_names).index(name) for name in student_names]


def _difference(teacher_names: Sequence[str], student_names: Sequence[str]) -> str:
    """Name what one side has and the other lacks."""
    parts = []
    for side, names, others in (("teacher", teacher_names, student_names), ("student", student_names, teacher_names)):
        missing = [name for name in names if name not in set(others)]
        if missing:
            listed = ", ".join(repr(name) for name in missing[:8]) + (", ..." if len(missing) > 8 else "")
            parts.append(f"Only the {side} has {listed}.")
    return " ".join(parts)
