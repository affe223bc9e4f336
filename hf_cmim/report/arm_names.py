"""Names of arms in a report, and words for the source of their students' answers."""

from typing import Literal

from hf_cmim.report.parts import Role

Answering = Literal["teacher", "nobody", "label", "argmax", "centroid", "class answers", "self"]
"""Source of the answers that a student learns from.

"teacher" is the audited teacher, "nobody" no source at all. "label" and "argmax" are null teachers that know only the
true label or the teacher's label, "centroid" one that knows the teacher's class means by true label. "class answers"
is the teacher behind the channel `ClassAnswers`: one answer per predicted class. "self" is a cross-entropy student of
another seed.
"""

ANSWERED_BY: dict[Answering, str] = {
    "teacher": "the teacher",
    "nobody": "nobody",
    "label": "the true label",
    "argmax": "the teacher's label",
    "centroid": "the teacher's class means",
    "class answers": "one answer for each class that the teacher predicts",
    "self": "a student of its own kind",
}


def arm_name(family: str, role: Role, answering: Answering) -> str:
    """Return the name of an arm; it is unique once one setting per family and role is chosen.

    >>> arm_name("kd", "null", "label"), arm_name("kd", "diagnostic", "argmax")
    ('label null of kd', 'argmax null of kd')
    >>> arm_name("kd", "labels", "argmax"), arm_name("kd", "class answers", "class answers")
    ("teacher's labels with kd", 'class answers with kd')
    """
    prefixes: dict[Role, str] = {
        "null": "label null of ",
        "tuned null": "tuned label null of ",
        "diagnostic": f"{answering} null of ",
        "labels": "teacher's labels with ",
        "class answers": "class answers with ",
    }
    return prefixes.get(role, "") + family


def answering_words(answering: Answering, confidence: float | None) -> str:
    """Return the source of answers in words, with the confidence of a null teacher that has one."""
    words = ANSWERED_BY[answering]
    return words if confidence is None else f"{words}, {confidence:g}"
