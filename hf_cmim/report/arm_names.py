"""How a report calls an arm, and who answers its students."""

from typing import Literal

from hf_cmim.report.parts import Role

Answering = Literal["teacher", "nobody", "label", "argmax", "centroid", "self"]
"""Who answers: the audited teacher; nobody; a label-only null of true or of the teacher's labels; the teacher's class
means; a cross-entropy student of another seed."""

ANSWERED_BY: dict[Answering, str] = {
    "teacher": "the teacher",
    "nobody": "nobody",
    "label": "the true label",
    "argmax": "the teacher's label",
    "centroid": "the teacher's class means",
    "self": "a student of its own kind",
}


def arm_name(family: str, role: Role, answering: Answering) -> str:
    """Return the name of an arm, unique among arms of which settings were chosen.

    >>> arm_name("kd", "null", "label"), arm_name("kd", "diagnostic", "argmax")
    ('label null of kd', 'argmax null of kd')
    """
    return {"null": "label null of ", "diagnostic": f"{answering} null of "}.get(role, "") + family


def answering_words(answering: Answering, confidence: float | None) -> str:
    """Return who answers, for people, with the confidence of a null that has one."""
    words = ANSWERED_BY[answering]
    return words if confidence is None else f"{words}, {confidence:g}"
