"""Checks of the other teachers of an audit: the positive control, and models and channels to compare with."""

from collections.abc import Iterator

from hf_cmim.hub.verified_figures import CLAIMS, CLOSE, facts_faults, is_ordered
from hf_cmim.report import AuditReport, ControlResult, Leak
from hf_cmim.statistics import Comparison, Verdict

TWIN = "CE twin"


def channel_faults(audit: AuditReport) -> Iterator[str]:
    """Yield the model or its twin if a channel changed its answers, as sentences.

    A certificate is about weights, and whoever has the weights has their full answers. Other controls may have
    channels: no claim is made about them.
    """
    for name, facts in (("the model", audit.teacher), ("its twin", audit.twin)):
        if facts is not None and facts.channel:
            yield (
                f"{name} answered through the channel {facts.channel}, so its figures are those of an interface and"
                " not of the weights"
            )


def power_faults(audit: AuditReport) -> Iterator[str]:
    """Compare the claimed power with the positive control, check all controls, and yield the faults as sentences."""
    twins = [control for control in audit.controls if control.name == TWIN]
    # The twin must be distillable, otherwise the attacks of this audit are too weak to show anything.
    power = twins[0].verdict == "distillable" if twins else None
    if len(twins) > 1 or audit.power != power:
        yield f"it claims power = {audit.power}, its control says {power}"
    if audit.twin != (twins[0].facts if twins else None):
        yield "the twin is not the model that its control audited"
    claims = audit.primary.verdict in (*CLAIMS, "distillable")
    if audit.power is False and claims:
        yield "its positive control was not distilled: without power the only possible verdict is 'inconclusive'"
    for control in audit.controls:
        yield from _control_faults(audit, control)


def _control_faults(audit: AuditReport, control: ControlResult) -> Iterator[str]:
    name = f"control {control.name!r}"
    if control.facts is not None:
        yield from facts_faults(name, control.facts, audit.scope.num_test, audit.scope.num_classes)
    if any(check.severity == "fatal" for check in control.checks):
        verdicts = {control.verdict, *(leak.verdict for leak in control.described)}
        if verdicts != {"inconclusive"}:
            yield f"{name} has a verdict, although a fatal check voids it"
    yield from _leak_faults(name, control.verdict, control.largest_gain, control.smallest_margin, audit.margin)
    if control.smallest_margin > 1:
        yield f"{name} has a smallest margin of {control.smallest_margin:g}, expected 0 to 1"
    yield from _described_faults(audit, name, control.described)
    knockoffs = {arm.name for arm in audit.arms if arm.role == "knockoff"}
    for comparison in control.differences:
        is_possible = comparison.attack in knockoffs and comparison.seeds >= 2 and is_ordered(comparison.difference)
        if not is_possible:
            yield f"{name} has an impossible difference: of an attack not tried, of one seed, or outside its bounds"


def _described_faults(audit: AuditReport, name: str, leaks: tuple[Leak, ...]) -> Iterator[str]:
    criteria = [leak.criterion for leak in leaks]
    if len(set(criteria)) < len(criteria) or audit.primary.criterion in criteria:
        yield f"{name} has two results under one criterion"
    for leak in leaks:
        words = f"{name}, under {leak.criterion!r},"
        yield from _leak_faults(words, leak.verdict, leak.largest_gain, leak.smallest_margin, audit.margin)


def _leak_faults(
    name: str, verdict: Verdict, largest: Comparison | None, smallest_margin: float, margin: float
) -> Iterator[str]:
    # A control has no arms in the report, so its verdict can only be held to its own summary.
    if verdict in CLAIMS and smallest_margin >= margin:
        yield f"{name} has the verdict {verdict!r}, but a smallest margin of {smallest_margin:g}"
    if verdict == "distillable" and (largest is None or smallest_margin < margin):
        yield f"{name} has the verdict 'distillable', but no attack on it reaches the margin"
    if not smallest_margin >= 0:
        yield f"{name} has a smallest margin of {smallest_margin:g}, expected at least 0"
    if largest is not None:
        if not largest.lower <= largest.gain <= largest.upper or largest.standard_error <= 0:
            yield f"{name} has a largest gain outside its bounds, or without a standard error"
        if largest.upper > smallest_margin + CLOSE:
            yield f"{name} has a largest gain with an upper bound above its smallest margin"
