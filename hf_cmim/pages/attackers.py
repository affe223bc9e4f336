"""Sentences about the attackers of an audit, and about those that it did not try."""

from hf_cmim.report import Attacker, AuditReport, Origin

ATTACKERS: dict[Origin, str] = {
    "unknown": "the transfer set",
    "training": "the model's own training samples",
    "own": "samples of its own with labels",
    "own-unlabelled": "samples of its own without labels",
    "out-of-domain": "samples of another kind without labels",
}
ATTACKER_NOTE = (
    "Each attacker has samples and students of its own, and a verdict under the criterion named beside it. Without"
    " labels only beyond-labels can be judged. Bars run from lower to upper bound of the largest gain."
)


def attacker_text(attacker: Attacker) -> str:
    """Return an attacker in words.

    >>> attacker_text(Attacker("own", 0.25))
    'samples of its own with labels, 25 % of them'
    """
    share = "" if attacker.share == 1 else f", {100 * attacker.share:g} % of them"
    return f"{ATTACKERS[attacker.origin]}{share}"


def attacker_sentences(report: AuditReport) -> list[str]:
    """Return the questions about attackers that an audit did not ask."""
    attackers = [part.scope.attacker for part in report.by_attacker.values()]
    sentences = []
    if any(attacker.origin == "unknown" for attacker in attackers):
        sentences.append(
            "It is not known to this audit if the model was trained on the transfer set. Samples of its training often"
            " give away less than others."
        )
    if not any(attacker.has_own_samples and attacker.origin != "out-of-domain" for attacker in attackers):
        sentences.append("An attacker with data of its own was not tried. A real attacker usually has such data.")
    return sentences
