"""Matching of the teacher's classes to the student's, by name."""

from collections.abc import Sequence

from hf_cmim.class_names import are_default_names, check_names_differ
from hf_cmim.errors import HfCmimError


def match_classes(teacher_names: Sequence[str] | None, student_names: Sequence[str]) -> list[int] | None:
    """Return the columns of the teacher's answers in the student's order, or None where the orders are equal.

    Names must be equal letter by letter; nothing is guessed from positions. Default names of a config (LABEL_0,
    LABEL_1, ...) match only the same names on the other side.

    Args:
        teacher_names: classes in the order of the teacher's answers; None if that is the order of the labels' numbers.
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
    pairs = (("teacher", teacher_names, student_names), ("student", student_names, teacher_names))
    for side, names, other_names in pairs:
        if are_default_names(names) and not are_default_names(other_names):
            raise HfCmimError(
                f"Expected class names on both sides, got only defaults ({names[0]}, {names[1]}, ...) from the {side}:"
                " its classes cannot be matched, and a wrong order teaches the wrong classes. Set id2label and"
                " label2id in its config, or give class_names."
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
    """Return sentences with the names that only one side has."""
    sentences = []
    for side, names, other_names in (
        ("teacher", teacher_names, student_names),
        ("student", student_names, teacher_names),
    ):
        missing = [name for name in names if name not in set(other_names)]
        if missing:
            listed = ", ".join(repr(name) for name in missing[:8])
            ellipsis = ", ..." if len(missing) > 8 else ""
            sentences.append(f"Only the {side} has {listed}{ellipsis}.")
    return " ".join(sentences)
